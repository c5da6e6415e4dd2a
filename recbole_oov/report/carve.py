"""A validation part for published splits that have none.

Some published splits are two files, ``<name>.train.inter`` and ``<name>.test.inter``, and were early-stopped on the
test rows. RecBole's ``benchmark_filename`` takes three files; this writes them, the validation rows taken out of the
training rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_oov.errors import DataError


def carve_validation(source: Path, target: Path, *, share: float = 0.1, seed: int = 2020) -> Path:
    """Write a published split with a validation part.

    Each training row is taken with probability ``share``, unless it is the last that its user or its item would have
    left in training. The test rows stay as they are.

    Args:
        source: The data set's folder, with ``<name>.train.inter`` and ``<name>.test.inter``; user and item are their
            first two columns.
        target: The folder to write ``<name>/<name>.{train,valid,test}.inter`` into, and ``<name>.all.inter`` with the
            training rows as published, for a last training once validation has said for how long.
        share: Of the training rows.
        seed: Of the choice.

    Returns:
        The new data set's folder. Where it is there already, nothing is written.

    Raises:
        DataError: A file is missing, or has not two columns.
    """
    name = source.name
    folder = target / name
    files = {part: source / f"{name}.{part}.inter" for part in ("train", "test")}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"{path} is missing; a published split without validation has train and test files")
    if (folder / f"{name}.test.inter").is_file():
        return folder
    head, *rows = files["train"].read_text(encoding="utf-8").splitlines()
    pairs = [row.split("\t")[:2] for row in rows]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{files['train']}: a row has less than two columns; the first two are user and item")
    chosen = _chosen(pairs, share, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, keep in (("train", {False}), ("valid", {True}), ("all", {False, True})):
        lines = [row for row, held in zip(rows, chosen.tolist(), strict=True) if held in keep]
        (folder / f"{name}.{part}.inter").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    # The test file last: it says that the others are whole.
    (folder / f"{name}.test.inter").write_bytes(files["test"].read_bytes())
    return folder


def _chosen(pairs: list[list[str]], share: float, seed: int) -> np.ndarray:
    left: dict[tuple[int, str], int] = {}
    for pair in pairs:
        for column, value in enumerate(pair):
            left[column, value] = left.get((column, value), 0) + 1
    random = np.random.default_rng(seed)
    wanted = random.random(len(pairs)) < share
    chosen = np.zeros(len(pairs), dtype=bool)
    for row in random.permutation(len(pairs)):
        keys = list(enumerate(pairs[row]))
        if wanted[row] and all(left[key] > 1 for key in keys):
            chosen[row] = True
            for key in keys:
                left[key] -= 1
    return chosen
