"""Recommendations: what they are held against is the model's own scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from cold import FAMILY, experiment, trained, write_tastes
from recbole.data.interaction import Interaction

import recbole_oov
from recbole_oov.checkpoints import CheckpointError
from recbole_oov.cli import main
from recbole_oov.data.content import item_content, new_item_content
from recbole_oov.data.histories import seen_matrix
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.recommendation import ImaginedUser, Recommendations, RecommendedItem, RecommendedUser, Recommender, api
from recbole_oov.recommendation.files import read_item_file
from recbole_oov.recommendation.new_items import score_new_items
from recbole_oov.runner import Experiment
from recbole_oov.testing.tastes import WORDS

USIM_SMALL = {
    "imagination_epochs": 2,
    "imagination_steps": 4,
    "imagination_candidates": 20,
    "imagination_batch_size": 16,
    "stop_rule": "fixed",
    "stop_steps": 3,
}
ORACLE = (*FAMILY, "USIM", "ContentKNN")


@pytest.fixture(scope="module")
def tastes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tastes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def ready(tastes: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trained experiment by the model's name, made once."""
    made: dict[str, Experiment] = {}

    def of(name: str) -> Experiment:
        if name not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.mktemp(name))
                options: dict[str, Any] = {"USIM": USIM_SMALL, "GeneratorControl": {"control": "norm"}}.get(name, {})
                made[name] = trained(name, tastes, **options)
        return made[name]

    return of


def recommender(made: Experiment) -> Recommender:
    return Recommender(made.config, made.model, made.train_data._dataset)


def items_of(found: Recommendations) -> list[RecommendedItem]:
    rows = [row for row in found if isinstance(row, RecommendedItem)]
    assert len(rows) == len(found)
    return rows


def users_of(found: Recommendations) -> list[RecommendedUser]:
    rows = [row for row in found if isinstance(row, RecommendedUser)]
    assert len(rows) == len(found)
    return rows


def all_scores(made: Experiment) -> torch.Tensor:
    train = made.train_data._dataset
    users = torch.arange(1, train.user_num)
    with torch.no_grad():
        scores: torch.Tensor = made.model.full_sort_predict(Interaction({train.uid_field: users}))
    return scores.view(len(users), -1).float()


# ---- new items ----


@pytest.mark.parametrize("name", ORACLE)
def test_an_oov_item_given_as_new_gets_the_scores_that_it_has(name: str, ready: Any) -> None:
    made = ready(name)
    train = made.train_data._dataset
    oov = np.flatnonzero(oov_mask(train))
    titles = recommender(made).names.titles
    assert titles is not None
    content = new_item_content(made.config, train, [titles[item] for item in oov])
    assert torch.allclose(content, item_content(made.config, train)[oov], atol=1e-6)
    users = torch.arange(1, train.user_num)
    found = score_new_items(made.model, users, content)
    expected = all_scores(made)[:, oov]
    assert expected.std() > 1e-3
    assert torch.allclose(found, expected, atol=1e-5 if name == "USIM" else 2e-6)


@pytest.mark.parametrize("name", ORACLE)
def test_a_new_item_is_for_the_users_of_its_taste(name: str, ready: Any) -> None:
    asked = recommender(ready(name))
    given = [{"title": "Jury poison witness"}, {"title": ["nebula", "comet", "orbit"]}]
    found = users_of(asked.recommend(new_items=given, k=10))
    assert [row.item for row in found] == ["new 1"] * 10 + ["new 2"] * 10
    assert [row.rank for row in found] == [*range(1, 11)] * 2
    right = [int(row.user[1:]) % 2 == (row.item == "new 2") for row in found]
    assert np.mean(right) >= 0.9


