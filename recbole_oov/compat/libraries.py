"""Fixes for libraries that moved on since RecBole 1.2.1 was written against them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from types import ModuleType
from typing import Any

import numpy as np
import torch

from recbole_oov.compat.mending import Overlay, Put, fix


@fix(
    "recbole.config.configurator",
    symptom="AttributeError: `np.float_` was removed in the NumPy 2.0 release",
    since="numpy 2.0",
)
def numpy_aliases(configurator: Any, put: Put) -> None:
    """Every ``Config()`` sets ``np.float = np.float_`` and seven more aliases, and numpy 2 has no ``np.float_``.

    RecBole uses the aliases later (metrics, layers, ``interaction.py:31``), so they are still set, at the same
    moment and with the same meaning. ``np.bool`` and ``np.long`` exist again in numpy 2 and keep its meaning,
    which on Linux and macOS is the one that RecBole gives them.
    """
    aliases = {
        "bool": np.bool_,
        "int": np.int_,
        "float": np.float64,
        "complex": np.complex128,
        "object": np.object_,
        "str": np.str_,
        "long": np.int_,
        "unicode": np.str_,
    }

    def compatibility_settings(self: Any) -> None:
        for name, value in aliases.items():
            if name not in vars(np):
                setattr(np, name, value)

    put(configurator.Config, "compatibility_settings", compatibility_settings)


@fix(
    "recbole.data.interaction",
    symptom="DeprecationWarning: __array_wrap__ must accept context and return_scalar arguments",
    since="numpy 2.0",
)
def sorted_interactions(interaction: Any, put: Put) -> None:
    """``Interaction.sort`` hands a tensor to ``np.argsort``, whose way of giving a tensor back numpy has deprecated.

    The conversion there and back is made explicit; the order is the same.
    """

    def argsort(key: Any, **kwargs: Any) -> torch.Tensor:
        return torch.from_numpy(np.argsort(np.asarray(key), **kwargs))

    put(interaction, "np", Overlay(interaction.np, argsort=argsort))


@fix(None, symptom="AttributeError: 'dok_matrix' object has no attribute '_update'", since="scipy 1.13")
def dok_update(_: Any, put: Put) -> None:
    """LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK fill their graphs with ``dok_matrix._update(dict)``.

    scipy 1.13 dropped that private method. What it did, an unchecked update of the dictionary inside, is put back.
    """
    from scipy.sparse import dok_matrix

    def _update(self: Any, data: Mapping[tuple[int, int], Any]) -> None:
        self._dict.update(data)

    if not hasattr(dok_matrix, "_update"):
        put(dok_matrix, "_update", _update)


@fix(
    "recbole.trainer.trainer",
    symptom="FutureWarning: `torch.cuda.amp.GradScaler(args...)` is deprecated",
    since="torch 2.4",
)
def grad_scaler(trainer: Any, put: Put) -> None:
    """Every epoch makes a ``torch.cuda.amp.GradScaler``, which warns; NCL's trainer uses ``autocast`` from there.

    The trainer's ``amp`` gets today's names for the same two things.
    """
    put(
        trainer,
        "amp",
        Overlay(
            trainer.amp,
            GradScaler=partial(torch.amp.GradScaler, "cuda"),
            autocast=partial(torch.amp.autocast, "cuda"),
        ),
    )


@fix(
    "recbole.data.dataset.dataset",
    symptom="FutureWarning: A value is trying to be set on a copy of a DataFrame ... through chained assignment",
    since="pandas 2.2",
)
def chained_fillna(dataset: Any, put: Put) -> None:
    """``df[field].fillna(..., inplace=True)`` works up to pandas 2.3 and warns of pandas 3, which is refused anyway.

    The warning says nothing to a user who cannot change RecBole, so it is silenced inside the two methods.
    """
    for name in ("_load_feat", "_fill_nan"):
        put(dataset.Dataset, name, _without_chained_warning(getattr(dataset.Dataset, name)))


def _without_chained_warning(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*chained assignment", category=FutureWarning)
            return method(*args, **kwargs)

    return quiet


@fix(
    "recbole.quick_start.quick_start",
    symptom="ModuleNotFoundError: No module named 'pkg_resources' (or 'ray'), on `import recbole.quick_start`",
    since="setuptools 82, numpy 2.0, Python 3.12 (no ray <= 2.6.3)",
)
def optional_ray(quick_start: Any, put: Put) -> Iterator[None]:
    """The quick start imports ``ray.tune`` at its top, for one call at the end of ``objective_function``.

    A ray that works is used. Where there is none, or one that cannot be imported, a stand-in whose ``report``
    does nothing lies in ``sys.modules`` while this one module is executed, and is taken away afterwards: other
    libraries look for ray, and a lasting stand-in would mislead them.
    """
    for name in ("recbole.config", "recbole.data.transform", "recbole.utils"):  # not while the stand-in is there
        importlib.import_module(name)
    if hasattr(quick_start, "run_recbole") or _ray_works():  # imported before this fix was applied, or no need
        yield
        return
    stand_in, tune = ModuleType("ray"), ModuleType("ray.tune")
    vars(tune)["report"] = _report_nothing
    vars(stand_in)["tune"] = tune
    before: dict[str, ModuleType] = {name: sys.modules[name] for name in ("ray", "ray.tune") if name in sys.modules}
    sys.modules.update({"ray": stand_in, "ray.tune": tune})
    try:
        yield
    finally:
        del sys.modules["ray"], sys.modules["ray.tune"]
        sys.modules.update(before)


def _report_nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for ``ray.tune.report`` where ray is not: there is no trial to report to."""


