"""What the rows of a sweep say, ready to be printed: one :class:`Table` a part, one :class:`Line` a model.

Markdown, LaTeX, CSV, HTML and the plots are made from these, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.groups import ALL_USERS, OOV, OVERALL, group_of, prefixed
from recbole_oov.evaluation.ranks import metrics_of_ranks
from recbole_oov.report.cells import is_sequential
from recbole_oov.report.statistics import Comparison, bootstrap_intervals, compare, corrected, smaller_is_better
from recbole_oov.report.user_values import metrics_of_row, ranks_of_row, values_of_row

Rows = list[dict[str, Any]]
Column = tuple[str, str]
"""A view and a metric: a group of items (``oov``), or what became of the history (``masked``); ``ndcg@10``."""

COSTS = {
    "epochs": ("epochs",),
    "epochs to best": ("epochs_to_best",),
    "train s": ("train_seconds",),
    "train CPU s": ("train_cpu_seconds",),
    "s to best": ("seconds_to_best",),
    "tokens/s": ("tokens_per_second",),
    "search CPU s": ("search", "cpu_seconds"),
    "peak MiB": ("peak_memory_mib",),
    "peak GPU MiB": ("peak_gpu_memory_mib",),
    "parameters": ("parameters",),
    "diversity": ("diagnostics", "diversity"),
    "memorisation (items)": ("diagnostics", "memorisation_items"),
}
"""What a cell cost, or what its model said of itself, and where a row has it."""
SCORES = ("diversity", "memorisation (items)")
"""Those of them that are no costs."""
_OF_BASE = {"train s": "base_seconds", "train CPU s": "base_cpu_seconds"}
"""What is added to a cost: a base model that several rows share is part of what each of them needs."""


@dataclass
class Estimate:
    """A metric of one model: the mean over seeds and users.

    Attributes:
        value: The mean.
        low, high: 95 % bootstrap interval over users; None where there are no values of single users.
        test: Against the reference, where there is one.
        place: 1 for the best of the column, 2 for the runner-up, 0 for others.
    """

    value: float
    low: float | None = None
    high: float | None = None
    test: Comparison | None = None
    place: int = 0


@dataclass
class Line:
    """One model of a part.

    Attributes:
        name: In the benchmark file.
        rows: Its finished cells, one a seed.
        missing: Seeds that have not run.
        failures: Why a seed failed.
        estimates: By column; empty where no seed is finished.
    """

    name: str
    rows: Rows
    missing: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    estimates: dict[Column, Estimate] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The finished ones."""
        return sorted(row["seed"] for row in self.rows)

    @property
    def seeds_text(self) -> str:
        """``5``, or ``3 of 5`` where some are not finished."""
        expected = len(self.rows) + len(self.missing) + len(self.failures)
        return str(len(self.rows)) if len(self.rows) == expected else f"{len(self.rows)} of {expected}"

    @property
    def problem(self) -> str:
        """What is to be said of seeds that are not there; empty where all are."""
        said = [f"seed {seed} failed: {reason}" for seed, reason in sorted(self.failures.items())]
        if self.missing:
            said.append(f"not run yet: seed {', '.join(map(str, sorted(self.missing)))}")
        return "; ".join(said)

    def cost(self, name: str) -> float | None:
        """The mean over seeds of one of :data:`COSTS`, a shared base model's included; None where no row has it."""
        own = [(row, value) for row in self.rows if (value := _at(row, COSTS[name])) is not None]
        values = [value + float(row.get(_OF_BASE.get(name, "")) or 0) for row, value in own]
        return float(np.mean(values)) if values else None

    def tasks(self) -> dict[tuple[str, str, str], float]:
        """Of tasks beside ranking the means over seeds, by task, metric and who answers: the model, or a control."""
        found: dict[tuple[str, str, str], list[float]] = {}
        for row in self.rows:
            for task, answers in (row.get("tasks") or {}).items():
                for who, metrics in answers.items():
                    for metric, value in metrics.items():
                        found.setdefault((task, metric, who), []).append(float(value))
        return {key: float(np.mean(values)) for key, values in found.items()}


