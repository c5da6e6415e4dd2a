"""Whole runs with a chosen sampler and with a search for one."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recbole_oov
from recbole_oov import runner
from recbole_oov.cli import main
from recbole_oov.errors import ConfigError
from recbole_oov.report.cells import Cell
from recbole_oov.report.measure import run_cell
from recbole_oov.sampler import NegativePools
from recbole_oov.sampler.work import dns_epoch
from recbole_oov.trainer.autosample import AutoSampleTrainer
from recbole_oov.trainer.search_report import report_lines

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


@pytest.mark.parametrize("sampler", ["uniform", "popularity", "dns_mn", "softmax", "adasir", "dins", "ahns", "srns"])
def test_a_run_with_a_sampler_is_decided_by_its_seed(data_path: Path, sampler: str) -> None:
    size = {} if sampler in ("uniform", "popularity") else {"pool": 4}
    both = [train(data_path, "BPR", sampler={"name": sampler, **size})[0].model for _ in range(2)]
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
    assert re.search(r"\[Search\] probabilities by epoch", output) and re.search(
        r"compared on validation: mixgcf", output
    )
    chosen = re.search(r"chosen for LightGCN: (\w+)", output)
    assert chosen and chosen[1] in ("uniform", "dns", "mixgcf")
    assert re.search(r"\[Search\] cost: [\d.]+ s, [\d.]+ times", output) and "test result" in output
    assert re.search(r"plot of the probabilities", output)


def test_from_scratch_the_result_is_that_of_the_chosen_sampler_alone(data_path: Path) -> None:
    searched, result = train(data_path, "AutoSample", base_model="BPR", saved=True, **SEARCH)
    report = searched.trainer.search_report
    assert report.search_epochs == 2 and set(report.finalists) < {"uniform", "dns", "mixgcf"}
    assert report.chosen in report.finalists
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
        if model == "AutoSample":
            trainer.remember(experiment.train_data, experiment.valid_data)
            trainer._note_beginning()
            trainer.search(experiment.train_data, experiment.valid_data)
        else:
            trainer.fit(experiment.train_data, experiment.valid_data, saved=False, show_progress=False)
    return trainer, sum(base.work.total for base in bases), len(evaluations)


@pytest.mark.parametrize("search", ["gradient", "comparison", "random", "halving"])
def test_a_search_costs_at_most_two_and_a_half_runs_of_dns(
    data_path: Path, search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default budget and all ten samplers against a run of DNS of 23 epochs, as it takes on ml-100k with BPR."""
    sampler = {"name": "dns", "pool": 8}
    dns, one, n_evaluations = work_of(data_path, "BPR", monkeypatch, sampler=sampler, epochs=23, stopping_step=23)
    assert len(dns.train_loss_dict) == 23 and n_evaluations == 23
    rows = len(dns._positives.rows["user_id"])
    assert one == pytest.approx(23 * dns_epoch(rows, 8), rel=0.01), "what the budget calls an epoch of dns"
    own = {"base_model": "BPR", "pool": 8, "search": search, "samplers": ALL}
    trainer, cost, evaluations = work_of(data_path, "AutoSample", monkeypatch, **own)
    assert cost <= 2.5 * one and evaluations <= 2.5 * n_evaluations
    report = trainer.search_report
    assert len(report.samplers) == 10
    assert report.gradient_work + report.comparison_work == pytest.approx(cost / dns_epoch(rows, 8), rel=0.01)
    assert cost > 0.6 * 56 * dns_epoch(rows, 8), "the budget is used, by all searches alike"


def test_one_sampler_can_be_a_candidate_with_several_options(data_path: Path) -> None:
    """The easiest of all pools against one that finds what a user would click next: not the same run twice."""
    samplers = "[{name: dns, pool: 1}, {name: dns, pool: 8}]"
    options = {**SEARCH, "samplers": samplers, "trunk": "{name: dns, pool: 8}"}
    experiment, _ = train(data_path, "AutoSample", base_model="BPR", **options)
    report, trainer = experiment.trainer.search_report, experiment.trainer
    assert report.samplers == ["dns pool 1", "dns pool 8"] and len(set(report.finalists.values())) == 2
    assert report.chosen == "dns" and report.options["pool"] in (1, 8)
    assert trainer.drawing.size == report.options["pool"]


