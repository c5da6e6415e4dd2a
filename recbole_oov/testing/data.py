"""Data whose answer is known, and the writing of it as atomic files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np


def write_atomic(
    data_path: str | Path,
    name: str,
    histories: Mapping[str, Sequence[str]],
    titles: Mapping[str, str] | None = None,
    said: Mapping[str, Callable[[str, str], object]] | None = None,
) -> Path:
    """Write a data set in RecBole's atomic format.

    Args:
        data_path: The folder of data sets; ``data_path/name`` is made.
        name: The data set's name.
        histories: Item tokens by user token, oldest first; the place in the list is the timestamp.
        titles: Titles by item token, for a ``.item`` file; none is written without.
        said: Further columns of interactions, by name and type (``rating:float``): what is in them, by user and item.

    Returns:
        The data set's folder.
    """
    folder = Path(data_path) / name
    folder.mkdir(parents=True, exist_ok=True)
    said = said or {}
    rows = [
        "\t".join([user, item, str(time), *(str(say(user, item)) for say in said.values())])
        for user, items in histories.items()
        for time, item in enumerate(items)
    ]
    header = "\t".join(["user_id:token", "item_id:token", "timestamp:float", *said])
    (folder / f"{name}.inter").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    if titles is not None:
        lines = [f"{item}\t{title}" for item, title in titles.items()]
        (folder / f"{name}.item").write_text(
            "\n".join(["item_id:token\ttitle:token_seq", *lines]) + "\n", encoding="utf-8"
        )
    return folder


def two_circles(n_users: int = 60, n_items: int = 24, length: int = 14, seed: int = 0) -> dict[str, list[str]]:
    """Histories whose next item is known: half of the users walk round one circle of items, half round another.

    A user starts anywhere on the circle of theirs and goes on item by item, so that the last item decides the next
    one and a model that learned it has a recall of 1.

    Args:
        n_users: Users, half for each circle.
        n_items: Items, half in each circle.
        length: The longest history; the shortest is half of it. (Of equal lengths, the places in a test history
            would never have been trained on.)
        seed: Of starting points and lengths.

    Returns:
        Item tokens by user token, for :func:`write_atomic`.
    """
    random = np.random.default_rng(seed)
    half = n_items // 2
    histories = {}
    for user in range(n_users):
        circle, start = user % 2, int(random.integers(half))
        steps = range(int(random.integers(length // 2, length + 1)))
        histories[f"u{user}"] = [f"i{circle * half + (start + step) % half}" for step in steps]
    return histories
