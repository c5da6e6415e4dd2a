"""Sequential rules: counted by hand, asked by hand, and mixed with a model's probabilities."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.data.interaction import Interaction

from recbole_oov import recommend
from recbole_oov.data.histories import Histories
from recbole_oov.data.sequential_rules import SequentialRuleTable
from recbole_oov.errors import ConfigError
from recbole_oov.model.block_scorer import block_scorer
from recbole_oov.model.rules_mixture import _logits
from recbole_oov.recommendation.api import Recommender
from recbole_oov.runner import load, prepare
from recbole_oov.tools.embeddings import embeddings_of

N_ITEMS = 7
LEAST = torch.finfo(torch.float32).min
HISTORIES = st.lists(st.lists(st.integers(1, N_ITEMS - 1), min_size=1, max_size=9), min_size=1, max_size=5)


def table(histories: list[list[int]], gap: int, decay: float, monkeypatch: pytest.MonkeyPatch) -> SequentialRuleTable:
    offsets = np.cumsum([0, *map(len, histories)])
    found = Histories(np.arange(1, len(histories) + 1), np.concatenate(histories), offsets, len(histories) + 1, N_ITEMS)
    with monkeypatch.context() as patch:
        patch.setattr(Histories, "from_train", classmethod(lambda cls, dataset: found))
        return SequentialRuleTable(None, gap, decay)


def asked(histories: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor(list(map(len, histories)))
    lists = torch.zeros(len(histories), int(lengths.max()) + 2, dtype=torch.long)
    for row, history in enumerate(histories):
        lists[row, : len(history)] = torch.tensor(history)
    return lists, lengths


def by_hand(known: list[list[int]], history: list[int], gap: int, decay: float) -> list[float]:
    counts: Counter[tuple[int, int]] = Counter()
    for one in known:
        for at, item in enumerate(one):
            for apart in range(1, gap + 1):
                if at + apart < len(one):
                    counts[item, one[at + apart]] += 1 / apart  # type: ignore[assignment]
    return [
        sum(decay**age * counts[item, follower] for age, item in enumerate(reversed(history)))
        for follower in range(N_ITEMS)
    ]


@given(HISTORIES, HISTORIES, st.sampled_from([1, 2, 20]), st.sampled_from([0.0, 0.5, 1.0]))
def test_counts_are_those_by_hand(known: list[list[int]], histories: list[list[int]], gap: int, decay: float) -> None:
    found = table(known, gap, decay, pytest.MonkeyPatch())(*asked(histories))
    expected = torch.tensor([by_hand(known, history, gap, decay) for history in histories])
    torch.testing.assert_close(found, expected)


@given(HISTORIES, st.sampled_from([0.2, 0.9]), st.integers(0, 99))
def test_a_mixture_is_a_distribution_over_what_the_model_allows(
    known: list[list[int]], weight: float, seed: int
) -> None:
    rules = table(known, 3, 0.5, pytest.MonkeyPatch())
    histories = [*known, [1]]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(histories), N_ITEMS, generator=generator)
    logits[:, 3] = LEAST
    mixed = rules.mixed(logits, *asked(histories), weight)
    assert torch.equal(mixed[:, [0, 3]], torch.full_like(mixed[:, [0, 3]], LEAST))
    allowed = [1, 2, 4, 5, 6]
    torch.testing.assert_close(mixed[:, allowed].exp().sum(dim=1), torch.ones(len(histories)))
    said = rules(*asked(histories))[:, allowed]
    total = said.sum(dim=1, keepdim=True)
    share = weight * total / (total + 1)
    of_rules = said / total.clamp(min=1e-9)
    expected = (1 - share) * logits[:, allowed].softmax(dim=1) + share * of_rules
    torch.testing.assert_close(mixed[:, allowed].exp(), expected)
    alone = rules.mixed(logits, *asked(histories), 0.0)
    torch.testing.assert_close(alone[:, allowed].exp(), logits[:, allowed].softmax(dim=1))


@given(st.integers(0, 99), st.booleans())
def test_probabilities_are_told_from_logits_also_where_some_items_are_struck_out(seed: int, some_out: bool) -> None:
    logits = 3 * torch.randn(4, N_ITEMS, generator=torch.Generator().manual_seed(seed))
    probabilities, out = logits.softmax(dim=1), torch.tensor([False, True, False, some_out, False, False, True])
    if some_out:
        logits, probabilities = (scores.masked_fill(out, LEAST) for scores in (logits, probabilities))
    assert torch.equal(_logits(logits), logits)
    torch.testing.assert_close(_logits(probabilities).softmax(dim=1), logits.softmax(dim=1))
    assert torch.equal(_logits(probabilities) == LEAST, logits == LEAST)


OPTIONS = {"walks_per_node": 3, "walk_length": 8, "walk_epochs": 1, "walk_dim": 8, "n_clusters": 3, "hidden_size": 16}


def prepared(circles: Any, model: str, **options: Any) -> Any:
    small = {**OPTIONS, "inner_size": 16, "tokenizer_vocab_size": 200} if model == "OOVLLMRec" else {}
    base = {"data_path": str(circles.data_path), "MAX_ITEM_LIST_LENGTH": 12, "show_progress": False, "epochs": 1}
    return prepare(model, "circles", config_dict={**base, **small, **options}, argv=[])


def test_what_decides_the_next_item_is_found_without_learning(circles: Any, workplace: Path) -> None:
    experiment = prepared(circles, "SequentialRules")
    found = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    assert found["recall@10"] == 1.0
    assert found["mrr@10"] > 0.9, "the item behind the last one comes first"


@pytest.mark.parametrize("model", ["OOVLLMRec", "SASRec", "GRU4Rec"])
def test_an_untrained_model_knows_with_the_rules_what_they_know(circles: Any, workplace: Path, model: str) -> None:
    metrics = {}
    for weight in (0.0, 0.9):
        experiment = prepared(circles, model, rules_weight=weight, rules_decay=0.0)
        assert type(experiment.model).__name__ == model
        metrics[weight] = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)["mrr@10"]
    assert metrics[0.0] < 0.4
    assert metrics[0.9] > 0.9


def test_training_with_rules_is_that_without_them(circles: Any, workplace: Path) -> None:
    weights = []
    for weight in (0.0, 0.5):
        experiment = prepared(circles, "SASRec", rules_weight=weight, seed=3)
        experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
        weights.append(experiment.model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_has_its_rules_back_and_recommends_by_them(circles: Any, workplace: Path) -> None:
    experiment = prepared(circles, "OOVLLMRec", rules_weight=0.5, history_items="excluded", data_checks="warn")
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    expected = experiment.trainer.evaluate(experiment.test_data)
    file = experiment.trainer.saved_model_file
    _, model, _, _, _, test_data = load(file, log=False)
    rows = test_data._dataset.inter_feat
    experiment.model.eval(), model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(rows)
        torch.testing.assert_close(scores, experiment.model.full_sort_predict(rows))
        one = model.predict(rows)
    torch.testing.assert_close(one, scores.gather(1, rows[model.ITEM_ID][:, None]).squeeze(1))
    of_history = scores.gather(1, rows[model.ITEM_SEQ].clamp(min=0))
    assert bool((of_history == LEAST).all()), "rules bring back nothing that the model rules out"
    again = experiment.trainer.evaluate(experiment.test_data, model_file=file)
    assert again == expected
    found = recommend(file, history=["i3"], k=3, scores=True)
    recommender = Recommender.load(file)
    assert [row.item for row in recommender.recommend(history=["i3"], k=3)] == [row.item for row in found]
    every = recommender.recommend(history=["i3"], k=23, scores=True)
    assert sum(np.exp(row.score) for row in every) == pytest.approx(1)
    with pytest.raises(ConfigError, match="explain: with rules_weight the scores are not the model's alone"):
        recommender.recommend(history=["i3"], explain=True)


def test_mixed_scores_are_not_made_some_items_at_a_time(circles: Any, workplace: Path) -> None:
    for weight, in_blocks in ((0.0, True), (0.5, False)):
        experiment = prepared(circles, "SASRec", rules_weight=weight)
        cases = experiment.test_data._dataset.inter_feat[torch.arange(4)]
        assert (block_scorer(experiment.model.eval(), cases) is not None) == in_blocks


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("BPR", {"rules_weight": 0.5}, "rules_weight: BPR is no sequential model"),
        ("OOVLLMRec", {"rules_weight": 0.5, "oov_items": "spread"}, "rules_weight: no rule names an item without"),
        ("OOVLLMRec", {"rules_weight": 0.5, "tasks": ["direct"], "rank_by": "direct"}, "rules_weight: with rank_by"),
        ("SequentialRules", {"rules_weight": 0.5}, "rules_weight: SequentialRules gives no probabilities of items"),
        (
            "SASRec",
            {"rules_weight": 0.5, "loss_type": "BPR"},
            "rules_weight: SASRec gives no probabilities of items .* set loss_type: CE",
        ),
        ("OOVLLMRec", {"rules_weight": 0.5, "decoding": "beam"}, "rules_weight: beam search finds some items by the"),
        ("SASRec", {"rules_weight": 1.0}, "rules_weight: 1.0 is not allowed; .* at least 0 and below 1"),
        ("SequentialRules", {"rules_gap": 0}, "rules_gap: 0 is not allowed; it must be a whole number of at least 1"),
        ("SequentialRules", {"rules_decay": 1.5}, "rules_decay: 1.5 is not allowed; it must be a number from 0 to 1"),
    ],
)
def test_what_cannot_be_mixed_is_refused(circles: Any, model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        circles.config(model, **options)


def test_held_out_items_are_not_counted(circles: Any) -> None:
    train = circles.fresh_train()
    histories = Histories.from_train(train)
    rules = SequentialRuleTable(train, 1, 0.0)
    assert int(rules.table.sum()) == sum(max(len(histories.of(user)) - 1, 0) for user in range(len(histories)))
    whole = sum(len(history) for history in circles.histories.values())
    assert len(histories.items) == whole - 2 * len(circles.histories), "two of each are held out"


@pytest.mark.parametrize("model", ["RepeatNet", "BERT4Rec", "STAMP", "CORE"])
def test_what_is_mixed_are_the_probabilities_that_a_model_learns(circles: Any, workplace: Path, model: str) -> None:
    """RepeatNet gives probabilities, the others logits."""
    experiment = prepared(circles, model, rules_weight=0.5)
    rows = experiment.train_data._dataset.inter_feat[torch.arange(8)]
    mixture = experiment.model.eval()
    with torch.no_grad():
        own = type(mixture).__mro__[2].full_sort_predict(mixture, rows).view(8, -1)[:, 1:]
        mixture.rules_weight = 0.0
        alone = mixture.full_sort_predict(rows)[:, 1 : own.shape[1] + 1].exp()
    expected = own / own.sum(dim=1, keepdim=True) if model == "RepeatNet" else own.softmax(dim=1)
    torch.testing.assert_close(alone, expected, rtol=1e-3, atol=1e-6)


def test_sampled_evaluation_asks_of_each_user_once(
    circles: Any, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}
    experiment = prepared(circles, "SASRec", rules_weight=0.5, eval_args=sampled, leak_guard="off")
    asked_rows: list[int] = []
    whole = SequentialRuleTable.mixed

    def counted(self: Any, scores: torch.Tensor, *more: Any) -> torch.Tensor:
        asked_rows.append(len(scores))
        return whole(self, scores, *more)

    monkeypatch.setattr(SequentialRuleTable, "mixed", counted)
    experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    assert sum(asked_rows) == 60, "of eleven items each"


def test_recboles_own_function_loads_the_mixture(circles: Any, workplace: Path) -> None:
    experiment = prepared(circles, "SASRec", rules_weight=0.5)
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    expected = experiment.trainer.evaluate(experiment.test_data)
    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    config, model, _, _, _, test_data = quick_start.load_data_and_model(experiment.trainer.saved_model_file)
    rows = test_data._dataset.inter_feat
    with torch.no_grad():
        found = model.eval().full_sort_predict(rows.to(config["device"]))
        torch.testing.assert_close(found, experiment.model.eval().full_sort_predict(rows))
    assert expected == experiment.trainer.evaluate(experiment.test_data, load_best_model=False)


def test_a_mixture_has_no_table_of_embeddings(circles: Any, workplace: Path) -> None:
    experiment = prepared(circles, "SASRec", rules_weight=0.5)
    with pytest.raises(ConfigError, match="export: with rules_weight scores are not those of embeddings alone"):
        embeddings_of(experiment.model.eval(), experiment.test_data)


def test_popularity_orders_what_no_rule_names(circles: Any, workplace: Path) -> None:
    experiment = prepared(circles, "SequentialRules", rules_gap=1, rules_decay=0.0)
    model = experiment.model.eval()
    item = int(experiment.train_data._dataset.inter_feat[model.ITEM_ID][0])
    row = Interaction({model.ITEM_SEQ: torch.tensor([[item, 0]]), model.ITEM_SEQ_LEN: torch.tensor([1])})
    scores = model.full_sort_predict(row)[0]
    unnamed = (scores < 1).nonzero().squeeze(1)
    assert torch.equal(scores[unnamed], model.popularity[unnamed])
    assert float(model.popularity.sum()) == pytest.approx(1)