def _ray_works() -> bool:
    """Whether ``ray.tune`` can be imported; leaves no half-imported ray behind where it cannot."""
    modules, path = set(sys.modules), sys.path[:]
    try:
        importlib.import_module("ray.tune")
    except Exception:  # a broken ray fails in many ways: ImportError, AttributeError of numpy, and more
        for name in set(sys.modules) - modules:
            if name.partition(".")[0] == "ray":
                del sys.modules[name]
        sys.path[:] = path
        return False
    return True


def require_recbole() -> None:
    """Raise ImportError where RecBole is not installed, which on Python 3.12 and later pip cannot do by itself."""
    if importlib.util.find_spec("recbole") is None:
        raise ImportError(
            "recbole_oov: RecBole is not installed; pip install --no-deps recbole==1.2.1 (alone, as on Python 3.12 "
            "and later its dependencies cannot be had; those that it needs came with recbole_oov)"
        )


def refuse_pandas_3() -> None:
    """Raise ImportError where pandas is one on which RecBole's data loading is silently wrong."""
    import pandas

    if int(pandas.__version__.partition(".")[0]) >= 3:
        raise ImportError(
            f"recbole_oov: pandas {pandas.__version__} is installed, and RecBole 1.2.1 needs pandas < 3: under "
            f"pandas 3 it silently leaves missing values unfilled (dataset.py:648) and fails on list columns "
            f"(dataset.py:1217); pip install 'pandas>=2.2,<3'"
        )


@fix(
    "recbole.evaluator.evaluator",
    symptom="result lines read `('recall@10', np.float64(0.1275))`, and results cannot be written as JSON",
    since="numpy 2.0",
)
def plain_metrics(evaluator: Any, put: Put) -> None:
    """Metrics are numpy numbers, whose text has had their type in it since numpy 2.

    They become Python's floats, of the same value.
    """
    stock = evaluator.Evaluator.evaluate

    @wraps(stock)
    def evaluate(self: Any, dataobject: Any) -> Any:
        result = stock(self, dataobject)
        for name, value in result.items():
            result[name] = float(value)
        return result

    put(evaluator.Evaluator, "evaluate", evaluate)
