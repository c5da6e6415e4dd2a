"""Suites of negative sampling: pools alone, and epochs that are trained with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import chi2_contingency
from torch import Tensor

from recbole_oov.bench.harness import Contest, Side
from recbole_oov.bench.recbole_side import experiment, recbole_trainer, silence
from recbole_oov.bench.suites import Setting
from recbole_oov.sampler.pools import NegativePools

_APART = 1e-4
"""A p-value below which two samples are not from one distribution."""


def pools(setting: Setting, distribution: str) -> Contest:
    """A batch of pools; before that both are asked for many negatives of a few users, whose counts are compared."""
    from recbole.sampler import Sampler

    whole = experiment(setting, "BPR", "ml-100k").dataset  # not split: RecBole also draws items without a row
    theirs = Sampler(["train"], [whole], distribution=distribution).set_phase("train")
    ours = NegativePools.from_train(whole, seed=2020)
    n, size = (64, 4) if setting.tiny else (2048, 16)
    rows = np.random.default_rng(2020).integers(len(whole.inter_feat), size=n)
    users = torch.as_tensor(whole.inter_feat[whole.uid_field])[rows]
    items = torch.as_tensor(whole.inter_feat[whole.iid_field])[rows]

    def of_ours(users: Tensor, size: int) -> Tensor:
        return ours.uniform(users, size) if distribution == "uniform" else ours.popularity(users, size, alpha=1.0)

    def of_theirs(users: Tensor, items: Tensor, size: int) -> Tensor:
        drawn: Tensor = theirs.sample_by_user_ids(users.numpy(), items.numpy(), size)
        return drawn.view(size, len(users)).T

    few, many = users.unique()[:4], 2_000 if setting.tiny else 40_000
    unlike = _supports_differ(few, of_ours(few, many), of_theirs(few, few, many), ours)

    def differences(a: Tensor, b: Tensor) -> list[str]:
        found = list(unlike)
        for name, pool in (("recbole_oov", a), ("RecBole", b)):
            if pool.shape != (n, size):
                found.append(f"{name}: the pool has the shape {tuple(pool.shape)}, not {(n, size)}")
            elif ours.is_positive(users[:, None], pool).any() or (pool == 0).any():
                found.append(f"{name}: a pool holds a training positive or the padding item")
        return found

    return Contest(
        Side("recbole_oov", lambda: of_ours(users, size)),
        Side("RecBole", lambda: of_theirs(users, items, size)),
        differences,
        note=f"{n:,} × {size}; {whole.item_num - 1:,} items",
    )


def _supports_differ(users: Tensor, ours: Tensor, theirs: Tensor, known: NegativePools) -> list[str]:
    """How what was drawn for some users differs: items that may not come, or counts too far apart for chance."""
    found = []
    for user, a, b in zip(users.tolist(), ours, theirs, strict=True):
        allowed = known.iv_items[~known.is_positive(torch.tensor(user), known.iv_items)]
        counts = np.stack([np.bincount(drawn.numpy(), minlength=known.n_items) for drawn in (a, b)])
        barred = np.ones(known.n_items, dtype=bool)
        barred[allowed.numpy()] = False
        for name, count in zip(("recbole_oov", "RecBole"), counts, strict=True):
            if count[barred].any():
                found.append(f"{name}: user {user} was given items that are no negatives of theirs")
        often = counts.sum(axis=0) >= 20  # rarer ones together, so that the test holds
        table = np.concatenate([counts[:, often], counts[:, ~often].sum(axis=1, keepdims=True)], axis=1)
        p = chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue
        if p < _APART:
            found.append(f"user {user}: the two draw from different distributions (p = {p:.2g})")
    return found


def bpr_epoch(setting: Setting) -> Contest:
    """BPR on ml-1m, a learning rate that learns within a few epochs; both begin with the same weights."""
    return _epochs(setting, "BPR", "ml-100k" if setting.tiny else "ml-1m", {"learning_rate": 0.005}, "uniform")


def lightgcn_dns(setting: Setting) -> Contest:
    """LightGCN, the best-scored of ten negatives, drawn by RecBole's dynamic sampling and by the sampler dns."""
    return _epochs(
        setting,
        "LightGCN",
        "ml-100k",
        {"learning_rate": 0.005},
        {"name": "dns", "pool": 10},
        {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 10},
    )


def _epochs(
    setting: Setting,
    model: str,
    dataset: str,
    options: dict[str, Any],
    sampler: Any,
    negatives: dict[str, Any] | None = None,
) -> Contest:
    given = {} if negatives is None else {"train_neg_sample_args": negatives}
    mine = experiment(setting, model, dataset, sampler=sampler, metric_decimal_place=10, **options)
    stock = experiment(setting, model, dataset, **given, **options)
    stock.model.load_state_dict(mine.model.state_dict())
    theirs = recbole_trainer(stock)
    _with_model(stock.train_data, theirs)
    epochs = {"ours": 0, "theirs": 0}

    def epoch(side: str, trainer: Any, data: Any) -> tuple[Any, int]:
        with silence():
            trainer._train_epoch(data, epochs[side], show_progress=False)
        epochs[side] += 1
        return trainer.model, epochs[side]

    def differences(a: tuple[Any, int], b: tuple[Any, int]) -> list[str]:
        return _quality_differs(mine, a, b, 1.0 if setting.tiny else 0.05)

    return Contest(
        Side("recbole_oov", lambda: epoch("ours", mine.trainer, mine.train_data)),
        Side("RecBole", lambda: epoch("theirs", theirs, stock.train_data)),
        differences,
        at_end=True,
        note=f"{len(mine.train_data._dataset.inter_feat):,} rows an epoch",
    )


def _with_model(loader: Any, trainer: Any) -> None:
    """RecBole's dynamic sampling scores with the model that its ``fit`` hands to the loader."""
    if trainer.config["train_neg_sample_args"].get("dynamic"):
        loader.get_model(trainer.model)


def _quality_differs(mine: Any, ours: tuple[Any, int], theirs: tuple[Any, int], within: float) -> list[str]:
    """The validation NDCG of both models by one evaluation; negatives are drawn at random, so that it is not equal."""
    if ours[1] != theirs[1]:
        return [f"{ours[1]} epochs and {theirs[1]}"]
    values = []
    for model, _ in (ours, theirs):
        mine.trainer.model = model
        if hasattr(model, "restore_user_e"):
            model.restore_user_e = model.restore_item_e = None
        with silence():
            values.append(mine.trainer.evaluate(mine.valid_data, load_best_model=False)["ndcg@10"])
    mine.trainer.model = ours[0]
    a, b = values
    if abs(a - b) <= within * max(a, b):
        return []
    return [f"NDCG@10 after {ours[1]} epochs: {a:.4f} and {b:.4f} are further apart than {within:.0%}"]
