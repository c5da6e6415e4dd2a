"""How seconds and memory grow with users, items, clusters, histories, content width and pools, on made-up data."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_oov.bench.clock import Stopwatch
from recbole_oov.bench.harness import MIB
from recbole_oov.bench.imagination import one_update
from recbole_oov.bench.memory import peak_memory
from recbole_oov.evaluation.collector import GroupedCollector
from recbole_oov.evaluation.item_blocks import ItemBlocks, dot_product_blocks
from recbole_oov.lm.backbone import TinySettings, tiny_backbone
from recbole_oov.lm.placement import fit_content_map
from recbole_oov.lm.scoring import TokenTree
from recbole_oov.sampler.pools import NegativePools
from recbole_oov.trainer.evaluation import EvaluationMixin

Job = Callable[[], object]
EVAL_MEMORY = 32
"""MiB, the default of ``eval_memory``."""
BLOCK_MEMORY = 8
"""MiB that the scores may take which are computed in blocks of items."""


@dataclass(frozen=True)
class Curve:
    """One cost over one size.

    Attributes:
        what: What is done.
        over: What grows.
        sizes: In ascending order.
        job: Makes what is measured, of a size.
        fixed: What stays as it is, for a reader.
    """

    what: str
    over: str
    sizes: Sequence[int]
    job: Callable[[int], Job]
    fixed: str


def growth(say: Callable[[str], None], curves: Sequence[Curve] | None = None, repeats: int = 3) -> list[dict[str, Any]]:
    """Measure all curves: seconds (of the processor; on the wall with a GPU), MiB, and the slope of log over log.

    Args:
        say: Takes a line for each curve.
        curves: Others than :func:`all_curves`.
        repeats: Of which the median counts, after one that does not.
    """
    found = []
    for curve in all_curves() if curves is None else curves:
        points = [_measured(curve.job(size), repeats) for size in curve.sizes]
        seconds = [point[0] for point in points]
        row = {
            "what": curve.what,
            "over": curve.over,
            "fixed": curve.fixed,
            "sizes": list(curve.sizes),
            "seconds": seconds,
            "peak_mib": [point[1] for point in points],
            "slope": slope(curve.sizes, seconds),
        }
        say(f"{curve.what}, over {curve.over} {curve.sizes[0]:,} to {curve.sizes[-1]:,}: slope {row['slope']:.2f}")
        found.append(row)
    return found


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The exponent of a power law through the points, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def _measured(job: Job, repeats: int) -> tuple[float, float | None]:
    job()
    seconds, peaks = [], []
    for _ in range(repeats):
        with peak_memory() as peak:
            watch = Stopwatch()
            job()
            read = watch.read()
        seconds.append(read.wall if torch.cuda.is_available() else read.processor)
        peaks.append(peak.bytes)
    known = [peak / MIB for peak in peaks if peak is not None]
    return statistics.median(seconds), statistics.median(known) if known else None


def all_curves() -> Iterator[Curve]:
    """Those of the docs."""
    items = (1_000, 10_000, 100_000, 1_000_000)
    yield Curve("evaluation of 64 users", "items", items, lambda n: _evaluation(64, n), "64 wide, k = 10")
    users = (64, 512, 4_096)
    yield Curve("evaluation, 10,000 items", "users", users, lambda n: _evaluation(n, 10_000), "64 wide, k = 10")
    yield Curve("exact scores", "items", items, lambda n: _tree(n, 32), "8 histories, 32 clusters, 64 wide")
    many = (10_000, 100_000, 1_000_000, 8_000_000)
    yield Curve(
        "evaluation of 64 users, items in blocks", "items", many, _evaluation_in_blocks, "16 wide, eval_memory: 8"
    )
    clusters = (8, 32, 128, 512)
    yield Curve("exact scores", "clusters", clusters, lambda k: _tree(100_000, k), "8 histories, 100,000 items")
    lengths = (32, 128, 512, 2_048)
    yield Curve("backbone, forward and backward", "tokens", lengths, _backbone, "4 rows, the tiny backbone")
    widths = (16, 64, 256, 1_024)
    yield Curve("placing items by content", "content width", widths, _placement, "2,000 items, 64-d vectors")
    for over, sizes, job, fixed in (
        ("items", (256, 1_024, 4_096, 16_384), lambda n: one_update(n, 20), "5,551 users, 20 candidates of each kind"),
        ("candidates", (5, 20, 80, 320), lambda k: one_update(1_024, k), "5,551 users, 1,024 items"),
    ):
        yield Curve("imagination, an update", over, sizes, job, fixed)
    yield Curve("uniform pools", "items", items, lambda n: _pool(n, 16), "2,048 users, pools of 16")
    yield Curve("uniform pools", "pool size", (4, 16, 64, 256), lambda p: _pool(10_000, p), "2,048 users, 10,000 items")
    rows = (10_000, 100_000, 1_000_000, 10_000_000)
    yield Curve("what pools are made of", "interactions", rows, _pools_of, "10,000 users, 100,000 items")


def _evaluation(n_users: int, n_items: int) -> Job:
    """Scores in batches as large as ``eval_memory`` allows, and what the metrics need of them."""
    users, items = torch.randn(n_users, 64), torch.randn(n_items, 64)
    size = users_at_once(n_items, n_users)

    def job() -> None:
        collector = _collector(n_users, n_items)
        for rows in torch.arange(n_users).split(size):
            collector.eval_batch_collect(users[rows] @ items.T, *_one_positive(rows))
        collector.get_data_struct()

    return job


def _evaluation_in_blocks(n_items: int) -> Job:
    """64 users, some items at a time."""
    users, items = torch.randn(64, 16), torch.randn(n_items, 16)
    nothing = torch.zeros(0, dtype=torch.long)

    def job() -> None:
        collector = _collector(64, n_items)
        scored = dot_product_blocks(users, items, BLOCK_MEMORY * MIB // (2 * 4 * 64))
        blocks = ItemBlocks(scored, 64, n_items, (nothing, nothing), lambda scores: None)
        collector.eval_batch_collect(blocks, *_one_positive(torch.arange(64)))
        collector.get_data_struct()

    return job


def _collector(n_users: int, n_items: int) -> GroupedCollector:
    config = {"metrics": ["Recall", "NDCG"], "topk": [10], "device": "cpu", "seed": 2020, "single_spec": True}
    config |= {"USER_ID_FIELD": "user_id", "eval_args": {"mode": {"valid": "full", "test": "full"}}}
    collector = GroupedCollector(config)
    collector.begin(np.arange(n_users), n_items)
    return collector


def _one_positive(users: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    return {"user_id": users}, torch.arange(len(users)), torch.ones_like(users)


def users_at_once(n_items: int, n_users: int) -> int:
    """What the trainer's evaluation takes, with the default ``eval_memory``."""
    loader = SimpleNamespace(
        step=n_users, is_sequential=True, sample_size=n_users, _dataset=SimpleNamespace(item_num=n_items)
    )
    trainer = SimpleNamespace(config={"eval_memory": EVAL_MEMORY}, model=None, _scorer=None)
    return EvaluationMixin._cases_at_once(trainer, loader)  # type: ignore[arg-type]


