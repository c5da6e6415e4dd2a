"""Evaluation whose row of scores does not fit its memory: some items at a time, and the numbers of all at once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cold
import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_oov.bench.memory import peak_memory
from recbole_oov.evaluation.collector import GroupedCollector
from recbole_oov.evaluation.groups import OVERALL
from recbole_oov.evaluation.item_blocks import ItemBlocks, dot_product_blocks
from recbole_oov.lm.scoring import TokenTree
from recbole_oov.runner import Experiment, prepare
from recbole_oov.trainer import evaluation

OPTIONS = {
    "show_progress": False,
    "state": "ERROR",
    "topk": [3, 5],
    "metrics": ["Recall", "NDCG", "MAP", "ItemCoverage"],
    "valid_metric": "NDCG@5",
    "metric_decimal_place": 12,
    "data_checks": "warn",
}
LANGUAGE = {"hidden_size": 16, "inner_size": 32, "n_clusters": 4, "walk_epochs": 1, "walk_dim": 16}


def values(ready: Experiment) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
    result = dict(ready.trainer.evaluate(ready.test_data, load_best_model=False))
    return result, ready.trainer.last_evaluation.per_user


def assert_the_same_in_blocks(ready: Experiment, monkeypatch: pytest.MonkeyPatch, *, rows: int = 5) -> None:
    whole, users = values(ready)
    n_items = ready.dataset.item_num
    monkeypatch.setattr(evaluation, "_MIB", 4 * (n_items - 1) / ready.config["eval_memory"])
    monkeypatch.setattr(evaluation, "_ROWS_OF_BLOCKS", rows)
    widest = 0
    blocks = ItemBlocks.__iter__

    def watched(self: ItemBlocks) -> Any:
        nonlocal widest
        for ids, scores in blocks(self):
            widest = max(widest, scores.numel())
            yield ids, scores

    monkeypatch.setattr(ItemBlocks, "__iter__", watched)
    streamed, of_users = values(ready)
    assert 0 < widest < n_items
    assert streamed == pytest.approx(whole, abs=1e-12)
    for group, own in of_users.items():
        for name, value in own.items():
            np.testing.assert_array_equal(value, users[group][name])


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("BPR", {}),
        ("BPR", {"oov_split": "random"}),
        ("LightGCN", {"oov_split": "random"}),
        ("AutoSample", {"base_model": "BPR"}),
        ("SASRec", {}),
        ("GRU4Rec", {"mask_history": True}),
        ("OOVLLMRec", {**LANGUAGE, "mask_history": True}),
        ("OOVLLMRec", {**LANGUAGE, "oov_split": "random", "oov_items": "reserved"}),
        ("OOVLLMRec", {**LANGUAGE, "history_items": "excluded", "data_checks": "warn"}),
    ],
)
def test_blocks_give_the_numbers_of_all_items_at_once(
    model: str, options: dict[str, Any], tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepare(model, "tiny", config_dict={**OPTIONS, **options}, argv=[])
    assert_the_same_in_blocks(ready, monkeypatch)


@pytest.mark.parametrize("model", cold.FAMILY)
def test_blocks_of_cold_start_models(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = cold.trained(model, cold.write_tastes(tmp_path), epochs=2, metric_decimal_place=12)
    assert_the_same_in_blocks(ready, monkeypatch)


@pytest.mark.parametrize("oov_split", [None, "random"])
def test_ties_are_drawn_as_they_are_of_all_items_at_once(
    oov_split: str | None, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepare("BPR", "tiny", config_dict={**OPTIONS, **({"oov_split": oov_split} if oov_split else {})}, argv=[])
    with torch.no_grad():
        for table in (ready.model.user_embedding.weight, ready.model.item_embedding.weight):
            table.copy_(10 * table).round_()
    assert_the_same_in_blocks(ready, monkeypatch, rows=3)


def test_a_model_that_scores_all_items_at_once_says_so(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ready = prepare("NeuMF", "tiny", config_dict=OPTIONS, argv=[])
    whole, _ = values(ready)
    monkeypatch.setattr(evaluation, "_MIB", 4 / ready.config["eval_memory"])
    with caplog.at_level(logging.WARNING):
        assert values(ready)[0] == whole
    assert "and NeuMF scores all items at once" in caplog.text


def test_a_score_that_is_no_number_is_found_in_its_block(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepare("BPR", "tiny", config_dict=OPTIONS, argv=[])
    monkeypatch.setattr(evaluation, "_MIB", 4 / ready.config["eval_memory"])
    ready.trainer.remember(ready.train_data, ready.valid_data)

    def broken(interaction: Interaction, size: int) -> Any:
        for ids, scores in dot_product_blocks(ready.model.user_embedding(interaction["user_id"]), items, size):
            yield ids, scores.masked_fill(ids == 7, torch.nan)

    items = ready.model.item_embedding.weight.detach()
    ready.model.block_scorer = lambda: broken
    with pytest.raises(Exception, match="BPR scored some items NaN or infinite"):
        values(ready)


def test_clusters_larger_than_a_block_are_cut() -> None:
    torch.manual_seed(0)
    tree = TokenTree(torch.tensor([0, *[0] * 13, *[1] * 2, *[3] * 5]), 4)
    state, branches, leaves = torch.randn(3, 4), torch.randn(3, 4, 8), torch.randn(21, 8)
    whole = tree.log_probs(state, branches, leaves)
    blocks = list(tree.log_prob_blocks(state, branches, leaves, 4))
    assert max(len(ids) for ids, _ in blocks) == 4
    assert sorted(torch.cat([ids for ids, _ in blocks]).tolist()) == list(range(1, 21))
    for ids, scores in blocks:
        torch.testing.assert_close(scores, whole[:, ids])


def test_memory_stays_what_was_given_while_items_grow() -> None:
    config = {"metrics": ["Recall", "NDCG"], "topk": [10], "USER_ID_FIELD": "user_id", "device": "cpu", "seed": 1}
    config |= {"metric_decimal_place": 4, "eval_args": {"mode": {"valid": "full", "test": "full"}}, "single_spec": True}
    n_items, budget = 3_000_000, 16 << 20
    users, items = torch.randn(64, 8), torch.randn(n_items, 8)
    collector = GroupedCollector(config)
    collector.begin(np.arange(64), n_items)
    nothing = torch.zeros(0, dtype=torch.long)
    blocks = ItemBlocks(
        dot_product_blocks(users, items, budget // (2 * 4 * 64)), 64, n_items, (nothing, nothing), lambda scores: None
    )
    with peak_memory() as peak:
        collector.eval_batch_collect(blocks, {"user_id": torch.arange(64)}, torch.arange(64), torch.arange(1, 65))  # type: ignore[arg-type]
    found = collector._parts[OVERALL]["rec.topk"][0][:, :10]
    best = torch.stack([(user @ items[1:].T).topk(10).indices + 1 for user in users])
    assert torch.equal(found.bool(), best == torch.arange(1, 65)[:, None])
    if peak.bytes is not None:
        assert peak.bytes < 4 * budget < 64 * 4 * n_items // 10
