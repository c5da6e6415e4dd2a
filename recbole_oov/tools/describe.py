"""``describe DATASET``: what is in a data set, and what each protocol would leave of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from recbole.utils import FeatureType
from tabulate import tabulate

from recbole_oov.data.oov_split import columns
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.tools.arguments import split_arguments
from recbole_oov.tools.datasets import open_dataset
from recbole_oov.tools.protocols import Left, what_is_left
from recbole_oov.tools.statistics import QUANTILES, Interactions, describe_interactions, popularity_curve, sparkline


def describe(argv: Sequence[str]) -> None:
    """Run the command: ``describe DATASET [--plot=FILE.png] [--json] [--data_path=… and other options of a run]``.

    Filters that the options name (``user_inter_num_interval`` …) are applied first, as a run applies them.

    Raises:
        ConfigError: The options cannot work.
        DataError: A file cannot be used.
    """
    if not argv or argv[0].startswith("-"):
        raise ConfigError("describe: name a data set, as in: describe ml-100k")
    given, rest = split_arguments(argv[1:], ("plot", "json"))
    plot, as_json = _plot_path(given.get("plot")), given.get("json", False)
    if not isinstance(as_json, bool):
        raise ConfigError(f"describe: json {as_json!r} is not allowed; it must be True or False")
    every_column = {} if any(a.startswith(("--load_col=", "--config_files=")) for a in rest) else {"load_col": None}
    as_they_are = {"normalize_all": False, "normalize_field": None}  # of times between 0 and 1 no date can be told
    _, dataset, notes = open_dataset("Pop", [f"--dataset={argv[0]}", *rest], {**every_column, **as_they_are})
    users, items, times = columns(dataset)
    numbers, left = describe_interactions(users, items, times), what_is_left(users, items, times)
    coverage = column_coverage(dataset)
    if as_json:
        listed = {"dataset": argv[0], **asdict(numbers), "coverage": coverage, "notes": notes}
        print(json.dumps({**listed, "protocols": [asdict(entry) for entry in left]}, indent=1))
    else:
        print(report(argv[0], numbers, coverage, popularity_curve(items), left, notes))
    if plot is not None:
        save_curve(plot, argv[0], popularity_curve(items), numbers)
        print(f"popularity curve: {plot}", file=sys.stderr)


def column_coverage(dataset: Any) -> dict[str, dict[str, float]]:
    """For each text or token column of items and users the share of them that have it, and how many words on average.

    RecBole fills missing numbers with the mean, so that columns of numbers cannot be told apart afterwards; they are
    left out.

    Returns:
        By ``item.title`` and the like: ``share`` from 0 to 1, ``words`` on average of those that have any.
    """
    found = {}
    for kind, feat, id_field in (("item", dataset.item_feat, dataset.iid_field), ("user", dataset.user_feat, None)):
        if feat is None:
            continue
        for field in feat.columns:
            if field in (id_field, dataset.uid_field) or dataset.field2type[field] not in (
                FeatureType.TOKEN,
                FeatureType.TOKEN_SEQ,
            ):
                continue
            words = [int((np.atleast_1d(row) > 0).sum()) for row in feat[field]][1:]  # the first row is padding
            has = [count for count in words if count]
            found[f"{kind}.{field}"] = {
                "share": len(has) / max(1, len(words)),
                "words": sum(has) / max(1, len(has)),
            }
    return found


def report(
    name: str,
    numbers: Interactions,
    coverage: dict[str, dict[str, float]],
    curve: np.ndarray,
    left: Sequence[Left],
    notes: Sequence[str],
) -> str:
    """What the command prints."""
    shares = ", ".join(f"{part} of the items: {share:.0%}" for part, share in numbers.head.items())
    facts = [
        ("users", f"{numbers.users:,}"),
        ("items", f"{numbers.items:,}, {numbers.rare:,} of them with fewer than 5 interactions"),
        ("interactions", f"{numbers.rows:,}"),
        ("density", f"{numbers.density:.4%}"),
        ("repeated pairs", f"{numbers.repeated:,} ({numbers.repeated / numbers.rows:.1%} of the interactions)"),
        ("time", f"{numbers.first} to {numbers.last}" if numbers.first and numbers.last else "no timestamps"),
        ("popularity", f"Gini {numbers.gini:.3f}; share of the interactions of the top {shares}"),
        ("", f"{sparkline(curve)}  most to least popular, log scale"),
    ]
    head = ["", "min", *(f"{q:.0%}" for q in QUANTILES[1:-1]), "max"]
    spread = [["a user's history", *numbers.history], ["an item's interactions", *numbers.popularity]]
    parts = [
        name,
        tabulate(facts, tablefmt="plain"),
        tabulate(spread, headers=head, floatfmt=",.0f", tablefmt="simple"),
    ]
    if coverage:
        rows = [[field, f"{entry['share']:.1%}", f"{entry['words']:.1f}"] for field, entry in coverage.items()]
        parts.append(tabulate(rows, headers=["column", "filled", "words"], disable_numparse=True))
    else:
        parts.append("no text: there is no .item file with token or token_seq columns")
    parts.append(_protocol_table(left))
    parts += [f"note: {note}" for note in notes]
    return "\n\n".join(parts)


def _protocol_table(left: Sequence[Left]) -> str:
    head = ["protocol", "train", "valid IV", "valid OOV", "test IV", "test OOV", "IV items", "OOV items", "test users"]
    rows = [[f"{v:,}" if isinstance(v, int) else v for v in list(asdict(entry).values())[:-1]] for entry in left]
    table: str = tabulate(rows, headers=head, colalign=("left", *("right",) * (len(head) - 1)))
    said = [f"{entry.protocol}: {note}" for entry in left for note in entry.notes]
    return "\n".join([table, *said])


def _plot_path(value: object) -> Path | None:
    if value is None:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError('describe: plot needs the package matplotlib; pip install "recbole-oov[plot]"')
    path = Path(str(value))
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"describe: plot {str(value)!r} is not allowed; name a file .png, .svg or .pdf")
    return path


def save_curve(path: Path, name: str, curve: np.ndarray, numbers: Interactions) -> None:
    """Draw interactions over rank, both logarithmic, and the share that the most popular items have together.

    Raises:
        DataError: The file cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranks = np.arange(1, len(curve) + 1)
    left.loglog(ranks, curve)
    left.set(xlabel="item, most popular first", ylabel="interactions", title=f"{name}: {numbers.items:,} items")
    right.plot(ranks / len(curve), curve.cumsum() / curve.sum())
    right.plot([0, 1], [0, 1], linestyle=":", color="grey")
    right.set(xlabel="share of the items", ylabel="share of the interactions", title=f"Gini {numbers.gini:.3f}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); choose another plot") from error
