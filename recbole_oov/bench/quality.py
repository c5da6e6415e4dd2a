"""Time to quality: seconds of training until 99 % of what the baseline reaches at best on validation."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from recbole_oov.bench.clock import Stopwatch
from recbole_oov.bench.recbole_side import experiment, recbole_trainer, silence
from recbole_oov.bench.suites import Setting
from recbole_oov.data.histories import seen_matrix
from recbole_oov.errors import ConfigError

METRIC = "ndcg@10"
_CE = {"train_neg_sample_args": None}
_MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "BPR": ({"learning_rate": 0.005}, {"sampler": "uniform"}, 15),
    "LightGCN": ({"learning_rate": 0.005}, {"sampler": "uniform"}, 15),
    "SASRec": (_CE, {"train_positions": "all"}, 2),
}
"""By model: options of both sides, the plugin's own, and RecBole's epochs. The plugin may train ten times as many."""


def quality(setting: Setting, say: Callable[[str], None], models: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Train each model in RecBole's own trainer, then with the plugin until it is as good; and ``implicit``'s BPR.

    Validation is ranked by the plugin's evaluation on all sides, and not counted.

    Args:
        setting: Where ml-100k is.
        say: Takes a line for each run.
        models: Some of BPR, LightGCN and SASRec; all without one. RecBole's SASRec takes minutes an epoch.

    Raises:
        ConfigError: ``implicit`` is not installed, or another model is asked for.
    """
    if importlib.util.find_spec("implicit") is None:
        raise ConfigError("bench: --quality compares with the package implicit; pip install implicit")
    unknown = [name for name in models if name not in _MODELS]
    if unknown:
        raise ConfigError(f"bench: --quality: {unknown[0]!r} is none of {', '.join(_MODELS)}")
    found = []
    for name in models or _MODELS:
        shared, own, n_epochs = _MODELS[name]
        stock = experiment(setting, name, "ml-100k", **shared)
        curve = trained(stock, recbole_trainer(stock), n_epochs)
        goal = 0.99 * max(value for _, value in curve)
        mine = experiment(setting, name, "ml-100k", **shared, **own)
        ours = trained(mine, mine.trainer, 10 * n_epochs, goal)
        curves = {"RecBole": curve, "recbole_oov": ours}
        if name == "BPR":
            curves["implicit"] = _implicit(stock, goal)
        seconds = {side: reached(of_side, goal) for side, of_side in curves.items()}
        say(f"{name}, {METRIC} {goal:.4f}: {seconds}")
        found.append({"model": name, "goal": goal, **curves, "seconds": seconds})
    return found


def reached(curve: list[tuple[float, float]], goal: float) -> float | None:
    """Seconds at which a curve of (seconds, value) reaches a value first; None if it never does."""
    return next((seconds for seconds, value in curve if value >= goal), None)


def trained(mine: Any, trainer: Any, n_epochs: int, goal: float | None = None) -> list[tuple[float, float]]:
    """Processor seconds of training and validation's NDCG after each epoch, until a goal is reached."""
    curve: list[tuple[float, float]] = []
    total = 0.0
    for epoch in range(n_epochs):
        watch = Stopwatch()
        with silence():
            trainer._train_epoch(mine.train_data, epoch)
        total += watch.read().processor
        curve.append((total, _validated(mine)))
        if goal is not None and curve[-1][1] >= goal:
            break
    return curve


def _validated(mine: Any) -> float:
    if hasattr(mine.model, "restore_user_e"):
        mine.model.restore_user_e = mine.model.restore_item_e = None
    with silence():
        return float(mine.trainer.evaluate(mine.valid_data, load_best_model=False)[METRIC])


def _implicit(stock: Any, goal: float) -> list[tuple[float, float]]:
    """``implicit``'s BPR with 64 factors, three learning rates; the curve of the one that is there first."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    train = csr_matrix(seen_matrix(stock.train_data._dataset), dtype=np.float32)
    curves = []
    for rate in (0.01, 0.03, 0.1):
        curve: list[tuple[float, float]] = []
        for n_epochs in (5, 10, 20, 40, 80, 160):
            model = BayesianPersonalizedRanking(
                factors=64, learning_rate=rate, iterations=n_epochs, num_threads=1, random_state=2020
            )
            watch = Stopwatch()
            model.fit(train, show_progress=False)
            curve.append((watch.read().processor, _ranked(stock, train, model)))
            if curve[-1][1] >= goal:
                break
        curves.append(curve)
    return min(curves, key=lambda curve: reached(curve, goal) or float("inf"))


def _ranked(stock: Any, train: csr_matrix, model: Any) -> float:
    """NDCG@10 of validation, its users' training items left out."""
    wanted = csr_matrix(seen_matrix(stock.valid_data._dataset))
    users = np.flatnonzero(np.diff(wanted.indptr))
    scores = model.user_factors[users] @ model.item_factors.T
    scores[train[users].toarray() > 0] = -np.inf
    scores[:, 0] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :10]
    hits = np.take_along_axis(wanted[users].toarray(), best, axis=1)
    gain = 1 / np.log2(np.arange(2, 12))
    places = np.minimum(np.diff(wanted.indptr)[users], 10)
    return float(((hits * gain).sum(axis=1) / gain.cumsum()[places - 1]).mean())
