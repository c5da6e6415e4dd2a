"""Whole runs with a chosen sampler and with a search for one."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.trainer import Trainer

import recbole_oov
from recbole_oov import runner
from recbole_oov.cli import main
from recbole_oov.compat import load_checkpoint
from recbole_oov.errors import ConfigError
from recbole_oov.report.cells import Cell
from recbole_oov.report.measure import run_cell
from recbole_oov.sampler import NegativePools
from recbole_oov.sampler.work import dns_epoch
from recbole_oov.trainer.autosample import AutoSampleTrainer

RANDOM = "{'split': {'RS': [0.8, 0.1, 0.1]}, 'order': 'RO', 'group_by': 'user', 'mode': 'full'}"
SEARCH = {
    "samplers": "[uniform, dns, mixgcf]",
    "pool": 4,
    "finalists": 2,
    "search_budget": 16,
    "search_epochs": 2,
    "alpha_every": 2,
    "steering_batch_size": 64,
    "steering_negatives": 8,
}
ALL = (
    "[uniform, popularity, dns, dns_mn, softmax, {name: adasir, cache: 16, candidates: 16}, mixgcf, dins, ahns, "
    "{name: srns, pool: 4, candidates: 8}]"
)
"""All ten, with caches of a size that suits four hundred rows."""


def options(data_path: Path, **more: Any) -> dict[str, Any]:
    own = {
        "data_path": str(data_path),
        "eval_args": RANDOM,
        "leak_guard": "warn",
        "epochs": 3,
        "embedding_size": 16,
        "learning_rate": 0.02,
        "train_batch_size": 256,
        "show_progress": False,
    }
    return {**own, **more}


def train(data_path: Path, model: str, *, saved: bool = False, **more: Any) -> tuple[Any, Any]:
    """A trained experiment and its test result."""
    experiment = runner.prepare(model, "circles", config_dict=options(data_path, **more), argv=[])
    experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=saved, show_progress=False)
    return experiment, experiment.trainer.evaluate(experiment.test_data, load_best_model=saved, show_progress=False)


@pytest.mark.parametrize(
    ("model", "sampler"),
    [
        *(("BPR", name) for name in ("uniform", "popularity", "dns_mn", "softmax", "adasir", "dins", "ahns", "srns")),
        *(("LightGCN", name) for name in ("dins", "ahns_dins")),  # one candidate a layer, one for all
    ],
)
def test_a_run_with_a_sampler_is_decided_by_its_seed(data_path: Path, model: str, sampler: str) -> None:
    size = {} if sampler in ("uniform", "popularity") else {"pool": 4}
    both = [train(data_path, model, sampler={"name": sampler, **size})[0].model for _ in range(2)]
    weights = [model.item_embedding.weight for model in both]
    assert torch.equal(*weights), "the same seed, the same weights"


@pytest.mark.parametrize("model", ["LightGCN", "SimpleX"])
def test_held_out_rows_do_not_move_the_weights(data_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for permute in (False, True):
        experiment = runner.prepare(
            model, "circles", config_dict=options(data_path, sampler="{name: dns, pool: 4}"), argv=[]
        )
        if permute:
            for held in (experiment.valid_data, experiment.test_data):
                rows = held._dataset.inter_feat
                rows.interaction["item_id"] = rows["item_id"].flip(0)
        experiment.trainer.fit(experiment.train_data, None, saved=False, show_progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in experiment.model.parameters()]))
    assert torch.equal(*weights)


def test_the_sampler_learns_what_recbole_s_loader_teaches(data_path: Path) -> None:
    """Uniform negatives from the device and from RecBole's loader lead to the same quality."""
    results = [
        train(data_path, "BPR", epochs=30, metrics="[NDCG]", topk="[5]", valid_metric="NDCG@5", **more)[1]["ndcg@5"]
        for more in ({}, {"sampler": "uniform"})
    ]
    assert results[1] == pytest.approx(results[0], abs=0.08) and results[1] > 0.35


