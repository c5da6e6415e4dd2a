"""Time to quality: seconds of training until 99 % of what the baseline reaches at best on validation."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from recbole_oov.bench.clock import Stopwatch
from recbole_oov.bench.recbole_side import experiment, recbole_trainer, silence
from recbole_oov.bench.suites import Setting
from recbole_oov.data.histories import seen_matrix
from recbole_oov.errors import ConfigError

METRIC = "ndcg@10"
SHARE = 0.99
PATIENCE = 10
"""Epochs without a better value after which a side is at its best."""


@dataclass(frozen=True)
class _Race:
    """How a model is trained on both sides: options, those of the plugin alone, epochs at most, seeds."""

    options: Mapping[str, Any]
    own: Mapping[str, Any]
    n_epochs: int
    seeds: tuple[int, ...]


_RACES = {
    "BPR": _Race({"learning_rate": 0.005}, {"sampler": "uniform"}, 100, (2020, 2021, 2022, 2023, 2024)),
    "LightGCN": _Race({"learning_rate": 0.005}, {"sampler": "uniform"}, 100, (2020, 2021, 2022)),
    "SASRec": _Race({"train_neg_sample_args": None}, {"train_positions": "all"}, 12, (2020,)),  # minutes an epoch
}
_IMPLICIT = tuple(itertools.product((0.01, 0.03, 0.1), (0.001, 0.01, 0.1)))
"""Learning rates and weights of the regularisation that ``implicit``'s BPR is tuned over."""


def quality(setting: Setting, say: Callable[[str], None], models: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Train each model in RecBole's own trainer to its best, then with the plugin until 99 % of that is reached.

    ``implicit``'s BPR stands beside BPR, with the learning rate and regularisation that get there first. Validation is
    ranked by the plugin's evaluation for RecBole and the plugin, and not counted.

    Args:
        setting: Where ml-100k is.
        say: Takes a line for each run.
        models: Some of BPR, LightGCN and SASRec; all without one. RecBole's SASRec takes minutes an epoch.

    Raises:
        ConfigError: ``implicit`` is not installed, or another model is asked for.
    """
    if importlib.util.find_spec("implicit") is None:
        raise ConfigError("bench: --quality compares with the package implicit; pip install implicit")
    unknown = [name for name in models if name not in _RACES]
    if unknown:
        raise ConfigError(f"bench: --quality: {unknown[0]!r} is none of {', '.join(_RACES)}")
    found = []
    for name in models or _RACES:
        for seed in _RACES[name].seeds:
            found.append(_race(setting, name, _RACES[name], seed))
            say(f"{name}, seed {seed}, {METRIC} {found[-1]['goal']:.4f}: {found[-1]['seconds']}")
    return found


def _race(setting: Setting, name: str, race: _Race, seed: int) -> dict[str, Any]:
    stock = experiment(setting, name, "ml-100k", **race.options, seed=seed)
    curve = trained(stock, recbole_trainer(stock), race.n_epochs)
    goal = SHARE * max(value for _, value in curve)
    mine = experiment(setting, name, "ml-100k", **race.options, **race.own, seed=seed)
    curves = {"RecBole": curve, "recbole_oov": trained(mine, mine.trainer, race.n_epochs, goal)}
    if name == "BPR":
        curves["implicit"] = _implicit(stock, goal, seed)
    seconds = {side: reached(of_side, goal) for side, of_side in curves.items()}
    best = {side: max(value for _, value in of_side) for side, of_side in curves.items()}
    return {"model": name, "seed": seed, "goal": goal, "curves": curves, "best": best, "seconds": seconds}


def reached(curve: list[tuple[float, float]], goal: float) -> float | None:
    """Seconds at which a curve of (seconds, value) reaches a value first; None if it never does."""
    return next((seconds for seconds, value in curve if value >= goal), None)


def trained(mine: Any, trainer: Any, n_epochs: int, goal: float | None = None) -> list[tuple[float, float]]:
    """Processor seconds of training and validation's NDCG after each epoch, until a goal or the best is reached."""
    curve: list[tuple[float, float]] = []
    total = 0.0
    for epoch in range(n_epochs):
        watch = Stopwatch()
        with silence():
            trainer._train_epoch(mine.train_data, epoch)
        total += watch.read().processor
        curve.append((total, _validated(mine)))
        best = max(range(len(curve)), key=lambda n: curve[n][1])
        if (goal is not None and curve[-1][1] >= goal) or epoch - best >= PATIENCE:
            break
    return curve


def _validated(mine: Any) -> float:
    if hasattr(mine.model, "restore_user_e"):
        mine.model.restore_user_e = mine.model.restore_item_e = None
    with silence():
        return float(mine.trainer.evaluate(mine.valid_data, load_best_model=False)[METRIC])


def _implicit(stock: Any, goal: float, seed: int) -> list[tuple[float, float]]:
    """``implicit``'s BPR with 64 factors: the curve that is there first, or that goes highest if none is."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    train = csr_matrix(seen_matrix(stock.train_data._dataset), dtype=np.float32)
    curves = []
    for rate, weight in _IMPLICIT:
        curve: list[tuple[float, float]] = []
        for n_epochs in (5, 10, 20, 40, 80, 160, 320):
            model = BayesianPersonalizedRanking(
                factors=64,
                learning_rate=rate,
                regularization=weight,
                iterations=n_epochs,
                num_threads=1,
                random_state=seed,
            )
            watch = Stopwatch()
            model.fit(train, show_progress=False)
            curve.append((watch.read().processor, _ranked(stock, train, model)))
            if curve[-1][1] >= goal:
                break
        curves.append(curve)
    there = [curve for curve in curves if reached(curve, goal) is not None]
    if there:
        return min(there, key=lambda curve: reached(curve, goal) or 0.0)
    return max(curves, key=lambda curve: max(value for _, value in curve))


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
