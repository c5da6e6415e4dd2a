"""Suites of evaluation: the whole of it, three groups of items in one pass, and the metrics' collection alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_oov.bench.harness import Contest, Side, numbers_differ, tensors_differ
from recbole_oov.bench.recbole_side import experiment, recbole_trainer, silence
from recbole_oov.bench.suites import Setting
from recbole_oov.evaluation.collector import GroupedCollector
from recbole_oov.evaluation.groups import ALL_USERS, prefixed

_UNROUNDED = {"metric_decimal_place": 15}


def full_ranking(setting: Setting, dataset: str) -> Contest:
    """BPR after an epoch, tested with RecBole's defaults: the model, the loader and the metrics are the same."""
    mine = experiment(setting, "BPR", dataset, sampler="uniform", epochs=1, learning_rate=0.01, **_UNROUNDED)
    with silence():
        mine.trainer._train_epoch(mine.train_data, 0)
    theirs = recbole_trainer(mine)
    theirs.eval_collector.data_collect(mine.train_data)

    def evaluated(trainer: Any) -> Any:
        with silence():
            return dict(trainer.evaluate(mine.test_data, load_best_model=False))

    return Contest(
        Side("recbole_oov", lambda: evaluated(mine.trainer)),
        Side("RecBole", lambda: evaluated(theirs)),
        lambda a, b: numbers_differ(a, b, within=1e-9),
        note=f"{len(mine.test_data.sampler):,} users, {mine.dataset.item_num - 1:,} items",
    )


def three_groups(setting: Setting, dataset: str) -> Contest:
    """The test of the OOV protocol, with its groups and as if it had one group of all items."""
    mine = experiment(setting, "BPR", dataset, oov_split="random", **_UNROUNDED)
    trainer = mine.trainer
    one = GroupedCollector(mine.config, None)
    one.data_collect(mine.train_data)
    three = trainer.eval_collector

    def evaluated(collector: GroupedCollector) -> dict[str, float]:
        trainer.eval_collector = collector
        with silence():
            return dict(trainer.evaluate(mine.test_data, load_best_model=False))

    def differences(ours: dict[str, float], theirs: dict[str, float]) -> list[str]:
        # One group means all users; under the protocol they are a group of their own.
        same = {name: ours[prefixed(ALL_USERS, name)] for name in theirs}
        return numbers_differ(same, theirs, within=1e-9)

    return Contest(
        Side("all groups", lambda: evaluated(three)),
        Side("one group", lambda: evaluated(one)),
        differences,
        note=f"{len(mine.test_data.sampler):,} users, {mine.dataset.item_num - 1:,} items",
    )


def collection(setting: Setting) -> Contest:
    """Scores in, what the metrics read out: RecBole's default metrics."""
    from recbole.evaluator.collector import Collector

    mine = experiment(setting, "BPR", "ml-100k")
    n_users, n_items, n_positives = (8, 500, 4) if setting.tiny else (256, 40_001, 20)
    draw = torch.Generator().manual_seed(2020)
    scores = torch.randn(n_users, n_items, generator=draw)
    scores[:, 0] = -torch.inf
    row = torch.arange(n_users).repeat_interleave(n_positives)
    item = torch.stack([torch.randperm(n_items - 1, generator=draw)[:n_positives] + 1 for _ in range(n_users)])
    batch = {mine.config["USER_ID_FIELD"]: torch.arange(n_users)}
    ours, theirs = GroupedCollector(mine.config), Collector(mine.config)

    def of_ours() -> torch.Tensor:
        ours.begin(np.arange(n_users), n_items)
        ours.eval_batch_collect(scores, batch, row, item.flatten())
        found: torch.Tensor = ours.get_data_struct()["overall"].struct.get("rec.topk")
        return found

    def of_theirs() -> torch.Tensor:
        theirs.eval_batch_collect(scores, batch, row, item.flatten())
        found: torch.Tensor = theirs.get_data_struct().get("rec.topk")
        return found

    return Contest(
        Side("recbole_oov", of_ours),
        Side("RecBole", of_theirs),
        lambda a, b: tensors_differ([a], [b], within=0, what="hits"),
        note=f"{n_users} users, {n_items - 1:,} items",
    )
