"""A validation part for published splits that have none.

Some published splits are two files, ``<name>.train.inter`` and ``<name>.test.inter``, and were early-stopped on the
test rows. RecBole's ``benchmark_filename`` takes three files; this writes them, the validation rows taken out of the
training rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from recbole_oov.errors import DataError
from recbole_oov.report.results import locked

DEFAULT_CARVE: dict[str, Any] = {"share": 0.1, "seed": 2020}
"""What a part's ``carve`` is where it does not say."""


def carve_validation(source: Path, target: Path, *, share: float, seed: int) -> Path:
    """Write a published split with a validation part.

    Each training row is taken with probability ``share``, unless it is the last that its user or its item would have
    left in training. The test rows stay as they are.

    Args:
        source: The data set's folder, with ``<name>.train.inter`` and ``<name>.test.inter``; user and item are their
            first two columns.
        target: A folder in which each source, share and seed has a folder of its own with
            ``<name>/<name>.{train,valid,test}.inter``, and ``<name>.all.inter`` with the training rows as published,
            for a last training once validation has said for how long.
        share: Of the training rows.
        seed: Of the choice.

    Returns:
        The new data set's folder, whose last part is the data set's name. It appears when it is whole; where it is
        there already, nothing is written.

    Raises:
        DataError: A file is missing, or has not two columns.
    """
    name = source.name
    decides = json.dumps([str(source.resolve()), float(share), seed])
    folder = target / hashlib.sha256(decides.encode()).hexdigest()[:16] / name
    files = {part: source / f"{name}.{part}.inter" for part in ("train", "test")}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"{path} is missing; a published split without validation has train and test files")
    with locked(folder.parent.with_suffix(".lock")):
        if not folder.is_dir():
            partial = folder.with_name(f"{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed; nobody else has the lock
            partial.mkdir(parents=True)
            _write(files, partial, name, share, seed)
            os.replace(partial, folder)
    return folder


def _write(files: dict[str, Path], folder: Path, name: str, share: float, seed: int) -> None:
    # Not splitlines, which cuts at U+2028 and U+0085 as well: a review may have them.
    head, *rows = files["train"].read_text(encoding="utf-8").removesuffix("\n").split("\n")
    pairs = [row.split("\t")[:2] for row in rows]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{files['train']}: a row has less than two columns; the first two are user and item")
    chosen = _chosen(pairs, share, seed)
    for part, keep in (("train", {False}), ("valid", {True}), ("all", {False, True})):
        lines = [row for row, held in zip(rows, chosen.tolist(), strict=True) if held in keep]
        (folder / f"{name}.{part}.inter").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    (folder / f"{name}.test.inter").write_bytes(files["test"].read_bytes())


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
