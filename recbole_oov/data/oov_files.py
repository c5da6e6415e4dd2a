"""Published OOV splits: five files of (user, item) pairs in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_oov.data.oov_split import PARTS, Rows, oov_options
from recbole_oov.errors import ConfigError, DataError

_PUBLISHED = {
    "train": "warm_emb",
    "iv_valid": "warm_val",
    "iv_test": "warm_test",
    "oov_valid": "cold_item_val",
    "oov_test": "cold_item_test",
}
"""What USIM, ALDI and ColdRec call the parts. (They share the script that made them.)"""

_ENDINGS = {".tsv": "\t", ".inter": "\t", ".csv": ","}


def split_folder(files: str, data_path: str | Path) -> Path:
    """The folder of a published split: as given, or inside the data set's folder."""
    given = Path(files)
    return given if given.is_dir() else Path(data_path) / files


def part_files(folder: Path) -> dict[str, Path]:
    """The file of each part, under the plugin's names (``oov_test.tsv``) or the published ones.

    Raises:
        ConfigError: The folder is missing, or a part has no file or two.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"eval_args split OOV files: there is no folder {folder}; name the folder of a split, or "
            f"random, time or popularity for one that is made (oov_split)"
        )
    found: dict[str, Path] = {}
    for part in PARTS:
        names = {part, _PUBLISHED[part], _PUBLISHED[part].replace("_val", "_valid")}
        paths = sorted(folder / f"{name}{ending}" for name in names for ending in _ENDINGS)
        paths = [path for path in paths if path.is_file()]
        if len(paths) != 1:
            have = ", ".join(path.name for path in paths) or "none"
            raise ConfigError(
                f"eval_args split OOV files: {folder} should have one file for the part {part}, called {part}.tsv or "
                f"{_PUBLISHED[part]}.tsv (or .csv, .inter); it has {have}"
            )
        found[part] = paths[0]
    return found


def check_split_files(config: Any) -> None:
    """Find the files of a published split, before any data is loaded.

    Raises:
        ConfigError: A file is missing; see :func:`part_files`.
    """
    options = oov_options(config)
    if options is not None and options.files is not None:
        part_files(split_folder(options.files, config["data_path"]))


def read_split(files: str, dataset: Any) -> tuple[Rows, list[str]]:
    """Find the rows of a published split in a data set.

    Args:
        files: The folder.
        dataset: RecBole's data set, its interactions loaded.

    Returns:
        Row numbers by part, in the files' order, and a note on rows that are in no file.

    Raises:
        DataError: A file cannot be read, a pair is not in the data set or is there twice, two parts share a pair, or an
            OOV item is in training.
    """
    folder = split_folder(files, dataset.config["data_path"])
    users, items = (np.asarray(dataset.inter_feat[name]) for name in (dataset.uid_field, dataset.iid_field))
    row_of = pd.Series(np.arange(len(users)), index=pd.MultiIndex.from_arrays([users, items]))
    if not row_of.index.is_unique:
        user, item = row_of.index[row_of.index.duplicated()][0]
        raise DataError(
            f"eval_args split OOV files: the data set has {_pair(dataset, user, item)} more than once, so that a pair "
            f"does not name a row; set rm_dup_inter: first"
        )
    rows = {part: _rows(path, dataset, row_of) for part, path in part_files(folder).items()}
    every = np.concatenate([rows[part] for part in PARTS])
    twice = pd.Series(every).duplicated().to_numpy()
    if twice.any():
        row = every[twice][0]
        raise DataError(f"{folder}: {_pair(dataset, users[row], items[row])} is in two places of the split")
    oov = np.concatenate([rows["oov_valid"], rows["oov_test"]])
    leaked = np.intersect1d(items[oov], items[rows["train"]])
    if len(leaked):
        names = ", ".join(dataset.id2token(dataset.iid_field, leaked[:5]))
        raise DataError(f"{folder}: {len(leaked)} OOV items have training rows ({dataset.iid_field} {names})")
    notes = []
    untrained = sum(int((~np.isin(items[rows[part]], items[rows["train"]])).sum()) for part in ("iv_valid", "iv_test"))
    if untrained:
        notes.append(f"{untrained} IV rows have an item without a training row, which counts as OOV")
    missing = len(users) - len(every)
    if missing:
        notes.append(f"{missing} rows of the data set are in no file of the split and left out")
    return rows, notes


def _rows(path: Path, dataset: Any, row_of: pd.Series) -> np.ndarray:
    try:
        table = pd.read_csv(path, sep=_ENDINGS[path.suffix], dtype=str, encoding="utf-8", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    table.columns = [str(name).partition(":")[0] for name in table.columns]
    ids = []
    for field, short in ((dataset.uid_field, "user"), (dataset.iid_field, "item")):
        name = field if field in table.columns else short
        if name not in table.columns:
            raise DataError(f"{path}: the column {field!r} is not there; its columns are {', '.join(table.columns)}")
        token_ids = dataset.field2token_id[field]
        ids.append(table[name].map(token_ids).fillna(0).astype(np.int64).to_numpy())
    # A token that the data set does not know got 0, the padding, which no row has.
    rows = row_of.reindex(pd.MultiIndex.from_arrays(ids)).to_numpy()
    lost = np.flatnonzero(np.isnan(rows))
    if len(lost):
        raise DataError(
            f"{path}, line {lost[0] + 2}: {len(lost)} of {len(rows)} pairs are not among the interactions of "
            f"{dataset.config['dataset']}, the first is {', '.join(table.iloc[lost[0]].tolist())}; load the data set "
            f"whole (no filters such as user_inter_num_interval)"
        )
    return rows.astype(np.int64)


def _pair(dataset: Any, user: int, item: int) -> str:
    names = (dataset.id2token(dataset.uid_field, user), dataset.id2token(dataset.iid_field, item))
    return f"({dataset.uid_field} {names[0]}, {dataset.iid_field} {names[1]})"
