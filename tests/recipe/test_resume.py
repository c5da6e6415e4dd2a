"""A run that was cut off and resumed ends as one that never was: the same weights and metrics, to the last bit."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nursery import Nursery, nursery
from recbole.trainer import trainer as recbole_trainer

import recbole_oov
from recbole_oov.checkpoints import CheckpointError, files, load, store
from recbole_oov.cli import main
from recbole_oov.compat import load_checkpoint
from recbole_oov.errors import ConfigError
from recbole_oov.randomness import random_state
from recbole_oov.runner import prepare
from recbole_oov.trainer.resume import ResumeMixin, cannot_resume, follow

SEQUENTIAL = {"hidden_size": 16, "inner_size": 16, "n_heads": 2, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 8}
WALKS = {"walks_per_node": 2, "walk_length": 8, "walk_epochs": 1, "walk_dim": 8, "n_clusters": 3}
SMALL: dict[str, dict[str, Any]] = {
    "BPR": {"embedding_size": 16},
    "SASRec": SEQUENTIAL,
    "OOVLLMRec": {"hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 8, **WALKS, "tokenizer_vocab_size": 150},
}


@pytest.fixture(scope="module")
def options(data_path: Path) -> Callable[..., dict[str, Any]]:
    def make(model: str, **more: Any) -> dict[str, Any]:
        own = {"model": model, "dataset": "circles", "data_path": str(data_path), "leak_guard": "off"}
        return {**own, "epochs": 5, "show_progress": False, **SMALL.get(model, {}), **more}

    return make


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Iterator[Nursery]:
    with nursery(*SMALL) as found:
        yield found


@pytest.mark.parametrize(("model", "kills"), [("BPR", 8), ("SASRec", 6), ("OOVLLMRec", 6)])
def test_twenty_kills_at_random_moments(
    model: str, kills: int, processes: Nursery, options: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    results = processes.survive(tmp_path, options(model), kills, seed=0)
    assert len(results) > 1
    for result in results[1:]:
        assert {**result, "started_at": 0} == {**results[0], "started_at": 0}
    # (A kill in the middle of the very first state leaves a part of it that nothing refers to.)
    assert not list(tmp_path.glob("*/saved/[!.]*.progress.json")), "what is done is cleared away"


# --- interrupted ------------------------------------------------------------------------------------------------------


def finish(options: dict[str, Any]) -> tuple[Any, ...]:
    """Train to the end and test; the final weights, the metrics, the losses, and the file of the best model."""
    experiment = prepare(config_dict=options, argv=[])
    trainer = experiment.trainer
    best = trainer.fit(experiment.train_data, experiment.valid_data)
    weights = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    test = trainer.evaluate(experiment.test_data)
    trainer.forget_progress()
    file = Path(trainer.saved_model_file)
    saved = json.loads(file.read_text())["files"] if file.suffix == ".json" else load_checkpoint(file)["epoch"]
    return weights, best, test, dict(trainer.train_loss_dict), saved_tensors(saved), trainer


def saved_tensors(saved: Any) -> Any:
    """What tells the tensors of one best model from those of another, without their file's name."""
    return [file["sha256"] for file in saved] if isinstance(saved, list) else saved