def test_sampling_can_go_on_where_it_was(data_path: Path) -> None:
    experiment, _ = train(data_path, "BPR", sampler="{name: srns, pool: 4}", epochs=2)
    trainer, data = experiment.trainer, experiment.train_data
    state = trainer.sampling_state()
    expected = [rows["item_id"] for rows in trainer._positives], trainer.drawing.draw(torch.tensor([1, 2]))
    other = runner.prepare("BPR", "circles", config_dict=options(data_path, sampler="{name: srns, pool: 4}"), argv=[])
    other.trainer.load_sampling_state(state, data)
    again = [rows["item_id"] for rows in other.trainer._positives], other.trainer.drawing.draw(torch.tensor([1, 2]))
    assert all(map(torch.equal, expected[0], again[0])) and torch.equal(expected[1], again[1])


def test_the_search_ends_in_a_run_with_the_sampler_it_chose(data_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers.clear()
    argv = [f"--{key}={value}" for key, value in options(data_path, **SEARCH).items()]
    assert main(["--model=AutoSample", "--dataset=circles", "--base_model=LightGCN", *argv]) == 0
    output = re.sub(r"\x1b\[[0-9;]*m", "", "".join(capfd.readouterr()))
    assert re.search(r"\[Search\] probabilities by epoch", output)
    assert len(re.findall(r"\[Search\] trained: \w+ 0\.\d+ on validation, \d+ epochs", output)) == 2
    chosen = re.search(r"chosen for LightGCN: (\w+)", output)
    assert chosen and chosen[1] in ("uniform", "dns", "mixgcf")
    assert re.search(r"\[Search\] cost: [\d.]+ s, [\d.]+ times", output) and "test result" in output
    assert re.search(r"plot of the probabilities", output)


def test_from_scratch_the_result_is_that_of_the_chosen_sampler_alone(data_path: Path) -> None:
    searched, result = train(data_path, "AutoSample", base_model="BPR", saved=True, **SEARCH)
    report = searched.trainer.search_report
    assert report.search_epochs == 2 and set(report.line_up) < {"uniform", "dns", "mixgcf"}
    assert report.chosen in report.line_up
    assert report.cpu_seconds > 0 and report.final_epochs == 3
    _, alone = train(data_path, "BPR", saved=True, sampler={"name": report.chosen, **report.options})
    assert result == alone


def work_of(data_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[Any, int, int]:
    """The trainer after its training; the counted work, and the evaluations on validation, of that training."""
    from recbole_oov.sampler.base_models import BaseModel

    bases: list[Any] = []
    stock = BaseModel.__init__
    with monkeypatch.context() as patched:
        patched.setattr(BaseModel, "__init__", lambda self, *a, **k: (stock(self, *a, **k), bases.append(self))[0])
        experiment = runner.prepare(model, "circles", config_dict=options(data_path, **more), argv=[])
        trainer, evaluations = experiment.trainer, []
        own = trainer.evaluate
        trainer.evaluate = lambda *a, **k: (evaluations.append(1), own(*a, **k))[1]
        trainer.fit(experiment.train_data, experiment.valid_data, saved=False, show_progress=False)
    return trainer, sum(base.work.total for base in bases), len(evaluations)


@pytest.mark.parametrize("search", ["gradient", "lot", "random", "halving"])
def test_a_search_costs_at_most_two_and_a_half_runs_of_dns(
    data_path: Path, search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default budget and all ten samplers against a run of DNS of 23 epochs, as it takes on ml-100k with BPR. What
    is kept is trained once, and not part of the search."""
    sampler = {"name": "dns", "pool": 8}
    dns, one, n_evaluations = work_of(data_path, "BPR", monkeypatch, sampler=sampler, epochs=23, stopping_step=23)
    assert len(dns.train_loss_dict) == 23 and n_evaluations == 23
    rows = len(dns._positives.rows["user_id"])
    assert one == pytest.approx(23 * dns_epoch(rows, 8), rel=0.01), "what the budget calls an epoch of dns"
    own = {"base_model": "BPR", "pool": 8, "search": search, "samplers": ALL, "epochs": 23, "stopping_step": 23}
    trainer, total, evaluations = work_of(data_path, "AutoSample", monkeypatch, **own)
    report = trainer.search_report
    kept = report.trainings[report.kept]
    cost = total / dns_epoch(rows, 8) - kept.work
    assert cost <= 2.5 * 23 and evaluations - kept.epochs <= 2.5 * n_evaluations
    assert len(report.samplers) == 10
    others = sum(training.work for training in report.others)
    assert report.gradient_work + report.comparison_work + others == pytest.approx(cost, rel=0.01)
    assert cost > 0.6 * 56, "the budget is used, by all searches alike"


def test_one_sampler_can_be_a_candidate_with_several_options(data_path: Path) -> None:
    """The easiest of all pools against one that finds what a user would click next: not the same run twice."""
    samplers = "[{name: dns, pool: 1}, {name: dns, pool: 8}]"
    experiment, _ = train(data_path, "AutoSample", base_model="BPR", **{**SEARCH, "samplers": samplers})
    report, trainer = experiment.trainer.search_report, experiment.trainer
    assert report.samplers == ["dns pool 1", "dns pool 8"]
    assert sorted(report.line_up) == report.samplers and len({own.score for own in report.trainings}) == 2
    assert report.chosen == "dns" and report.options["pool"] in (1, 8)
    assert trainer.drawing.size == report.options["pool"]


def test_without_probabilities_the_order_is_drawn_by_lot(data_path: Path) -> None:
    orders = []
    for seed in range(2020, 2025):
        own = {**SEARCH, "samplers": ALL, "search": "lot", "finalists": 3, "seed": seed, "epochs": 1}
        experiment, _ = train(data_path, "AutoSample", base_model="BPR", **own)
        report = experiment.trainer.search_report
        assert report.trajectory == [] and report.gradient_work == report.comparison_work == 0
        orders.append(tuple(report.line_up))
    assert len(set(orders)) > 1 and all(len(order) == 3 and order[0] == "dns" for order in orders)


def test_what_a_candidate_reaches_does_not_depend_on_the_others(data_path: Path) -> None:
    """NeuMF has dropout: its random numbers are each candidate's own, whoever was trained before."""
    found = []
    for samplers in ("[dns, uniform, popularity]", "[popularity, dns, uniform]"):
        search = {**SEARCH, "samplers": samplers, "search": "random", "search_budget": 24, "finalists": 3}
        given = options(data_path, **search, base_model="NeuMF", dropout_prob=0.5)
        del given["embedding_size"]
        experiment = runner.prepare("AutoSample", "circles", config_dict=given, argv=[])
        experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False, show_progress=False)
        found.append(experiment.trainer.search_report.compared)
    assert found[0] == found[1] and len(set(found[0].values())) == 3


def test_a_search_that_cannot_keep_its_budget_says_so(data_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samplers = "[{name: dns, pool: 1}, {name: dns, pool: 13}]"
    options = {**SEARCH, "samplers": samplers, "search": "halving", "search_budget": 2, "pool": 1}
    with caplog.at_level(logging.WARNING):
        train(data_path, "AutoSample", base_model="BPR", **options)
    assert "search_budget: 2, but the search did the work of" in caplog.text


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hard_samplers_become_probable_where_they_learn_more(data_path: Path, seed: int) -> None:
    """Users of one circle have each other's items as hardest negatives: easy ones teach nothing after an epoch."""
    samplers = "[uniform, popularity, dns, {name: dns_mn, pool: 4, m: 2}]"
    more = {"samplers": samplers, "search_epochs": 4, "search_budget": 40, "steering_pool": 64, "seed": seed}
    experiment, _ = train(data_path, "AutoSample", base_model="BPR", **{**SEARCH, **more})
    report = experiment.trainer.search_report
    p = dict(zip(report.samplers, report.trajectory[-1], strict=True))
    assert p["dns"] + p["dns_mn"] > 0.7 and report.chosen in ("dns", "dns_mn")


def test_the_mixture_costs_no_search(data_path: Path) -> None:
    experiment, result = train(data_path, "AutoSample", base_model="BPR", search="mixture", **SEARCH)
    report = experiment.trainer.search_report
    assert result and report.chosen == "mixture" and report.comparison_work == report.gradient_work == 0


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A search whose candidates are trained in the order in which they are named; one is of no use."""
    from recbole_oov.sampler import choice
    from recbole_oov.trainer import autosample

    choice.get_sampler("dns")
    monkeypatch.setattr(choice, "_samplers", dict(choice._samplers))
    choice.register_sampler("easiest", pool=4)(lambda batch: choice.Choice(batch.scores.argmin(dim=1)))
    monkeypatch.setattr(autosample, "most_probable_first", lambda p: list(range(len(p))))
    search = {key: value for key, value in SEARCH.items() if key != "samplers"}
    return {"base_model": "BPR", **search, "first": "srns", "search_budget": 200, "epochs": 25, "stopping_step": 6}


FIRST, SECOND = "[dns, easiest]", "[easiest, dns]"
"""The better one is the first of these, the second of those."""


@pytest.mark.parametrize(
    ("first", "expected"), [("dns", "dns pool 4"), ("{name: dns, pool: 8}", "dns pool 8"), ("softmax", "uniform")]
)
def test_a_cheap_one_is_trained_first_where_it_is_a_candidate(
    data_path: Path, in_order: dict[str, Any], first: str, expected: str
) -> None:
    samplers = "[uniform, {name: dns, pool: 4}, {name: dns, pool: 8}]"
    own = {**in_order, "samplers": samplers, "first": first, "epochs": 1}
    report = train(data_path, "AutoSample", **own)[0].trainer.search_report
    assert report.line_up == sorted(report.samplers, key=lambda name: name != expected)[:2]


@pytest.mark.parametrize("samplers", [FIRST, SECOND])
def test_the_better_of_two_trainings_is_kept_whichever_was_first(
    data_path: Path, in_order: dict[str, Any], samplers: str
) -> None:
    epochs: list[int] = []
    own = options(data_path, **in_order, samplers=samplers)
    experiment = runner.prepare("AutoSample", "circles", config_dict=own, argv=[])
    trainer = experiment.trainer
    best, result = trainer.fit(
        experiment.train_data, experiment.valid_data, show_progress=False, callback_fn=lambda e, _: epochs.append(e)
    )
    report = trainer.search_report
    assert [training.name for training in report.trainings] == report.line_up == samplers.strip("[]").split(", ")
    assert report.winner == report.chosen == "dns" and report.options["pool"] == 4
    assert sum(training.epochs for training in report.trainings) == len(epochs) and epochs.count(0) == 2
    (dropped,) = report.others
    assert dropped.name == "easiest" and report.seconds > dropped.seconds > 0, "what is not kept counts to the search"
    kept = report.trainings[report.kept]
    assert report.final_seconds == kept.seconds and report.final_epochs == kept.epochs == len(trainer.train_loss_dict)
    # All that is left of the run is what the chosen sampler alone leaves.
    alone, expected = train(
        data_path, "BPR", saved=True, sampler={"name": "dns", "pool": 4}, epochs=25, stopping_step=6
    )
    assert trainer.evaluate(experiment.test_data, load_best_model=True, show_progress=False) == expected
    assert best == trainer.best_valid_score == alone.trainer.best_valid_score and dict(result) == dict(
        alone.trainer.best_valid_result
    )
    assert trainer.train_loss_dict == alone.trainer.train_loss_dict and trainer.cur_step == alone.trainer.cur_step
    assert [entry["valid_score"] for entry in trainer.valid_history] == [
        entry["valid_score"] for entry in alone.trainer.valid_history
    ]
    own_file, other = (load_checkpoint(one.saved_model_file) for one in (trainer, alone.trainer))
    assert own_file["epoch"] == other["epoch"] and own_file["cur_step"] == other["cur_step"]
    for name, weights in other["state_dict"].items():
        assert torch.equal(weights, own_file["state_dict"][f"base.{name}"]), name
    for at, state in other["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg"], own_file["optimizer"]["state"][at]["exp_avg"])


def test_without_a_checkpoint_the_better_one_s_latest_weights_are_kept(
    data_path: Path, in_order: dict[str, Any]
) -> None:
    both, result = train(data_path, "AutoSample", **in_order, samplers=FIRST)
    alone, expected = train(data_path, "BPR", sampler={"name": "dns", "pool": 4}, epochs=25, stopping_step=6)
    assert both.trainer.search_report.winner == "dns" and result == expected
    assert torch.equal(both.model.base.item_embedding.weight, alone.model.item_embedding.weight)


def test_one_that_is_not_ahead_where_the_budget_ends_is_given_up(data_path: Path, in_order: dict[str, Any]) -> None:
    short = {**in_order, "stopping_step": 25, "search_budget": 33}
    dear = "[{name: dns, pool: 4}, {name: easiest, pool: 12}]"
    report = train(data_path, "AutoSample", **short, samplers=dear)[0].trainer.search_report
    first, second = report.trainings
    assert report.winner == "dns" and not first.cut and second.cut and second.epochs < first.epochs == 25
    assert report.gradient_work + second.work <= 33
    # One that is ahead by then is trained to its end, however long that takes.
    dear = "[{name: easiest, pool: 4}, {name: dns, pool: 8}]"
    report = train(data_path, "AutoSample", **short, samplers=dear)[0].trainer.search_report
    first, second = report.trainings
    assert report.winner == "dns" and not second.cut and report.gradient_work + second.work > 33


def test_one_that_stays_behind_gets_half_the_patience(data_path: Path, in_order: dict[str, Any]) -> None:
    report = train(data_path, "AutoSample", **in_order, samplers=FIRST)[0].trainer.search_report
    _, second = report.trainings
    assert not second.cut and second.waited == 4, "a stopping_step of 6 alone would wait for 7"


def test_nothing_is_begun_when_the_budget_is_spent(data_path: Path, in_order: dict[str, Any]) -> None:
    spent = {**in_order, "samplers": "[easiest, dns, uniform]", "search_budget": 33, "finalists": 3}
    report = train(data_path, "AutoSample", **spent)[0].trainer.search_report
    assert report.line_up == ["easiest", "dns", "uniform"] and report.winner == "dns"
    assert len(report.trainings) == 2, "a third that won would make the second part of the search"


def test_a_budget_for_one_training_alone_says_so(
    data_path: Path, in_order: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        report = train(data_path, "AutoSample", **in_order, samplers=FIRST)[0].trainer.search_report
        assert len(report.trainings) == 2 and "search_budget" not in caplog.text
        short = {**in_order, "samplers": FIRST, "search_budget": 12}
        report = train(data_path, "AutoSample", **short)[0].trainer.search_report
    assert [own.name for own in report.trainings] == ["dns"]
    assert re.search(r"search_budget: 12, but the probabilities and dns alone did the work of \d+ epochs", caplog.text)
    needed = int(re.search(r"raise search_budget to about (\d+)", caplog.text)[1])  # type: ignore[index]
    enough = {**in_order, "samplers": FIRST, "search_budget": needed}
    assert len(train(data_path, "AutoSample", **enough)[0].trainer.search_report.trainings) == 2


@pytest.mark.parametrize("search", ["gradient", "lot"])
def test_without_a_budget_another_one_is_trained_however_long_a_training_is(
    data_path: Path, in_order: dict[str, Any], search: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The search is worth 2.5 trainings like the first, or one beside the probabilities where those are dear."""
    free = {**in_order, "search": search, "search_budget": None}
    for epochs in (2, 25):
        three = {**free, "samplers": "[easiest, dns, uniform]", "finalists": 3, "epochs": epochs}
        with caplog.at_level(logging.WARNING):
            report = train(data_path, "AutoSample", **three)[0].trainer.search_report
        assert "search_budget" not in caplog.text and len(report.trainings) >= 2
        spent = report.gradient_work + sum(own.work for own in report.others)
        first = report.trainings[0].work
        dear = report.gradient_work > 1.5 * first
        assert dear == (search == "gradient" and epochs == 2)
        assert spent <= (report.gradient_work + first if dear else 2.5 * first)


def test_one_finalist_is_the_most_probable(data_path: Path, in_order: dict[str, Any]) -> None:
    alone = {**in_order, "samplers": SECOND, "first": "dns", "finalists": 1, "epochs": 1}
    assert train(data_path, "AutoSample", **alone)[0].trainer.search_report.line_up == ["easiest"]


def test_one_that_breaks_down_leaves_what_was_good(
    data_path: Path, in_order: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = AutoSampleTrainer._train_epoch

    def diverge(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        if self.search_report.winner == "easiest" and epoch_idx == 4:
            raise ValueError("Training loss is nan")
        return stock(self, train_data, epoch_idx, *args, **kwargs)

    monkeypatch.setattr(AutoSampleTrainer, "_train_epoch", diverge)
    own = options(data_path, **in_order, samplers=FIRST)
    experiment = runner.prepare("AutoSample", "circles", config_dict=own, argv=[])
    with pytest.raises(ValueError, match="Training loss is nan"):
        experiment.trainer.fit(experiment.train_data, experiment.valid_data, show_progress=False)
    alone, _ = train(data_path, "BPR", saved=True, sampler={"name": "dns", "pool": 4}, epochs=25, stopping_step=6)
    left, expected = (load_checkpoint(one.saved_model_file) for one in (experiment.trainer, alone.trainer))
    for name, weights in expected["state_dict"].items():
        assert torch.equal(weights, left["state_dict"][f"base.{name}"]), name


def test_what_is_given_up_is_said_and_not_reported_as_a_result(
    data_path: Path, in_order: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[float] = []
    monkeypatch.setattr(Trainer, "_add_hparam_to_tensorboard", lambda self, best: reported.append(best))
    with caplog.at_level(logging.INFO):
        experiment, _ = train(data_path, "AutoSample", **in_order, samplers=FIRST)
    assert reported == [experiment.trainer.best_valid_score]
    assert re.search(r"\[Search\] easiest given up: 0\.\d+ on validation, where dns reached 0\.\d+\n", caplog.text)


def test_the_row_of_a_search_has_the_curve_of_what_was_kept(
    data_path: Path, in_order: dict[str, Any], tmp_path: Path
) -> None:
    for samplers in (FIRST, SECOND):
        given = {**options(data_path, **in_order, samplers=samplers), "seed": 2020}
        row = run_cell(Cell("search", "AutoSample", "circles", given, measure="users"), tmp_path / samplers)
        assert row["search"]["winner"] == "dns" and len(row["search"]["trainings"]) == 2
        assert [epoch for epoch, _ in row["valid_scores"]] == list(range(row["epochs"]))
        assert row["best_valid"] == pytest.approx(max(score for _, score in row["valid_scores"]), abs=1e-6)


@pytest.mark.parametrize("samplers", [FIRST, SECOND])
@pytest.mark.parametrize(("cut_at", "of_the_second"), [(3, False), (3, True), (0, True)])
def test_a_run_with_several_trainings_can_be_continued(
    data_path: Path,
    in_order: dict[str, Any],
    samplers: str,
    cut_at: int,
    of_the_second: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {**in_order, "samplers": samplers, "initialisation": "warm" if of_the_second else "scratch"}
    expected, result = train(data_path, "AutoSample", saved=True, **own)
    expected.trainer.forget_progress()
    report = expected.trainer.search_report
    stock, begun, cuts = AutoSampleTrainer._train_epoch, [], []

    def cut_off(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        begun.append(epoch_idx)
        loss = stock(self, train_data, epoch_idx, *args, **kwargs)
        if not cuts and epoch_idx == cut_at and begun.count(cut_at) == 1 + of_the_second:
            cuts.append(epoch_idx)
            raise KeyboardInterrupt
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(AutoSampleTrainer, "_train_epoch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(data_path, "AutoSample", saved=True, **own)
        torch.rand(7)  # a new process begins elsewhere
        begun.clear()
        resumed, again = train(data_path, "AutoSample", saved=True, resume=True, **own)
    first, second = (training.epochs for training in report.trainings)
    assert len(begun) == first + second - cut_at - first * of_the_second, "what was done is not done again"
    assert again == result and resumed.trainer.search_report.winner == report.winner
    assert resumed.trainer.train_loss_dict == expected.trainer.train_loss_dict
    for name, weights in expected.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("initialisation", ["rewind", "warm"])
def test_the_final_training_may_start_from_the_search(
    data_path: Path, initialisation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    stock = AutoSampleTrainer.begin_again
    monkeypatch.setattr(
        AutoSampleTrainer,
        "begin_again",
        lambda self, weights=None: (stock(self, weights), starts.append((self._beginning[0], self._weights()))),
    )
    train(data_path, "AutoSample", base_model="BPR", initialisation=initialisation, **SEARCH)
    assert len(starts) == 2, "both trainings"
    for before, after in starts:
        assert not torch.equal(before["base.item_embedding.weight"], after["base.item_embedding.weight"])


def test_models_whose_vectors_are_not_known_are_searched_without_mixing(
    data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole_oov.sampler.base_models import KNOWN

    monkeypatch.delitem(KNOWN, "BPR")
    experiment, _ = train(data_path, "AutoSample", base_model="BPR", **SEARCH)
    assert experiment.trainer.search_report.samplers == ["uniform", "dns"]
    with pytest.raises(
        ConfigError, match=r"samplers: mixgcf, dins make negatives that are no items, .* BPR are not known"
    ):
        train(data_path, "AutoSample", base_model="BPR", **{**SEARCH, "samplers": "[dns, mixgcf, dins]"})


@pytest.mark.parametrize("model", ["BPR", "AutoSample"])
def test_a_model_that_makes_graphs_of_its_own_can_be_sampled_for(
    data_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGL draws two graphs whenever it is put into training: once an epoch, as with RecBole's sampling."""
    from recbole.model.general_recommender import SGL

    drawn = []
    stock = SGL.graph_construction
    monkeypatch.setattr(SGL, "graph_construction", lambda self: (drawn.append(1), stock(self))[1])
    if model == "AutoSample":
        search = {**SEARCH, "samplers": "[uniform, dns]", "search_epochs": 1}
        experiment, _ = train(data_path, "AutoSample", base_model="SGL", n_layers=1, **search)
        assert experiment.trainer.search_report.chosen in ("uniform", "dns")
        return
    experiment, _ = train(data_path, "SGL", sampler={"name": "dns", "pool": 4}, n_layers=1, epochs=2)
    assert len(drawn) <= 2 * 2 + 2, "twice an epoch at most, and for the check before the first"


def test_a_search_follows_the_metric_of_a_group_of_items(data_path: Path) -> None:
    search = {
        **SEARCH,
        "oov_split": "random",
        "topk": 5,
        "valid_metric": "iv_ndcg@5",
        "leak_guard": "error",
        "epochs": 1,
    }
    given = {key: value for key, value in options(data_path, **search).items() if key != "eval_args"}
    experiment = runner.prepare("AutoSample", "circles", config_dict={**given, "base_model": "BPR"}, argv=[])
    experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False, show_progress=False)
    report = experiment.trainer.search_report
    assert report.chosen in ("uniform", "dns", "mixgcf") and all(0 < own.score <= 1 for own in report.trainings)


@pytest.mark.parametrize("base", ["NGCF", "NeuMF", "DMF", "SimpleX"])
def test_every_base_model_named_can_be_searched_for(data_path: Path, base: str) -> None:
    more = {"embedding_size": None} if base == "NeuMF" else {}
    given = {**options(data_path, **SEARCH, epochs=1), **more}
    given = {key: value for key, value in given.items() if value is not None}
    experiment = runner.prepare("AutoSample", "circles", config_dict={**given, "base_model": base}, argv=[])
    experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False, show_progress=False)
    assert experiment.trainer.search_report.chosen in ("uniform", "dns", "mixgcf")


def test_a_search_without_validation_and_a_pool_too_large_are_refused(data_path: Path) -> None:
    without = "{'split': {'RS': [0.9, 0, 0.1]}, 'order': 'RO', 'group_by': 'user', 'mode': 'full'}"
    with pytest.raises((ConfigError, recbole_oov.errors.DataError), match=r"validation"):
        train(data_path, "AutoSample", base_model="BPR", **{**SEARCH, "eval_args": without})
    with pytest.raises(ConfigError, match=r"sampler pool: 1000 is more than the \d+ items that the user"):
        train(data_path, "BPR", sampler={"name": "dns", "pool": 1000})


def test_pools_are_drawn_from_training_alone(data_path: Path) -> None:
    experiment, _ = train(data_path, "BPR", sampler="popularity", epochs=1)
    pools = experiment.trainer.drawing.pools
    assert isinstance(pools, NegativePools)
    rows = experiment.train_data._dataset.inter_feat["item_id"]
    assert torch.equal(pools.counts[1:], torch.bincount(rows, minlength=pools.n_items)[1:])


@pytest.mark.parametrize(
    ("negatives", "first", "last"),
    [
        (64, {"uniform"}, {"dns", "dins", "ahns", "mixgcf"}),
        (8, {"dns", "dins", "ahns"}, {"uniform", "popularity", "adasir"}),
    ],
)
def test_how_hard_validation_negatives_are_decides_what_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, negatives: int, first: set[str], last: set[str]
) -> None:
    """docs/papers.md, "what the criterion measures": of real data, with all ten, where dns and dins end best."""
    monkeypatch.chdir(tmp_path)
    own = {
        "base_model": "BPR",
        "samplers": ALL.replace("cache: 16, candidates: 16", "cache: 500, candidates: 500"),
        "pool": 8,
        "steering_pool": 64,
        "steering_negatives": negatives,
        "search_epochs": 6,
        "search_budget": 90,
        "finalists": 1,
        "metrics": ["NDCG"],
        "topk": [20],
        "valid_metric": "NDCG@20",
        "embedding_size": 32,
        "learning_rate": 0.005,
        "train_batch_size": 4096,
        "load_col": {"inter": ["user_id", "item_id"]},
        "epochs": 1,
        "show_progress": False,
    }
    experiment = runner.prepare("AutoSample", "ml-100k", config_dict=own, argv=[])
    experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False, show_progress=False)
    report = experiment.trainer.search_report
    assert report.search_epochs == 6
    p = dict(zip(report.samplers, report.trajectory[-1], strict=True))
    order = sorted(p, key=lambda name: -p[name])
    assert order[0] in first and sum(p[name] for name in last) < 0.1
