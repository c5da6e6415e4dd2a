"""A benchmark of ranks by what training says of each user's test item: ``report FILE --by=transition``.

It shows where a method is ahead and where it is behind. The groups are made of test items: nothing may be chosen by it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from recbole_oov.data.histories import Histories
from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.ranks import metrics_of_ranks
from recbole_oov.report.cells import Cell, is_sequential
from recbole_oov.report.markdown import escape
from recbole_oov.report.statistics import bootstrap_intervals
from recbole_oov.report.summary import Estimate, Rows
from recbole_oov.report.user_values import in_order_of_users, ranks_of_row
from recbole_oov.report.words import interval, metric_label, number

Counts = Callable[[Histories, np.ndarray, np.ndarray], np.ndarray]
"""From training, each user's newest item and test item (U,) to a number a user (U,)."""


@dataclass(frozen=True)
class Kind:
    """One way to put test users into groups.

    Attributes:
        says: What is counted.
        begins: The smallest number of each group, ascending, from 0 on.
        names: Of the groups.
        count: Counts it.
    """

    says: str
    begins: tuple[int, ...]
    names: tuple[str, ...]
    count: Counts


def _transitions(histories: Histories, newest: np.ndarray, targets: np.ndarray) -> np.ndarray:
    users, items = histories.pairs()
    follows = users[1:] == users[:-1]
    steps = (items[:-1][follows], items[1:][follows])
    shown = csr_matrix((np.ones(follows.sum(), dtype=np.int64), steps), shape=(histories.n_items,) * 2)
    times: np.ndarray = np.asarray(shown[newest, targets]).ravel()
    return times


def _popularity(histories: Histories, newest: np.ndarray, targets: np.ndarray) -> np.ndarray:
    counts: np.ndarray = histories.item_counts()[targets]
    return counts


KINDS = {
    "transition": Kind(
        "how often training has the test item right after the newest item of the user's history",
        (0, 1, 2, 4),
        ("never", "once", "2 or 3 times", "more often"),
        _transitions,
    ),
    "popularity": Kind(
        "training interactions of the test item",
        (0, 1, 6, 11, 21, 51),
        ("none", "1 to 5", "6 to 10", "11 to 20", "21 to 50", "more"),
        _popularity,
    ),
}
"""What ``by`` may be."""


@dataclass(frozen=True)
class Stratum:
    """One model in one group of test users.

    Attributes:
        history: ``unmasked``, with the history in the ranking, or ``masked``.
        group: Its name.
        n_users: Its users.
        estimates: By metric, the mean over seeds and users, with its interval over users.
    """

    part: str
    dataset: str
    model: str
    seeds: int
    history: str
    group: str
    n_users: int
    estimates: dict[str, Estimate]


def strata(by: str, cells: Sequence[Cell], rows: Rows, k: int) -> list[Stratum]:
    """Every finished model of every part, group by group.

    Args:
        by: One of :data:`KINDS`.
        cells: Of the parts that are asked for.
        rows: What ``read_results`` returned; rows of other cells are left out.
        k: Of the metrics.

    Raises:
        ConfigError: There is no such kind, a part cannot be told by it, or its data are not those of the rows.
        DataError: The data cannot be read.
    """
    if by not in tuple(KINDS):  # a command line may give a list, which no dictionary takes
        raise ConfigError(f"report: by={by!r} is none of {', '.join(KINDS)}")
    latest = {row["key"]: row for row in rows if "error" not in row}
    found: list[Stratum] = []
    for part in dict.fromkeys(cell.part for cell in cells):
        own = [cell for cell in cells if cell.part == part and cell.key in latest]
        if own:
            found += _of_part(KINDS[by], own, latest, k)
    if not found:
        raise ConfigError("report: by: none of the cells that are asked for is finished; run the benchmark first")
    return found


def _of_part(kind: Kind, cells: Sequence[Cell], rows: Mapping[str, Any], k: int) -> Iterator[Stratum]:
    where = f"{cells[0].part or cells[0].dataset}"
    if cells[0].measure != "ranks":
        raise ConfigError(f"report: by: {where} has no ranks of its users; it is for measure: ranks")
    counts, digest = _count(kind, cells, where)
    if other := next((cell for cell in cells if rows[cell.key]["targets"] != digest), None):
        raise ConfigError(
            f"report: by: the data of {where} are not those that {other.name}, seed {other.options['seed']}, was "
            f"tested on; give the same files with --data_path"
        )
    group_of = np.searchsorted(kind.begins, counts, side="right") - 1
    names = dict.fromkeys(cell.name for cell in cells)
    rows_of = {name: [rows[cell.key] for cell in cells if cell.name == name] for name in names}
    columns = [(name, history) for name in names for history in ("unmasked", "masked")]
    metrics = [_metrics(rows_of[name], history, k) for name, history in columns]
    for at, group in enumerate(kind.names):
        inside = group_of == at
        if inside.any():
            for (name, history), estimates in zip(columns, _estimates(metrics, inside), strict=True):
                seeds = len(rows_of[name])
                said = (cells[0].part, cells[0].dataset, name, seeds, history, group, int(inside.sum()))
                yield Stratum(*said, estimates)


