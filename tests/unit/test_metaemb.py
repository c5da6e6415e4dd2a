"""MetaEmb: the step, by hand, and that the gradient goes through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cold import experiment, write_tastes
from recbole.data.interaction import Interaction


@pytest.fixture
def model(workplace: Path) -> Any:
    model = experiment("MetaEmb", write_tastes(workplace), step_size=0.7, cold_weight=0.0).model
    model.take_base(torch.randn_like(model.base_users), torch.randn_like(model.base_items))
    return model


def test_the_second_loss_is_after_one_step_on_the_first(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    items = model.iv_items[:1]
    drawn = [torch.tensor([[1, 2, 3, 4]]), torch.tensor([[5, 6, 7, 8]])]
    monkeypatch.setattr(model, "_users", lambda items, left=list(drawn): left.pop(0))
    found = model.calculate_loss(Interaction({"item_id": items}))
    embedding = model.generate(model.content[items])[0].detach()
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0])

    def residual(users: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return (model.base_users[users[0]] @ at).sigmoid() - labels

    step = (residual(drawn[0], embedding)[:, None] * model.base_users[drawn[0][0]]).mean(dim=0)
    logits = model.base_users[drawn[1][0]] @ (embedding - 0.7 * step)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert float(found[1].detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(found[0].detach()) == 0.0


def test_the_gradient_goes_through_the_step(model: Any) -> None:
    items = model.iv_items[:20]
    gradients = []
    for step_size in (0.0, 5.0):
        model.step_size = step_size
        torch.manual_seed(0)
        loss = sum(model.calculate_loss(Interaction({"item_id": items})))
        gradients.append(torch.autograd.grad(loss, model.generator[1][0].weight)[0])
    assert not torch.allclose(*gradients)


def test_the_first_half_of_the_users_has_the_item(model: Any) -> None:
    items = model.iv_items[:4]
    users = model._users(items)
    assert users.shape == (4, 2 * model.users_a_batch)
    assert model.item_users.has(users[:, : model.users_a_batch], items[:, None]).all()
    assert model.item_users.has(users[:, model.users_a_batch :], items[:, None]).double().mean() < 0.2
