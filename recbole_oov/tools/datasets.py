"""A data set as a run would load it, without a model, a log file or a trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole.data import create_dataset
from recbole.utils import init_seed

from recbole_oov.config import OOVConfig
from recbole_oov.data.atomic import check_atomic_files
from recbole_oov.data.oov_files import check_split_files
from recbole_oov.errors import DataError
from recbole_oov.refusals import recbole_refusals


def open_dataset(
    model: str, argv: Sequence[str], options: Mapping[str, Any] | None = None
) -> tuple[OOVConfig, Any, list[str]]:
    """Check a data set's files and load them, filtered, not split.

    Args:
        model: The model whose defaults hold, unless ``argv`` names another one.
        argv: A run's options ``--key=value``.
        options: Further options, weaker than ``argv``.

    Returns:
        The configuration, the data set, and what the checks have to say of the files.

    Raises:
        ConfigError: The options cannot work.
        DataError: A file cannot be used.
    """
    named = any(argument.startswith("--model=") for argument in argv)
    config = OOVConfig(None if named else model, config_dict=options, argv=argv)
    notes = check_atomic_files(config)
    check_split_files(config)
    init_seed(config["seed"], config["reproducibility"])  # as a run does, so that a random split is the run's
    try:
        with recbole_refusals("the data set"):
            return config, create_dataset(config), notes
    except OSError as error:
        raise DataError(
            f"dataset: {config['dataset']} could not be loaded or downloaded ({error}); put its atomic files into "
            f"{config['data_path']}"
        ) from error


def training_part(dataset: Any) -> Any:
    """The training part of the split that the configuration asks for."""
    with recbole_refusals("the split"):
        return dataset.build()[0]
