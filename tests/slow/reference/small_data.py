"""A small data set cut out of the ml-100k files that RecBole brings: 100 users, their last 20 rows at most.

Sequential models take minutes an epoch on the whole of ml-100k. This cut keeps all five files (interactions,
users, items, knowledge graph, links) consistent with each other and adds made-up embeddings of items, entities
and relations, which the models with preloaded ones need. It uses the standard library alone, so that it is the
same on any stack.
"""

from __future__ import annotations

import importlib.util
import random
from collections import defaultdict
from pathlib import Path

NAME = "ml-tiny"
USERS = 100
ROWS_PER_USER = 20
DIMENSIONS = 16


def make_small_data(folder: Path, seed: int = 0) -> Path:
    """Write the data set to ``folder/ml-tiny`` and return ``folder``, the ``data_path`` of a configuration."""
    target = folder / NAME
    target.mkdir(parents=True, exist_ok=True)
    head, rows = _read("inter")
    by_user: dict[str, list[list[str]]] = defaultdict(list)
    for row in rows:
        by_user[row[0]].append(row)
    chosen = set(random.Random(seed).sample(sorted(by_user), USERS))
    last = {user: sorted(by_user[user], key=lambda row: int(row[3]))[-ROWS_PER_USER:] for user in sorted(chosen)}
    kept = {(row[0], row[1]) for user_rows in last.values() for row in user_rows}
    inter = [row for row in rows if (row[0], row[1]) in kept]  # in the order of the file
    items = {row[1] for row in inter}
    _write(target, "inter", head, inter)

    head, rows = _read("user")
    _write(target, "user", head, [row for row in rows if row[0] in chosen])
    head, rows = _read("item")
    _write(target, "item", head, [row for row in rows if row[0] in items])
    head, rows = _read("link")
    link = [row for row in rows if row[0] in items]
    _write(target, "link", head, link)
    entities = {row[1] for row in link}
    head, rows = _read("kg")
    kg = [row for row in rows if row[0] in entities]
    _write(target, "kg", head, kg)

    for suffix, field, known in (
        ("ent", "ent", items),
        ("kgent", "ent", entities | {row[2] for row in kg}),
        ("rel", "rel", {row[1] for row in kg}),
    ):
        numbers = random.Random(seed)
        vectors = [[k, " ".join(f"{numbers.gauss(0.0, 0.1):.4f}" for _ in range(DIMENSIONS))] for k in sorted(known)]
        _write(target, suffix, [f"{field}_id:token", f"{field}_emb:float_seq"], vectors)
    return folder


def _read(suffix: str) -> tuple[list[str], list[list[str]]]:
    spec = importlib.util.find_spec("recbole")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "dataset_example" / "ml-100k" / f"ml-100k.{suffix}"
    lines = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    return lines[0], lines[1:]


def _write(target: Path, suffix: str, head: list[str], rows: list[list[str]]) -> None:
    text = "\n".join("\t".join(row) for row in [head, *rows]) + "\n"
    (target / f"{NAME}.{suffix}").write_text(text, encoding="utf-8")
