"""A saved model with the data that it was trained on: RecBole's ``load_data_and_model``, with refusals in words."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_logger, init_seed

from recbole_oov.checkpoints import CheckpointError
from recbole_oov.compat import load_checkpoint
from recbole_oov.compat.checkpoints import never_unpickle
from recbole_oov.config.places import dataset_folder, dataset_problems
from recbole_oov.data.identity import ids_fingerprint
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.model.extended import extended
from recbole_oov.refusals import recbole_refusals


def load_checkpoint_and_data(
    model_file: Path, data_path: str | Path | None, *, log: bool
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Arguments, result and errors as of :func:`recbole_oov.load`."""
    if not model_file.is_file():
        raise CheckpointError(
            f"{model_file}: there is no such checkpoint; a run prints and returns the path of its own"
        )
    state = load_checkpoint(model_file)
    if not isinstance(state, dict) or not {"config", "state_dict"} <= set(state):
        raise CheckpointError(f"{model_file}: this holds no model with its configuration; give the checkpoint of a run")
    config = state["config"]
    never_unpickle(config)
    folder = _data_folder(config, model_file, data_path)
    with recbole_refusals("the model"):
        model_class = extended(get_model(config["model"]), config)  # before a log file gets its name
    init_seed(config["seed"], config["reproducibility"])
    if log:
        init_logger(config)
        getLogger().info(config)
    with recbole_refusals("the data set"):
        dataset = create_dataset(config)
    if log:
        getLogger().info(dataset)
    with recbole_refusals("the split"):
        train_data, valid_data, test_data = data_preparation(config, dataset)
    # Checkpoints of RecBole's own, and those of releases before it was written, do not say.
    if state.get("ids") is not None and state["ids"] != ids_fingerprint(train_data._dataset):
        raise DataError(
            f"dataset: {config['dataset']} in {folder} has other users or items, or another split, than the data that "
            f"the model was trained on; its weights belong to the ids of that data. Name the folder that holds it with "
            f"data_path"
        )
    init_seed(config["seed"], config["reproducibility"])
    with recbole_refusals("the model"):
        model = model_class(config, train_data._dataset).to(config["device"])
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise ConfigError(
            f"{model_file}: its weights do not fit {config['dataset']} in {folder}, which has "
            f"{dataset.user_num - 1} users and {dataset.item_num - 1} items: {str(error).splitlines()[-1].strip()}; "
            f"give the data that the model was trained on"
        ) from error
    model.load_other_parameter(state.get("other_parameter"))
    return config, model, dataset, train_data, valid_data, test_data


def _data_folder(config: Any, model_file: Path, data_path: str | Path | None) -> Path:
    """Where the data set is, which is written into the configuration."""
    name, folder = config["dataset"], Path(config["data_path"])
    if data_path is not None:
        folder = dataset_folder(name, str(data_path), path_given=True)
    elif not folder.is_dir():  # trained on another machine: what RecBole brings is elsewhere here
        folder = dataset_folder(name, str(folder.parent), path_given=False)
    problems = dataset_problems(name, folder, config["benchmark_filename"])
    if problems:
        raise DataError(
            f"{model_file} was trained on {name}; name the folder of data sets with data_path: {problems[0]}"
        )
    config["data_path"] = str(folder)
    return folder
