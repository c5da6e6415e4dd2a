"""One number a user, packed into text: a cell of a sweep keeps those of all users."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np


def pack(values: np.ndarray) -> str:
    """float32, compressed, in base 64. (U,)"""
    return base64.b64encode(zlib.compress(np.asarray(values, dtype="<f4").tobytes(), 9)).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """What ``pack`` packed, as float64. (U,)"""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4").astype(float)


def user_values(rows: list[dict[str, Any]], metric: str, group: str = "overall") -> np.ndarray:
    """A metric of every user in every row. (S, U)"""
    return np.array([unpack(row["users"][group][metric]) for row in rows])