def test_a_comparison_alone_compares_all_from_the_trunk_and_learns_no_probabilities(data_path: Path) -> None:
    options = {**SEARCH, "search": "comparison"}
    experiment, _ = train(data_path, "AutoSample", base_model="BPR", **options)
    report = experiment.trainer.search_report
    assert report.trajectory == [] and report.gradient_work == 0 < report.comparison_work
    assert set(report.finalists) == set(report.samplers) and report.trunk_epochs > 0
    assert min(report.contender_epochs.values()) > report.trunk_epochs


def test_what_a_candidate_reaches_does_not_depend_on_the_others(data_path: Path) -> None:
    """NeuMF has dropout: its random numbers are each candidate's own, whoever was trained before."""
    found = []
    for samplers in ("[dns, uniform, popularity]", "[popularity, dns, uniform]"):
        search = {**SEARCH, "samplers": samplers, "search": "comparison", "search_budget": 24}
        given = options(data_path, **search, base_model="NeuMF", dropout_prob=0.5)
        del given["embedding_size"]
        experiment = runner.prepare("AutoSample", "circles", config_dict=given, argv=[])
        experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False, show_progress=False)
        found.append(experiment.trainer.search_report.finalists)
    assert found[0] == found[1] and len(set(found[0].values())) == 3


