"""The tiny data sets of the conformance checks, one for each family of models, and the options that go with them.

``blocks`` (general and knowledge-aware models): three blocks of users and of items; a user likes the items of the
own block alone. The items that a user has not seen of the block are the right answer, and popularity is none.
``labelled`` (context-aware models): everyone likes the first block's items, nobody the last one's, and those of the
second block only users of group ``b``, so that a linear model is right for the most part and one of pairs always.
``circles`` (sequential models): the last item decides the next one, see :func:`two_circles`.

Every set has a user without any interaction, ``u_new``, and items that are in no training row. Of those the items
``o…`` have a title that tells their block, and ``bare`` has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_oov.testing.data import two_circles

N_BLOCKS, USERS_A_BLOCK, ITEMS_A_BLOCK, OOV_A_BLOCK = 3, 16, 9, 3
N_TRAIN, N_TEST = 5, 2
N_LEFT = ITEMS_A_BLOCK - N_TRAIN - 1
"""Items of the own block that a user does not have before the test; two of them are the user's test items."""
N_CIRCLE_USERS, N_CIRCLE_ITEMS, LENGTH = 47, 20, 14
"""The longest histories go round their circle of ten once and further, so that some targets have been seen before."""
MAX_LENGTH = 10
"""``MAX_ITEM_LIST_LENGTH``: shorter than some histories, longer than others."""

WORDS = ("amber basil cedar dune", "ember fjord grove heath", "islet jetty knoll lagoon")

Row = tuple[str, str, float, float]
"""User, item, rating, timestamp."""


@dataclass(frozen=True)
class TinyData:
    """A data set on disk: its name, and the options to read it with."""

    name: str
    options: dict[str, Any]


SMALL: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "kg_embedding_size": 16,
    "mlp_hidden_size": [16],
    "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
    "learning_rate": 0.01,
    "epochs": 30,
    "eval_step": 1,
    "train_batch_size": 64,
    "eval_batch_size": 2048,
}
"""Options that make training a matter of a second; models that do not have one of them leave it alone."""

COMMON: dict[str, Any] = {"use_gpu": False, "show_progress": False, "state": "ERROR", "reproducibility": True}

_INTER = ["user_id", "item_id", "rating", "timestamp"]
_GENERAL: dict[str, Any] = {
    "benchmark_filename": ["train", "valid", "test"],
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
    "metrics": ["Recall", "NDCG"],
    "topk": [N_LEFT],
    "valid_metric": f"NDCG@{N_LEFT}",
    "load_col": {"inter": _INTER, "user": ["user_id", "group"], "item": ["item_id", "title"]},
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "general": _GENERAL,
    "knowledge": {
        **_GENERAL,
        "load_col": {
            **_GENERAL["load_col"],
            "kg": ["head_id", "relation_id", "tail_id"],
            "link": ["item_id", "entity_id"],
        },
    },
    "context": {
        "benchmark_filename": ["train", "valid", "test"],
        "threshold": {"rating": 3},
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "labeled"},
        "metrics": ["AUC", "LogLoss"],
        "valid_metric": "AUC",
        "load_col": {"inter": _INTER[:3], "user": ["user_id", "group"], "item": ["item_id", "title"]},
    },
    "sequential": {
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "metrics": ["Recall", "NDCG"],
        "topk": [1],
        "valid_metric": "NDCG@1",
        "load_col": {"inter": _INTER, "user": ["user_id", "group"], "item": ["item_id", "title"]},
    },
}


