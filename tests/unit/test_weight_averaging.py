"""An average of the weights: what it is, and that it alone is validated, saved and tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recbole_oov.checkpoints import CheckpointError
from recbole_oov.errors import ConfigError
from recbole_oov.runner import load, prepare
from recbole_oov.trainer.weight_averaging import WeightAveragingMixin, _averaging, swapped

OPTIONS = {"MAX_ITEM_LIST_LENGTH": 8, "show_progress": False, "epochs": 4, "valid_metric": "MRR@10"}
SIZES = {"hidden_size": 16, "inner_size": 16}
WALKS = {"walks_per_node": 2, "walk_epochs": 1, "walk_dim": 8, "n_clusters": 3, "tokenizer_vocab_size": 150}
MODELS: dict[str, dict[str, Any]] = {
    "BPR": {"embedding_size": 16},
    "SASRec": {**SIZES, "train_positions": "all"},
    "OOVLLMRec": {**SIZES, **WALKS},
}
OPTIMIZERS = ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop"]


def prepared(circles: Any, model: str, **options: Any) -> Any:
    own = {**OPTIONS, "leak_guard": "off", **MODELS[model], "data_path": str(circles.data_path), **options}
    return prepare(model, "circles", config_dict=own, argv=[])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_average_is_that_by_hand_of_what_is_trained(name: str) -> None:
    torch.manual_seed(0)
    trained, frozen, unused = (nn.Parameter(torch.randn(3)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer: Any = getattr(torch.optim, name)([trained, frozen, unused], lr=0.1)
    optimizer.register_step_post_hook(_averaging(0.8))
    mean = None
    for step in range(40):
        optimizer.zero_grad()
        (trained * torch.randn(3)).sum().backward()
        optimizer.step()
        decay = min(0.8, (1 + step) / (10 + step))
        mean = trained.detach().clone() if mean is None else decay * mean + (1 - decay) * trained.detach()
    kept = [one.detach().clone() for one in (trained, frozen, unused)]
    with swapped(optimizer):
        torch.testing.assert_close(trained.detach(), mean)
        assert not torch.equal(trained.detach(), kept[0])
        assert all(torch.equal(one, was) for one, was in zip((frozen, unused), kept[1:], strict=True))
    assert all(torch.equal(one, was) for one, was in zip((trained, frozen, unused), kept, strict=True))


def test_without_a_decay_worth_its_name_it_is_the_weights() -> None:
    weights = nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([weights])
    optimizer.register_step_post_hook(_averaging(0.0))
    for _ in range(3):
        optimizer.zero_grad()
        weights.sum().backward()
        optimizer.step()
    now = weights.detach().clone()
    with swapped(optimizer):
        torch.testing.assert_close(weights.detach(), now)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_validated_is_what_is_saved_and_tested(circles: Any, workplace: Path, model: str) -> None:
    runs = {}
    for decay in (0.0, 0.9):
        experiment = prepared(circles, model, ema_decay=decay, seed=5)
        trainer = experiment.trainer
        best, result = trainer.fit(experiment.train_data, experiment.valid_data)
        last = {name: value.clone() for name, value in experiment.model.named_parameters()}
        with_best = trainer.evaluate(experiment.valid_data, load_best_model=True)
        assert with_best["mrr@10"] == best
        assert with_best == result
        assert trainer.evaluate(experiment.valid_data, load_best_model=False) == result, "averaged once, not twice"
        loaded = load(trainer.saved_model_file, log=False)[1]
        for name, value in experiment.model.named_parameters():
            assert torch.equal(value, dict(loaded.named_parameters())[name]), name
        runs[decay] = last, {name: value.clone() for name, value in experiment.model.named_parameters()}
    for name, value in runs[0.0][0].items():
        assert torch.equal(value, runs[0.9][0][name]), f"training goes on with the weights themselves: {name}"
    assert any(not torch.equal(value, runs[0.9][1][name]) for name, value in runs[0.9][0].items())


def test_without_saving_the_average_is_tested(circles: Any, workplace: Path) -> None:
    experiment = prepared(circles, "SASRec", ema_decay=0.9, epochs=3)
    _, result = experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    history = [entry["valid_result"] for entry in experiment.trainer.valid_history]
    assert experiment.trainer.evaluate(experiment.valid_data, load_best_model=False) == history[-1]
    assert result in history


def test_a_checkpoint_goes_on_with_what_was_trained(circles: Any, workplace: Path) -> None:
    """RecBole's ``resume_checkpoint``: the weights are those that were trained, the average goes on beside them."""
    experiment = prepared(circles, "SASRec", ema_decay=0.9, epochs=1)
    trainer = experiment.trainer
    trainer.fit(experiment.train_data, experiment.valid_data)
    weights = {name: value.clone() for name, value in experiment.model.named_parameters()}
    score = trainer.evaluate(experiment.valid_data, load_best_model=False)
    other = prepared(circles, "SASRec", ema_decay=0.9, epochs=1, seed=7)
    other.trainer.resume_checkpoint(trainer.saved_model_file)
    assert all(torch.equal(value, weights[name]) for name, value in other.model.named_parameters())
    assert other.trainer.evaluate(other.valid_data, load_best_model=False) == score


def test_an_evaluation_that_loads_nothing_changes_nothing(circles: Any, workplace: Path) -> None:
    experiment = prepared(circles, "SASRec", ema_decay=0.9, epochs=1)
    trainer = experiment.trainer
    trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    score = trainer.evaluate(experiment.valid_data, load_best_model=False)
    with pytest.raises(CheckpointError):
        trainer.evaluate(experiment.valid_data, model_file="nothing.json")
    assert trainer.evaluate([], load_best_model=True) is None
    assert trainer.evaluate(experiment.valid_data, load_best_model=False) == score


def test_tasks_are_measured_with_the_average(circles: Any, workplace: Path) -> None:
    experiment = prepared(circles, "OOVLLMRec", ema_decay=0.9, epochs=2, tasks=["direct"])
    trainer = experiment.trainer
    trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    found = trainer.task_results(experiment.test_data)
    with swapped(trainer.optimizer):
        trainer._is_training = False
        assert trainer.task_results(experiment.test_data) == found


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            "AutoSample",
            {"base_model": "BPR"},
            "ema_decay: AutoSample is trained by AutoSampleTrainer, in several trainings or by a loop",
        ),
        ("EASE", {}, "ema_decay: EASE is trained by TraditionalTrainer"),
    ],
)
def test_other_trainers_are_refused(
    circles: Any, workplace: Path, model: str, options: dict[str, Any], message: str
) -> None:
    own = {"data_path": str(circles.data_path), "leak_guard": "off", "ema_decay": 0.9, **options}
    with pytest.raises(ConfigError, match=message):
        prepare(model, "circles", config_dict=own, argv=[])


def test_statistics_of_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="ema_decay: Net normalises batches, and its statistics would be those of"):
        WeightAveragingMixin({"model": "Net"}, nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


@pytest.mark.parametrize("value", [1.0, -0.1, "much"])
def test_what_is_no_decay_is_refused(circles: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match="ema_decay: .* it must be a number of at least 0 and below 1"):
        circles.config("SASRec", ema_decay=value)
