"""ALDI: the alignments are zero where there is nothing to align, and the teacher is trusted by frequency."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cold import experiment, write_tastes
from recbole.data.interaction import Interaction
from torch import nn

from recbole_oov.model.aldi import _identification, teacher_weights


@pytest.fixture
def ready(workplace: Path) -> Any:
    return experiment("ALDI", write_tastes(workplace), teacher_weights=False)


class ByItem(nn.Module):
    """Gives back, for content that is an item's id, its embedding."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, content: torch.Tensor) -> torch.Tensor:
        return self.table[content[:, 0].long()]


def test_a_student_that_is_the_teacher_has_nothing_to_align(ready: Any) -> None:
    model, batch = ready.model, next(iter(ready.train_data))
    model.take_base(torch.randn_like(model.base_users), torch.randn_like(model.base_items))
    model.user_network, model.item_network = nn.Identity(), ByItem(model.base_items)
    model.content = torch.arange(model.n_items, dtype=torch.float32)[:, None]
    _, rating, ranking, identification = model.calculate_loss(batch)
    assert float(rating) == pytest.approx(0.0, abs=1e-5)
    users, items, others = (batch[name] for name in ("user_id", "item_id", "neg_item_id"))
    gap = (model.base_users[users] * (model.base_items[items] - model.base_items[others])).sum(dim=1)
    for weighted, logit in (
        (ranking / model.ranking_weight, gap),
        (
            identification / model.identification_weight,
            _identification(model.base_items[items], model.base_items[others]),
        ),
    ):
        share = logit.double().sigmoid().clamp(1e-15, 1 - 1e-15)
        entropy = -(share * share.log() + (1 - share) * (1 - share).log()).mean()
        assert float(weighted) == pytest.approx(float(entropy), abs=1e-4), "cross-entropy is at its least, the entropy"


def test_identification_is_the_own_product_less_the_others_mean() -> None:
    items, others = torch.randn(4, 3), torch.randn(5, 3)
    expected = [float(row @ row - torch.stack([row @ other for other in others]).mean()) for row in items]
    torch.testing.assert_close(_identification(items, others), torch.tensor(expected))


def test_the_teacher_is_trusted_by_frequency() -> None:
    # Item 1 has users 1 and 2, item 2 has user 2 alone, item 3 nobody; user 2 has two items.
    item_users: Any = SimpleNamespace(counts=torch.tensor([0, 2, 1, 0]), users=torch.tensor([1, 2, 2]))
    weights = teacher_weights(item_users, 3, cap=2.0)
    frequency = torch.tensor([0.0, 1.5, 0.5, 0.0])
    expected = torch.tanh(2.0 * frequency / 1.0).clamp(max=float(torch.tanh(torch.tensor(2.0))))
    torch.testing.assert_close(weights, expected)


def test_iv_items_have_the_teacher_s_scores_and_oov_items_the_student_s(ready: Any) -> None:
    model = ready.model.eval()
    users = torch.arange(1, 9)
    scores = model.full_sort_predict(Interaction({"user_id": users}))
    torch.testing.assert_close(scores[:, model.iv_items], model.base_users[users] @ model.base_items[model.iv_items].T)
    student = model.user_network(model.base_users[users]) @ model.item_network(model.content[model.oov]).T
    torch.testing.assert_close(scores[:, model.oov], student)