def interrupt(options: dict[str, Any], after: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cut a run off in the middle of epoch ``after``, when it has changed everything that there is to change."""

    def cut_off(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        loss = whole(self, train_data, epoch_idx, *args, **kwargs)
        if epoch_idx == after:
            raise KeyboardInterrupt
        return loss

    whole = ResumeMixin._train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(ResumeMixin, "_train_epoch", cut_off)
        experiment = prepare(config_dict=options, argv=[])
        with pytest.raises(KeyboardInterrupt):
            experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    _ = random.random(), np.random.random(5), torch.rand(7)  # noqa: NPY002  (a new process begins elsewhere)
    return Path(experiment.trainer.saved_model_file)


def assert_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert one[0].keys() == other[0].keys()
    for name, weights in one[0].items():
        assert torch.equal(weights, other[0][name]), name
    assert one[1:5] == other[1:5]


EXACT: dict[str, dict[str, Any]] = {
    "BPR, dynamic negatives": {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": True,
                                                         "candidate_num": 3}},
    "BPR, a sampler": {"sampler": {"name": "dns", "pool": 4}},
    "BPR, sgd with momentum of RMSprop": {"learner": "rmsprop", "clip_grad_norm": {"max_norm": 1.0}},
    "SASRec, averaged weights": {"ema_decay": 0.9, **SEQUENTIAL},
    "OOVLLMRec, averaged weights and rules": {"ema_decay": 0.9, "rules_weight": 0.3},
    "BPR, every other epoch": {"resume_step": 2, "eval_step": 2},
    "BPR, sampled evaluation": {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "mode": "uni20"}},
    "LightGCN": {},
    "MultiVAE": {"mlp_hidden_size": [16], "latent_dimension": 8},
    "RecVAE": {"hidden_dimension": 16, "latent_dimension": 8},
    "LINE": {},
    "SASRec, all positions": {"train_positions": "all", **SEQUENTIAL},
    "GRU4Rec": {"hidden_size": 16, "embedding_size": 8, "MAX_ITEM_LIST_LENGTH": 8},
    "S3Rec": {"train_stage": "pretrain", "pretrain_epochs": 4, "save_step": 2, "item_attribute": "title", **SEQUENTIAL,
              "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}},
}  # fmt: skip


LONGER = {"BPR, dynamic negatives", "BPR, sampled evaluation", "LightGCN", "RecVAE"}
CASES = [pytest.param(case, marks=pytest.mark.slow if case in LONGER else ()) for case in EXACT]


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_ends_as_one_that_was_not(
    case: str, options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options(case.partition(",")[0], **EXACT[case])
    expected = finish(given)
    interrupt(given, 2, monkeypatch)
    resumed = finish({**given, "resume": True})
    assert resumed[-1].start_epoch == 2
    assert_same(resumed, expected)


KG = {"load_col": {"inter": ["user_id", "item_id"], "kg": ["head_id", "relation_id", "tail_id"],
                   "link": ["item_id", "entity_id"]}}  # fmt: skip


@pytest.mark.parametrize("model", ["CKE", pytest.param("MKR", marks=pytest.mark.slow), "KTUP"])
def test_a_model_of_a_knowledge_graph(
    model: str, options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, data_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "with a graph" / "circles"
    folder.mkdir(parents=True)
    (folder / "circles.inter").write_bytes((data_path / "circles" / "circles.inter").read_bytes())
    links = [f"i{item}\te{item}" for item in range(24)]
    (folder / "circles.link").write_text("\n".join(["item_id:token\tentity_id:token", *links]) + "\n")
    triples = [f"e{item}\tr{item % 3}\te{(item * 5 + 1) % 30}" for item in range(24)]
    (folder / "circles.kg").write_text("\n".join(["head_id:token\trelation_id:token\ttail_id:token", *triples]) + "\n")
    given = options(model, **KG, data_path=str(folder.parent), train_kg_step=1, train_rec_step=1)
    if model != "KTUP":
        del given["train_kg_step"], given["train_rec_step"]
    expected = finish(given)
    interrupt(given, 2, monkeypatch)
    assert_same(finish({**given, "resume": True}), expected)


@pytest.mark.parametrize(
    ("model", "part"),
    [("MultiVAE", "attributes"), ("LINE", "attributes"), ("BPR", "random"), ("BPR", "generators"), ("BPR", "steppers")],
)
def test_each_part_of_the_state_is_needed(
    model: str, part: str, options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above sees what is lost: without this part the weights are other ones."""
    given = options(model, **EXACT.get(model, {}))
    expected = finish(given)
    interrupt(given, 2, monkeypatch)

    def forget(path: Path, device: Any) -> Any:
        state = load(path, device)
        if part not in state:  # the best model
            return state
        fresh = prepare(config_dict=given, argv=[]).trainer
        replaced = {
            "attributes": dict,
            "random": random_state,
            "generators": lambda: {name: torch.Generator().get_state() for name in state["generators"]},
            "steppers": lambda: {"optimizer": fresh.optimizer.state_dict()},
        }
        return {**state, part: replaced[part]()}

    monkeypatch.setattr("recbole_oov.trainer.resume.store.load", forget)
    resumed = finish({**given, "resume": True})
    assert any(not torch.equal(weights, expected[0][name]) for name, weights in resumed[0].items())


# --- which run --------------------------------------------------------------------------------------------------------


def test_the_command_line(options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level("INFO")
    given = options("BPR")
    expected = recbole_oov.run(config_dict=given, argv=[])
    assert expected is not None
    file = interrupt(given, 3, monkeypatch)
    arguments = [f"--{key}={value}" for key, value in given.items()]
    assert main([*arguments, "--resume"]) == 0
    assert json.loads(file.read_text())["files"][0]["sha256"] in Path(expected["model_file"]).read_text()
    assert "3 epochs are done" in caplog.text
    assert main([*arguments, "--resume"]) == 0
    assert "no unfinished run of this configuration in saved; beginning anew" in caplog.text
    assert len(list(Path("saved").glob("*.json"))) == 3


def test_a_path_names_the_run_and_more_epochs_may_be_given(
    options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options("BPR", learning_rate=0.01)
    file = interrupt(given, 2, monkeypatch)
    interrupt(given, 3, monkeypatch)  # a newer one
    expected = finish({**given, "epochs": 7})
    resumed = finish({**given, "epochs": 7, "resume": str(file)})
    assert resumed[-1].start_epoch == 2 and resumed[-1].saved_model_file == str(file)
    assert_same(resumed, expected)


def test_the_metric_history_goes_on(options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    given = options("BPR", learning_rate=0.01)
    whole = finish(given)[-1]._metric_history()
    interrupt(given, 2, monkeypatch)
    resumed = finish({**given, "resume": True})[-1]
    assert resumed._metric_history() == whole
    assert [entry["epoch"] for entry in whole["valid"]] == list(whole["train_loss"]) == [0, 1, 2, 3, 4]
    saved = load(resumed.saved_model_file)
    assert saved["history"]["valid"] == whole["valid"][: saved["epoch"] + 1]


def test_another_configuration_is_refused_with_both_values(
    options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options("BPR")
    file = interrupt(given, 2, monkeypatch)
    other = {**given, "learning_rate": 0.5, "embedding_size": 8, "state": "ERROR"}
    with pytest.raises(ConfigError) as caught:
        prepare(config_dict={**other, "resume": str(file)}, argv=[])
    assert [error.split(";")[0] for error in caught.value.errors] == [
        f"resume: embedding_size is 8 and was 16 in the run {file.with_suffix('.progress.json')}",
        f"resume: learning_rate is 0.5 and was 0.001 in the run {file.with_suffix('.progress.json')}",
    ]
    assert prepare(config_dict={**other, "resume": True}, argv=[]).trainer.continue_from is None


def test_another_data_set_is_refused(
    options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, data_path: Path, tmp_path: Path
) -> None:
    given = options("BPR")
    interrupt(given, 2, monkeypatch)
    changed = tmp_path / "changed" / "circles"
    changed.mkdir(parents=True)
    rows = (data_path / "circles" / "circles.inter").read_text().splitlines()
    rows[5] = rows[5].replace(rows[5].split("\t")[1], "i3")
    (changed / "circles.inter").write_text("\n".join(rows) + "\n")
    with pytest.raises(ConfigError, match="data set 'circles' is not the one of the run"):
        finish({**given, "data_path": str(changed.parent), "resume": True})
    (changed / "circles.inter").write_bytes((data_path / "circles" / "circles.inter").read_bytes())
    finish({**given, "data_path": str(changed.parent), "resume": True})  # the same data elsewhere


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.with_suffix(".progress.json").unlink(), "of a run that has ended, or that wrote no states"),
        (lambda f: f.unlink(), "the best model of the unfinished run .* is missing"),
        (lambda f: next(f.parent.glob("*.progress.*.safetensors")).write_bytes(b""), "damaged"),
        (lambda f: f.with_suffix(".progress.json").write_bytes(b""), "no checkpoint, or its first lines are damaged"),
    ],
)
def test_what_cannot_be_resumed_is_refused(
    change: Callable[[Path], Any],
    message: str,
    options: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = options("BPR", learning_rate=0.01)
    file = interrupt(given, 2, monkeypatch)
    change(file)
    with pytest.raises((ConfigError, CheckpointError), match=message):
        finish({**given, "resume": str(file)})


def test_fewer_epochs_than_are_done_are_refused(
    options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options("BPR")
    interrupt(given, 3, monkeypatch)
    with pytest.raises(ConfigError, match="has done 3 epochs already, and epochs is 2; give more epochs"):
        finish({**given, "epochs": 2, "resume": True})


@pytest.mark.parametrize("name", ["NCLTrainer", "XGBoostTrainer", "LightGBMTrainer"])
def test_a_training_loop_of_its_own_is_refused(name: str) -> None:
    kind = type(name, (ResumeMixin, getattr(recbole_trainer, name)), {})
    reason = cannot_resume(object.__new__(kind))
    assert reason is not None and "has a training loop of its own" in reason


@pytest.mark.parametrize("name", ["Trainer", "KGATTrainer", "RecVAETrainer", "RaCTTrainer", "TraditionalTrainer"])
def test_other_trainers_of_recbole_can_be_resumed(name: str) -> None:
    kind = type(name, (ResumeMixin, getattr(recbole_trainer, name)), {})
    assert cannot_resume(object.__new__(kind)) is None


def test_a_run_of_several_processes_is_continued_by_as_many(options: Callable[..., dict[str, Any]]) -> None:
    given = options("BPR", epochs=3)
    made = prepare(config_dict=given, argv=[])
    made.trainer._begin(made.train_data, made.valid_data)
    made.trainer._save_progress(1)
    state = store.load(made.trainer._progress_file)
    store.save({**state, "others": [{}]}, made.trainer._progress_file)
    again = prepare(config_dict={**given, "resume": True}, argv=[])
    with pytest.raises(ConfigError, match="is a run of 2 processes, this one of 1; start as many as then"):
        again.trainer.fit(again.train_data, again.valid_data)


def test_wrong_values_are_reported_with_all_others(options: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(config_dict=options("BPR", resume=3, resume_step=-1), argv=[])
    assert sorted(error.split(":")[0] for error in caught.value.errors) == ["resume", "resume_step"]


# --- a disk that is full ----------------------------------------------------------------------------------------------


class FullDisk:
    """The ``os`` that checkpoints are written with, on which files of some names find no space."""

    def __init__(self, *names: str) -> None:
        self._names, self._full = names, set[int]()

    def __getattr__(self, name: str) -> Any:
        import os

        def open_(path: Any, *args: Any) -> int:
            descriptor = os.open(path, *args)
            if any(part in str(path) for part in self._names):
                self._full.add(descriptor)
            return descriptor

        def write(descriptor: int, content: Any) -> int:
            if descriptor in self._full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.write(descriptor, content)

        def close(descriptor: int) -> None:
            self._full.discard(descriptor)
            os.close(descriptor)

        return {"open": open_, "write": write, "close": close}.get(name) or getattr(os, name)


def test_no_space_for_the_state_does_not_end_the_run(
    options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = options("BPR")
    expected = finish(given)
    monkeypatch.setattr(files, "os", FullDisk(".progress."))
    assert_same(finish(given), expected)
    warnings = [record.message for record in caplog.records if "could not be continued" in record.message]
    assert len(warnings) == 4 and all("No space left on device" in text for text in warnings)


def test_no_space_for_the_best_model_is_an_error_that_says_what_to_do(
    options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "os", FullDisk(".safetensors"))
    assert main([f"--{key}={value}" for key, value in options("BPR").items()]) == 2
    error = capsys.readouterr().err
    assert "could not be written (No space left on device); make room there or choose another checkpoint_dir" in error
    assert not list(Path("saved").iterdir())


def test_a_run_may_leave_states_out(options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    file = interrupt(options("BPR", resume_step=0), 2, monkeypatch)
    assert [path.suffix for path in sorted(file.parent.iterdir())] == [".safetensors", ".json"]


def test_a_name_that_is_taken_is_not_taken_again(options: Callable[..., dict[str, Any]]) -> None:
    from recbole_oov.trainer.resume import _unused

    Path("BPR-now.progress.json").touch()
    Path("BPR-now-2.json").touch()
    assert _unused(Path("BPR-now.json")) == Path("BPR-now-3.json")
    assert SimpleNamespace(path=_unused(Path("BPR-then.json"))).path == Path("BPR-then.json")


def test_optimisers_follow_parameters_that_loading_made_anew() -> None:
    """OOVLLMRec takes the checkpoint's vocabulary, and with it new parts, where this machine would make another."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    before = {id(weights): name for name, weights in model.named_parameters()}
    model[1] = torch.nn.Linear(2, 2)
    follow([optimizer, scheduler], before, dict(model.named_parameters()))
    weights = model[1].weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[1].weight, weights)
    with pytest.raises(CheckpointError, match=r"the checkpoint's model has no 1.weight, 1.bias"):
        follow([optimizer], {id(w): n for n, w in model.named_parameters()}, dict(model[:1].named_parameters()))
