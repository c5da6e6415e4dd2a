"""Per-user metric values as a Parquet table, so that methods can be compared user by user later."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_oov.data.cache import write_atomically
from recbole_oov.errors import ConfigError, DataError, RecBoleOOVError

COLUMNS = ("user", "group", "metric", "value")
"""``user`` is the token in the data's files, the same in every run; ``metric`` is written as ``recall@10``."""


def users_file(config: Any, checkpoint: str | Path) -> Path | None:
    """Where a run's per-user values go by its option ``save_user_metrics``; None for nowhere.

    Args:
        config: RecBole's or the plugin's configuration.
        checkpoint: The run's checkpoint: the table lies beside it, as ``<its stem>.users.parquet``, unless the option
            is a path.
    """
    option = config["save_user_metrics"]
    if not option:
        return None
    return Path(checkpoint).with_suffix(".users.parquet") if option is True else Path(option)


def user_tokens(dataset: Any, users: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The users' tokens, by group, from RecBole's internal ids by group. (U_g,) each"""
    tokens = np.asarray(dataset.field2id_token[dataset.uid_field]).astype(str)
    return {group: tokens[np.asarray(ids)] for group, ids in users.items()}


def write_per_user(
    path: str | Path,
    users: Mapping[str, Sequence[str] | np.ndarray],
    values: Mapping[str, Mapping[str, np.ndarray]],
) -> Path:
    """Write one row a user, group and metric, all of them or no file.

    Args:
        path: The ``.parquet`` file; its folder is made, and a file of that name replaced.
        users: By group (``overall``, ``iv``, ``oov``), the tokens of its users. (U_g,) each
        values: By group and metric, the users' values in that order. (U_g,) each

    Returns:
        The path.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: The file cannot be written.
        RecBoleOOVError: A group has values of another number of users.
    """
    _need_pyarrow()
    path = Path(path)
    parts = []
    for group, of_group in values.items():
        tokens = np.asarray(users[group]).astype(str)
        for metric, numbers in of_group.items():
            array = np.asarray(numbers, dtype=np.float64)
            if array.shape != tokens.shape:
                raise RecBoleOOVError(
                    f"write_per_user: {metric} of group {group} has shape {array.shape} for {len(tokens)} users"
                )
            parts.append(pd.DataFrame({"user": tokens, "group": group, "metric": metric, "value": array}))
    empty = pd.DataFrame({"user": [], "group": [], "metric": [], "value": []})
    frame = pd.concat(parts, ignore_index=True) if parts else empty
    # The words repeat in every row: as dictionaries they take next to nothing.
    frame = frame.astype({"user": str, "group": "category", "metric": "category", "value": np.float64})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda part: frame.to_parquet(part, engine="pyarrow", index=False))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); set save_user_metrics") from error
    return path


def read_per_user(path: str | Path) -> pd.DataFrame:
    """The table that :func:`write_per_user` wrote, with the columns :data:`COLUMNS`.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: The file is missing, damaged, or another table.
    """
    _need_pyarrow()
    try:
        frame = pd.read_parquet(Path(path), engine="pyarrow")
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError(f"{path}: is not a readable Parquet file ({error})") from error
    if tuple(frame.columns) != COLUMNS:
        raise DataError(
            f"{path}: has the columns {', '.join(frame.columns)}; per-user values have {', '.join(COLUMNS)}"
        )
    return frame.astype({"user": str, "group": str, "metric": str})


def _need_pyarrow() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError('per-user values: pyarrow is not installed; pip install "recbole-oov[parquet]"')
