"""Occlusion: what of a history moved a score, and ``recommend(explain=True)``."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_model, init_seed
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.lm.explanation import explain_by_occlusion
from recbole_oov.recommendation import Recommender

ITEM_CLUSTER = torch.tensor([9, 0, 0, 1, 2, 1])
WORTH = torch.tensor([0.0, 1, 2, 4, 8, 16])
"""What each item of a history adds to the score, in the tests' own scorer."""


def worth_of_history(histories: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Of two items: a sum over the history, and what the last item says."""
    totals = WORTH[histories].sum(1, keepdim=True)
    last = histories.gather(1, (lengths - 1)[:, None])
    return totals * torch.tensor([1.0, 0.0]), WORTH[last] * torch.tensor([0.0, -1.0])


def test_each_item_and_each_cluster_moved_the_score_by_what_it_is_worth() -> None:
    history = torch.tensor([1, 3, 2, 5])
    found = explain_by_occlusion(history, ITEM_CLUSTER[history], worth_of_history)
    assert found.cluster_log_probs.tolist() == [23, 0] and found.item_log_probs.tolist() == [0, -16]
    assert found.by_item[:, 0].tolist() == [1, 4, 2, 16]
    # The second item's score hangs on the last of the history alone: without 5 the last one is 2.
    assert found.by_item[:, 1].tolist() == [0, 0, 0, -14]
    assert found.clusters.tolist() == [0, 1]
    assert found.by_cluster.tolist() == [[3, 0], [20, -14]]


def test_histories_keep_their_order_and_are_padded_behind() -> None:
    seen: list[list[int]] = []

    def remember(histories: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend(row[:length].tolist() for row, length in zip(histories, lengths.tolist(), strict=True))
        assert all((row[length:] == 0).all() for row, length in zip(histories, lengths.tolist(), strict=True))
        return worth_of_history(histories, lengths)

    history = torch.tensor([3, 1, 3, 4])
    explain_by_occlusion(history, ITEM_CLUSTER[history], remember)
    without_items = [[1, 3, 4], [3, 3, 4], [3, 1, 4], [3, 1, 3]]
    assert seen == [[3, 1, 3, 4], *without_items, [3, 3, 4], [1, 4], [3, 1, 3]]


def test_a_history_that_would_be_empty_tells_nothing_of_its_item() -> None:
    found = explain_by_occlusion(torch.tensor([4]), torch.tensor([2]), worth_of_history)
    assert found.by_item.tolist() == [[0, 0]] and found.by_cluster.tolist() == [[0, 0]]


def test_an_empty_history_moves_nothing() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    found = explain_by_occlusion(nothing, nothing, lambda rows, lengths: (torch.full((len(rows), 2), -1.0),) * 2)
    assert found.cluster_log_probs.tolist() == [-1.0, -1.0] and found.by_item.shape == (0, 2) == found.by_cluster.shape


@pytest.fixture(scope="module")
def recommender(circles: Any) -> Recommender:
    config, dataset = circles.config("OOVLLMRec"), circles.loaders[0]._dataset
    init_seed(config["seed"], True)
    return Recommender(config, get_model("OOVLLMRec")(config, dataset), dataset)


@pytest.mark.parametrize("asked", [{"users": ["u3", "u0"]}, {"history": ["i1", "i2", "i14", "i3"]}])
def test_the_tokens_log_probabilities_add_up_to_the_score(recommender: Recommender, asked: dict[str, Any]) -> None:
    found = recommender.recommend(**asked, k=3, scores=True, explain=True)
    assert [(why.case, why.rank, why.item) for why in found.explanations] == [
        (row.case, row.rank, row.item) for row in found
    ]
    for why, row in zip(found.explanations, found, strict=True):
        assert why.cluster_log_prob + why.token_log_prob == pytest.approx(row.score, abs=1e-5)
        assert why.cluster.startswith("<CT") and why.token.startswith("<10")
        moved = [abs(one.moved) for one in why.items]
        assert moved == sorted(moved, reverse=True) and moved[0] > 0
    assert "moved most by" in str(found)
    assert len(json.loads(found.to_json())["explanations"]) == len(found)
    assert not recommender.recommend(**asked, k=3).explanations


def test_where_a_history_is_excluded_what_is_left_out_is_no_new_rival(circles: Any, recommender: Recommender) -> None:
    config, dataset = circles.config("OOVLLMRec", history_items="excluded"), circles.loaders[0]._dataset
    model = get_model("OOVLLMRec")(config, dataset).eval()
    model.load_state_dict(recommender.model.state_dict())
    rows = circles.loaders[1]._dataset.inter_feat[:1]
    length = int(rows[model.ITEM_SEQ_LEN][0])
    history = rows[model.ITEM_SEQ][0, :length]
    wanted = torch.tensor([item for item in range(1, 25) if item not in history.tolist()][:2])
    found = model.explain(rows, wanted)

    def scores(items: torch.Tensor) -> torch.Tensor:
        read = Interaction({model.USER_ID: rows[model.USER_ID], model.ITEM_SEQ: items[None]})
        read.update(Interaction({model.ITEM_SEQ_LEN: torch.tensor([len(items)])}))
        return model.tree.log_probs(*model._branches(read), model._leaves(), history[None])[0, wanted]

    whole = scores(history)
    torch.testing.assert_close(found.cluster_log_probs + found.item_log_probs, whole, atol=1e-5, rtol=1e-5)
    for at in range(length):
        rest = torch.cat([history[:at], history[at + 1 :]])
        torch.testing.assert_close(found.by_item[at], whole - scores(rest), atol=1e-5, rtol=1e-4)


def test_an_item_moved_the_score_by_what_is_missing_without_it(recommender: Recommender) -> None:
    model, names = recommender.model, recommender.names
    found = recommender.recommend(user="u4", k=2, explain=True)
    row = recommender._scores.rows_after_users(names.ids("user", ["u4"]))
    length = int(row[model.ITEM_SEQ_LEN][0])
    history = row[model.ITEM_SEQ][0, :length].tolist()
    assert {one.name for one in found.explanations[0].items} == {names.item(item) for item in history}

    def score(items: list[int], of: str) -> float:
        columns = {model.USER_ID: row[model.USER_ID], model.ITEM_SEQ: torch.tensor([items])}
        scores = model.full_sort_predict(Interaction({**columns, model.ITEM_SEQ_LEN: torch.tensor([len(items)])}))
        return float(scores[0, names.ids("item", [of])[0]])

    for why in found.explanations:
        whole = score(history, why.item)
        for one in why.items:
            rest = [item for item in history if names.item(item) != one.name]
            assert one.moved == pytest.approx(whole - score(rest, why.item), abs=1e-4)
        for one in why.clusters:
            rest = [item for item in history if model.item_tokens(item)[0] != one.name]
            if rest:
                assert one.moved == pytest.approx(whole - score(rest, why.item), abs=1e-4)


def test_a_model_without_its_history_cannot_keep_what_was_seen(circles: Any) -> None:
    config, dataset = circles.config("OOVLLMRec", history_items="excluded"), circles.loaders[0]._dataset
    asked = Recommender(config, get_model("OOVLLMRec")(config, dataset), dataset)
    assert "i1" not in {row.item for row in asked.recommend(history=["i1", "i2"], k=22)}
    with pytest.raises(ConfigError, match="keep_seen: the model was trained with history_items: excluded"):
        asked.recommend(history=["i1", "i2"], keep_seen=True)


def test_models_that_cannot_explain_say_so(circles: Any, recommender: Recommender) -> None:
    config, dataset = circles.config("SASRec", train_neg_sample_args=None), circles.loaders[0]._dataset
    other = Recommender(config, get_model("SASRec")(config, dataset), dataset)
    with pytest.raises(ConfigError, match="explain: SASRec cannot say what of a history moved its scores; OOVLLMRec"):
        other.recommend(history=["i1"], k=1, explain=True)
