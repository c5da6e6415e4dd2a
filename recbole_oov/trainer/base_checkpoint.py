"""Starting from a base model that was trained before: what is read from its checkpoint, and when it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_oov.compat import load_checkpoint
from recbole_oov.errors import ConfigError

_DECIDES_THE_DATA = (
    *("field_separator", "threshold", "rm_dup_inter", "val_interval", "filter_inter_by_user_or_item"),
    *("user_inter_num_interval", "item_inter_num_interval", "benchmark_filename", "USER_ID_FIELD", "ITEM_ID_FIELD"),
)


def load_base_checkpoint(path: str | Path, base: Any, config: Any) -> None:
    """Give a base model the weights of a checkpoint.

    Args:
        path: The checkpoint, of the plugin or of RecBole.
        base: The base model, built on the training data of this run.
        config: Its configuration.

    Raises:
        ConfigError: The checkpoint is of another model, another data set or split (it may have learned from rows that
            are held out here), or of other sizes.
        CheckpointError: It cannot be read.
    """
    saved = load_checkpoint(path, config["device"])
    if not isinstance(saved, dict) or "config" not in saved or "state_dict" not in saved:
        raise ConfigError(f"base_checkpoint: {path} is no checkpoint of a model; give the file of a trained one")
    there = saved["config"]
    _same(path, "model", there["model"], config["model"], f"give base_model: {there['model']}, or another checkpoint")
    retrain = "leave base_checkpoint out to train one on the data of this run"
    _same(path, "dataset", there["dataset"], config["dataset"], retrain)
    for part in ("split", "order", "group_by"):
        _same(path, f"eval_args {part}", there["eval_args"].get(part), config["eval_args"].get(part), retrain)
    for key in _DECIDES_THE_DATA:
        _same(path, key, there[key], config[key], retrain)
    if "OOV" not in config["eval_args"]["split"] and config["benchmark_filename"] is None:
        _same(path, "seed", there["seed"], config["seed"], f"which split the data; {retrain}")
    _check_shapes(path, saved["state_dict"], base)
    base.load_state_dict(saved["state_dict"])


def _same(path: str | Path, what: str, there: Any, here: Any, remedy: str) -> None:
    if json.dumps(there, sort_keys=True, default=str) != json.dumps(here, sort_keys=True, default=str):
        raise ConfigError(f"base_checkpoint: {path} is of {what} {there!r}, this run of {here!r}; {remedy}")


def _check_shapes(path: str | Path, weights: dict[str, Any], base: Any) -> None:
    expected = base.state_dict()
    lost = sorted(expected.keys() ^ weights.keys())
    differing = [
        f"{k} {tuple(weights[k].shape)}, not {tuple(v.shape)}"
        for k, v in expected.items()
        if k in weights and weights[k].shape != v.shape
    ]
    if lost or differing:
        raise ConfigError(
            f"base_checkpoint: {path} does not fit the base model of this run: "
            + "; ".join([*differing, *(f"{name} is in one of them only" for name in lost)])
            + ". Give the options it was trained with (embedding_size, n_layers); if the number of items differs, "
            "train it with content: {from: text}, so that it reads the .item file as well"
        )
