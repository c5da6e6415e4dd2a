"""The tables of a sweep: means over seeds with intervals over users, as Markdown and on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.intervals import bootstrap_interval
from recbole_oov.evaluation.ranks import metrics_of_ranks
from recbole_oov.evaluation.significance import holm, paired_test
from recbole_oov.report.user_values import user_values

Rows = list[dict[str, Any]]


def write_tables(spec: Mapping[str, Any], cells: list[Any], rows: Rows, output: Path, console: Console) -> None:
    """One table a part, into ``table.md``.

    Raises:
        ConfigError: Two rows of a part were not measured on the same held-out rows.
    """
    keys = {cell.key for cell in cells}
    known = {(cell.part, cell.name, _without_seed(cell.options)) for cell in cells}
    # Seeds that were given on a command line are no cells of the file, and yet their rows belong into its table.
    mine = [
        row
        for row in rows
        if "error" not in row
        and (row["key"] in keys or (row.get("part", ""), row["name"], _without_seed(row["options"])) in known)
    ]
    texts = []
    for part in dict.fromkeys(cell.part for cell in cells):
        own = _latest(row for row in mine if row.get("part", "") == part)
        names = list(dict.fromkeys(cell.name for cell in cells if cell.part == part))
        dataset = next(cell.dataset for cell in cells if cell.part == part)
        if not _same_held_out(own, spec["measure"]):
            raise ConfigError(
                f"{output / 'table.md'}: the cells were not tested on the same held-out items; give all the same split"
            )
        if not own and part:
            continue
        if spec["measure"] == "users":
            head, lines = _of_users(own, names, spec.get("reference"))
        else:
            head, lines = _of_ranks(own, names, spec["k"])
        table = Table(*head, title=f"{part or dataset}, test, mean over seeds [95 % interval over users]")
        for line in lines:
            table.add_row(*line)
        console.print(table)
        markdown = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        markdown += ["| " + " | ".join(line) + " |" for line in lines]
        texts.append((f"## {part}\n\n" if part else "") + "\n".join(markdown) + "\n")
    (output / "table.md").write_text("\n".join(texts), encoding="utf-8")


def _same_held_out(rows: Rows, measure: str) -> bool:
    """Whether all were measured on the same held-out rows.

    Where the seed decides the split, they are the same for each seed, and the users are the same for all.
    """
    if measure == "ranks":
        return len({row["targets"] for row in rows}) <= 1
    by_seed = {(row["seed"], row["targets"]) for row in rows}
    return len(by_seed) == len({seed for seed, _ in by_seed}) and len({row["user_tokens"] for row in rows}) <= 1


def _of_ranks(rows: Rows, names: list[str], k: int) -> tuple[list[str], list[list[str]]]:
    head = ["model", "seeds", "history", f"Recall@{k}", f"NDCG@{k}", f"MRR@{k}", "epochs", "seconds"]
    lines = []
    for name in names:
        own = [row for row in rows if row["name"] == name]
        for kind, field in (("unmasked", "ranks"), ("masked", "ranks_masked")):
            if own:
                metrics = metrics_of_ranks(np.array([row[field] for row in own]), k)
                cells = [with_interval(metrics[f"{metric}@{k}"]) for metric in ("recall", "ndcg", "mrr")]
                lines.append([name, str(len(own)), kind, *cells, *_means(own, "epochs", "train_seconds")])
    return head, lines


def _of_users(rows: Rows, names: list[str], reference: str | None) -> tuple[list[str], list[list[str]]]:
    """Metrics of users; with a reference model, two-sided paired Wilcoxon tests against it, corrected by Holm."""
    if not rows:
        return ["model"], []
    metrics = list(rows[0]["users"]["overall"])
    by_name = {name: [row for row in rows if row["name"] == name] for name in names}
    by_name = {name: own for name, own in by_name.items() if own}
    p_values = _p_values(by_name, metrics[-1], reference)
    head = ["model", "seeds", *metrics, "epochs to best", "train CPU s", "search CPU s"]
    head += [f"p ({metrics[-1]}) against {reference}"] if p_values else []
    lines = []
    for name, own in by_name.items():
        cells = [with_interval(user_values(own, metric)) for metric in metrics]
        search = [row["search"]["cpu_seconds"] for row in own if "search" in row]
        costs = [*_means(own, "epochs_to_best", "train_cpu_seconds"), f"{np.mean(search):.0f}" if search else ""]
        tested = [p_values.get(name, "")] if p_values else []
        lines.append([name, str(len(own)), *cells, *costs, *tested])
    return head, lines


def _p_values(by_name: dict[str, Rows], metric: str, reference: str | None) -> dict[str, str]:
    """For every model, whether it is better (+) or worse (-) than the reference, with Holm's p; of shared seeds."""
    if reference not in by_name or len(by_name) < 2:
        return {}
    tests = {}
    for name, own in by_name.items():
        shared = {row["seed"] for row in own} & {row["seed"] for row in by_name[reference]}
        if name == reference or not shared:
            continue
        ours, theirs = (
            user_values([row for row in rows if row["seed"] in shared], metric).mean(axis=0)
            for rows in (own, by_name[reference])
        )
        better, worse = paired_test(ours, theirs), paired_test(theirs, ours)
        two_sided = min(1.0, 2 * min(better.p_value, worse.p_value))
        tests[name] = (two_sided, "+" if better.difference > 0 else "-")
    corrected = holm([p for p, _ in tests.values()])
    return {name: f"{sign}{p:.3g}" for (name, (_, sign)), p in zip(tests.items(), corrected, strict=True)}


def with_interval(values: np.ndarray) -> str:
    """Mean and 95 % bootstrap interval over users. (S, U)"""
    low, high = bootstrap_interval(values)
    return f"{values.mean():.4f} [{low:.4f}, {high:.4f}]"


def _means(rows: Rows, *fields: str) -> list[str]:
    return [f"{np.mean([row[field] for row in rows]):.0f}" for field in fields]


def _latest(rows: Iterable[dict[str, Any]]) -> Rows:
    """One row a cell, the last."""
    return list({row["key"]: row for row in rows}.values())


def _without_seed(options: Mapping[str, Any]) -> str:
    return repr(sorted((key, repr(value)) for key, value in options.items() if key != "seed"))
