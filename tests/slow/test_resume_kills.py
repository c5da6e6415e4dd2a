"""Resuming, at length: every model of RecBole's is cut off once, and runs of a few are killed a hundred times."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from nursery import nursery
from reference.small_data import NAME, make_small_data
from test_recbole_models import COMMON, EXTRAS, FAMILIES, MODELS, OWN

from recbole_oov.runner import prepare
from recbole_oov.testing import two_circles, write_atomic
from recbole_oov.trainer.resume import ResumeMixin

pytestmark = pytest.mark.slow

ONE_EPOCH = {"ADMMSLIM", "AsymKNN", "EASE", "ItemKNN", "NCEPLRec", "Pop", "Random", "SLIMElastic"}
"""Models that learn in one pass: there is nothing to be resumed."""


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    experiment = prepare(config_dict=options, argv=[])
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    experiment.trainer.forget_progress()
    return experiment.trainer, {name: value.clone() for name, value in experiment.model.state_dict().items()}


@pytest.mark.usefixtures("_own_folder")
@pytest.mark.parametrize("model", [name for name in sorted(MODELS) if name not in ONE_EPOCH])
def test_a_run_of_any_model_is_resumed_to_the_bit(model: str, data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = EXTRAS.get(model)
    if extra is not None and importlib.util.find_spec(extra) is None:
        pytest.skip(f"{model} needs {extra}, which is not installed")
    options = {**COMMON, **FAMILIES[MODELS[model]], **OWN.get(model, {}), "model": model, "dataset": NAME}
    options |= {"data_path": str(data_path), "epochs": 3, "leak_guard": "off"}
    options |= {key: 3 for key in ("pretrain_epochs",) if key in options}
    whole, expected = trained(options)
    twice = trained(options)[1]
    if any(not torch.equal(expected[name], twice[name]) for name in expected):
        pytest.skip(f"{model} ends with other weights when it is only run twice")

    def cut_off(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        loss = train_epoch(self, train_data, epoch_idx, *args, **kwargs)
        if epoch_idx == 1:
            raise KeyboardInterrupt
        return loss

    train_epoch = ResumeMixin._train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(ResumeMixin, "_train_epoch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            trained(options)
    torch.rand(5)
    trainer, weights = trained({**options, "resume": True})
    assert trainer.start_epoch == 1
    assert trainer.best_valid_result == whole.best_valid_result
    assert trainer.train_loss_dict == whole.train_loss_dict
    assert weights.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(weights[name], expected[name])]
    assert not different


@pytest.mark.parametrize("model", ["BPR", "MultiVAE", "GRU4Rec", "OOVLLMRec"])
def test_a_hundred_kills(model: str, tmp_path: Path) -> None:
    write_atomic(tmp_path / "data", "circles", two_circles(), {f"i{i}": f"Story {i} of the sea" for i in range(24)})
    options = {"model": model, "dataset": "circles", "data_path": str(tmp_path / "data"), "leak_guard": "off"}
    options |= {"epochs": 8, "MAX_ITEM_LIST_LENGTH": 8} if model in ("GRU4Rec", "OOVLLMRec") else {"epochs": 8}
    if model == "OOVLLMRec":
        options |= {"hidden_size": 16, "inner_size": 16, "n_clusters": 3, "walks_per_node": 2, "walk_epochs": 1}
    with nursery(model) as processes:
        results = processes.survive(tmp_path, options, kills=100, seed=1)
    assert len(results) > 10
    for result in results[1:]:
        assert {**result, "started_at": 0} == {**results[0], "started_at": 0}
