"""``history_items: excluded`` for RecBole's causal networks: the loss by hand, the scores, what it goes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.quick_start import load_data_and_model

from recbole_oov import recommend
from recbole_oov.data.histories import NEXT_ITEMS
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.model.block_scorer import block_scorer
from recbole_oov.recommendation.api import Recommender
from recbole_oov.runner import load, prepare
from recbole_oov.testing import write_atomic
from recbole_oov.tools.embeddings import embeddings_of
from recbole_oov.trainer.all_positions import all_position_loss, all_position_states, window_loader

LEAST = torch.finfo(torch.float32).min
NO_DROPOUT = {
    "SASRec": {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0},
    "GRU4Rec": {"dropout_prob": 0.0},
}
N_USERS, N_ITEMS = 30, 17


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    """Users who go on by the same step from a start of their own, and have no item twice."""
    histories = {
        f"u{user}": [f"i{(user + step * (1 + user % 2)) % N_ITEMS}" for step in range(8)] for user in range(N_USERS)
    }
    write_atomic(tmp_path, "walks", histories, {f"i{i}": f"item {i}" for i in range(N_ITEMS)})
    return tmp_path


def prepared(folder: Path, model: str, **options: Any) -> Any:
    base = {"data_path": str(folder), "MAX_ITEM_LIST_LENGTH": 6, "show_progress": False, "epochs": 2}
    asked = {**base, "train_positions": "all", "history_items": "excluded", **NO_DROPOUT.get(model, {}), **options}
    return prepare(model, "walks", config_dict=asked, argv=[])


@pytest.mark.parametrize("length", [6, 3])
@pytest.mark.parametrize("name", list(NO_DROPOUT))
def test_wrong_answers_are_what_was_not_read_before(walks: Path, workplace: Path, name: str, length: int) -> None:
    """In a window of its own each, where a history is longer than one."""
    experiment = prepared(walks, name, MAX_ITEM_LIST_LENGTH=length)
    assert type(experiment.model).__name__ == name
    model = experiment.model.train()
    (windows,) = list(window_loader(experiment.config, experiment.train_data._dataset))
    states = all_position_states(model, windows[model.ITEM_SEQ], windows[model.ITEM_SEQ_LEN])
    losses = []
    for row, position in windows[NEXT_ITEMS].nonzero().tolist():
        read = set(windows[model.ITEM_SEQ][row, : position + 1].tolist())
        target = int(windows[NEXT_ITEMS][row, position])
        rivals = [0, *(item for item in range(1, model.n_items) if item not in read)]  # [PAD] is RecBole's rival, too
        assert target in rivals
        logits = states[row, position] @ model.item_embedding.weight[rivals].T
        losses.append(-logits.log_softmax(dim=0)[rivals.index(target)])
    assert len(losses) > 100
    torch.testing.assert_close(all_position_loss(model, windows), torch.stack(losses).mean())


@pytest.mark.parametrize("name", list(NO_DROPOUT))
def test_no_item_of_the_history_is_recommended(walks: Path, workplace: Path, name: str) -> None:
    experiment = prepared(walks, name)
    stock = prepared(walks, name, history_items="scored", train_positions="last").model.eval()
    model, rows = experiment.model.eval(), experiment.test_data._dataset.inter_feat
    stock.load_state_dict(model.state_dict())
    with torch.no_grad():
        scores, expected = model.full_sort_predict(rows), stock.full_sort_predict(rows)
        rows[model.ITEM_ID][::2] = rows[model.ITEM_SEQ][::2, 0]  # every other one is asked about an item of its history
        one = model.predict(rows)
    had = torch.zeros_like(scores, dtype=torch.bool).scatter(1, rows[model.ITEM_SEQ], True)
    had[:, 0] = False
    assert torch.equal(had.sum(dim=1), rows[model.ITEM_SEQ_LEN])
    assert bool((scores[had] == LEAST).all())
    assert torch.equal(scores[~had], expected[~had])
    torch.testing.assert_close(one, scores.gather(1, rows[model.ITEM_ID][:, None]).squeeze(1))
    assert bool((one[::2] == LEAST).all()) and bool((one[1::2] > LEAST).all())
    assert block_scorer(model, rows[:4]) is None


def test_masking_the_history_changes_no_metric(walks: Path, workplace: Path) -> None:
    own = {"MAX_ITEM_LIST_LENGTH": 8}  # all of a history is read, and hidden
    experiment = prepared(walks, "SASRec", **own, epochs=30, learning_rate=0.01)
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    file = experiment.trainer.saved_model_file
    found = experiment.trainer.evaluate(experiment.test_data)
    masked = prepared(walks, "SASRec", **own, mask_history=True)
    assert masked.trainer.evaluate(masked.test_data, model_file=file) == found
    assert found["mrr@10"] > 0.5, "the step is learned without the history as rivals"


@pytest.mark.parametrize("rules_weight", [0.0, 0.5])
def test_a_checkpoint_excludes_what_its_training_did(walks: Path, workplace: Path, rules_weight: float) -> None:
    experiment = prepared(walks, "SASRec", rules_weight=rules_weight, ema_decay=0.5)
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    file = experiment.trainer.saved_model_file
    metrics = experiment.trainer.evaluate(experiment.test_data)
    rows = experiment.test_data._dataset.inter_feat
    with torch.no_grad():
        expected = experiment.model.eval().full_sort_predict(rows)
    assert bool((expected.gather(1, rows["item_id_list"]) == LEAST).all())
    for loaded in (load(file, log=False)[1], load_data_and_model(str(file))[1]):
        with torch.no_grad():
            torch.testing.assert_close(loaded.eval().full_sort_predict(rows), expected)
    again = prepared(walks, "SASRec", rules_weight=rules_weight)
    assert again.trainer.evaluate(again.test_data, model_file=file) == metrics
    assert {row.item for row in recommend(file, history=["i3", "i4"], k=N_ITEMS - 2)} == {
        f"i{i}" for i in range(N_ITEMS) if i not in (3, 4)
    }
    with pytest.raises(ConfigError, match="keep_seen: the model was trained with history_items: excluded"):
        Recommender.load(file).recommend(history=["i3"], keep_seen=True)
    with pytest.raises(ConfigError, match="export: with (rules_weight|history_items: excluded) scores are not"):
        embeddings_of(experiment.model, experiment.test_data)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            "SASRec",
            {"train_positions": "last"},
            "history_items: SASRec learns from RecBole's rows.* set train_positions",
        ),
        ("LightSANs", {"train_positions": "last"}, "history_items: LightSANs learns from RecBole's rows"),
        ("BPR", {}, "history_items: BPR is no sequential model"),
        ("SequentialRules", {"train_positions": "last"}, "history_items: SequentialRules has no softmax over items"),
        ("SASRec", {"loss_type": "BPR"}, "history_items: SASRec has no softmax over items .* set loss_type: CE"),
        ("SASRec", {"history_items": "masked"}, "history_items: 'masked' is not allowed; .* one of scored, excluded"),
    ],
)
def test_what_cannot_exclude_is_refused(walks: Path, model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(walks, model, **options)


def test_a_network_that_is_not_causal_is_refused_before_it_learns(walks: Path, workplace: Path) -> None:
    experiment = prepared(walks, "LightSANs")
    with pytest.raises(ConfigError, match="train_positions: .*LightSANs.*set train_positions: last"):
        experiment.trainer.fit(experiment.train_data, experiment.valid_data)


def test_repeats_in_training_are_refused(walks: Path, workplace: Path) -> None:
    histories = {f"u{user}": ["i0", "i1", "i0", "i2", "i3"] for user in range(4)} | {
        "all": [f"i{i}" for i in range(N_ITEMS)]
    }
    write_atomic(walks, "walks", histories, {f"i{i}": "item" for i in range(N_ITEMS)})
    message = "history_items: excluded never recommends an item of the history, but 4 of 27 training interactions"
    with pytest.raises(DataError, match=message):
        prepared(walks, "SASRec")
    experiment = prepared(walks, "SASRec", data_checks="warn")
    experiment.trainer.fit(experiment.train_data, saved=False)
    assert all(bool(torch.isfinite(weight).all()) for weight in experiment.model.parameters())
