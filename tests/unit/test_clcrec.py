"""CLCRec: the contrast by hand, and where its embeddings come from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cold import experiment, write_tastes


@pytest.fixture
def model(workplace: Path) -> Any:
    return experiment("CLCRec", write_tastes(workplace), temperature=0.5).model


def test_the_contrast_is_the_share_of_the_own_candidate(model: Any) -> None:
    torch.manual_seed(0)
    anchors, candidates = torch.randn(2, 3), torch.randn(5, 3)
    items, negatives = torch.tensor([4, 9]), torch.tensor([7, 4, 8])
    found = float(model._contrast(anchors, candidates, items, negatives))
    expected = 0.0
    for row, item in enumerate(items):
        own = math.exp(float(anchors[row] @ candidates[row]) / 0.5)
        others = [math.exp(float(anchors[row] @ candidates[2 + at]) / 0.5) for at in range(3) if negatives[at] != item]
        expected -= math.log(own / (own + sum(others))) / 2
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_embeddings_start_as_the_base_model_s(model: Any) -> None:
    users, items = torch.randn_like(model.base_users), torch.randn_like(model.base_items)
    model.take_base(users, items)
    table = model.item_embeddings()
    assert torch.equal(model.user_embeddings(), users)
    assert torch.equal(table[model.iv_items], items[model.iv_items])
    assert torch.equal(table[model.oov], model.encoder(model.content[model.oov]))
    assert not table[0].any()


def test_weights_of_zero_switch_a_part_off(model: Any, workplace: Path) -> None:
    ready = experiment("CLCRec", workplace, content_weight=1.0, norm_weight=0.0)
    parts = [float(part.detach()) for part in ready.model.calculate_loss(next(iter(ready.train_data)))]
    assert parts[0] > 0
    assert parts[1:] == [0.0, 0.0]