def test_the_place_of_a_new_item_is_counted_among_what_the_user_has_not_had(ready: Any) -> None:
    made = ready("DeepMusic")
    train, asked = made.train_data._dataset, recommender(made)
    found = users_of(asked.recommend(new_items=[{"title": "murder jury"}], k=train.user_num - 1, scores=True))
    scores, seen = all_scores(made), seen_matrix(train).toarray()
    for row in found:
        user = int(asked.names.ids("user", [row.user])[0])
        others = scores[user - 1, 1:][torch.from_numpy(~seen[user, 1:])]
        assert row.score is not None
        assert (row.item_rank, row.of) == (1 + int((others > row.score).sum()), 1 + len(others))
    assert [row.score for row in found] == sorted((row.score or 0.0 for row in found), reverse=True)


@pytest.mark.parametrize("name", ["DeepMusic", "ALDI", "ContentKNN"])
def test_new_items_stand_in_a_user_s_list_where_their_score_puts_them(name: str, ready: Any) -> None:
    made = ready(name)
    asked = recommender(made)
    every = 60 - int(seen_matrix(made.train_data._dataset)[int(asked.names.ids("user", ["u3"])[0])].sum()) + 2
    given = [{"item_id": "n1", "title": "comet orbit"}, {"item_id": "n2", "title": "poison police"}]
    found = items_of(asked.recommend(user="u3", new_items=given, k=every, scores=True))
    new = {row.item: row for row in found if row.group == "new"}
    assert set(new) == {"n1", "n2"}
    assert new["n1"].title == "comet orbit"
    assert new["n1"].rank < new["n2"].rank  # the taste of u3
    assert [row.score for row in found] == sorted((row.score or 0.0 for row in found), reverse=True)
    expected = {row.user: row for row in users_of(asked.recommend(new_items=given[:1], k=60, scores=True))}["u3"]
    assert new["n1"].score == pytest.approx(expected.score, abs=1e-6)


def test_what_was_imagined_is_told(ready: Any) -> None:
    made = ready("USIM")
    asked = recommender(made)
    found = asked.recommend(new_items=[{"title": "comet orbit"}, {"title": "jury poison"}], k=2)
    assert all(isinstance(step, ImaginedUser) for step in found.imagined)
    assert [(step.item, step.step) for step in found.imagined] == [(f"new {n}", t) for n in (1, 2) for t in (1, 2, 3)]
    content = new_item_content(made.config, made.train_data._dataset, ["comet orbit"])
    told = made.model.imagine(content)
    assert [step.user for step in found.imagined[:3]] == [asked.names.user(int(user)) for user in told.users[0]]
    assert "imagined users" in str(found)
    assert len(json.loads(found.to_json())["imagined"]) == 6


def test_words_that_are_unknown_are_said_to_be(ready: Any) -> None:
    found = recommender(ready("DeepMusic")).recommend(new_items=[{"title": "quokka"}, {"title": "orbit"}], k=1)
    (note,) = found.notes
    assert "new 1" in note


def test_vectors_of_a_file_are_what_new_items_must_bring(tastes: Path, workplace: Path) -> None:
    random = np.random.default_rng(0)
    ids = [f"i{item}" for item in range(60)]
    vectors = np.eye(2, 6)[np.arange(60) % 2] + 0.1 * random.normal(size=(60, 6))
    np.savez("vectors.npz", ids=np.array(ids), vectors=vectors)
    for dim in (None, 3):
        content = {"from": "file", "path": "vectors.npz", **({"dim": dim} if dim else {})}
        made = experiment("ContentKNN", tastes, content=content)
        asked = recommender(made)
        oov = int(np.flatnonzero(oov_mask(made.train_data._dataset))[0])
        vector = vectors[int(asked.names.item(oov)[1:])]
        users = torch.arange(1, 61)
        new = new_item_content(made.config, made.train_data._dataset, vector[None])
        assert torch.allclose(score_new_items(made.model, users, new)[:, 0], all_scores(made)[:, oov], atol=1e-5)
        assert len(asked.recommend(new_items=[{"vector": vector.tolist()}], k=3)) == 3
        for wrong in ({"vector": [1.0, 2.0]}, {"vector": [1, float("nan")]}, {"vector": ["a"]}, {"item_id": "new"}):
            with pytest.raises(DataError, match="vector"):
                asked.recommend(new_items=[wrong], k=3)
        with pytest.raises(ConfigError, match="'title', which is no item column .*its content is made of vector"):
            asked.recommend(new_items=[{"title": "none was loaded"}], k=3)


