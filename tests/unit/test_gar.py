"""GAR: each adversary learns from its own loss alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cold import experiment, write_tastes


@pytest.fixture
def ready(workplace: Path) -> Any:
    ready = experiment("GAR", write_tastes(workplace), weights_penalty=0.0)
    for tower in (ready.model.user_tower, ready.model.item_tower):
        torch.nn.init.normal_(tower.network[-1].weight, std=0.1)
    return ready


def test_the_recommender_starts_as_the_base_model(workplace: Path) -> None:
    model = experiment("GAR", write_tastes(workplace)).model.eval()
    assert torch.equal(model.user_embeddings(), model.base_users)
    assert torch.equal(model.item_embeddings()[model.iv_items], model.base_items[model.iv_items])


def test_each_loss_moves_its_own_side(ready: Any) -> None:
    model = ready.model
    of_recommender, of_generator = model.calculate_loss(next(iter(ready.train_data)))
    sides = {
        "towers": [*model.user_tower.parameters(), *model.item_tower.parameters()],
        "generator": list(model.generator.parameters()),
    }
    for loss, own, other in ((of_recommender, "towers", "generator"), (of_generator, "generator", "towers")):
        moved = torch.autograd.grad(loss, sides[own], retain_graph=True)
        assert all(gradient.any() for gradient in moved)
        untouched = torch.autograd.grad(loss, sides[other], retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in untouched)


def test_the_losses_by_hand(ready: Any) -> None:
    model = ready.model.eval()
    model.similarity_weight, model.negative_weight = 0.3, 0.2
    batch = next(iter(ready.train_data))[:3]
    user = model.user_tower(model.base_users[batch["user_id"]])
    positive, negative = model.base_items[batch["item_id"]], model.base_items[batch["neg_item_id"]]
    generated = model.generate(model.content[batch["item_id"]])
    real, fake, other = ((user * model.item_tower(part)).sum(dim=1) for part in (positive, generated, negative))
    recommender = torch.nn.functional.softplus(-(real - 0.8 * fake - 0.2 * other)).mean()
    distance = (generated - positive).abs().sum(dim=1).mean()
    generator = 0.7 * torch.nn.functional.softplus(real - fake).mean() + 0.3 * distance
    torch.testing.assert_close(model.calculate_loss(batch), (recommender, generator))
    model.weights_penalty = 0.1
    towers, own = (
        [w for m in side for w in m.parameters() if w.dim() > 1]
        for side in ((model.user_tower, model.item_tower), (model.generator,))
    )
    squares = [0.05 * sum(float(w.detach().square().sum()) for w in side) for side in (towers, own)]
    with_penalty = model.calculate_loss(batch)
    torch.testing.assert_close(with_penalty, (recommender + squares[0], generator + squares[1]))


def test_items_are_scored_through_the_towers(ready: Any) -> None:
    model = ready.model.eval()
    table = model.item_embeddings()
    torch.testing.assert_close(table[model.iv_items], model.item_tower(model.base_items[model.iv_items]))
    torch.testing.assert_close(table[model.oov], model.item_tower(model.generate(model.content[model.oov])))