def write_tiny(data_path: Path, family: str, *, exchanged: str = "") -> TinyData:
    """Write the data set of a family of models.

    Args:
        data_path: The folder of data sets.
        family: One of ``general``, ``knowledge``, ``context``, ``sequential``.
        exchanged: ``valid`` or ``test``: exchange who has which item of this part; all else stays, ids too.
    """
    name = {"context": "labelled", "sequential": "circles"}.get(family, "blocks")
    folder = data_path / name
    folder.mkdir(parents=True, exist_ok=True)
    if family == "sequential":
        histories = circle_histories(exchanged)
        users, items = list(histories), [f"i{i}" for i in range(N_CIRCLE_ITEMS)]
        rows = [(user, item, 5.0, float(time)) for user in users for time, item in enumerate(histories[user])]
        _write_rows(folder / f"{name}.inter", rows)
        blocks = {item: i * 2 // N_CIRCLE_ITEMS for i, item in enumerate(items)}
        groups = {user: at % 2 for at, user in enumerate(users)}
        items += ["o0", "o1"]
        blocks |= {"o0": 0, "o1": 1}
    else:
        parts = labelled_rows() if family == "context" else block_rows()
        if exchanged:
            parts[exchanged] = _exchanged(parts[exchanged])
        for part, rows in parts.items():
            _write_rows(folder / f"{name}.{part}.inter", rows)
        groups = {f"u{user}": user // USERS_A_BLOCK for user in range(N_BLOCKS * USERS_A_BLOCK)}
        blocks = {f"i{i}": i // ITEMS_A_BLOCK for i in range(N_BLOCKS * ITEMS_A_BLOCK)}
        blocks |= {f"o{i}": i // OOV_A_BLOCK for i in range(N_BLOCKS * OOV_A_BLOCK)}
        _write_graph(folder, name, blocks)
    # A word or two of each item's own, which is not its id: that would be a leak.
    titles = {item: f"{WORDS[block]} tale {at}" for at, (item, block) in enumerate(blocks.items(), start=100)}
    titles["bare"] = ""
    _write(
        folder / f"{name}.user", "user_id:token\tgroup:token", ((u, f"g{g}") for u, g in groups.items()), ["u_new\tg0"]
    )
    _write(folder / f"{name}.item", "item_id:token\ttitle:token_seq", titles.items())
    return TinyData(name, {**COMMON, **_OPTIONS[family], "data_path": str(data_path)})


def block_rows(seed: int = 0) -> dict[str, list[Row]]:
    """Rows of the training, validation and test part of ``blocks``.

    A user has five of the own block's nine items in training, one in validation, two in the test, and one nowhere; and
    one OOV item of the block in validation and in the test.
    """
    random = np.random.default_rng(seed)
    parts: dict[str, list[Row]] = {"train": [], "valid": [], "test": []}
    for user in range(N_BLOCKS * USERS_A_BLOCK):
        block = user // USERS_A_BLOCK
        own = block * ITEMS_A_BLOCK + random.permutation(ITEMS_A_BLOCK)
        cut = N_TRAIN + 1
        for part, items in (("train", own[:N_TRAIN]), ("valid", own[N_TRAIN:cut]), ("test", own[cut : cut + N_TEST])):
            parts[part] += [(f"u{user}", f"i{item}", 5.0, float(time)) for time, item in enumerate(items)]
        first = block * OOV_A_BLOCK
        parts["valid"].append((f"u{user}", f"o{first}", 5.0, 9.0))
        parts["test"].append((f"u{user}", f"o{first + 1 + user % (OOV_A_BLOCK - 1)}", 5.0, 9.0))
    return parts


def labelled_rows(seed: int = 0) -> dict[str, list[Row]]:
    """Rows of ``labelled``: of each block four items in training, one in validation, two in the test; rated 5 or 1."""
    random = np.random.default_rng(seed)
    parts: dict[str, list[Row]] = {"train": [], "valid": [], "test": []}
    for user in range(N_BLOCKS * USERS_A_BLOCK):
        for block in range(N_BLOCKS):
            items = block * ITEMS_A_BLOCK + random.permutation(ITEMS_A_BLOCK)[:7]
            rating = 5.0 if block == 0 or (block == 1 and user // USERS_A_BLOCK == 1) else 1.0
            for time, item in enumerate(items):
                part = "train" if time < 4 else "valid" if time < 5 else "test"
                parts[part].append((f"u{user}", f"i{item}", rating, float(time)))
    return parts


def circle_histories(exchanged: str = "") -> dict[str, list[str]]:
    """Histories of ``circles``; every user's item of the part that is exchanged is another user's.

    The first user has seen every item in training, so that ids, which follow first appearance, are those of the
    data set in which nothing is exchanged.
    """
    first = {"u_all": [*(f"i{i}" for i in range(N_CIRCLE_ITEMS)), f"i{N_CIRCLE_ITEMS // 2}", "i0"]}
    histories = two_circles(N_CIRCLE_USERS, N_CIRCLE_ITEMS, LENGTH)
    users = list(histories)
    if exchanged:
        place = {"valid": -2, "test": -1}[exchanged]
        items = [histories[user][place] for user in _rotated(users)]
        for user, item in zip(users, items, strict=True):
            histories[user][place] = item
    return first | histories


def _rotated(values: Sequence[str]) -> list[str]:
    by = len(values) // N_BLOCKS + 2
    return [*values[by:], *values[:by]]


def _exchanged(rows: Sequence[Row]) -> list[Row]:
    users = list(dict.fromkeys(row[0] for row in rows))
    given = dict(zip(users, _rotated(users), strict=True))
    return [(given[user], item, rating, time) for user, item, rating, time in rows]


def _write_graph(folder: Path, name: str, blocks: dict[str, int]) -> None:
    """Each item is an entity, which lies in its block's entity and has the block's colour."""
    _write(folder / f"{name}.link", "item_id:token\tentity_id:token", ((item, f"e_{item}") for item in blocks))
    triples = [(f"e_{item}", "in", f"block_{block}") for item, block in blocks.items()]
    triples += [(f"e_{item}", "colour", f"colour_{block}") for item, block in blocks.items()]
    _write(folder / f"{name}.kg", "head_id:token\trelation_id:token\ttail_id:token", triples)


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    _write(path, header, ((user, item, f"{rating:g}", f"{time:g}") for user, item, rating, time in rows))


def _write(path: Path, header: str, rows: Iterable[tuple[str, ...]], more: Sequence[str] = ()) -> None:
    path.write_text("\n".join([header, *map("\t".join, rows), *more]) + "\n", encoding="utf-8")