# ---- users of the data set ----


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "EASE", "ItemKNN", "DeepMusic", "ContentKNN"])
@pytest.mark.parametrize("groups", ["overall", "iv", "oov"])
def test_recommendations_are_the_scores_less_what_the_user_has(name: str, groups: Any, ready: Any) -> None:
    made = ready(name)
    train, asked = made.train_data._dataset, recommender(made)
    if groups == "oov" and name not in ("DeepMusic", "ContentKNN"):
        with pytest.raises(ConfigError, match="without a training row"):
            asked.recommend(user="u1", k=2, groups=groups)
        return
    users = ["u1", "u30", "u7"]
    found = items_of(asked.recommend(users=users, k=4, groups=groups, scores=True))
    oov = torch.from_numpy(oov_mask(train))
    ids = asked.names.ids("user", users)
    scores = torch.cat(
        [made.model.full_sort_predict(Interaction({train.uid_field: one})).view(1, -1) for one in ids.split(1)]
    ).float()
    scores[torch.from_numpy(seen_matrix(train)[ids.numpy()].toarray())] = -torch.inf
    scores[:, 0] = -torch.inf
    if groups != "overall":
        scores[:, ~oov if groups == "oov" else oov] = -torch.inf
    for user, row in zip(users, scores, strict=True):
        mine = [line for line in found if line.case == user]
        assert [line.score for line in mine] == pytest.approx(row.topk(4).values.tolist(), abs=1e-5)
        for line in mine:
            item = int(asked.names.ids("item", [line.item])[0])
            assert row[item].item() == pytest.approx(line.score, abs=1e-5)
            assert line.group == ("oov" if oov[item] else "iv")
            assert line.title is not None
            assert set(line.title.split()) <= {word for words in WORDS for word in words}


def test_models_that_know_nothing_of_oov_items_leave_them_out(ready: Any) -> None:
    found = recommender(ready("BPR")).recommend(user="u1", k=20)
    assert {row.group for row in items_of(found)} == {"iv"}
    assert "left out" in found.notes[0]
    assert not recommender(ready("DeepMusic")).recommend(user="u1", k=20).notes


def test_what_the_user_has_can_be_kept(ready: Any) -> None:
    made = ready("EASE")
    asked, train = recommender(made), made.train_data._dataset
    seen = seen_matrix(train)[int(asked.names.ids("user", ["u1"])[0])].indices
    had = {asked.names.item(int(item)) for item in seen}
    n_iv = int((~oov_mask(train)).sum()) - 1
    kept = items_of(asked.recommend(user="u1", k=n_iv, keep_seen=True))
    assert had < {row.item for row in kept}
    assert not had & {row.item for row in items_of(asked.recommend(user="u1", k=n_iv - len(had)))}


def test_ties_are_broken_by_lot(ready: Any) -> None:
    made = ready("Pop")
    made.model.item_cnt.zero_()
    asked = recommender(made)
    firsts = {items_of(asked.recommend(user=f"u{user}", k=1))[0].item for user in range(30)}
    assert len(firsts) > 10
    again = [items_of(asked.recommend(user="u1", k=5)) for _ in range(2)]
    assert again[0] == again[1]


def test_a_model_that_scores_pairs_alone(tastes: Path, workplace: Path) -> None:
    made = experiment("NeuMF", tastes)
    asked, train = recommender(made), made.train_data._dataset
    found = items_of(asked.recommend(user="u5", k=3, scores=True))
    for row in found:
        pair = Interaction(
            {
                train.uid_field: asked.names.ids("user", ["u5"]),
                train.iid_field: asked.names.ids("item", [row.item]),
            }
        )
        assert made.model.predict(pair).item() == pytest.approx(row.score, abs=1e-6)


