"""One number a user, packed into text: a cell of a sweep keeps those of all users."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from recbole_oov.errors import DataError


def pack(values: np.ndarray) -> str:
    """float32, compressed, in base 64. (U,)"""
    return base64.b64encode(zlib.compress(np.asarray(values, dtype="<f4").tobytes(), 9)).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """What ``pack`` packed, as float64; raises DataError where it is damaged. (U,)"""
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4").astype(float)
    except (ValueError, TypeError, zlib.error) as error:
        raise DataError(
            f"a row of the results holds users' values that are damaged ({error}); take its line out of results.jsonl, "
            f"and the benchmark runs that cell again"
        ) from error


def user_values(rows: list[dict[str, Any]], metric: str, group: str = "overall") -> np.ndarray:
    """A metric of every user in every row. (S, U)"""
    return np.array([unpack(row["users"][group][metric]) for row in rows])
