"""What a search for a sampler did: as it is saved and published, and as the log says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

Options = dict[str, Any]


@dataclass
class Training:
    """One sampler trained from the beginning, until early stopping ends it or it is given up.

    Attributes:
        name: What it is called among the candidates.
        score: Its best validation, in the metric's own direction; None before one.
        waited: Validations since then.
        work: Counted, in epochs of dns.
        work_at_validation: As of the latest one.
        cut: Whether it was ended because the budget was spent, and it was not ahead.
    """

    name: str
    score: float | None = None
    waited: int = 0
    epochs: int = 0
    work: float = 0.0
    work_at_validation: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    cut: bool = False


@dataclass
class SearchReport:
    """What a search did, as it is logged, plotted and saved. Work is counted in epochs of DNS.

    Attributes:
        winner: What the chosen sampler is called among the candidates, which may be several of its kind.
        line_up: The samplers to be trained, in this order, while the budget lasts; the best of them is kept.
        trainings: Those that have ended.
        kept: Which of them is kept.
        running: The one that goes on.
    """

    kind: str
    base_model: str
    samplers: list[str]
    chosen: str = ""
    winner: str = ""
    options: Options = field(default_factory=dict)
    trajectory: list[list[float]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    compared: dict[str, float] = field(default_factory=dict)
    contender_epochs: dict[str, int] = field(default_factory=dict)
    line_up: list[str] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    kept: int = 0
    running: Training | None = None
    search_epochs: int = 0
    gradient_work: float = 0.0
    comparison_work: float = 0.0
    gradient_seconds: float = 0.0
    comparison_seconds: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    final_cpu_seconds: float = 0.0
    final_seconds: float = 0.0
    final_epochs: int = 0

    def as_dict(self) -> Options:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, found: Options) -> SearchReport:
        """Undo :meth:`as_dict`."""
        report = cls(**found)
        report.trainings = [Training(**own) for own in found["trainings"]]
        report.running = Training(**found["running"]) if found["running"] else None
        return report

    @property
    def others(self) -> list[Training]:
        """The trainings that were not kept, which are part of the search."""
        return [training for at, training in enumerate(self.trainings) if at != self.kept]


def report_lines(report: SearchReport) -> list[str]:
    """The search as a small table, and its cost."""
    lines = []
    if report.trajectory:
        width = max(22, *(len(name) for name in report.samplers))
        epochs = sorted(
            {*range(0, len(report.trajectory), max(1, len(report.trajectory) // 6)), len(report.trajectory) - 1}
        )
        lines.append("[Search] probabilities by epoch: " + " " * (width - 22) + "".join(f"{e:>7}" for e in epochs))
        for at, name in enumerate(report.samplers):
            row = "".join(f"{report.trajectory[epoch][at]:7.3f}" for epoch in epochs)
            note = f"  dropped after epoch {report.dropped[name]}" if name in report.dropped else ""
            lines.append(f"[Search]   {name:<{width}}{row}{note}")
    for name, score in sorted(report.compared.items(), key=lambda pair: -pair[1]):
        lines.append(
            f"[Search] compared on validation: {name} {score:.4f} after {report.contender_epochs[name]} epochs"
        )
    if report.others:
        for training in report.trainings:
            how = ", given up where the budget ended" if training.cut else ""
            lines.append(
                f"[Search] trained: {training.name} {training.score:.4f} on validation, {training.epochs} epochs{how}"
            )
    lines.append(f"[Search] chosen for {report.base_model}: {report.chosen} {report.options}")
    parts = {
        "the probabilities": report.gradient_work,
        "the comparison": report.comparison_work,
        "what was trained and not kept": sum(own.work for own in report.others),
    }
    if work := ", ".join(f"{own:.1f} for {what}" for what, own in parts.items() if own):
        lines.append(f"[Search] counted work, in epochs of dns: {work}")
    ratio = report.seconds / max(report.final_seconds, 1e-9)
    lines.append(
        f"[Search] cost: {report.seconds:.1f} s, {ratio:.2f} times the {report.final_seconds:.1f} s "
        f"({report.final_epochs} epochs) of training with {report.chosen}"
    )
    return lines
