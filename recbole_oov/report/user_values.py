"""What a cell of a sweep keeps of its users, packed into text: which places were hits, or one number a user and metric.

Metrics of hits are kept as the hits that they follow from, which take a quarter of the room of two such metrics.
"""

from __future__ import annotations

import base64
import hashlib
import lzma
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_oov.errors import DataError
from recbole_oov.evaluation.evaluator import Evaluation
from recbole_oov.evaluation.groups import ALL_USERS, OVERALL
from recbole_oov.evaluation.metrics import METRICS_OF_HITS, values_of_hits

_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]
_SIZES = struct.Struct("<II")


def pack(values: np.ndarray) -> str:
    """float32, compressed, in base 64. (U,)"""
    return base64.b64encode(zlib.compress(np.asarray(values, dtype="<f4").tobytes(), 9)).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """What ``pack`` packed, as float64; raises DataError where it is damaged. (U,)"""
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4").astype(float)
    except (ValueError, TypeError, zlib.error) as error:
        raise _damaged(error) from error


def pack_hits(hits: np.ndarray, n_positives: np.ndarray) -> str:
    """A bit for each place, place by place, and 16 of the number of positives, compressed, in base 64. (U, K), (U,)"""
    sizes = _SIZES.pack(*hits.shape)
    raw = sizes + np.packbits(hits.T).tobytes() + np.minimum(n_positives, 0xFFFF).astype("<u2").tobytes()
    packed = lzma.compress(raw, format=lzma.FORMAT_RAW, filters=_FILTERS)
    return base64.b64encode(packed).decode("ascii")


def unpack_hits(text: str) -> tuple[np.ndarray, np.ndarray]:
    """What ``pack_hits`` packed: hits (U, K) bool, positives (U,); raises DataError where it is damaged."""
    try:
        raw = lzma.decompress(base64.b64decode(text), format=lzma.FORMAT_RAW, filters=_FILTERS)
        n, k = _SIZES.unpack_from(raw)
        end = _SIZES.size + -(-n * k // 8)
        bits = np.unpackbits(np.frombuffer(raw, np.uint8)[_SIZES.size : end], count=n * k)
        n_positives = np.frombuffer(raw, "<u2", count=n, offset=end).astype(np.int64)
    except (ValueError, TypeError, struct.error, lzma.LZMAError) as error:
        raise _damaged(error) from error
    return bits.reshape(k, n).T.astype(bool), n_positives


def pack_ranks(unmasked: np.ndarray, masked: np.ndarray) -> str:
    """Ranks with the history in the ranking and without it, compressed, in base 64. (U,), (U,)

    Kept are the first and how far the second is ahead, which is few places, byte by byte of all users.
    """
    both = np.stack([unmasked, unmasked - masked]).astype("<i4")
    planes = both.view(np.uint8).reshape(2, -1, 4).transpose(0, 2, 1)
    packed = lzma.compress(_SIZES.pack(*both.shape) + planes.tobytes(), format=lzma.FORMAT_RAW, filters=_FILTERS)
    return base64.b64encode(packed).decode("ascii")


def in_order_of_users(dataset: Any, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, str]:
    """The order in which ranks are kept, and what tells whether two rows were tested on the same items.

    Internal ids depend on which columns a model loads; tokens do not.

    Args:
        dataset: RecBole's.
        users: Internal ids, one a test item. (U,)
        items: The test items. (U,)

    Returns:
        The places of the users, by their tokens (U,), and a hash of the items in that order.
    """
    order: np.ndarray = np.argsort(dataset.id2token(dataset.uid_field, users))
    tokens = "\n".join(dataset.id2token(dataset.iid_field, items)[order])
    return order, hashlib.sha256(tokens.encode()).hexdigest()


def ranks_of_row(row: Mapping[str, Any], *, masked: bool) -> np.ndarray:
    """The rank of every user's item in a row, with the history in the ranking or without it. (U,)

    Raises:
        DataError: The row is damaged.
    """
    if not isinstance(row["ranks"], str):  # as rows were at first
        return np.array(row["ranks_masked" if masked else "ranks"])
    try:
        raw = lzma.decompress(base64.b64decode(row["ranks"]), format=lzma.FORMAT_RAW, filters=_FILTERS)
        n = _SIZES.unpack_from(raw)[1]
        planes = np.frombuffer(raw, np.uint8, offset=_SIZES.size).reshape(2, 4, n)
    except (ValueError, TypeError, struct.error, lzma.LZMAError) as error:
        raise _damaged(error) from error
    unmasked, ahead = np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<i4")[..., 0].astype(np.int64)
    ranks: np.ndarray = unmasked - ahead if masked else unmasked
    return ranks


def users_of_row(evaluation: Evaluation, orders: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a row keeps of an evaluation: ``hits`` where all metrics of users follow from hits, else ``users``.

    Args:
        evaluation: The test.
        orders: The order in which each group's cases are kept. (C,)
    """
    of_users = {name: m for name, m in evaluation.metrics.items() if getattr(m, "metric_need", None) == ["rec.topk"]}
    if not of_users or any(type(metric) not in METRICS_OF_HITS for metric in of_users.values()):
        return values_in_order(evaluation.per_user, orders)
    kept: dict[str, Any] = {"metrics": [f"{name}@{k}" for name, metric in of_users.items() for k in metric.topk]}
    for group, order in orders.items():
        part = evaluation.groups[group].among
        if part is not None:
            # In the order of all users, of whom these are some.
            kept[group] = [ALL_USERS, pack_hits(part[orders[ALL_USERS]][:, None], np.zeros(len(part)))]
        else:
            rows = evaluation.groups[group].struct.get("rec.topk").numpy()[order]
            kept[group] = pack_hits(rows[:, :-1].astype(bool), rows[:, -1])
    return {"hits": kept}


def values_in_order(values: Mapping[str, Mapping[str, np.ndarray]], orders: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """``users`` of a row, from values by group and metric and the order in which each group's are kept. (U,)"""
    return {
        "users": {group: {name: pack(own[at]) for name, own in values[group].items()} for group, at in orders.items()}
    }


def metrics_of_row(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """The metrics of each group that a row has for each user."""
    if "hits" not in row:
        return {group: list(metrics) for group, metrics in row["users"].items()}
    return {group: list(row["hits"]["metrics"]) for group in row["hits"] if group != "metrics"}


def values_of_row(row: Mapping[str, Any], metric: str, group: str = OVERALL) -> np.ndarray:
    """A metric of every user in a row; raises DataError where the row is damaged. (U,)"""
    if "hits" not in row:
        return unpack(row["users"][group][metric])
    kept = row["hits"][group]
    if isinstance(kept, list):
        among, _ = unpack_hits(kept[1])
        of_all: np.ndarray = values_of_row(row, metric, kept[0])[among[:, 0]]
        return of_all
    name, _, k = metric.rpartition("@")
    values: np.ndarray = values_of_hits(name, *unpack_hits(kept))[:, int(k) - 1]
    return values


def _damaged(error: Exception) -> DataError:
    return DataError(
        f"a row of the results holds users' values that are damaged ({error}); take its line out of results.jsonl, "
        f"and the benchmark runs that cell again"
    )