# ---- histories ----


@pytest.mark.parametrize("name", ["EASE", "ItemKNN", "SLIMElastic", "MultiVAE", "RecVAE", "ContentKNN"])
def test_a_history_is_scored_as_the_user_who_has_it(name: str, ready: Any) -> None:
    made = ready(name)
    asked, train = recommender(made), made.train_data._dataset
    seen = seen_matrix(train)
    users = ["u4", "u9"]
    histories = [
        [asked.names.item(int(item)) for item in seen[int(user)].indices] for user in asked.names.ids("user", users)
    ]
    found = items_of(asked.recommend(histories=histories, k=5, scores=True))
    expected = items_of(asked.recommend(users=users, k=5, scores=True))
    assert [row.score for row in found] == pytest.approx([row.score for row in expected], abs=1e-5)
    assert [row.case for row in found] == ["history 1"] * 5 + ["history 2"] * 5
    assert not {row.item for row in found[:5]} & set(histories[0])


@pytest.mark.parametrize("name", ["ItemKNN", "SLIMElastic", "EASE"])
def test_a_matrix_of_items_stays_sparse(name: str, ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ready(name)
    weights = made.model.w if name == "ItemKNN" else made.model.item_similarity
    dense = np.asarray(weights if isinstance(weights, np.ndarray) else weights.toarray())
    if name != "EASE":
        monkeypatch.setattr(type(weights), "toarray", None)
        monkeypatch.setattr(type(weights), "todense", None)
    found = recommender(made)._scores.of_histories([torch.tensor([1, 2, 2, 7]), torch.tensor([5])])
    expected = np.stack([dense[[1, 2, 7]].sum(axis=0), dense[5]])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "OOVLLMRec", "FPMC"])
def test_sequential_models_go_on_with_the_whole_training_history(name: str, circles: Any, workplace: Path) -> None:
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model

    config = circles.config(name)
    train, valid, _ = data_preparation(config, create_dataset(config))
    model = get_model(name)(config, train._dataset).to(config["device"]).eval()
    asked = Recommender(config, model, train._dataset)
    rows = valid._dataset.inter_feat[:3]  # what came before a validation item is the training history
    users = [asked.names.user(int(user)) for user in rows[train._dataset.uid_field]]
    with torch.no_grad():
        expected = model.full_sort_predict(rows).view(3, -1)
    found = items_of(asked.recommend(users=users, k=24, keep_seen=True, scores=True))
    for user, row in zip(users, expected, strict=True):
        mine = [line for line in found if line.case == user]
        items = asked.names.ids("item", [line.item for line in mine])
        assert torch.allclose(row[items], torch.tensor([line.score for line in mine]), atol=1e-5)
    history = circles.histories[users[0]][:-2]
    if name == "FPMC":
        with pytest.raises(ConfigError, match="reads user_id"):
            asked.recommend(history=history, k=3)
        return
    of_history = items_of(asked.recommend(history=history, k=24, keep_seen=True, scores=True))
    assert len({line.score for line in of_history}) > 1
    if name != "OOVLLMRec":  # which reads the user too
        mine = [line for line in found if line.case == users[0]]
        scored = {line.item: line.score for line in mine}
        assert {line.item: line.score for line in of_history} == pytest.approx(scored, abs=1e-5)


