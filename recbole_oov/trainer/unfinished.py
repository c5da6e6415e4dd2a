"""Which run ``resume`` continues: the newest unfinished one of the same configuration, or the one that was named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from recbole_oov.checkpoints import CheckpointError
from recbole_oov.checkpoints.store import read_manifest
from recbole_oov.checkpoints.values import Encoder
from recbole_oov.errors import ConfigError
from recbole_oov.processes import on_first

PROGRESS = ".progress.json"
"""What the name of an unfinished run's state ends in, beside ``NAME.json``, its best model."""

_WITHOUT_INFLUENCE = frozenset(
    [
        *("checkpoint_dir", "config_files", "data_path", "dataloaders_save_path", "dataset_save_path"),  # places
        *(
            "save_dataloaders",
            "save_dataset",
            "save_user_metrics",
            "log_wandb",
            "wandb_project",
        ),  # what else is written
        *("show_progress", "state", "verbose", "data_checks", "leak_guard"),  # what is said
        *("gpu_id", "nproc", "world_size", "ip", "port", "group_offset", "offset", "local_rank", "eval_memory"),
        *("single_spec", "process_timeout"),
        *("epochs", "resume", "resume_step"),
    ]
)
"""Options that may differ between a run and its continuation. (A changed data set is found by its content.)"""


def options_of(config: Any) -> dict[str, str]:
    """The options that decide a run's numbers, each as text that can be compared."""
    found = {}
    for key, value in config.final_config_dict.items():
        if key not in _WITHOUT_INFLUENCE:
            value = value.type if isinstance(value, torch.device) else value
            found[str(key)] = json.dumps(Encoder().encode(value, str(key)), sort_keys=True)
    return found


def unfinished_run(config: Any) -> Path | None:
    """The state of the run that ``resume`` asks to continue.

    Args:
        config: The configuration of this run.

    Returns:
        The path ``NAME.progress.json``; None where ``resume`` is False, or True and there is none to continue.

    Raises:
        ConfigError: The run named by ``resume`` is finished, or has another configuration: all differing options are
            listed; or ``resume`` cannot be had for a run of this kind.
        CheckpointError: The state of the run named by ``resume`` is missing or damaged.
    """
    resume = config["resume"]
    if not resume:
        return None
    # One answer for all processes of a run, also where their clocks differ, or one finds another file.
    return on_first(config, lambda: _named(resume, config) if isinstance(resume, str) else _newest(config))


def _newest(config: Any) -> Path | None:
    options = options_of(config)
    for path in sorted(_candidates(config), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            if read_manifest(path)["state"].get("options") == options:
                return path
        except CheckpointError:  # of whichever run it was: --resume=PATH says what is wrong with it
            continue
    return None


def _candidates(config: Any) -> list[Path]:
    folder = Path(config["checkpoint_dir"])
    return [path for path in folder.glob(f"*{PROGRESS}") if path.name.startswith(f"{config['model']}-")]


def _named(resume: str, config: Any) -> Path:
    path = progress_file(resume)
    if not path.is_file() and Path(resume).is_file():
        raise ConfigError(
            f"resume: {resume} is of a run that has ended, or that wrote no states (resume_step: 0): there is no "
            f"{path.name} beside it. Start a new run, or look at this one with recbole_oov.load"
        )
    there = read_manifest(path)["state"].get("options")
    here = options_of(config)
    if not isinstance(there, dict):
        raise CheckpointError(f"{path}: this is the checkpoint of a model, not the state of an unfinished run")
    differing = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    if differing:
        raise ConfigError(
            [
                f"resume: {key} is {here.get(key, 'not set')} and was {there.get(key, 'not set')} in the run {path}; "
                f"give the same value, or leave resume out"
                for key in differing
            ]
        )
    return path


def progress_file(model_file: str | Path) -> Path:
    """Where the state of the run lies whose best model is ``NAME.json`` or ``NAME.pth``."""
    path = Path(model_file)
    return path if path.name.endswith(PROGRESS) else path.with_name(path.stem + PROGRESS)


def model_file(progress: Path) -> Path:
    """The best model ``NAME.json`` of the run whose state is ``NAME.progress.json``."""
    return progress.with_name(progress.name.removesuffix(PROGRESS) + ".json")
