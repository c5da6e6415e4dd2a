"""The small tables of one run: metrics of each group, and what is behind them; metrics of each task."""

from __future__ import annotations

from collections.abc import Mapping

from tabulate import tabulate

from recbole_oov.evaluation.evaluator import Evaluation
from recbole_oov.evaluation.groups import GROUPS, prefixed


def group_table(evaluation: Evaluation) -> str:
    """Groups down, metrics across, with the numbers of users, items ranked and held-out interactions.

    Args:
        evaluation: Of the OOV protocol.
    """
    metrics = [name for name in evaluation.result if not name.startswith(tuple(f"{g}_" for g in GROUPS))]
    rows = []
    for group, counts in evaluation.counts().items():
        values = [evaluation.result[prefixed(group, name)] for name in metrics]
        rows.append([group, *(f"{counts[what]:,}" for what in ("users", "items", "targets")), *values])
    align = ("left", "right", "right", "right", *("right" for _ in metrics))
    text: str = tabulate(rows, headers=["group", "users", "items", "targets", *metrics], floatfmt=".4f", colalign=align)
    return text


def task_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Of one task: who answers down, metrics across.

    Args:
        results: By who answers, metrics by name; the first has them all.
    """
    metrics = list(next(iter(results.values())))
    rows = [[who, *(values.get(metric) for metric in metrics)] for who, values in results.items()]
    text: str = tabulate(rows, headers=["by", *metrics], floatfmt=".4f")
    return text
