"""USIM as a model of RecBole's: three stages, what inference may see, what a person is shown, and bad options."""

from __future__ import annotations

import copy
import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_oov.compat import load_checkpoint
from recbole_oov.errors import ConfigError
from recbole_oov.model.content_network import content_neighbours
from recbole_oov.model.imagination import STOP_RULES
from recbole_oov.model.usim import USIM
from recbole_oov.runner import Experiment, prepare

KINDS = ["amber basil", "cedar dune", "ember fjord"]
N_USERS, N_ITEMS = 60, 90

SMALL = {
    "oov_split": "random",
    "embedding_size": 8,
    "learning_rate": 0.02,
    "epochs": 12,
    "base_config": {"learning_rate": 0.01, "epochs": 15, "train_batch_size": 64},
    "topk": [5],
    "valid_metric": "oov_ndcg@5",
    "imagination_epochs": 2,
    "imagination_batch_size": 32,
    "imagination_candidates": 5,
    "policy_learning_rate": 0.02,
    "show_progress": False,
    "state": "ERROR",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three kinds of items and users who like one kind; a title tells the kind. Working directory for the module."""
    path = tmp_path_factory.mktemp("usim")
    draw, data = random.Random(0), path / "dataset" / "kinds"
    data.mkdir(parents=True)
    rows = ["user_id:token\titem_id:token"]
    for user in range(N_USERS):
        own = [item for item in range(N_ITEMS) if item % 3 == user % 3]
        rows += [f"u{user}\ti{item}" for item in [*draw.sample(own, 12), draw.randrange(3) * 31 + user % 3 + 1]]
    (data / "kinds.inter").write_text("\n".join(dict.fromkeys(rows)) + "\n")
    titles = [f"i{item}\t{KINDS[item % 3]} {draw.choice('pqrs')}x" for item in range(N_ITEMS)]
    (data / "kinds.item").write_text("item_id:token\ttitle:token_seq\n" + "\n".join(titles) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(sys, "argv", sys.argv[:1])
        yield path


def experiment(folder: Path, **options: Any) -> Experiment:
    given = {**SMALL, "data_path": str(folder / "dataset"), "load_col": None, **options}
    return prepare("USIM", "kinds", config_dict=given, argv=[])


def trained(folder: Path, **options: Any) -> Experiment:
    made = experiment(folder, **options)
    made.trainer.fit(made.train_data, made.valid_data, saved=True, show_progress=False)
    return made


@pytest.fixture(scope="module")
def done(folder: Path) -> Experiment:
    return trained(folder, stop_rule="fixed", stop_steps=3)


def model_of(made: Experiment) -> USIM:
    model = copy.deepcopy(made.model)
    model.eval()
    assert isinstance(model, USIM)
    return model


def items_of(model: USIM) -> Tensor:
    with torch.no_grad():
        return model.item_embeddings()


# ---- stages ----


def test_three_stages_each_with_its_validation_and_nothing_of_iv_items_moves(done: Experiment) -> None:
    stages = {stage.name: stage for stage in done.trainer.stages}
    assert list(stages) == ["base", "generator", "imagination"]
    iv = [{k: v for k, v in stage.valid_result.items() if k.startswith("iv_")} for stage in stages.values()]
    assert iv[0] and iv[0] == iv[1] == iv[2]
    model = model_of(done)
    assert model.stop_rule == ("fixed", 3)
    with_users = items_of(model)
    scores = {}
    for rule, steps in (("fixed", 0), ("fixed", 3)):
        model.stop_by(rule, steps)  # type: ignore[arg-type]
        done.trainer.model = model
        scores[steps] = done.trainer.evaluate(done.test_data, load_best_model=False)
    done.trainer.model = done.model
    assert with_users[~model.oov].equal(model.base_items[~model.oov])
    assert {k: v for k, v in scores[0].items() if k.startswith("iv_")} == {
        k: v for k, v in scores[3].items() if k.startswith("iv_")
    }
    moved = (with_users - model.base_items)[model.oov]
    assert (moved.abs().sum(dim=1) > 0).all()


def test_it_knows_new_items_well_above_chance(done: Experiment) -> None:
    result = done.trainer.evaluate(done.test_data, load_best_model=False)
    groups = done.trainer.last_evaluation.counts()
    chance = 5 / groups["oov"]["items"]
    assert result["oov_recall@5"] > 1.5 * chance


def test_validation_chooses_when_sequences_end_and_falls_back_to_none(folder: Path, caplog: Any) -> None:
    made = experiment(folder, step_rate=40.0, imagination_epochs=1, state="INFO")
    with caplog.at_level(logging.INFO):
        made.trainer.fit(made.train_data, made.valid_data, saved=True, show_progress=False)
    assert model_of(made).stop_rule == ("fixed", 0), "steps of 40 lengths can only do harm"
    assert "items stay as generated" in caplog.text
    generator = made.trainer.stages[1].valid_result
    assert made.trainer.best_valid_result == made.trainer.stages[2].valid_result == generator


def test_each_ending_that_is_tried_ends_somewhere_else(done: Experiment) -> None:
    model, trainer = done.model, done.trainer
    before = {key: trainer.config[key] for key in ("stop_rule", "stop_steps")}
    try:
        trainer.config["stop_rule"], trainer.config["stop_steps"] = None, None
        endings = list(trainer._endings())
        sequences = model.sequences(model.starts(model.content[model.oov]))
        lengths = [tuple(sequences.lengths(*ending).tolist()) for ending in endings]
        assert len(set(lengths)) == len(lengths)
        assert {(n,) * int(model.oov.sum()) for n in range(1, 8)} <= set(lengths)
        trainer.config["stop_rule"] = "threshold"
        assert list(trainer._endings()) == [("threshold", 7)]
    finally:
        for key, value in before.items():
            trainer.config[key] = value


def test_no_steps_and_steps_that_cost_too_much_give_what_the_generator_says(done: Experiment, folder: Path) -> None:
    model = model_of(done)
    generated = model.with_base_items(model.generate(model.content[model.oov])).detach()
    model.stop_by("fixed", 0)
    assert torch.equal(items_of(model), generated)
    learning = {"policy_learning_rate": 0.05, "value_learning_rate": 0.05, "imagination_epochs": 12}
    dear = trained(folder, step_price=5.0, stop_rule="threshold", imagination_patience=12, **learning)
    priced = model_of(dear)
    assert priced.stop_rule[0] == "threshold"
    assert torch.allclose(items_of(priced), priced.with_base_items(priced.generate(priced.content[priced.oov])))


@pytest.mark.parametrize("graph", [{"base_model": "LightGCN", "n_layers": 2}, {"base_model": "NGCF"}])
def test_a_graph_model_gives_its_propagated_embeddings(folder: Path, graph: dict[str, Any]) -> None:
    made = trained(folder, **graph, stop_rule="fixed", stop_steps=2)
    assert made.trainer.stages[0].model == graph["base_model"]
    users, items = (table.square().sum(dim=1) for table in (made.model.base_users, made.model.base_items))
    assert float(items[made.model.iv_items].mean().sqrt()) == pytest.approx(float(made.model.units()[1]))
    assert float(users[made.model.readers.known_users].mean().sqrt()) == pytest.approx(float(made.model.units()[0]))


@pytest.mark.parametrize("variant", ["code", {"positives": "code", "countdown": "code"}])
def test_the_code_s_variant_trains_as_well(folder: Path, variant: Any) -> None:
    made = trained(folder, variant=variant, imagination_epochs=1)
    switches = made.model.settings.switches
    assert switches.positives == switches.countdown == "code"
    assert switches.reward == ("code" if variant == "code" else "paper")


@pytest.mark.parametrize("options", [{"generator_objective": "ranking"}, {"imagination_reward": "ranking"}])
def test_the_ranking_objectives_train_as_well_and_know_new_items(folder: Path, options: Any) -> None:
    made = trained(folder, **options)
    result = made.trainer.evaluate(made.test_data, load_best_model=False)
    chance = 5 / made.trainer.last_evaluation.counts()["oov"]["items"]
    assert result["oov_recall@5"] > 1.5 * chance
    shown = made.model.imagine(made.model.content[made.model.iv_items], made.model.iv_items)
    assert shown.reward_names[0] == ("among items" if "imagination_reward" in options else "embedding")


def test_the_differentiated_objective_trains_from_end_to_end(folder: Path) -> None:
    options = {"imagination_learning": "direct", "imagination_epochs": 8, "stop_rule": "fixed", "stop_steps": 3}
    gained = []
    for rate in (1e-9, 0.02):
        made = experiment(folder, **options, policy_learning_rate=rate)
        made.trainer.fit(made.train_data, None, saved=False, show_progress=False)  # the last policy, not the best
        model = model_of(made)
        rewards = model.imagine(model.content[model.iv_items], model.iv_items).rewards
        assert rewards is not None
        gained.append(float(rewards.sum(dim=(1, 2)).mean()))
    assert gained[1] > gained[0] + 0.05, gained
    result = made.trainer.evaluate(made.test_data, load_best_model=False)
    assert result["oov_recall@5"] > 1.5 * 5 / made.trainer.last_evaluation.counts()["oov"]["items"]


def test_one_seed_gives_one_model(folder: Path, done: Experiment) -> None:
    again = trained(folder, stop_rule="fixed", stop_steps=3).model.state_dict()
    for name, value in done.model.state_dict().items():
        assert torch.equal(value, again[name]), name


def test_a_saved_model_scores_the_same(folder: Path) -> None:
    made = experiment(folder, imagination_epochs=1)
    made.trainer.fit(made.train_data, made.valid_data, saved=True, show_progress=False)
    expected, rule = items_of(model_of(made)), made.model.stop_rule
    made.model.stop_by("fixed", 7)
    torch.nn.init.zeros_(made.model.policy.query.weight)
    made.trainer.evaluate(made.test_data, load_best_model=True)
    assert made.model.stop_rule == rule
    assert torch.equal(items_of(made.model), expected)


# ---- what inference may see ----


def test_inference_reads_nothing_of_an_oov_item_but_its_content(done: Experiment) -> None:
    model = model_of(done)
    expected, shown = items_of(model), model.imagine(model.content[model.oov])
    model.base_items[model.oov] = torch.nan
    model.readers.users[:] = -1_000_000  # whoever looks an item's users up fails
    model.forget_tables()
    assert torch.equal(items_of(model)[1:], expected[1:])
    again = model.imagine(model.content[model.oov])
    assert torch.equal(again.embeddings, shown.embeddings) and torch.equal(again.users, shown.users)
    assert items_of(model)[1:].isfinite().all()


def test_an_items_users_are_its_training_users_a_random_choice_where_they_are_many(done: Experiment) -> None:
    model = model_of(done)
    rows = done.train_data._dataset.inter_feat
    of_item: dict[int, set[int]] = {}
    for user, item in zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True):
        of_item.setdefault(item, set()).add(user)
    items, draw = model.iv_items, torch.Generator().manual_seed(0)
    for most in (3, None):
        model._most_readers = most
        table = model.targets(items, draw).users
        for item, row in zip(items.tolist(), table.tolist(), strict=True):
            users = [user for user in row if user]
            assert len(users) == len(set(users)) == min(len(of_item[item]), most or N_USERS)
            assert set(users) <= of_item[item]
    model._most_readers = 3
    popular = items[[len(of_item[item]) for item in items.tolist()].index(max(map(len, of_item.values())))]
    several = {tuple(sorted(model.targets(popular[None], draw).users[0].tolist())) for _ in range(20)}
    assert len(several) > 1


# ---- what a person is shown ----


def test_a_person_can_see_who_was_imagined_and_why(done: Experiment) -> None:
    model = model_of(done)
    items = model.iv_items[:5]
    shown = model.imagine(model.content[items], items)
    users, rate = model.base_users, model.settings.rate
    per_user = float(model.units()[1] / model.units()[0])
    generated = model.generate(model.content[items]).detach()
    assert torch.allclose(shown.embeddings[:, 0], generated, atol=1e-6)
    for step in range(3):
        assert (shown.users[:, step] > 0).all()
        after = shown.embeddings[:, step] + rate * per_user * users[shown.users[:, step]]
        assert torch.allclose(after, shown.embeddings[:, step + 1], atol=1e-5)
    assert shown.rewards is not None and shown.reward_names == ("embedding", "scores")
    unit, target = model.units()[1], model.base_items[items]
    distance = (shown.embeddings - target[:, None]).norm(dim=2) / unit
    assert torch.allclose(shown.rewards[:, :, 0], distance[:, :-1] - distance[:, 1:], atol=1e-5)
    assert ((shown.stop >= 0) & (shown.stop <= 1) & (shown.chosen > 0) & (shown.chosen <= 1)).all()
    assert shown.values.shape == (5, 4)


def test_a_brand_new_item_is_imagined_and_ends_where_the_same_item_in_the_data_does(done: Experiment) -> None:
    model = model_of(done)
    item = int(model.oov.nonzero()[0])
    shown = model.imagine(model.content[item])
    assert torch.allclose(shown.embeddings[0, -1], items_of(model)[item], atol=1e-6)
    assert shown.rewards is None
    model.stop_by("threshold", 7)
    cut = model.imagine(model.content[model.oov])
    assert ((cut.users > 0).sum(dim=1) == cut.lengths).all()
    assert torch.allclose(cut.embeddings[:, -1], items_of(model)[model.oov], atol=1e-6)
    with pytest.raises(ValueError, match="numbers wide"):
        model.imagine(model.content[item, :-1])
    with pytest.raises(ValueError, match="one training item for each row"):
        model.imagine(model.content[item], torch.tensor([item]))


# ---- options ----


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"variant": "both"}, "variant: 'both' is not allowed"),
        ({"variant": {"countdwon": "code"}}, "variant: .*countdown"),
        ({"stop_rule": "never"}, f"stop_rule: 'never' is not known; give {', '.join(STOP_RULES)}"),
        ({"stop_steps": 8}, "stop_steps: 8 is not allowed; give a number from 0 to imagination_steps, 7"),
        ({"embedding_units": "metres"}, "embedding_units: 'metres' is not known"),
        ({"max_item_users": 0}, "max_item_users: 0 is not allowed"),
        ({"imagination_candidates": 0}, "imagination_candidates: 0 is not allowed"),
        ({"discount": 1.5}, "discount: 1.5 is not allowed"),
        ({"step_rate": 0.0}, "step_rate: 0.0 is not allowed"),
        ({"length_powers": []}, "length_powers: .* list of numbers"),
        ({"generator_neighbours": -1}, "generator_neighbours: -1 is not allowed"),
        ({"generator_dropout": 1.0}, "generator_dropout: 1.0 is not allowed"),
    ],
)
def test_options_that_cannot_work_are_refused_before_data_loads(folder: Path, option: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(folder, data_path=str(folder / "nowhere"), **option)


def test_more_candidates_than_users_are_refused_before_training(folder: Path) -> None:
    with pytest.raises(ConfigError, match="imagination_candidates: 1000 are more than the 60 users"):
        experiment(folder, imagination_candidates=1000)


def test_a_training_item_is_no_neighbour_of_its_own(folder: Path) -> None:
    """Else the generator would be given in training what it is to say."""
    model = model_of(trained(folder, generator_neighbours=1000, epochs=1, imagination_epochs=0))
    items = model.iv_items[:5]
    before = model.generate(model.content[items], items)
    alone = model.base_items.clone()
    for row, item in enumerate(items.tolist()):
        model.base_items.copy_(alone)
        model.base_items[item] = torch.nan
        assert torch.equal(model.generate(model.content[items], items)[row], before[row])
        assert model.generate(model.content[items]).isnan()[row].any()  # as a new item it would be


def test_neighbours_are_training_items_and_count_by_their_cosine() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    places, weights = content_neighbours(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), known, k=2)
    assert places.tolist()[0] == [1, 0]
    torch.testing.assert_close(weights[0], torch.tensor([0.64, 0.36]))
    torch.testing.assert_close(weights[1], torch.tensor([1.0, 0.0]))
    places, weights = content_neighbours(known, known, k=5, own=torch.arange(3))
    assert [sorted(row) for row in places.tolist()] == [[1, 2], [0, 2], [0, 1]]
    assert weights.sum() == 0  # at right angles or opposite


def test_neighbours_move_where_new_items_start(folder: Path) -> None:
    made = trained(folder, generator_neighbours=3, generator_dropout=0.3, generator_objective="ranking")
    model = model_of(made)
    content = model.content[model.oov]
    near = model.generate(content) - super(USIM, model).generate(content)
    assert near.norm(dim=1).min() > 0
    assert model.generate(content[:0]).shape == (0, model.embedding_dim)
    assert made.trainer.best_valid_result["oov_ndcg@5"] > 0.2
    oov = made.model.oov.nonzero().squeeze(1)
    once, anew = made.model.generate(made.model.content[oov], oov), made.model.generate(made.model.content[oov])
    torch.testing.assert_close(once, anew, rtol=0, atol=1e-6)
    iv = made.model.iv_items[:4]
    places, _ = made.model._neighbours_of_all()
    assert not (made.model.iv_items[places[iv]] == iv[:, None]).any(), "a training item is no neighbour of itself"


def test_lengths_are_chosen_on_validation_and_kept(folder: Path) -> None:
    made = trained(
        folder, generator_objective="ranking", calibrate_lengths=True, imagination_epochs=0, length_powers=[-1.0, 0.0]
    )
    stages = {stage.name: stage.valid_result for stage in made.trainer.stages}
    model, metric = model_of(made), "oov_ndcg@5"
    power, factor, unit = model.lengths.tolist()
    assert stages["lengths"][metric] >= stages["generator"][metric]
    assert stages["lengths"]["ndcg@5"] >= stages["generator"]["ndcg@5"] or power != 0
    assert stages["imagination"] == stages["lengths"]
    lengths = {}
    for q in (0.0, -1.0):
        model.calibrate(q, 2.0)
        lengths[q] = items_of(model)[model.oov].norm(dim=1)
    torch.testing.assert_close(lengths[-1.0], torch.full_like(lengths[-1.0], 2 * unit))  # all of one length
    assert lengths[0.0].std() > 0
    model.calibrate(power, factor)
    read = experiment(folder, generator_objective="ranking", calibrate_lengths=True)
    read.model.load_state_dict(load_checkpoint(made.trainer.saved_model_file, "cpu")["state_dict"])
    read.model.eval()
    assert torch.equal(items_of(read.model), items_of(model))


def test_lengths_are_read_off_training_items_alone(folder: Path) -> None:
    model = model_of(trained(folder, epochs=1, imagination_epochs=0))
    model.calibrate(-0.5, 1.5)
    before = model.lengths.clone()
    model.content[model.oov] = torch.nan
    model.calibrate(-0.5, 1.5)
    assert torch.equal(before, model.lengths)
