"""Where the OOV protocol joins RecBole: ``Dataset.build`` and ``create_samplers``, which other splits pass through.

RecBole's configuration lets ``eval_args: {split: {OOV: …}}`` through, and its ``Dataset.build`` is where it lands.
"""

from __future__ import annotations

import functools
from typing import Any

import recbole.data
from recbole.data import utils as data_utils
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_oov.data import negatives, oov_sequences, oov_split


def install() -> None:
    """Let RecBole's data sets, also those of its own ``run_recbole``, split by items. Safe to call again."""
    if getattr(Dataset.build, "knows_oov", False):
        return
    Dataset.build = _or_stock(oov_split.build, Dataset.build)
    SequentialDataset.build = _or_stock(oov_sequences.build, SequentialDataset.build)
    data_utils.create_samplers = recbole.data.create_samplers = negatives.create_samplers
    data_utils.create_dataset = recbole.data.create_dataset = _with_config_of_run(data_utils.create_dataset)


def _with_config_of_run(stock: Any) -> Any:
    """A data set that ``save_dataset`` left on the disk comes back with the configuration, and so the split, it had."""

    @functools.wraps(stock)
    def create_dataset(config: Any) -> Any:
        dataset = stock(config)
        dataset.config = config
        return dataset

    return create_dataset


def _or_stock(ours: Any, stock: Any) -> Any:
    @functools.wraps(stock)
    def build(self: Any) -> Any:
        return stock(self) if oov_split.oov_options(self.config) is None else ours(self)

    build.knows_oov = True  # type: ignore[attr-defined]
    return build
