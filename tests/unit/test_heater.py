"""Heater: the mixture of experts by hand, and randomized training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cold import experiment, write_tastes

from recbole_oov.errors import ConfigError


def test_the_mixture_is_the_gated_sum_of_experts(workplace: Path) -> None:
    model = experiment("Heater", write_tastes(workplace), n_experts=3).model
    content = model.content[model.iv_items[:2]]
    inputs = content / model.content_scale.size
    by_hand = torch.stack(
        [
            torch.tanh(sum(torch.tanh(model.gate(row))[k] * torch.tanh(model.experts[k](row)) for k in range(3)))
            for row in inputs
        ]
    )
    torch.testing.assert_close(model.generate(content), by_hand)
    assert len({float(expert[0].weight.sum().detach()) for expert in model.experts}) == 3, (
        "each expert is one of its own"
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_training_mixes_embedding_and_content(share: float, workplace: Path) -> None:
    ready = experiment("Heater", write_tastes(workplace), content_share=share, similarity_weight=0.0)
    model, batch = ready.model, next(iter(ready.train_data))
    loss, distance = model.calculate_loss(batch)
    assert float(distance.detach()) == 0.0
    (gradient,) = torch.autograd.grad(loss, model.gate.weight, allow_unused=True)
    assert gradient is not None
    assert bool(gradient.any()) == (share == 1.0)


def test_iv_items_have_their_embedding_and_oov_items_their_content(workplace: Path) -> None:
    model = experiment("Heater", write_tastes(workplace)).model
    table, iv, oov = model.item_embeddings(), model.iv_items, model.oov
    torch.testing.assert_close(table[iv], model.item_tower(model.item_scale(model.base_items[iv])))
    torch.testing.assert_close(table[oov], model.item_tower(model.generate(model.content[oov])))


def test_no_expert_is_too_few(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="n_experts: 0"):
        experiment("Heater", write_tastes(workplace), n_experts=0)
