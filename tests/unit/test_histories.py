"""Histories out of RecBole's training rows, and windows in which every target counts once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_oov.data.histories import NEXT_ITEMS, Histories, WindowLoader, seen_matrix
from recbole_oov.errors import DataError


def loader_of(lists: list[list[int]], length: int, stride: int, batch_size: int, **kwargs: object) -> WindowLoader:
    offsets = np.cumsum([0, *map(len, lists)])
    items = np.concatenate([np.array(history, dtype=np.int64) for history in lists])
    histories = Histories(np.arange(1, len(lists) + 1), items, offsets, len(lists) + 1, int(items.max()) + 1)
    return WindowLoader(
        histories,
        user_field="user_id",
        list_field="item_id_list",
        length_field="item_length",
        length=length,
        stride=stride,
        batch_size=batch_size,
        seed=0,
        **kwargs,  # type: ignore[arg-type]
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6),
    st.integers(1, 12),
    st.data(),
    st.integers(1, 50),
)
def test_every_target_counts_once_with_its_context(
    lengths: list[int], length: int, data: st.DataObject, batch_size: int
) -> None:
    stride = data.draw(st.integers(1, length))
    # Item u * 100 + t is the t-th of user u: each names its own place.
    lists = [[u * 100 + t for t in range(n)] for u, n in enumerate(lengths, 1)]
    loader = loader_of(lists, length, stride, batch_size)
    seen: Counter[int] = Counter()
    for _ in range(2):
        for batch in loader:
            inputs, targets, sizes = batch["item_id_list"], batch[NEXT_ITEMS], batch["item_length"]
            for row in range(len(inputs)):
                n = int(sizes[row])
                assert (inputs[row, :n] > 0).all() and (inputs[row, n:] == 0).all() and (targets[row, n:] == 0).all()
                for at in targets[row].nonzero().flatten().tolist():
                    target = int(targets[row, at])
                    assert target == int(inputs[row, at]) + 1, "the target follows the item at its position"
                    place = target % 100
                    assert at + 1 >= min(place, length - stride, 1 if place == 1 else length - stride)
                    seen[target] += 1
    expected = {u * 100 + t: 2 for u, n in enumerate(lengths, 1) for t in range(1, n)}
    assert seen == expected
    assert loader.n_targets == sum(n - 1 for n in lengths)


def test_batches_hold_about_as_many_targets_as_asked_for() -> None:
    lists = [[u * 100 + t for t in range(11)] for u in range(1, 41)]
    sizes = [int((batch[NEXT_ITEMS] > 0).sum()) for batch in loader_of(lists, 10, 5, 100)]
    assert sum(sizes) == 400
    assert all(90 <= size <= 110 for size in sizes)


def test_windows_of_like_length_share_a_batch_and_an_epoch_learns_the_same() -> None:
    lists = [[u * 100 + t for t in range(2 + u % 19)] for u in range(1, 201)]
    plain, grouped = (loader_of(lists, 10, 5, 50, shuffle=True, group_lengths=group) for group in (False, True))
    padding, learned, orders = [], [], []
    for loader in (plain, grouped):
        epochs = [list(loader) for _ in range(2)]
        targets = [torch.cat([batch[NEXT_ITEMS].flatten() for batch in epoch]) for epoch in epochs]
        learned += [sorted(items[items > 0].tolist()) for items in targets]
        padding.append(sum(int((batch["item_id_list"] == 0).sum()) for batch in epochs[0]))
        orders.append([batch["item_id_list"].shape[1] for batch in epochs[1]])
        assert not torch.equal(epochs[0][0]["item_id_list"], epochs[1][0]["item_id_list"]), "another order each epoch"
    assert all(one == learned[0] for one in learned)
    assert padding[1] < 0.2 * padding[0]
    assert orders[1] != sorted(orders[1]), "short histories do not all come first"


def test_histories_are_those_of_the_file_without_validation_and_test(circles: object) -> None:
    train, valid, _ = (data._dataset for data in circles.loaders)  # type: ignore[attr-defined]
    histories = Histories.from_train(train)
    assert len(histories) == 60
    for u, user in enumerate(train.id2token("user_id", histories.user_ids)):
        tokens = list(train.id2token("item_id", histories.of(u)))
        assert tokens == circles.histories[user][:-2]  # type: ignore[attr-defined]
    seen = seen_matrix(train)
    assert seen.nnz == histories.items.size
    with_valid = seen_matrix(train, valid)
    row = valid.inter_feat[:1]
    assert with_valid[int(row["user_id"]), int(row["item_id"])] and not seen[int(row["user_id"]), int(row["item_id"])]


def test_rows_that_do_not_continue_each_other_are_refused(circles: object) -> None:
    train = circles.fresh_train()  # type: ignore[attr-defined]
    train.inter_feat["item_id"][0] = train.inter_feat["item_id"][0] % 20 + 1
    with pytest.raises(DataError, match="not in time order"):
        Histories.from_train(train)


def test_no_training_row_is_said(circles: object) -> None:
    train = circles.fresh_train()  # type: ignore[attr-defined]
    train.inter_feat = train.inter_feat[torch.zeros(len(train.inter_feat), dtype=torch.bool)]
    with pytest.raises(DataError, match="no training row is left"):
        Histories.from_train(train)
