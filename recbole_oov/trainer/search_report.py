"""What a search for a sampler did: as it is saved and published, and as the log says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

Options = dict[str, Any]


@dataclass
class SearchReport:
    """What a search did, as it is logged, plotted and saved. Work is counted in epochs of DNS.

    Attributes:
        winner: What the chosen sampler is called among the candidates, which may be several of its kind.
        level: What the trunk's sampler reached in the comparison, where another one won; None where there is nothing to
            come up to.
        reached: The best that the winner of the comparison had in the final training, on the validation users who
            select; None where there is nothing to come up to.
        given_up: The winner of the comparison, where it ended below ``level`` and the trunk's sampler was trained
            instead. Its training counts to the search.
    """

    kind: str
    base_model: str
    samplers: list[str]
    chosen: str = ""
    winner: str = ""
    options: Options = field(default_factory=dict)
    trajectory: list[list[float]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    finalists: dict[str, float] = field(default_factory=dict)
    contender_epochs: dict[str, int] = field(default_factory=dict)
    level: float | None = None
    reached: float | None = None
    given_up: str = ""
    given_up_epochs: int = 0
    search_epochs: int = 0
    trunk_epochs: int = 0
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
    for name, score in sorted(report.finalists.items(), key=lambda pair: -pair[1]):
        lines.append(
            f"[Search] compared on validation: {name} {score:.4f} after {report.contender_epochs[name]} epochs"
            + (f", the first {report.trunk_epochs} shared" if report.trunk_epochs else "")
        )
    best, won = max(report.finalists, key=report.finalists.__getitem__, default=""), report.given_up or report.winner
    if report.kind == "gradient" and won not in ("", best):
        lines.append(f"[Search] {won} is not significantly behind {best}, and more probable")
    if report.given_up:
        lines.append(given_up_line(report))
    lines.append(f"[Search] chosen for {report.base_model}: {report.chosen} {report.options}")
    if report.gradient_work + report.comparison_work:
        lines.append(
            f"[Search] counted work, in epochs of dns: {report.gradient_work:.1f} for the probabilities, "
            f"{report.comparison_work:.1f} for the comparison"
        )
    ratio = report.seconds / max(report.final_seconds, 1e-9)
    lines.append(
        f"[Search] cost: {report.seconds:.1f} s, {ratio:.2f} times the {report.final_seconds:.1f} s "
        f"({report.final_epochs} epochs) of training with {report.chosen}"
    )
    return lines


def given_up_line(report: SearchReport) -> str:
    """Why the winner of the comparison was not kept."""
    level = report.finalists[report.winner]
    return (
        f"[Search] {report.given_up} given up: its own training reached {report.reached:.4f}, {report.winner} had "
        f"{level:.4f} in the comparison and was trained in its place"
    )
