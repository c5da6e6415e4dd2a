"""How the tables of every format write numbers, marks and what they mean."""

from __future__ import annotations

import re

from recbole_oov.report.statistics import Comparison
from recbole_oov.report.summary import SCORES, Column, Estimate, Line, Table

_UPPER = {"ndcg", "mrr", "map", "auc", "gauc"}
GROUPS = {"overall": "overall", "iv": "IV items", "oov": "OOV items", "overall_all_users": "overall, all users"}
_VIEWS = {
    "unmasked": "with the history in the ranking",
    "masked": "with the history left out of the ranking",
    "overall": "all items ranked, for users with held-out items of both kinds where there are two kinds",
    "iv": "in-vocabulary items, which have training interactions, ranked among themselves",
    "oov": "out-of-vocabulary items, which have none, ranked among themselves",
    "overall_all_users": "all items ranked, for all users",
}


def metric_label(metric: str) -> str:
    """``NDCG@10`` for ``ndcg@10``."""
    name, at, k = metric.partition("@")
    return (name.upper() if name in _UPPER else name[:1].upper() + name[1:]) + at + k


def column_label(table: Table, column: Column) -> str:
    """``NDCG@10``, and of which items where the table has several views."""
    view, metric = column
    return metric_label(metric) + (f", {GROUPS.get(view, view)}" if len(table.views) > 1 else "")


def number(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"


def interval(estimate: Estimate) -> str:
    """``[low, high]``; empty where there is none."""
    return "" if estimate.low is None or estimate.high is None else f"[{estimate.low:.4f}, {estimate.high:.4f}]"


def cost(value: float | None) -> str:
    """Whole numbers, with a comma from ten thousand on; one decimal below ten."""
    if value is None:
        return ""
    if value >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def cost_of(line: Line, name: str) -> str:
    """One of a line's costs; what a model says of itself, from 0 to 1, with three decimals."""
    value = line.cost(name)
    return f"{value:.3f}" if name in SCORES and value is not None else cost(value)


def p_value(test: Comparison) -> str:
    """With the sign of the side: ``+1.3e-05`` is better than the reference; none where there is no difference."""
    side = "+" if test.better else "-" if test.difference else ""
    return f"{side}{test.p_holm:.3g}"


def slug(text: str) -> str:
    """A name that is safe in a file name or an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"


def legend(table: Table) -> list[str]:
    """What the numbers of a table are, in sentences."""
    said = ["Means over seeds; 95 % bootstrap intervals over users."]
    if table.reference and any(e.test for line in table.lines for e in line.estimates.values()):
        said.append(
            f"Paired Wilcoxon tests over users against {table.reference}, two-sided, with Holm's correction over all "
            f"tests of the table: ▲ better, ▼ worse, at p\u00a0<\u00a00.05."
        )
    views = [view for view in table.views if view in _VIEWS] if len(table.views) > 1 else []
    return said + [f"{GROUPS.get(view, view)}: {_VIEWS[view]}." for view in views]
