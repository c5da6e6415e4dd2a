"""OOVLLMRec as a general recommender: on the splits, and for the users, of general recommenders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_oov.data.histories import Histories, is_unordered
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.recommendation.api import Recommender
from recbole_oov.runner import Experiment, prepare
from recbole_oov.testing import two_circles, write_atomic
from tests.unit import cold
from tests.unit.conftest import SMALL

NAME = "OOVLLMRecGeneral"


@pytest.fixture(scope="module")
def tastes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cold.write_tastes(tmp_path_factory.mktemp("tastes"))


def trained(tastes: Path, **options: Any) -> Experiment:
    small = {**SMALL, "n_clusters": 4, "dropout": 0.1, "epochs": 20, "learning_rate": 0.01}
    return cold.trained(NAME, tastes, valid_metric="NDCG@5", **{**small, **options})


@pytest.mark.parametrize(("oov_items", "at_least", "at_most"), [("spread", 0.9, 1.0), ("reserved", 0.4, 0.6)])
def test_new_items_are_placed_before_those_who_like_them(
    tastes: Path, oov_items: str, at_least: float, at_most: float
) -> None:
    ready = trained(tastes, oov_items=oov_items, item_augmentation=1.0)
    assert ready.model.recommends_for_oov_items is (oov_items == "spread")
    assert at_least <= cold.oov_auc(ready) <= at_most


def test_a_user_is_asked_for_after_all_training_items_and_nothing_else(tastes: Path) -> None:
    ready = trained(tastes, epochs=1)
    model, train = ready.model, ready.train_data._dataset
    users = torch.arange(1, 20)
    scores = model.full_sort_predict(Interaction({"user_id": users}))
    histories = Histories.from_train(train)
    items, lengths = histories.newest(users, model.max_seq_length)
    rows = Interaction({"user_id": users, model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths})
    torch.testing.assert_close(scores, model.full_sort_predict(rows))
    pairs = {(int(user), int(item)) for user, row in zip(users, items, strict=True) for item in row if item}
    rows = train.inter_feat
    assert pairs == {
        pair for pair in zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True) if pair[0] < 20
    }


@pytest.mark.parametrize("history_items", ["scored", "excluded"])
def test_the_loss_of_rows_is_that_of_what_came_before(tastes: Path, history_items: str) -> None:
    model = trained(tastes, epochs=1, history_items=history_items).model
    user = int(model.histories.user_ids[3])
    own = model.histories.of(3)
    rows = Interaction({"user_id": torch.full((2,), user), "item_id": torch.from_numpy(own[[0, 4]])})
    history = {model.ITEM_SEQ: torch.from_numpy(own[None, :4]), model.ITEM_SEQ_LEN: torch.tensor([4])}
    before = Interaction({"user_id": torch.tensor([user]), **history})
    expected = -model.full_sort_predict(before)[0, own[4]]  # the first item has nothing before it
    torch.testing.assert_close(model.calculate_loss(rows), expected)
    assert model.calculate_loss(rows[:1]) == 0


def test_histories_of_a_general_data_set_are_in_the_order_of_time(tmp_path: Path) -> None:
    histories = {user: list(dict.fromkeys(items)) for user, items in two_circles().items()}
    write_atomic(tmp_path, "circles", histories, {f"i{i}": f"Story {i} of the sea" for i in range(24)})
    path = tmp_path / "circles" / "circles.inter"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *np.random.default_rng(0).permutation(lines)]) + "\n")
    options = {"data_path": str(tmp_path), **SMALL, "state": "ERROR"}
    train = prepare(NAME, "circles", config_dict=options, argv=[]).train_data._dataset
    found = Histories.from_train(train)
    names = train.field2id_token
    for at, user in enumerate(found.user_ids):
        whole = histories[names["user_id"][user]]
        places = [whole.index(names["item_id"][item]) for item in found.of(at)]
        assert places == sorted(places) and len(places) >= 2


def test_users_with_more_items_than_a_ranking_reads_are_counted(tastes: Path, caplog: pytest.LogCaptureFixture) -> None:
    ready = trained(tastes, epochs=1, MAX_ITEM_LIST_LENGTH=4)
    model = ready.model
    longer = int((np.diff(model.histories.offsets) > 4).sum())
    assert longer > 0 and f"{longer} of {len(model.histories)} users have more than 4 training items" in caplog.text
    user = int(model.histories.user_ids[np.diff(model.histories.offsets).argmax()])
    asked = model._after_training(torch.tensor([user]))
    assert (
        asked[model.ITEM_SEQ][0].tolist() == model.histories.of(np.diff(model.histories.offsets).argmax())[-4:].tolist()
    )


def test_it_recommends_explains_and_takes_new_items(tastes: Path) -> None:
    ready = trained(tastes, epochs=1, oov_items="spread")
    recommender = Recommender(ready.config, ready.model, ready.train_data._dataset)
    found = recommender.recommend(users=["u1", "u2"], k=3, scores=True, explain=True)
    assert len(found.explanations) == 6
    for why, row in zip(found.explanations, found, strict=True):
        assert row.group == "oov" or why.cluster_log_prob + why.token_log_prob == pytest.approx(row.score, abs=1e-5)
    assert len(recommender.recommend(new_items=[{"title": "orbit comet"}], k=3)) == 3
    with pytest.raises(ConfigError, match="history: OOVLLMRecGeneral knows a user by what it has learned"):
        recommender.recommend(history=["i1"], k=3)


def test_a_new_order_each_epoch_has_the_same_items(tastes: Path) -> None:
    ready = trained(tastes, epochs=1, history_order="random")
    windows = ready.trainer._windows
    own = {user: set(windows._histories.of(at).tolist()) for at, user in enumerate(windows._histories.user_ids)}
    orders = []
    for _ in range(2):
        batches = list(windows)
        seen: dict[int, set[int]] = {}
        for batch in batches:
            for user, items, targets in zip(batch["user_id"], batch["item_id_list"], batch["next_items"], strict=True):
                seen.setdefault(int(user), set()).update(items.tolist(), targets.tolist())
        assert {user: items - {0} for user, items in seen.items()} == own
        orders.append(
            {
                int(user): row.tolist()
                for b in batches
                for user, row in zip(b["user_id"], b["item_id_list"], strict=True)
            }
        )
    assert orders[0] != orders[1]
    assert cold.oov_auc(trained(tastes, history_order="random", oov_items="spread")) > 0.9


def test_a_sequential_data_set_stays_in_the_order_of_time(circles: Any) -> None:
    with pytest.raises(ConfigError, match="history_order: random is for splits at random; .* take OOVLLMRecGeneral"):
        circles.config("OOVLLMRec", history_order="random")


def test_without_a_time_histories_have_no_order(tastes: Path, caplog: pytest.LogCaptureFixture) -> None:
    ready = trained(tastes, epochs=1, load_col={"inter": ["user_id", "item_id"], "item": "*"}, state="INFO")
    assert "history_order: no timestamp is loaded" in caplog.text
    assert ready.trainer._windows._reorder


def test_users_of_one_item_leave_nothing_to_learn(tmp_path: Path) -> None:
    write_atomic(tmp_path, "short", {f"u{u}": [f"i{u}", f"i{u + 1}", f"i{u + 2}"] for u in range(9)}, {"i0": "Sea"})
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    options = {
        "data_path": str(tmp_path),
        **SMALL,
        "eval_args": split,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "topk": [3],
    }
    ready = prepare(
        NAME,
        "short",
        config_dict={**options, "valid_metric": "NDCG@3", "data_checks": "warn", "leak_guard": "warn"},
        argv=[],
    )
    with pytest.raises(DataError, match="no user has two training items"):
        ready.trainer.fit(ready.train_data, ready.valid_data, saved=False)


def test_lists_without_a_time_keep_their_order(circles: Any) -> None:
    """RecBole's sequential files may hold lists and no timestamps."""
    train = circles.fresh_train()
    assert not is_unordered(train)
    del train.inter_feat.interaction["timestamp"]
    assert not is_unordered(train)
