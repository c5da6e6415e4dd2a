"""A configuration without the places of the machine that it was used on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

_PLACES = {
    "checkpoint_dir": "saved",
    "dataset_save_path": None,
    "dataloaders_save_path": None,
    "base_checkpoint": None,
    "resume": None,
    "save_user_metrics": None,
    "config_files": None,
    "wandb_project": "recbole",
    "log_wandb": False,
}
"""Options that say where things are or go, which is nobody else's concern, and what they become."""


def forget_places(config: Any) -> tuple[Any, Path | None]:
    """A copy of a configuration that can be shown to others.

    Folders become the defaults, all other absolute paths their last part.

    Args:
        config: RecBole's or the plugin's configuration.

    Returns:
        The copy, and the file with item content that the model needs to be built again, if there is one.
    """
    new = copy.deepcopy(config)
    name = str(config["dataset"])
    content = config["content"] if isinstance(config["content"], Mapping) else {}
    path = content.get("path") if content.get("from") == "file" else None
    for key, value in vars(new).items():
        vars(new)[key] = _forgotten(value, name)
    return new, Path(str(path)) if path else None


def _forgotten(value: Any, dataset: str, key: str | None = None) -> Any:
    if key in _PLACES:
        return _PLACES[key]
    if key == "data_path":
        return f"dataset/{dataset}"
    if isinstance(value, dict):
        return {k: _forgotten(v, dataset, k if isinstance(k, str) else None) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_forgotten(part, dataset) for part in value])
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and is_place(value):
        return PureWindowsPath(value).name or "folder"  # knows both kinds of slashes
    return value


def is_place(text: str) -> bool:
    """Whether a text is an absolute path, of any system, or one in somebody's home."""
    return (text.startswith(("~", "/", "\\\\")) and len(text) > 1) or PureWindowsPath(text).is_absolute()
