"""Tasks beside the next item: direct recommendation, ratings and texts, on data whose answers are known."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_oov import cli
from recbole_oov.config import OOVConfig
from recbole_oov.data.answers import Answers, answers_of
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.evaluation.answers import number_controls, number_metrics, text_controls, text_metrics
from recbole_oov.lm.tasks import ValueTree
from recbole_oov.recommendation.api import Recommender
from recbole_oov.runner import prepare, run, trainer_class
from recbole_oov.testing import two_circles, write_atomic
from recbole_oov.trainer.state import data_fingerprint
from tests import language_models
from tests.unit.conftest import SMALL
from tests.unit.sweeps import write_spec

TITLES = {f"i{i}": f"Story {i} of the sea" for i in range(24)}


def is_odd(item: str) -> int:
    return int(item[1:]) % 2


def circle(item: str) -> int:
    return int(int(item[1:]) >= 12)


SAID = {
    # The item decides both: its circle, and whether its number is odd.
    "rating:float": lambda user, item: 1 + 2 * circle(item) + is_odd(item) / 2,
    "explanation:token_seq": lambda user, item: (
        f"a {('red', 'blue')[circle(item)]} tale told {('slowly', 'quickly')[is_odd(item)]}"
    ),
}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks")
    write_atomic(path, "told", two_circles(), TITLES, SAID)
    return path


def config_of(data_path: Path, **options: Any) -> OOVConfig:
    return OOVConfig("OOVLLMRec", "told", config_dict={"data_path": str(data_path), **SMALL, **options}, argv=[])


def build(data_path: Path, **options: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    config = config_of(data_path, **options)
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    return get_model("OOVLLMRec")(config, loaders[0]._dataset).eval(), loaders


@pytest.fixture(scope="module")
def asked(data_path: Path) -> tuple[Any, tuple[Any, Any, Any]]:
    return build(data_path, tasks=["direct", "rating", "explanation"])


def test_columns_of_tasks_are_loaded_and_words_are_kept_aside(asked: Any) -> None:
    _, (train, valid, test) = asked
    for loader in (train, valid, test):
        columns = loader._dataset.inter_feat.columns
        assert "rating" in columns and "explanation" not in columns and "explanation_list" not in columns
    names = train._dataset.field2id_token
    known = answers_of(train._dataset, ["rating", "explanation"], with_first=True)
    expected = sorted(
        (user, item, SAID["rating:float"](user, item), SAID["explanation:token_seq"](user, item))
        for user, items in two_circles().items()
        for item in items[:-2]
    )
    pairs = zip(names["user_id"][known.users], names["item_id"][known.items], strict=True)
    found = zip(pairs, known.columns["rating"], known.texts("explanation"), strict=True)
    assert sorted((*pair, rating, text) for pair, rating, text in found) == expected
    last = answers_of(test._dataset, ["explanation"])
    targets = {user: items[-1] for user, items in two_circles().items()}
    for user, item, text in zip(
        names["user_id"][last.users], names["item_id"][last.items], last.texts("explanation"), strict=True
    ):
        assert item == targets[user] and text == SAID["explanation:token_seq"](user, item)


def test_probabilities_of_values_sum_to_one_and_agree_with_the_loss(asked: Any) -> None:
    model, (train, _, _) = asked
    task = model.tasks["rating"]
    assert task.values.tolist() == [1.0, 1.5, 3.0, 3.5] and task.tree.n_steps > 1
    vectors, real = task.asks(model, task.known.rows(np.arange(20)), model.device)
    log_probs = task.log_probs(model, vectors, real)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(20))
    nll = task._nll(model, vectors, real, torch.arange(20))
    index = torch.from_numpy(np.searchsorted(task.values.numpy(), task.known.columns["rating"][:20]))
    torch.testing.assert_close(nll, -log_probs.gather(1, index[:, None]).mean())


def test_a_value_is_as_probable_as_its_tokens_one_after_another() -> None:
    tree = ValueTree([[1, 0], [1, 2, 3, 0], [4, 0]])
    assert tree.n_steps == 2  # after 1, 2 only 3 can follow
    states, heads = torch.randn(1, 1, 2, 5).expand(1, 3, 2, 5), torch.randn(6, 5)
    found = tree.log_probs(states, heads[tree.used], torch.arange(3)[None])[0]
    logits = states[0, 0] @ heads.T
    first = logits[0, [1, 4]].log_softmax(0)
    after_1 = logits[1, [0, 2]].log_softmax(0)
    expected = torch.stack([first[0] + after_1[0], first[0] + after_1[1], first[1]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.exp().sum(), torch.tensor(1.0))


@pytest.mark.parametrize("kind", ["tiny", "llama", "gpt2", "t5"])
def test_words_are_read_one_by_one_as_all_at_once(data_path: Path, tmp_path: Path, kind: str) -> None:
    backbone = kind if kind == "tiny" else language_models.write(tmp_path / kind, kind)
    model, _ = build(data_path, tasks=["explanation", "rating"], backbone=backbone, MAX_ITEM_LIST_LENGTH=6)
    task = model.tasks["explanation"]
    rows = task.known.rows(np.arange(5))
    with torch.no_grad():
        vectors, real = task.asks(model, rows, model.device)
        words = model.backbone.word_inputs(torch.randint(2, 40, (5, 4)))
        together = model.backbone.following(vectors, real, words)
        reader = model.backbone.reader(vectors, real)
        one_by_one = [next(reader), *(reader.send(words[:, at]) for at in range(4))]
        torch.testing.assert_close(torch.stack(one_by_one, dim=1), together, atol=1e-4, rtol=1e-3)
        # Padding inside a prompt changes nothing.
        padded, mask = (
            torch.cat([vectors[:, :3], vectors[:, :2], vectors[:, 3:]], dim=1),
            torch.ones(5, 5 + real.shape[1] - 3),
        )
        mask[:, 3:5] = 0
        torch.testing.assert_close(model.backbone.following(padded, mask.bool(), words), together, atol=1e-4, rtol=1e-3)
        written = task.write(model, rows, model.device)
        assert len(written) == 5 and all(isinstance(text, str) for text in written)
        assert np.isfinite(model.tasks["rating"].predict(model, rows, model.device)).all()


def test_the_most_probable_text_is_written(asked: Any) -> None:
    model, _ = asked
    task = model.tasks["explanation"]
    rows = task.known.rows(np.arange(3))
    for text, row in zip(task.write(model, rows, model.device), range(3), strict=True):
        one = rows.rows(np.array([row]))
        vectors, real = task.asks(model, one, model.device)
        ids: list[int] = []
        while len(ids) < model.answer_tokens:
            words = model.backbone.word_inputs(torch.tensor([ids], dtype=torch.long))
            token = int(
                (model.backbone.following(vectors, real, words)[0, -1] @ model.backbone.word_heads().T).argmax()
            )
            if token == model.maker.end:
                break
            ids.append(token)
        assert text == model.maker.decode(ids)


@pytest.mark.parametrize("kind", ["tiny", "t5"])
def test_direct_scores_are_the_loss_and_know_nothing_of_the_history(data_path: Path, tmp_path: Path, kind: str) -> None:
    backbone = kind if kind == "tiny" else language_models.write(tmp_path / kind, kind)
    model, (train, valid, _) = build(
        data_path, tasks=["direct"], rank_by="direct", backbone=backbone, MAX_ITEM_LIST_LENGTH=6
    )
    rows = valid._dataset.inter_feat
    scores = model.full_sort_predict(rows)
    torch.testing.assert_close(scores[:, 1:].exp().sum(1), torch.ones(60))
    other = copy.deepcopy(rows)
    other["item_id_list"] = (other["item_id_list"] % 24) + 1
    torch.testing.assert_close(model.full_sort_predict(other), scores)
    targets = rows["item_id"][:, None]
    loss = model._direct_loss(rows["user_id"], targets)
    with torch.no_grad():
        torch.testing.assert_close(model._direct_loss(rows["user_id"], targets), loss, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss, -scores.gather(1, targets).mean(), atol=1e-4, rtol=1e-4)
    assert not model.recommends_for_histories


def test_all_tasks_are_learned(data_path: Path, workplace: Path) -> None:
    options = {"epochs": 50, "stopping_step": 50, "eval_step": 25, "train_batch_size": 64, "learning_rate": 0.01}
    result = run(
        "OOVLLMRec",
        "told",
        config_dict={
            "data_path": str(data_path), **SMALL, **options, "tasks": ["direct", "rating", "explanation"],
            "task_rows": 64, "topk": [12], "metrics": ["Recall"], "valid_metric": "Recall@12",
            "dropout": 0.0, "hidden_size": 32,
        },
        saved=False,  # the last epoch, not the best for ranking
        argv=[],
    )  # fmt: skip
    assert result is not None
    tasks = result["task_results"]
    # The users' own circles are half of the items: a model that knows them has all in its first 12.
    assert tasks["direct"].keys() == {"OOVLLMRec", "OOVLLMRec, history masked"}
    assert tasks["direct"]["OOVLLMRec"]["recall@12"] > 0.9
    assert tasks["rating"]["OOVLLMRec"]["rmse"] < 0.3 < 0.9 < tasks["rating"]["training mean"]["rmse"]
    told = tasks["explanation"]
    assert told["OOVLLMRec"]["bleu"] > 90 and told["OOVLLMRec"]["perplexity"] < 1.5
    # Of the same item all say the same; the same user's says the circle, and half of the rest.
    assert told["another's of the item"]["bleu"] == pytest.approx(100)
    assert told["another of the user"]["bleu"] < 90


def test_recommendations_come_with_answers(asked: Any) -> None:
    model, (train, _, _) = asked
    recommender = Recommender(train._dataset.config, model, train._dataset)
    found = recommender.recommend(users=["u3", "u0"], k=3, answers=["rating", "explanation"], scores=True)
    frame, task = found.to_frame(), model.tasks["rating"]
    assert list(frame.columns) == ["case", "rank", "item", "title", "group", "score", "rating", "explanation"]
    assert len(frame) == 6
    names = recommender.names
    pairs = Answers(names.ids("user", frame["case"]).numpy(), names.ids("item", frame["item"]).numpy(), {})
    assert frame["rating"].tolist() == pytest.approx(task.predict(model, pairs, model.device).tolist(), abs=1e-5)
    assert found.to_dict()["recommendations"][0]["answers"].keys() == {"rating", "explanation"}
    assert "explanation" in str(found)
    with pytest.raises(ConfigError, match="OOVLLMRec has not learned the task 'review'; it has learned rating, explan"):
        recommender.recommend(user="u3", answers=["review"])
    with pytest.raises(ConfigError, match="answers: 'rating' is not allowed; give a list of tasks"):
        recommender.recommend(user="u3", answers="rating")
    with pytest.raises(ConfigError, match="tasks ask about users and items of the data set"):
        recommender.recommend(history=["i1"], answers=["rating"])


def test_models_that_rank_directly_ask_for_users_and_explain_nothing(data_path: Path) -> None:
    model, (train, _, _) = build(data_path, tasks=["direct"], rank_by="direct")
    recommender = Recommender(train._dataset.config, model, train._dataset)
    assert len(recommender.recommend(user="u3", k=3)) == 3
    with pytest.raises(ConfigError, match="no history moves the scores"):
        recommender.recommend(user="u3", k=3, explain=True)
    with pytest.raises(ConfigError, match="histor"):
        recommender.recommend(history=["i1", "i2"], k=3)


def test_what_is_held_out_changes_nothing_that_is_learned(data_path: Path, tmp_path: Path) -> None:
    """Other ratings and texts in validation and test: the same model, bit for bit."""
    # Circles may be longer than the items on them: what is held out must not stand in training as well.
    held = {user: set(items[-2:]) - set(items[:-2]) for user, items in two_circles().items()}
    assert sum(map(len, held.values())) > 60
    other = {
        "rating:float": lambda user, item: 9.0 if item in held[user] else SAID["rating:float"](user, item),
        "explanation:token_seq": lambda user, item: (
            "zebra crossing" if item in held[user] else SAID["explanation:token_seq"](user, item)
        ),
    }
    # Some say nothing, in training as well: RecBole would put the mean of all numbers there, held-out ones included.
    same, other = (
        {name: (lambda user, item, say=say: "" if item == "i3" else say(user, item)) for name, say in said.items()}
        for said in (SAID, other)
    )
    write_atomic(tmp_path / "same", "told", two_circles(), TITLES, same)
    write_atomic(tmp_path / "other", "told", two_circles(), TITLES, other)
    states, losses = [], []
    for path in (tmp_path / "same", tmp_path / "other"):
        model, _ = build(path, tasks=["rating", "explanation"], data_checks="warn")
        assert model.tasks["rating"].values.tolist() == [1.0, 1.5, 3.0, 3.5]
        states.append(model.state_dict())
        torch.manual_seed(0)
        losses.append([task.loss(model, 50, model.device) for task in model.tasks.values()])
        assert "zebra" not in model.tokenizer.get_vocab()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))


def test_a_checkpoint_brings_its_tasks_back(data_path: Path, asked: Any) -> None:
    model, _ = asked
    other, _ = build(data_path, tasks=["direct", "rating", "explanation"], seed=5)
    other.load_state_dict(model.state_dict())
    rows = model.tasks["rating"].known.rows(np.arange(10))
    ours, theirs = (one.eval().tasks["rating"].predict(one, rows, one.device) for one in (model, other))
    assert np.array_equal(ours, theirs)


def test_texts_stay_with_their_interactions_where_items_are_held_out(data_path: Path) -> None:
    """The OOV protocol puts rows together anew, of which each must still find its own words."""
    _, loaders = build(data_path, tasks=["explanation"], oov_split="random", leak_guard="warn")
    names = loaders[0]._dataset.field2id_token
    for loader in loaders:
        found = answers_of(loader._dataset, ["explanation"], with_first=loader is loaders[0])
        items = names["item_id"][found.items]
        assert found.texts("explanation") == [SAID["explanation:token_seq"]("", item) for item in items]


def test_a_checkpoint_of_other_words_is_refused(data_path: Path, tmp_path: Path, asked: Any) -> None:
    model, _ = asked
    other = {**SAID, "rating:float": lambda user, item: 5 - SAID["rating:float"](user, item)}
    write_atomic(tmp_path, "told", two_circles(), TITLES, other)
    fresh, _ = build(tmp_path, tasks=["direct", "rating", "explanation"])
    with pytest.raises(ConfigError, match="the checkpoint was trained with other words"):
        fresh.load_state_dict(model.state_dict())
    fingerprints = ("words_fingerprint", "prompts_fingerprint")
    state = {name: value for name, value in model.state_dict().items() if name not in fingerprints}
    build(data_path, tasks=["direct", "rating", "explanation"])[0].load_state_dict(state)  # of before there were any


def test_a_checkpoint_of_other_prompts_is_refused(data_path: Path, tmp_path: Path) -> None:
    """The same words in another order: the tokenizer cannot tell."""
    file = tmp_path / "own.yaml"
    file.write_text(
        "seen: ['{user} has chosen {history}', 'has chosen {user} {history}']\nunseen: ['{user} has {history}']"
    )
    model, _ = build(data_path, prompts=str(file))
    file.write_text(
        "seen: ['{user} has chosen {history}', 'has chosen {user} {history}']\nunseen: ['has {user} {history}']"
    )
    build(data_path, prompts=str(file))[0].load_state_dict(model.state_dict())  # of which nothing was learned
    file.write_text(
        "seen: ['has chosen {user} {history}', '{user} has chosen {history}']\nunseen: ['{user} has {history}']"
    )
    with pytest.raises(ConfigError, match="the checkpoint was trained with other prompts"):
        build(data_path, prompts=str(file))[0].load_state_dict(model.state_dict())


def test_a_prompt_of_the_history_alone_is_refused(data_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("seen: ['{history}']")
    with pytest.raises(ConfigError, match=r"prompts: a template has nothing before \{history\}"):
        build(data_path, prompts=str(file))


def test_words_of_interactions_are_in_the_fingerprint_of_the_data(data_path: Path, tmp_path: Path) -> None:
    other = {**SAID, "explanation:token_seq": lambda user, item: "no"}
    write_atomic(tmp_path, "told", two_circles(), TITLES, other)
    found = [
        data_fingerprint({"train": build(path, tasks=["explanation"])[1][0]})
        for path in (data_path, data_path, tmp_path)
    ]
    assert found[0] == found[1] != found[2]


def test_other_columns_and_texts_of_items_can_be_read(data_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "told.yaml"
    file.write_text("seen: ['{user} gives {item} {item:text} {rating} and says {explanation}']")
    model, _ = build(data_path, tasks=[str(file)], item_text_tokens=3)
    task = model.tasks[str(file)]
    rows = task.known.rows(np.arange(6))
    before = task.answer_nll(model, rows, model.device)
    changed = Answers(rows.users, rows.items, {**rows.columns, "rating": np.flip(rows.columns["rating"] + 0.5)})
    assert not torch.allclose(before, task.answer_nll(model, changed, model.device))
    model.text_ids[:, 0] = model.text_ids[:, 1]
    assert not torch.allclose(before, task.answer_nll(model, rows, model.device))
    assert torch.isfinite(task.loss(model, 5, model.device))
    assert model.item_blocks.shape[1] == 2  # histories stay without text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "rating"}, r"tasks: 'rating' is not allowed; it must be a list"),
        (
            {"tasks": ["ratings"]},
            "tasks: no template file .*ratings.yaml; shipped ones are direct, explanation, rating",
        ),
        ({"tasks": ["sequential"]}, "tasks: sequential asks for the next item, which is always learned"),
        ({"prompts": "direct"}, r"prompts: direct asks for \{item\}"),
        ({"tasks": ["direct"], "user_tokens": False}, "tasks: all of them ask by the user's tokens"),
        ({"rank_by": "direct"}, r"rank_by: direct needs prompts that ask for \{item\}"),
        ({"rank_by": "history"}, "rank_by: 'history' is not one of sequential, direct"),
        ({"tasks": ["rating"], "task_rows": 0}, "task_rows: 0 is not allowed"),
        ({"tasks": ["rating"], "answer_tokens": 2.5}, "answer_tokens: 2.5 is not allowed"),
        ({"tasks": ["rating"], "task_weight": 0}, "task_weight: 0 is not allowed"),
        ({"tasks": [3]}, r"tasks: \[3\] is not allowed; give a list of prompt files"),
        ({"tasks": ["rating", "rating"]}, "tasks: two of rating ask for the same"),
    ],
)
def test_options_that_cannot_work(data_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(data_path, **options)


def test_two_files_that_ask_for_the_same(data_path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seen: ['{user} {item} {rating}']")
    with pytest.raises(ConfigError, match="ask for the same"):
        config_of(data_path, tasks=["rating", str(tmp_path / "mine.yaml")])
    with pytest.raises(ConfigError, match="eval_prompts: .*mine.yaml has no template under the key 'unseen'"):
        config_of(data_path, tasks=[str(tmp_path / "mine.yaml")], eval_prompts="unseen")


def test_columns_that_are_not_there_or_not_loaded(data_path: Path, circles: Any, workplace: Path) -> None:
    with pytest.raises(DataError, match=r"the column 'review' \(tasks review\) is not there; its columns are"):
        prepare("OOVLLMRec", "told", config_dict={"data_path": str(data_path), **SMALL, "tasks": ["review"]}, argv=[])
    load = {"inter": ["user_id", "item_id", "timestamp"], "item": "*"}
    options = {"data_path": str(data_path), **SMALL, "tasks": ["rating"], "load_col": load}
    with pytest.raises(DataError, match=r"'rating' \(tasks rating\) is there but not loaded; add it to load_col"):
        prepare("OOVLLMRec", "told", config_dict=options, argv=[])


def test_columns_from_which_nothing_can_be_learned(data_path: Path, tmp_path: Path) -> None:
    many = {"rating:float": lambda user, item: hash((user, item)) % 997 / 7}
    write_atomic(tmp_path, "told", two_circles(), TITLES, many)
    with pytest.raises(
        DataError, match="different values in training, and rating chooses among 50 at most; round them"
    ):
        build(tmp_path, tasks=["rating"])
    empty = {
        "explanation:token_seq": lambda user, item: (
            "" if item != two_circles()[user][-1] or item in two_circles()[user][:-1] else "late"
        )
    }
    write_atomic(tmp_path, "told", two_circles(), TITLES, empty)
    with pytest.raises(DataError, match="no training interaction has anything in the column 'explanation'"):
        build(tmp_path, tasks=["explanation"])
    odd = {"rating:token": lambda user, item: "good"}
    write_atomic(tmp_path, "told", two_circles(), TITLES, odd)
    with pytest.raises(DataError, match=r"must be rating:float or rating:token_seq"):
        prepare("OOVLLMRec", "told", config_dict={"data_path": str(tmp_path), **SMALL, "tasks": ["rating"]}, argv=[])


def test_long_texts_are_cut_and_said(data_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(data_path, tasks=["explanation"], answer_tokens=2)
    assert "in the column explanation that explanation learns from are longer than 2 tokens" in caplog.text


def test_the_end_of_a_text_that_was_cut_is_not_learned(data_path: Path) -> None:
    model, _ = build(data_path, tasks=["explanation"], answer_tokens=2)
    task = model.tasks["explanation"]
    rows = task.known.rows(np.arange(4))
    short = Answers(rows.users, rows.items, {**rows.columns, "explanation": ["red", "red", "red", "red tale"]})
    lengths = [len(model.maker.encode_all([text])[0]) for text in short.texts("explanation")]
    assert lengths == [1, 1, 1, 2]
    assert len(task.answer_nll(model, short, model.device)) == sum(lengths) + 4  # each with its end
    long = Answers(rows.users, rows.items, {**rows.columns, "explanation": ["red", "red", "red", "red tale red"]})
    cut = task.answer_nll(model, long, model.device)
    assert torch.allclose(cut, task.answer_nll(model, short, model.device)[: len(cut)])
    assert len(cut) == sum(lengths) + 3


def test_packages_that_measure_texts_are_named(data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_oov.trainer.oovllmrec.missing_text_metrics", lambda: ["rouge-score"])
    model, loaders = build(data_path, tasks=["explanation"])  # as whoever asks a trained model does
    config = loaders[0]._dataset.config
    with pytest.raises(
        ConfigError, match=r'rouge-score, which is not installed; pip install "recbole-oov\[generation\]"'
    ):
        trainer_class(config)(config, model).fit(*loaders[:2])


def test_metrics_and_controls_by_hand() -> None:
    assert number_metrics(np.array([1.0, 3.0]), np.array([2.0, 5.0])) == {"rmse": np.sqrt(2.5), "mae": 1.5}
    same = text_metrics(["A red tale told"], ["a red tale told"])
    assert same == {"bleu": pytest.approx(100), "rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    half = text_metrics(["red tale"], ["red house"])
    assert half["rouge1"] == 0.5 and half["rouge2"] == 0.0
    known = Answers(np.array([1, 1, 2]), np.array([1, 2, 1]), {"r": np.array([5.0, 3.0, 4.0]), "t": ["a", "b", "c"]})
    asked = Answers(np.array([2, 9]), np.array([1, 9]), {})
    controls = number_controls(known, asked, "r")
    assert controls["training mean"].tolist() == [4.0, 4.0]
    item_1 = (1.0 + 0.0) / (2 + 10)
    user_2 = (0.0 - item_1) / (1 + 10)
    assert controls["user and item means"] == pytest.approx([4 + item_1 + user_2, 4.0])
    assert text_controls(known, asked, "t") == {"another's of the item": ["a", ""], "another of the user": ["", ""]}


def test_a_benchmark_has_rows_of_tasks(data_path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_oov.report.tables.save_plots", lambda tables, folder: "no plots")
    model = {"model": "OOVLLMRec", **SMALL, "tasks": ["rating"]}
    common = {"data_path": str(data_path), "epochs": 1, "metrics": ["NDCG"], "topk": [5], "valid_metric": "NDCG@5"}
    spec = {"dataset": "told", "measure": "users", "seeds": [1], "common": common, "models": {"with ratings": model}}
    cli.main(["benchmark", write_spec(workplace, spec)])
    (line,) = (workplace / "out" / "results.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["tokens_per_second"] > 0 and 0 < row["seconds_to_best"] <= row["train_seconds"] + 0.1
    found = row["tasks"]["rating"]
    assert found.keys() == {"OOVLLMRec", "training mean", "user and item means"}
    rows = list(csv.DictReader((workplace / "out" / "table.csv").open()))
    assert {row["metric"]: float(row["mean"]) for row in rows if row["group"] == "rating"} == pytest.approx(
        {
            "rmse": found["OOVLLMRec"]["rmse"],
            "rmse of training mean": found["training mean"]["rmse"],
            "rmse of user and item means": found["user and item means"]["rmse"],
            "mae": found["OOVLLMRec"]["mae"],
            "mae of training mean": found["training mean"]["mae"],
            "mae of user and item means": found["user and item means"]["mae"],
        }
    )


def test_ratings_are_those_of_the_file_unless_a_user_wants_them_between_0_and_1(data_path: Path) -> None:
    values = {
        key: build(data_path, tasks=["rating"], **options)[0].tasks["rating"].values.tolist()
        for key, options in (
            ("default", {}),
            ("all", {"normalize_all": True}),
            ("asked", {"normalize_field": ["rating"]}),
        )
    }
    assert values == {
        **{key: [1.0, 1.5, 3.0, 3.5] for key in ("default", "all")},
        "asked": pytest.approx([0.0, 0.2, 0.8, 1.0]),
    }
