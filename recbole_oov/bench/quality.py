"""Time to quality: seconds of training until 99 % of what the baseline reaches at best on validation."""

from __future__ import annotations

import importlib.util
import itertools
import statistics
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

Curve = list[tuple[float, float]]
"""Seconds so far, and the value on validation."""
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
_IMPLICIT = tuple(itertools.product((0.003, 0.01, 0.03), (0.0001, 0.001, 0.01)))
"""Learning rates and weights of the regularisation that ``implicit``'s BPR is tuned over."""


def quality(setting: Setting, say: Callable[[str], None], models: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Train each model to its best with RecBole's own trainer and with the plugin, and see when each is good enough.

    That is 99 % of the median over seeds of RecBole's best. ``implicit``'s BPR stands beside BPR, with the learning
    rate and regularisation that are best on the first seed. Validation is ranked by the plugin's evaluation for RecBole
    and the plugin, and not counted.

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
        found.append(_race(setting, name, _RACES[name], say))
    return found


def _race(setting: Setting, name: str, race: _Race, say: Callable[[str], None]) -> dict[str, Any]:
    runs: dict[str, list[Curve]] = {"RecBole": [], "recbole_oov": []}
    chosen: tuple[float, float] | None = None
    for seed in race.seeds:
        stock = experiment(setting, name, "ml-100k", **race.options, seed=seed)
        runs["RecBole"].append(trained(stock, recbole_trainer(stock), race.n_epochs))
        mine = experiment(setting, name, "ml-100k", **race.options, **race.own, seed=seed)
        runs["recbole_oov"].append(trained(mine, mine.trainer, race.n_epochs))
        if name == "BPR":
            curves = {settings: _implicit(stock, seed, *settings) for settings in ([chosen] if chosen else _IMPLICIT)}
            chosen = max(curves, key=lambda settings: best(curves[settings]))  # by the first seed
            runs.setdefault("implicit", []).append(curves[chosen])
        say(f"{name}, seed {seed}, best {METRIC}: " + ", ".join(f"{k} {best(own[-1]):.4f}" for k, own in runs.items()))
    goal = SHARE * statistics.median(best(curve) for curve in runs["RecBole"])
    seconds = {side: [reached(curve, goal) for curve in curves] for side, curves in runs.items()}
    say(f"{name}, seconds to {goal:.4f}: {seconds}")
    return {"model": name, "seeds": race.seeds, "goal": goal, "seconds": seconds, "curves": runs, "implicit": chosen}


def best(curve: Curve) -> float:
    """The best value of a curve of (seconds, value)."""
    return max(value for _, value in curve)


def reached(curve: Curve, goal: float) -> float | None:
    """Seconds at which a curve of (seconds, value) reaches a value first; None if it never does."""
    return next((seconds for seconds, value in curve if value >= goal), None)


def trained(mine: Any, trainer: Any, n_epochs: int) -> Curve:
    """Processor seconds of training and validation's NDCG after each epoch, until nothing gets better."""
    curve: Curve = []
    total = 0.0
    for epoch in range(n_epochs):
        watch = Stopwatch()
        with silence():
            trainer._train_epoch(mine.train_data, epoch)
        total += watch.read().processor
        curve.append((total, _validated(mine)))
        if epoch - max(range(len(curve)), key=lambda n: curve[n][1]) >= PATIENCE:
            break
    return curve


def _validated(mine: Any) -> float:
    if hasattr(mine.model, "restore_user_e"):
        mine.model.restore_user_e = mine.model.restore_item_e = None
    with silence():
        return float(mine.trainer.evaluate(mine.valid_data, load_best_model=False)[METRIC])


def _implicit(stock: Any, seed: int, rate: float, weight: float) -> Curve:
    """``implicit``'s BPR with 64 factors, trained anew for each number of epochs."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    train = csr_matrix(seen_matrix(stock.train_data._dataset), dtype=np.float32)
    curve: Curve = []
    for n_epochs in (5, 10, 20, 40, 80, 160, 320):
        options = {"factors": 64, "learning_rate": rate, "regularization": weight, "iterations": n_epochs}
        model = BayesianPersonalizedRanking(**options, num_threads=1, random_state=seed)
        watch = Stopwatch()
        model.fit(train, show_progress=False)
        curve.append((watch.read().processor, _ranked(stock, train, model)))
    return curve


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