def test_item_vectors_are_made_once_for_all_users_and_anew_for_the_next_call(
    ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recommender(ready("OOVLLMRec"))
    made = Mock(side_effect=asked.model._make_leaves)
    monkeypatch.setattr(asked.model, "_make_leaves", made)
    users = ["u1", "u30", "u7"]
    together = asked.recommend(users=users, k=4, scores=True)
    made.reset_mock()
    monkeypatch.setattr(api, "_SCORES_AT_ONCE", asked.dataset.item_num)  # a user at a time
    alone = asked.recommend(users=users, k=4, scores=True, explain=True)
    assert made.call_count == 1
    assert [row.item for row in items_of(alone)] == [row.item for row in items_of(together)]
    asked.recommend(users=users, k=4)
    assert made.call_count == 2, "its weights may have changed"


def test_a_history_longer_than_what_is_read_is_said(ready: Any) -> None:
    asked = recommender(ready("OOVLLMRec"))
    longest = asked.model.max_seq_length
    history = [f"i{1 + at % 9}" for at in range(longest + 3)]
    found = asked.recommend(history=history, k=3, scores=True)
    note = f"of history 1 the newest {longest} of {longest + 3} items are read"
    assert note in found.notes
    newest = asked.recommend(history=history[-longest:], k=3, scores=True)
    assert not any("newest" in one for one in newest.notes)
    if set(history) == set(history[-longest:]):
        assert items_of(newest) == items_of(found)


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "DeepMusic"])
def test_embeddings_of_users_cannot_be_had_for_a_history(name: str, ready: Any) -> None:
    with pytest.raises(ConfigError, match="cannot recommend by a history"):
        recommender(ready(name)).recommend(history=["i1", "i2"], k=2)


# ---- refusals ----

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("DeepMusic", {}, "give a user, a history or new_items"),
    ("DeepMusic", {"user": "u999"}, "'u999' is not among the 60 users of tastes; the nearest ids are u"),
    ("EASE", {"history": ["i1", "j2"]}, "'j2' is not among the 60 items"),
    ("EASE", {"history": []}, "empty"),
    ("EASE", {"history": "i1"}, "list of item ids"),
    ("EASE", {"histories": ["i1", "i2"]}, "histories: 'i1' is one item, not a history; give a list of item ids"),
    ("EASE", {"histories": [["i1"], 2]}, "histories: 2 is one item, not a history"),
    ("EASE", {"history": ["i1"], "user": "u1"}, "stands alone"),
    ("DeepMusic", {"user": "[PAD]"}, "is not among"),
    ("DeepMusic", {"users": []}, "not empty"),
    ("DeepMusic", {"users": "u1"}, "not empty"),
    ("DeepMusic", {"user": "u1", "users": ["u2"]}, "one and many"),
    ("DeepMusic", {"user": "u1", "k": 0}, "k: 0"),
    ("DeepMusic", {"user": "u1", "k": True}, "k: True"),
    ("DeepMusic", {"user": "u1", "k": 60}, "k: 60 is more than the"),
    ("DeepMusic", {"user": "u1", "groups": "cold"}, "overall, iv, oov"),
    ("DeepMusic", {"new_items": []}, "empty"),
    ("DeepMusic", {"new_items": [{"title": "orbit"}], "k": 61}, "more than the 60 users"),
    ("DeepMusic", {"new_items": [{"titel": "orbit"}]}, "do you mean title"),
    ("DeepMusic", {"new_items": [{"title": " "}]}, "new 1 has no text"),
    ("DeepMusic", {"user": "u1", "k": 10**30}, "k: 10000"),
    ("DeepMusic", {"new_items": [{"title": {"en": "orbit"}}]}, "give text, a number or a list of words"),
    ("DeepMusic", {"new_items": [{}]}, "describe it"),
    ("DeepMusic", {"new_items": ["orbit"]}, "describe it"),
    ("DeepMusic", {"new_items": [{"item_id": "i1", "title": "orbit"}]}, "already"),
    ("DeepMusic", {"new_items": [{"item_id": "n", "title": "orbit"}] * 2}, "twice"),
    ("BPR", {"new_items": [{"title": "orbit"}]}, "BPR cannot score an item by its content"),
    ("EASE", {"new_items": [{"title": "orbit"}]}, "EASE cannot score an item by its content"),
]


@pytest.mark.parametrize(("name", "asked", "said"), WRONG)
def test_what_cannot_be_is_refused(name: str, asked: dict[str, Any], said: str, ready: Any) -> None:
    with pytest.raises((ConfigError, DataError)) as error:
        recommender(ready(name)).recommend(**asked)
    assert said in str(error.value)


# ---- checkpoints and the command line ----


