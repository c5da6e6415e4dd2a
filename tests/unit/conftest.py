"""A small sequential data set with a known answer, loaded once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from recbole.data import create_dataset, data_preparation

import recbole_oov  # noqa: F401  (mends RecBole)
from recbole_oov.config import OOVConfig
from recbole_oov.testing import two_circles, write_atomic

SMALL = {
    "walks_per_node": 5,
    "walk_length": 10,
    "walk_epochs": 1,
    "walk_dim": 16,
    "n_clusters": 3,
    "hidden_size": 16,
    "inner_size": 32,
    "tokenizer_vocab_size": 200,
    "MAX_ITEM_LIST_LENGTH": 12,
    "show_progress": False,
}
"""Options that make OOVLLMRec small enough for a unit test."""


@dataclass
class Circles:
    """The data set ``circles``: 60 users, 24 items, every next item decided by the last."""

    data_path: Path
    histories: dict[str, list[str]]
    loaders: tuple[Any, Any, Any]

    def config(self, model: str, **options: Any) -> OOVConfig:
        """A configuration for this data set."""
        small = SMALL if model == "OOVLLMRec" else {"MAX_ITEM_LIST_LENGTH": 12, "show_progress": False}
        return OOVConfig(model, "circles", config_dict={"data_path": str(self.data_path), **small, **options}, argv=[])

    def fresh_train(self) -> Any:
        """A copy of the training split that a test may change."""
        return copy.deepcopy(self.loaders[0]._dataset)


@pytest.fixture(scope="session")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Circles:
    data_path = tmp_path_factory.mktemp("data")
    histories = two_circles()
    write_atomic(data_path, "circles", histories, {f"i{i}": f"Story {i} of the sea" for i in range(24)})
    data = Circles(data_path, histories, ())  # type: ignore[arg-type]
    config = data.config("OOVLLMRec")
    data.loaders = data_preparation(config, create_dataset(config))
    return data


@pytest.fixture(autouse=True)
def _no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps of tests draw nothing, which takes longer than their training; test_report.py draws."""
    if request.module.__name__.rpartition(".")[2].startswith("test_benchmark"):
        monkeypatch.setattr("recbole_oov.report.tables.save_plots", lambda tables, folder: "no plots")
