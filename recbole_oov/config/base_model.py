"""The options ``base_model``, ``base_config`` and ``base_checkpoint``: a model that is trained before another one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_oov.config.checks import GROUPS, Values
from recbole_oov.config.keys import KnownKeys
from recbole_oov.config.reading import shown
from recbole_oov.config.rules import rule_for
from recbole_oov.config.sampling import base_model_class, base_model_defaults
from recbole_oov.config.sampling import sampler as sampler_problems
from recbole_oov.errors import ConfigError

_TRAINING = (
    *("epochs", "train_batch_size", "learner", "learning_rate", "eval_step", "stopping_step", "clip_grad_norm"),
    *("weight_decay", "require_pow", "enable_amp", "enable_scaler", "sampler"),
)
"""Options of the training, which ``base_config`` can set for the base model alone beside the base model's own."""

_K = 20
"""The cut-off at which the base model is chosen, where it is among ``topk``."""


def base_model_problems(values: Values) -> list[str]:
    """What in ``base_model``, ``base_config`` and ``base_checkpoint`` cannot work, before any data is loaded."""
    try:
        model_class = base_model_class(values.get("base_model"))
    except ConfigError as error:
        return error.errors
    name = str(values["base_model"])
    problems = _inner_problems(values, name, model_class)
    checkpoint = values.get("base_checkpoint")
    if checkpoint is not None and not (isinstance(checkpoint, str) and Path(checkpoint).is_file()):
        problems.append(
            f"base_checkpoint: there is no file {shown(checkpoint)}; give the checkpoint of a trained {name}, or leave "
            f"it out to train one"
        )
    if values.get("sampler") is not None:
        problems.append(
            "sampler: the generator draws no negatives from it; for the base model write base_config: {sampler: …}"
        )
    args = values.get("train_neg_sample_args")
    if not isinstance(args, Mapping) or args.get("distribution", "uniform") in (None, "none"):
        problems.append(f"train_neg_sample_args: {shown(args)} leaves {name} without negatives; leave it out")
    return problems


def _inner_problems(values: Values, name: str, model_class: type) -> list[str]:
    given = values.get("base_config") or {}
    if not isinstance(given, Mapping):
        return [f"base_config: {shown(given)} is not allowed; it must be a mapping, as in {{learning_rate: 0.005}}"]
    defaults = base_model_defaults(name, str(values.get("dataset")))
    known = sorted({*KnownKeys.of(name, None, {}).of_model, *_TRAINING})
    problems = []
    for key, value in given.items():
        if key not in known:
            problems.append(f"base_config: {shown(key)} is not an option of {name}; its own are {', '.join(known)}")
        elif problem := rule_for(key, defaults.get(key)).problem(f"base_config {key}", value):
            problems.append(problem)
    if "sampler" in given:
        problems += sampler_problems({**values, **given}, model_class)
    return problems


def base_model_config(config: Any) -> Any:
    """The configuration of the base model: that of the run, with what ``base_config`` changes.

    Early stopping watches NDCG of IV items at 20, or at the largest ``topk``. Without NDCG among ``metrics`` it watches
    IV items by the run's own ``valid_metric``. No state to ``resume`` from is written.

    Args:
        config: The run's configuration. It stays as it is.

    Returns:
        A copy.
    """
    name = config["base_model"]
    model_class: Any = base_model_class(name)
    base = copy.deepcopy(config)
    final = base.final_config_dict
    for key, value in base_model_defaults(name, config["dataset"]).items():
        final.setdefault(key, value)
    final.update(
        model=name,
        MODEL_TYPE=model_class.type,
        MODEL_INPUT_TYPE=model_class.input_type,
        sampler=None,
        resume=False,
        resume_step=0,
        log_wandb=False,
        save_user_metrics=False,
        **_selection(config),
    )
    final.update(config["base_config"] or {})
    base.model, base.model_class = name, model_class
    return base


def _selection(config: Any) -> dict[str, Any]:
    """``valid_metric`` of the base model, and whether it should be large."""
    metric, bigger = config["valid_metric"].lower(), config["valid_metric_bigger"]
    for group in sorted(GROUPS, key=len, reverse=True):
        metric = metric.removeprefix(f"{group}_")
    if "ndcg" in [name.lower() for name in config["metrics"]]:
        topk = [config["topk"]] if isinstance(config["topk"], int) else list(config["topk"])
        metric, bigger = f"ndcg@{_K if _K in topk else max(topk)}", True
    split = config["eval_args"].get("split")
    prefix = "iv_" if isinstance(split, Mapping) and "OOV" in split else ""
    return {"valid_metric": prefix + metric, "valid_metric_bigger": bigger}