@pytest.fixture(scope="module")
def saved(tastes: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("saved"))
        made = trained("DeepMusic", tastes, saved=True)
        return str(Path(made.trainer.saved_model_file).absolute())


def test_a_checkpoint_recommends_as_the_model_that_it_is_of(saved: str, tastes: Path, workplace: Path) -> None:
    found = recbole_oov.recommend(saved, user="u1", k=3, scores=True)
    assert list(found.to_frame().columns) == ["case", "rank", "item", "title", "group", "score"]
    moved = workplace / "elsewhere"
    tastes.rename(moved)
    try:
        with pytest.raises(DataError, match="data_path"):
            recbole_oov.recommend(saved, user="u1")
        assert recbole_oov.recommend(saved, user="u1", k=3, scores=True, data_path=moved) == found
    finally:
        moved.rename(tastes)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        recbole_oov.recommend("saved/none.json", user="u1")
    assert not (workplace / "log").exists()


def test_the_same_ids_in_another_order_are_other_data(saved: str, tastes: Path, workplace: Path) -> None:
    """As many users and items: without a look at the ids the weights of one user would serve another."""
    other = workplace / "other"
    shutil.copytree(tastes, other)
    rows = (other / "tastes" / "tastes.inter").read_text(encoding="utf-8").splitlines()
    (other / "tastes" / "tastes.inter").write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="has other users or items, or another split, than the data"):
        recbole_oov.recommend(saved, user="u1", k=3, data_path=other)


def test_the_command_prints_a_table_or_json(saved: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", f"--checkpoint={saved}", "--user=u1", "--k=3"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[2:5]] == ["u1"] * 3
    Path("new.csv").write_text('title\n"orbit, comet"\njury poison\n', encoding="utf-8")
    Path("new.jsonl").write_text('{"title": "orbit, comet"}\n\n{"title": "jury poison"}\n', encoding="utf-8")
    found = []
    for name in ("new.csv", "new.jsonl"):
        argv = ["recommend", f"--checkpoint={saved}", f"--new_items={name}", "--k=2", "--json", "--scores"]
        assert main(argv) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["model"] == "DeepMusic"
    assert [row["item"] for row in found[0]["recommendations"]] == ["new 1", "new 1", "new 2", "new 2"]
    assert {row["user"][1:] for row in found[0]["recommendations"][:2]} <= {str(user) for user in range(1, 60, 2)}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--checkpoint"),
        (["--checkpoint=none.json", "--user=1"], "no such checkpoint"),
        (["--checkpoint=x", "--usr=1"], "'--usr=1' is not known"),
        (["--checkpoint=x", "--user"], "no value"),
        (["--checkpoint=x", "--user=1", "--user=2"], "twice"),
        (["--checkpoint=x", "--k=ten"], "whole number"),
        (["--checkpoint=x", "--k=٣"], "whole number"),
        (["--checkpoint=x", "--scores=maybe"], "True or False"),
        (["--checkpoint=x", "--new_items=none.csv"], "cannot be read"),
    ],
)
def test_the_command_says_what_is_wrong(
    argv: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", *argv]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "x", "no known kind"),
        ("a.jsonl", '{"title": "a"}\n{"title"\n', "line 2"),
        ("a.jsonl", "[1]\n", "no object"),
        ("a.json", "{}", "holds no list"),
        ("a.csv", "title,year\na,b,c\n", "line 2"),
        ("a.csv", 'title\n"a\n', "line 2"),
    ],
)
def test_files_that_cannot_be_read(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_item_file(tmp_path / name)


def test_an_object_a_line_may_hold_any_character(tmp_path: Path) -> None:
    titles = ["amber\u2028tide", "basil\x85", "cedar\u2029", "dune"]
    lines = [json.dumps({"title": title}, ensure_ascii=False) for title in titles]
    path = tmp_path / "new.jsonl"
    path.write_bytes("\r\n".join(["", *lines[:2], " ", *lines[2:]]).encode())
    assert [item["title"] for item in read_item_file(path)] == titles
