"""Checks of ``sampler`` and ``base_model``: negative samplers, and models inside a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.utils import InputType, ModelType

from recbole_oov import registry
from recbole_oov.config.keys import recbole_properties
from recbole_oov.config.reading import read_config_file, shown
from recbole_oov.errors import ConfigError

Values = Mapping[str, Any]

PAIRWISE_REMEDY = "choose a general recommender that learns from (user, positive, negative), such as BPR or LightGCN"


def sampler(values: Values, model_class: type | None) -> list[str]:
    """``sampler``: a known one with its own options, for a model that learns from negatives."""
    value = values.get("sampler")
    if value is None:
        return []
    from recbole_oov.sampler.drawing import read_sampler

    problems = []
    try:
        read_sampler(value)
    except ConfigError as error:
        problems += error.errors
    if model_class is not None:
        reason = learns_pairwise(model_class)
        problems += [f"sampler: {reason}; {PAIRWISE_REMEDY}"] if reason else []
        if not reason and trains_its_own_way(model_class) and not getattr(model_class, "needs_base_model", False):
            problems.append(
                f"sampler: {model_class.__name__} has a trainer of its own, which draws its negatives; "
                f"{PAIRWISE_REMEDY}"
            )
        if getattr(model_class, "searches_samplers", False):
            problems.append(f"sampler: {model_class.__name__} searches for one; name those to search among in samplers")
    return problems + one_negative("sampler", values)


def one_negative(key: str, values: Values) -> list[str]:
    """``train_neg_sample_args`` beside negatives that are drawn on the device: RecBole's defaults alone."""
    args = values.get("train_neg_sample_args")
    if not isinstance(args, Mapping):
        return [f"{key}: train_neg_sample_args is {shown(args)}, so that the model would learn without negatives"]
    kept = {"sample_num": 1, "dynamic": False, "distribution": "uniform", "alpha": 1.0}
    return [
        f"{key}: train_neg_sample_args {name} is {shown(args[name])}, but negatives come from the sampler's pool; "
        f"leave it at {default}, and set them with sampler: {{name: …, pool: …}}, or {{name: popularity, alpha: …}}"
        for name, default in kept.items()
        if args.get(name, default) != default
    ]


def learns_pairwise(model_class: type) -> str | None:
    """Why a model cannot learn from (user, positive, negative), or None where its class does not say."""
    name = model_class.__name__
    kind = getattr(model_class, "type", None)
    if kind != ModelType.GENERAL:
        return f"{name} is no general recommender but {getattr(kind, 'name', 'another kind').lower()}"
    if getattr(model_class, "input_type", None) not in (InputType.PAIRWISE, InputType.POINTWISE):
        return f"{name} does not learn from pairs of items"
    if name in _WHOLE_HISTORY:
        return f"{name} learns from whole histories, without negatives"
    return None


_WHOLE_HISTORY = frozenset(
    {"MultiDAE", "MultiVAE", "MacridVAE", "CDAE", "ENMF", "RaCT", "RecVAE", "DiffRec", "LDiffRec", "NCEPLRec", "EASE"}
    | {"SLIMElastic", "ADMMSLIM", "ItemKNN", "AsymKNN", "Pop", "Random", "LINE"}
)
"""Models that RecBole gives a loader of whole histories, or that draw or need no negatives, whatever they declare."""


def base_model_class(name: object) -> type:
    """The class of a base model.

    Raises:
        ConfigError: There is none, or it cannot learn from (user, positive, negative).
    """
    if not isinstance(name, str) or not name:
        raise ConfigError("base_model: none is given; name one, as in --base_model=LightGCN")
    try:
        found = registry.get_model(name)
    except ConfigError as error:
        raise ConfigError([problem.replace("model:", "base_model:", 1) for problem in error.errors]) from error
    if getattr(found, "needs_base_model", False):
        raise ConfigError(f"base_model: {name} has a base model itself; choose one without, such as BPR or LightGCN")
    if reason := learns_pairwise(found):
        raise ConfigError(f"base_model: {reason}; {PAIRWISE_REMEDY}")
    return found


def trains_its_own_way(model_class: type) -> bool:
    """Whether RecBole has a trainer for this model alone, without which its loss cannot be computed."""
    import recbole.trainer

    return hasattr(recbole.trainer, f"{model_class.__name__}Trainer")


def base_model_defaults(name: object, dataset: str) -> dict[str, Any]:
    """The default options of a base model, RecBole's and the plugin's; empty for an unknown one."""
    if not isinstance(name, str) or not name:
        return {}
    stock = recbole_properties(name)
    ours = [path for path in registry.properties_files(name, dataset) if path.parent.name == "model"]
    defaults: dict[str, Any] = {}
    for path in ([stock] if stock else []) + ours:
        defaults |= read_config_file(path)
    return defaults