@dataclass
class Table:
    """One part of a benchmark.

    Attributes:
        name: Of the part; empty where the benchmark is about one data set.
        dataset: RecBole's name.
        views: Groups of items, or what became of the history.
        metrics: Of users first, then those of a whole recommendation.
        main: The column that models are chosen and drawn by.
        reference: What the others are tested against; empty for no test.
        lines: In the order of the benchmark file.
        notes: What a reader must know of this table.
        n_users: By view; nothing where the users differ from seed to seed.
    """

    name: str
    dataset: str
    views: list[str]
    metrics: list[str]
    main: Column
    reference: str
    lines: list[Line]
    notes: list[str] = field(default_factory=list)
    n_users: dict[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The part's name, or the data set's."""
        return self.name or self.dataset

    @property
    def columns(self) -> list[Column]:
        """All that some line has, view by view."""
        pairs = [(view, metric) for view in self.views for metric in self.metrics]
        return [column for column in pairs if any(column in line.estimates for line in self.lines)]

    @property
    def drawn(self) -> list[Column]:
        """What is drawn of each model: the main metric in every view that says something of its own."""
        columns = [(view, self.main[1]) for view in self.views if view != ALL_USERS]
        return [column for column in columns if column in self.columns]

    @property
    def weighed(self) -> list[Column]:
        """What is drawn against its cost: the main column, and what becomes of items without training rows."""
        return [column for column in self.drawn if column[0] in (self.main[0], OOV)]

    @property
    def costs(self) -> list[str]:
        """Those of :data:`COSTS` that some line has."""
        return [name for name in COSTS if any(line.cost(name) is not None for line in self.lines)]

    @property
    def complete(self) -> bool:
        """Whether every cell of the part is finished."""
        return not any(line.problem for line in self.lines)


def summarise(spec: Mapping[str, Any], cells: Sequence[Any], rows: Rows, where: object = "results") -> list[Table]:
    """The tables of a benchmark, those of parts without any row left out.

    Args:
        spec: What ``read_spec`` returned: ``measure``, ``k`` and, where given, ``reference``.
        cells: The cells of all parts.
        rows: What ``read_results`` returned; rows of other cells are left out.
        where: What to call the results in an error.

    Raises:
        ConfigError: Two rows of a part were not measured on the same held-out rows, or no part has the reference.
    """
    reference = spec.get("reference") or ""
    if reference and reference not in {cell.name for cell in cells}:
        names = ", ".join(dict.fromkeys(cell.name for cell in cells))
        raise ConfigError(f"{where}: reference {reference!r} is none of the models; there are {names}")
    rows = _of_cells(cells, rows)
    parts = dict.fromkeys(cell.part for cell in cells)
    tables = []
    for part in parts:
        own = [row for row in rows if row.get("part", "") == part]
        if own or not part:
            tables.append(_table(spec, [cell for cell in cells if cell.part == part], own, reference, where))
    return tables


def _of_cells(cells: Sequence[Any], rows: Rows) -> Rows:
    """One row a cell, the last that worked or else the last. Seeds given on a command line are no cells of the file."""
    keys = {cell.key for cell in cells}
    known = {
        (cell.part, cell.name, cell.model, cell.dataset, _without_seed(cell.options), cell.measure) for cell in cells
    }
    latest: dict[str, dict[str, Any]] = {}
    for row in rows:
        described = (row.get("part", ""), row["name"], row["model"], row["dataset"], _without_seed(row["options"]))
        # A row of an error does not say what would have been measured.
        measures = ("ranks", "users") if "error" in row else ("ranks" if "ranks" in row else "users",)
        of_file = row["key"] in keys or any((*described, measure) in known for measure in measures)
        worked = "error" not in latest.get(row["key"], {"error": ""})
        if of_file and not ("error" in row and worked):
            latest[row["key"]] = row
    return list(latest.values())


def _without_seed(options: Mapping[str, Any]) -> str:
    # Where the data lies decides nothing.
    return repr(sorted((key, repr(value)) for key, value in options.items() if key not in ("seed", "data_path")))


def _table(spec: Mapping[str, Any], cells: Sequence[Any], rows: Rows, reference: str, where: object) -> Table:
    finished = [row for row in rows if "error" not in row]
    apart = _check_held_out(finished, spec["measure"], cells[0].part, where)
    lines = [_line(name, cells, rows) for name in dict.fromkeys(cell.name for cell in cells)]
    part = cells[0].part
    table = Table(part, cells[0].dataset, [], [], ("", ""), reference, lines)
    values = _values_of_ranks(lines, spec["k"]) if spec["measure"] == "ranks" else _values_of_users(lines)
    table.views = list(dict.fromkeys(view for of_line in values for view, _ in of_line))
    table.metrics = list(dict.fromkeys(metric for of_line in values for _, metric in of_line))
    _estimate(table, values)
    _whole_metrics(table)
    _choose_main(table, str(cells[0].options.get("valid_metric", "")).lower())
    if apart:
        table.reference = ""
        table.notes.append(apart)
        return table
    _test(table, values)
    _place(table)
    return table


def _check_held_out(rows: Rows, measure: str, part: str, where: object) -> str:
    """Every row on the same held-out rows; where the seed decides the split, the same for each seed.

    Returns:
        What is to be said where sequential models were tested on other rows than the others, as RecBole may split
        them; else nothing.
    """
    splits = [row["seed"] if measure == "users" else None for row in rows]
    held_out = {(split, row["targets"]) for split, row in zip(splits, rows, strict=True)}
    if len(held_out) == len(set(splits)) and len({row.get("user_tokens") for row in rows}) <= 1:
        return ""
    of_split: dict[Any, dict[str, Any]] = {}
    for split, row in zip(splits, rows, strict=True):
        kind = is_sequential(row["model"])
        first = of_split.setdefault((kind, split), row)
        users = of_split.setdefault((kind, "users"), row)
        pairs = [(first, "targets", "held-out items")]
        pairs += [(users, "user_tokens", "users")] if measure == "users" else []
        for other, key, what in pairs:
            if row[key] != other[key]:
                raise ConfigError(
                    f"{where}: {f'{part}: ' if part else ''}{row['name']} (seed {row['seed']}, {key} "
                    f"{row[key][:12]}) and {other['name']} (seed {other['seed']}, {key} {other[key][:12]}) were not "
                    f"tested on the same {what}, so no table or paired test of both means anything; give all the "
                    f"same data and split"
                )
    for (kind, of), row in of_split.items():
        other = of_split.get((not kind, of), row)
        if any(row[key] != other[key] for key in ("targets", "user_tokens") if of != "users" and key in row):
            one, two = (row, other) if kind else (other, row)
            return (
                f"No tests and no marks: {one['name']}, a sequential model, and {two['name']} were not tested on the "
                f"same held-out rows, so their numbers do not compare."
            )
    return ""


def _line(name: str, cells: Sequence[Any], rows: Rows) -> Line:
    own = [row for row in rows if row["name"] == name]
    # Of two rows with one seed, which only options given by hand can cause, the last counts.
    done = {row["seed"]: row for row in own if "error" not in row}
    failed = {row["options"].get("seed"): row["error"] for row in own if "error" in row}
    expected = {cell.options["seed"] for cell in cells if cell.name == name}
    return Line(
        name,
        [done[seed] for seed in sorted(done)],
        sorted(expected - set(done) - set(failed)),
        {seed: " ".join(error.split()) for seed, error in failed.items() if seed not in done},
    )


Values = dict[Column, np.ndarray | list[np.ndarray]]
"""By column (S, U); a list where the number of users differs from seed to seed."""


def _values_of_ranks(lines: Iterable[Line], k: int) -> list[Values]:
    values: list[Values] = []
    for line in lines:
        of_line: Values = {}
        for view in ("unmasked", "masked"):
            if line.rows:
                ranks = np.array([ranks_of_row(row, masked=view == "masked") for row in line.rows])
                metrics = metrics_of_ranks(ranks, k)
                of_line |= {(view, metric): of_users for metric, of_users in metrics.items()}
        values.append(of_line)
    return values


def _values_of_users(lines: Iterable[Line]) -> list[Values]:
    values: list[Values] = []
    for line in lines:
        of_line: Values = {}
        kept = [metrics_of_row(row) for row in line.rows]
        for group, metrics in kept[0].items() if kept else ():
            for metric in metrics:
                if all(metric in of_row.get(group, ()) for of_row in kept):
                    each = [values_of_row(row, metric, group) for row in line.rows]
                    same = len({len(one) for one in each}) == 1
                    of_line[group, metric] = np.array(each) if same else each
        values.append(of_line)
    return values


def _estimate(table: Table, values: list[Values]) -> None:
    """Means and intervals; the columns of a view together, since they share the drawing of users."""
    for view in table.views:
        stacks: dict[int, list[tuple[Line, Column, np.ndarray]]] = {}
        for line, of_line in zip(table.lines, values, strict=True):
            for column, own in of_line.items():
                if column[0] != view or not len(own[0]):
                    continue
                if isinstance(own, list):
                    line.estimates[column] = Estimate(float(np.mean([one.mean() for one in own])))
                else:
                    stacks.setdefault(own.shape[1], []).append((line, column, own.mean(axis=0)))
        for stack in stacks.values():
            bounds = bootstrap_intervals(np.stack([own for _, _, own in stack], axis=1))
            for (line, column, own), (low, high) in zip(stack, bounds.tolist(), strict=True):
                line.estimates[column] = Estimate(float(own.mean()), low, high)
        if len(stacks) == 1:
            table.n_users[view] = next(iter(stacks))
        if any(isinstance(own, list) for of_line in values for column, own in of_line.items() if column[0] == view):
            table.notes.append(f"{view}: the users differ from seed to seed, so there are no intervals and no tests.")


def _whole_metrics(table: Table) -> None:
    """Metrics of a whole recommendation, such as item coverage: they have no value a user, so no interval."""
    for line in table.lines:
        for name in line.rows[0].get("test_result", {}) if line.rows else ():
            view = group_of(name)
            metric = name if view == OVERALL else name.removeprefix(prefixed(view, ""))
            seeds = [row["test_result"].get(name) for row in line.rows]
            if view in table.views and (view, metric) not in line.estimates and None not in seeds:
                line.estimates[view, metric] = Estimate(float(np.mean(seeds)))
                table.metrics += [metric] if metric not in table.metrics else []


def _choose_main(table: Table, valid_metric: str) -> None:
    if table.columns:
        view = OVERALL if OVERALL in table.views else table.views[0]
        of_view = [metric for own, metric in table.columns if own == view]
        with_users = [m for m in of_view if any(_has_interval(line, (view, m)) for line in table.lines)] or of_view
        table.main = (view, valid_metric if valid_metric in of_view else with_users[-1])


def _has_interval(line: Line, column: Column) -> bool:
    return column in line.estimates and line.estimates[column].low is not None


def _test(table: Table, values: list[Values]) -> None:
    """Every model against the reference, in every column, corrected together."""
    by_name = {line.name: (line, own) for line, own in zip(table.lines, values, strict=True)}
    if table.reference not in by_name:
        table.reference = ""
        return
    base, theirs = by_name[table.reference]
    if not base.rows:
        table.notes.append(f"No tests: the reference {table.reference} has no finished cell.")
        return
    tests: dict[tuple[str, Column], Comparison] = {}
    refused, fewer = [], []
    for name, (line, ours) in by_name.items():
        shared = sorted(set(line.seeds) & set(base.seeds))
        if name == table.reference or not line.rows:
            continue
        if len(shared) < max(len(line.rows), len(base.rows)):
            fewer.append(f"{name} ({len(shared)} shared)")
        for column in set(ours) & set(theirs) if shared else ():
            first, second = (_of_seeds(*pair, shared) for pair in ((line, ours[column]), (base, theirs[column])))
            if first is None or second is None or first.shape != second.shape:
                refused.append(f"{name} in {column[0]} {column[1]}")
            elif first.shape[1] > 1:
                tests[name, column] = compare(first, second, column[1])
    for (name, column), test in corrected(tests).items():
        by_name[name][0].estimates[column].test = test
    if fewer:
        table.notes.append(f"Tested on the seeds that both have: {', '.join(fewer)}.")
    if refused:
        table.notes.append(f"No paired test, since the users are not those of the reference: {', '.join(refused)}.")


def _of_seeds(line: Line, values: np.ndarray | list[np.ndarray], seeds: list[int]) -> np.ndarray | None:
    """Those rows of the values (S, U); None where their users differ in number."""
    own = [one for row, one in zip(line.rows, values, strict=True) if row["seed"] in seeds]
    return np.array(own) if len({len(one) for one in own}) == 1 else None


def _place(table: Table) -> None:
    for column in table.columns:
        of_column = [line.estimates[column] for line in table.lines if column in line.estimates]
        sign = 1 if smaller_is_better(column[1]) else -1
        # Means of the same numbers, summed in another order, are the same.
        values = [round(sign * estimate.value, 12) for estimate in of_column]
        if len(set(values)) < 2:
            continue  # nothing to be better than
        for estimate, value in zip(of_column, values, strict=True):
            place = 1 + sum(other < value for other in values)  # behind two that tie for the first nobody is second
            estimate.place = place if place <= 2 else 0


def _at(row: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