def _metrics(rows: Rows, history: str, k: int) -> dict[str, np.ndarray]:
    """Each user's metrics, means over seeds. (U,) each"""
    ranks = np.array([ranks_of_row(row, masked=history == "masked") for row in rows])
    return {metric: of_seeds.mean(axis=0) for metric, of_seeds in metrics_of_ranks(ranks, k).items()}


def _estimates(metrics: Sequence[Mapping[str, np.ndarray]], inside: np.ndarray) -> list[dict[str, Estimate]]:
    """Means and intervals of some users, for which users are drawn once for all models."""
    values = np.stack([of_users[inside] for one in metrics for of_users in one.values()], axis=1)
    bounds = iter(zip(values.mean(axis=0).tolist(), *bootstrap_intervals(values).T.tolist(), strict=True))
    return [{metric: Estimate(*next(bounds)) for metric in one} for one in metrics]


def _count(kind: Kind, cells: Sequence[Cell], where: str) -> tuple[np.ndarray, str]:
    """What is counted of each test user, in the order of the rows' users, and the hash of their test items."""
    from recbole_oov.tools.datasets import open_dataset

    cell = next((cell for cell in cells if is_sequential(cell.model)), None)
    if cell is None:
        raise ConfigError(f"report: by: no row of {where} is a sequential model, which alone has a newest item")
    options = {**cell.options, "dataset": cell.dataset, "show_progress": False, "state": "ERROR"}
    _, dataset, _ = open_dataset(cell.model, [], options)
    train, _, test = dataset.build()
    rows = test.inter_feat
    # Copies: scipy wants arrays that it may write to.
    users, targets = (rows[field].numpy().copy() for field in (test.uid_field, test.iid_field))
    order, digest = in_order_of_users(test, users, targets)
    histories, lengths = (rows[field].numpy() for field in (test.item_id_list_field, test.item_list_length_field))
    newest = histories[np.arange(len(lengths)), lengths - 1]
    return kind.count(Histories.from_train(train), newest, targets)[order], digest


# --- as text ----------------------------------------------------------------------------------------------------------


def strata_markdown(by: str, found: Sequence[Stratum], metric: str) -> str:
    """A table a part, one line a model and history, one column a group; intervals over users."""
    lines = [f"{metric_label(metric)} by {KINDS[by].says}. Means over seeds [95 % interval over users].", ""]
    for part in dict.fromkeys(one.part for one in found):
        head, cells = strata_grid([one for one in found if one.part == part], metric)
        lines += [f"## {escape(part)}", ""] if part else []
        lines += ["| " + " | ".join(map(escape, head)) + " |", "|" + "---|" * len(head)]
        # Brackets of an interval are no link: nothing follows them.
        lines += ["| " + " | ".join([escape(line[0]), *line[1:]]) + " |" for line in cells]
        lines.append("")
    return "\n".join(lines)


def strata_grid(found: Sequence[Stratum], metric: str) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table of one part."""
    groups = {one.group: one.n_users for one in found}
    lines: dict[tuple[str, str], list[str]] = {}
    for one in found:
        line = lines.setdefault((one.model, one.history), [one.model, str(one.seeds), one.history])
        line.append(f"{number(one.estimates[metric].value)} {interval(one.estimates[metric])}")
    head = [f"{name} ({n:,} {'user' if n == 1 else 'users'})" for name, n in groups.items()]
    return ["model", "seeds", "history", *head], list(lines.values())


def strata_csv(found: Sequence[Stratum]) -> str:
    """One line a model, history, group and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("part", "dataset", "model", "seeds", "history", "group", "users", "metric", "mean", "low", "high"))
    for one in found:
        for metric, of in one.estimates.items():
            said = (one.part, one.dataset, one.model, one.seeds, one.history, one.group, one.n_users, metric)
            writer.writerow((*said, *(f"{value:.9g}" for value in (of.value, of.low, of.high) if value is not None)))
    return text.getvalue()