def _tree(n_items: int, n_clusters: int) -> Job:
    tree = TokenTree(torch.arange(n_items + 1) % n_clusters, n_clusters)
    logits, branches = torch.randn(8, n_clusters), torch.randn(8, n_clusters, 64)
    leaves = torch.randn(n_items + 1, 64)
    return torch.no_grad()(lambda: tree.log_probs(logits, branches, leaves))


def _backbone(length: int) -> Job:
    settings = TinySettings(hidden_size=64, n_layers=2, n_heads=2, inner_size=256, dropout=0.0)
    model = tiny_backbone(settings, vocab_size=16, max_positions=length)
    vectors = torch.randn(4, length, 64)
    return lambda: model(inputs_embeds=vectors).last_hidden_state.sum().backward()


def _placement(width: int) -> Job:
    content, vectors = torch.randn(2_000, width), torch.randn(2_000, 64)
    return lambda: fit_content_map(content, vectors)


def _pool(n_items: int, size: int) -> Job:
    pools, users = _pools(2_048, n_items, 20_000), torch.arange(1, 2_049)
    return lambda: pools.uniform(users, size)


def _pools_of(n_rows: int) -> Job:
    users, items = _pairs(10_000, 100_000, n_rows)
    return lambda: NegativePools(users, items, n_users=10_001, n_items=100_001)


def _pools(n_users: int, n_items: int, n_rows: int) -> NegativePools:
    return NegativePools(*_pairs(n_users, n_items, n_rows), n_users=n_users + 1, n_items=n_items + 1)


def _pairs(n_users: int, n_items: int, n_rows: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2020)
    users = torch.randint(1, n_users + 1, (n_rows,), generator=draw)
    return users, torch.randint(1, n_items + 1, (n_rows,), generator=draw)
