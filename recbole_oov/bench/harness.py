"""Two ways to one answer, measured beside each other: no ratio without an agreement of the answers."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from recbole_oov.bench.clock import Seconds, Stopwatch
from recbole_oov.bench.memory import peak_memory

MIB = 1 << 20
LEAST_SECONDS = 0.25
"""Runs shorter than this are repeated within one measurement, so that a clock's grain and a pause do not decide."""


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: What is measured.
        run: Does the work once; what it returns is compared.
        before: Called before each ``run``, not measured.
    """

    name: str
    run: Callable[[], Any]
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Contest:
    """Two sides with the same task.

    Attributes:
        ours: The plugin's way.
        theirs: What it is measured against.
        differences: Says in words how two answers differ; nothing where they agree.
        at_end: Compare the last answers alone: of trainings that go on from one repetition to the next.
        note: What a reader has to know of the task: sizes, numbers of rows.
    """

    ours: Side
    theirs: Side
    differences: Callable[[Any, Any], list[str]]
    at_end: bool = False
    note: str = ""


@dataclass
class Measured:
    """One side's repetitions.

    Attributes:
        name: The side's.
        wall_seconds: Of one run, in each repetition, in order.
        processor_seconds: The same, of the processor's work for it.
        runs: How many runs a repetition averages over.
        peak_mib: Memory above what was in use before, at its highest, of each repetition; empty where unknown.
    """

    name: str
    wall_seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    runs: int = 1
    peak_mib: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "median_wall_seconds": statistics.median(self.wall_seconds),
            "median_processor_seconds": statistics.median(self.processor_seconds),
            "median_peak_mib": statistics.median(self.peak_mib) if self.peak_mib else None,
        }


@dataclass
class Outcome:
    """What a contest came to.

    Attributes:
        ours, theirs: The repetitions.
        differences: How the answers differ.
        ratios: theirs / ours by what is measured (``wall``, ``processor``, ``memory``, and ``time``, by which bars
            are judged: the processor's, which other programs disturb least, or the wall's on a GPU), one a repetition,
            each of two runs that followed one another; empty where the answers differ.
    """

    ours: Measured
    theirs: Measured
    differences: list[str]
    note: str = ""
    ratios: dict[str, list[float]] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether both sides gave the same answers."""
        return not self.differences

    def median(self, what: str) -> float | None:
        """The median ratio of ``time`` or ``memory``; None where there is none."""
        ratios = self.ratios.get(what)
        return statistics.median(ratios) if ratios else None


def compete(contest: Contest, *, repeats: int = 5, warm_up: int = 1) -> Outcome:
    """Run both sides in turn and compare what they return.

    Which side begins alternates, so that a machine that becomes slower or faster is unfair to neither.

    Args:
        contest: The two sides.
        repeats: Measured runs of each side.
        warm_up: Runs of each side before those, compared but not measured.

    Returns:
        Times, memory and, where all answers agree, ratios.
    """
    sides = (contest.ours, contest.theirs)
    measured = (Measured(contest.ours.name), Measured(contest.theirs.name))
    differences: list[str] = []
    for turn in range(-warm_up, repeats):
        answers: list[Any] = [None, None]
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            mine = measured[which]
            answers[which], seconds, peak = _measured(sides[which], mine.runs)
            if turn < 0:
                if not contest.at_end:  # a training does not do the same twice
                    mine.runs = max(1, round(LEAST_SECONDS / max(seconds.processor, 1e-4)))
                continue
            mine.wall_seconds.append(seconds.wall)
            mine.processor_seconds.append(seconds.processor)
            if peak is not None:
                mine.peak_mib.append(peak / MIB)
        if not contest.at_end or turn == repeats - 1:
            differences = contest.differences(*answers)
        if differences:
            break
    return Outcome(*measured, differences, contest.note, {} if differences else _ratios(*measured))


def _measured(side: Side, runs: int) -> tuple[Any, Seconds, int | None]:
    """The last answer, seconds a run, and the highest memory of all runs."""
    if side.before is not None:
        side.before()
    gc.collect()
    with peak_memory() as peak:
        watch = Stopwatch()
        for _ in range(runs):
            answer = side.run()
        seconds = watch.read()
    return answer, Seconds(seconds.wall / runs, seconds.processor / runs), peak.bytes


def _ratios(ours: Measured, theirs: Measured) -> dict[str, list[float]]:
    pairs = {
        "processor": (ours.processor_seconds, theirs.processor_seconds),
        "wall": (ours.wall_seconds, theirs.wall_seconds),
    }
    if ours.peak_mib and min(ours.peak_mib) > 0.1:  # below a page or so there is nothing to divide by
        pairs["memory"] = (ours.peak_mib, theirs.peak_mib)
    ratios = {what: [b / max(a, 1e-9) for a, b in zip(*both, strict=True)] for what, both in pairs.items()}
    return {"time": ratios["wall" if torch.cuda.is_available() else "processor"], **ratios}


def numbers_differ(ours: Mapping[str, float], theirs: Mapping[str, float], *, within: float) -> list[str]:
    """The names whose values are further apart than ``within``, or that one side lacks."""
    found = []
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs:
            found.append(f"{name} is there on one side only")
        elif not abs(ours[name] - theirs[name]) <= within:
            found.append(f"{name}: {ours[name]:.6g} and {theirs[name]:.6g} are further apart than {within:g}")
    return found


def tensors_differ(ours: Sequence[Any], theirs: Sequence[Any], *, within: float, what: str = "values") -> list[str]:
    """Whether two lists of tensors are the same, element by element, up to ``within``."""
    if [tuple(x.shape) for x in ours] != [tuple(x.shape) for x in theirs]:
        return [f"{what}: shapes differ"]
    apart = max((float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True) if a.numel()))
    return [] if apart <= within else [f"{what}: up to {apart:.3g} apart, more than {within:g}"]