def test_a_search_that_cannot_keep_its_budget_says_so(data_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samplers = "[{name: dns, pool: 1}, {name: dns, pool: 13}]"
    options = {**SEARCH, "samplers": samplers, "search": "halving", "search_budget": 2, "pool": 1}
    with caplog.at_level(logging.WARNING):
        train(data_path, "AutoSample", base_model="BPR", trunk="uniform", **options)
    assert "search_budget: 2, but the search did the work of" in caplog.text


def test_the_trunk_s_pool_is_refused_before_the_search(data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoSampleTrainer, "_gradient_search", lambda *_: pytest.fail("searched first"))
    with pytest.raises(ConfigError, match="trunk pool: 5000 is more than the"):
        train(data_path, "AutoSample", base_model="BPR", trunk="{name: dns, pool: 5000}", **SEARCH)


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


def test_the_finalists_start_where_the_trunk_ends(data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Any] = []
    stock = AutoSampleTrainer._advance

    def advance(self: Any, contender: Any, epochs: int, valid_data: Any) -> int:
        if valid_data is not None and not contender.values:
            starts.append((contender.epochs, contender.state["model"]["base.item_embedding.weight"].clone()))
        return stock(self, contender, epochs, valid_data)

    monkeypatch.setattr(AutoSampleTrainer, "_advance", advance)
    experiment, _ = train(data_path, "AutoSample", base_model="BPR", **{**SEARCH, "search_budget": 40})
    epochs = experiment.trainer.search_report.trunk_epochs
    assert epochs > 1 and [epoch for epoch, _ in starts] == [epochs, epochs]
    assert torch.equal(starts[0][1], starts[1][1])


@pytest.mark.parametrize("trunk", ["uniform", "dns"])
def test_nothing_behind_the_trunk_s_own_sampler_wins(
    data_path: Path, trunk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of the two is the more probable, and neither is significantly behind the other.
    values = {True: np.array([0.5, 0.45, 0.5, 0.5]), False: np.array([0.45, 0.5, 0.45, 0.5])}
    monkeypatch.setattr(
        AutoSampleTrainer, "_selection_values", lambda self, valid_data: values[self.drawing.sampler.name == trunk]
    )
    own = {**SEARCH, "samplers": "[uniform, dns]", "trunk": trunk}
    experiment, _ = train(data_path, "AutoSample", base_model="BPR", **own)
    assert experiment.trainer.search_report.winner == trunk


@pytest.fixture
def easiest(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A search that ends on a sampler of the items that need no learning, from weights that dns has trained."""
    from recbole_oov.sampler import choice
    from recbole_oov.trainer import autosample

    choice.get_sampler("dns")
    monkeypatch.setattr(choice, "_samplers", dict(choice._samplers))
    choice.register_sampler("easiest", pool=4)(lambda batch: choice.Choice(batch.scores.argmin(dim=1)))
    monkeypatch.setattr(
        autosample,
        "most_probable_of_the_best",
        lambda contenders, of_the_trunk: next(c for c in contenders if c.name == "easiest"),
    )
    return {"base_model": "BPR", **SEARCH, "samplers": "[dns, easiest]", "search_budget": 60, "epochs": 40}


def test_a_winner_that_ends_below_the_trunk_s_level_is_given_up(
    data_path: Path, easiest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    clock: list[float] = []
    counted: list[float] = []
    stock = AutoSampleTrainer._give_up

    def give_up(self: Any, report: Any) -> None:
        clock.append(time.perf_counter())
        before = report.seconds
        stock(self, report)
        counted.append(report.seconds - before)

    def evaluated(epoch: int, score: float) -> None:
        epochs.append(epoch)
        clock.append(time.perf_counter())

    monkeypatch.setattr(AutoSampleTrainer, "_give_up", give_up)
    experiment = runner.prepare("AutoSample", "circles", config_dict=options(data_path, **easiest), argv=[])
    trainer = experiment.trainer
    best, _ = trainer.fit(experiment.train_data, experiment.valid_data, show_progress=False, callback_fn=evaluated)
    report = trainer.search_report
    assert report.given_up == "easiest" and report.winner == report.chosen == "dns" and report.options["pool"] == 4
    assert report.reached < report.finalists["dns"]
    assert report.given_up_epochs + report.final_epochs == len(epochs) and epochs.count(0) == 2
    of_the_first = clock[report.given_up_epochs] - clock[0]
    assert len(counted) == 1 and counted[0] > of_the_first > 0, "what was given up counts to the search"
    assert [line for line in report_lines(report) if "easiest given up: its own training reached" in line]
    result = trainer.evaluate(experiment.test_data, load_best_model=True, show_progress=False)
    single = {"saved": True, "sampler": {"name": "dns", "pool": 4}, "epochs": 40}
    alone, expected = train(data_path, "BPR", **single)
    assert result == expected and best == alone.trainer.best_valid_score
    # Too short a training comes up to nothing, and says nothing of the sampler.
    experiment, _ = train(data_path, "AutoSample", **{**easiest, "epochs": 2})
    assert experiment.trainer.search_report.winner == "easiest"


def test_the_row_of_a_search_that_gave_up_is_of_the_last_training(
    data_path: Path, easiest: dict[str, Any], tmp_path: Path
) -> None:
    given = {**options(data_path, **easiest), "seed": 2020}
    row = run_cell(Cell("search", "AutoSample", "circles", given, measure="users"), tmp_path)
    assert row["search"]["given_up"] == "easiest"
    assert [epoch for epoch, _ in row["valid_scores"]] == list(range(row["epochs"]))
    assert row["best_valid"] == pytest.approx(max(score for _, score in row["valid_scores"]), abs=1e-6)


@pytest.mark.parametrize(("cut_at", "of_the_second"), [(3, False), (3, True), (0, True)])
def test_a_run_that_gives_its_winner_up_can_be_continued(
    data_path: Path,
    easiest: dict[str, Any],
    cut_at: int,
    of_the_second: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, result = train(data_path, "AutoSample", saved=True, **easiest)
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
            train(data_path, "AutoSample", saved=True, **easiest)
        torch.rand(7)  # a new process begins elsewhere
        begun.clear()
        resumed, again = train(data_path, "AutoSample", saved=True, resume=True, **easiest)
    both = report.given_up_epochs + report.final_epochs
    done = cut_at + (report.given_up_epochs if of_the_second else 0)
    assert len(begun) == both - done, "what was done is not done again"
    assert again == result and resumed.trainer.search_report.given_up == "easiest"
    assert resumed.trainer.train_loss_dict == expected.trainer.train_loss_dict
    for name, weights in expected.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name


def test_what_is_trained_in_the_place_of_another_starts_at_the_beginning(
    data_path: Path, easiest: dict[str, Any]
) -> None:
    experiment, result = train(data_path, "AutoSample", saved=True, initialisation="warm", **easiest)
    assert experiment.trainer.search_report.given_up == "easiest"
    assert result == train(data_path, "BPR", saved=True, sampler={"name": "dns", "pool": 4}, epochs=40)[1]


@pytest.mark.parametrize("initialisation", ["rewind", "warm"])
def test_the_final_training_may_start_from_the_search(
    data_path: Path, initialisation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    stock = AutoSampleTrainer._begin_again
    monkeypatch.setattr(
        AutoSampleTrainer,
        "_begin_again",
        lambda self, weights: (stock(self, weights), starts.append((self._beginning[0], self._weights()))),
    )
    train(data_path, "AutoSample", base_model="BPR", initialisation=initialisation, **SEARCH)
    before, after = starts[0]
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
    with pytest.raises(ConfigError, match=r"trunk: mixgcf makes negatives that are no items"):
        train(data_path, "AutoSample", base_model="BPR", trunk="mixgcf", **SEARCH)


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
    steering = experiment.trainer.search_report
    assert steering.chosen in ("uniform", "dns", "mixgcf") and all(0 < v <= 1 for v in steering.finalists.values())


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
