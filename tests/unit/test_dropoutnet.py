"""DropoutNet: what is learned, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cold import experiment, write_tastes

from recbole_oov.errors import ConfigError


def test_with_all_dropped_the_embedding_does_not_enter_and_with_none_it_does(workplace: Path) -> None:
    ready = experiment("DropoutNet", write_tastes(workplace))
    model, batch = ready.model, next(iter(ready.train_data))
    for dropout in (0.0, 1.0):
        model.item_dropout = dropout
        gradient = torch.autograd.grad(model.calculate_loss(batch), model.item_tower[0].weight)[0]
        of_embedding = gradient[:, : model.embedding_dim]
        assert bool(of_embedding.any()) == (dropout == 0.0)
        assert gradient[:, model.embedding_dim :].any()


def test_the_target_is_the_base_model_s_score(workplace: Path) -> None:
    ready = experiment("DropoutNet", write_tastes(workplace), item_dropout=0.0)
    model, batch = ready.model, next(iter(ready.train_data))
    users, items = model.user_embeddings(), model.item_embeddings()
    errors = []
    for field in ("item_id", "neg_item_id"):
        for user, item in zip(batch["user_id"], batch[field], strict=True):
            wanted = model.base_users[user] @ model.base_items[item]
            errors.append(float((users[user] @ items[item] - wanted).detach()) ** 2)
    assert float(model.calculate_loss(batch).detach()) == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_a_share_is_a_share(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="item_dropout"):
        experiment("DropoutNet", write_tastes(workplace), item_dropout=1.5)
