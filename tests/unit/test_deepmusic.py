"""DeepMusic: the regression's loss, and embeddings of items that no data set knows."""

from __future__ import annotations

from pathlib import Path

import torch
from cold import experiment, write_tastes
from recbole.data.interaction import Interaction

from recbole_oov.model.content_network import Scale, content_network, mlp


def test_the_loss_is_the_mean_squared_distance(workplace: Path) -> None:
    model = experiment("DeepMusic", write_tastes(workplace)).model
    items = model.iv_items[:3]
    wanted, given = model.base_items[items], model.generate(model.content[items]).detach()
    by_hand = sum(float((a - b) @ (a - b)) for a, b in zip(wanted, given, strict=True)) / 3
    assert abs(float(model.calculate_loss(Interaction({"item_id": items})).detach()) - by_hand) < 1e-5


def test_items_that_are_in_no_data_set_are_placed_by_their_content(workplace: Path) -> None:
    model = experiment("DeepMusic", write_tastes(workplace)).model.eval()
    new = model.generate(model.content[model.oov][:1])
    user = torch.tensor([3])
    scores = model.full_sort_predict(Interaction({"user_id": user}))
    torch.testing.assert_close((model.base_users[user] * new).sum(dim=1), scores[0, model.oov][:1])


def test_a_batch_of_items_is_an_epoch_s_part(workplace: Path) -> None:
    ready = experiment("DeepMusic", write_tastes(workplace), item_batch_size=10)
    loader = ready.trainer.item_loader()
    assert len(loader) == -(-len(ready.model.iv_items) // 10)
    assert sorted(int(i) for batch in loader for i in batch["item_id"]) == ready.model.iv_items.tolist()


def test_networks_do_not_depend_on_the_unit_of_content() -> None:
    content = torch.randn(50, 7)
    networks = []
    for unit in (1.0, 100.0):
        torch.manual_seed(0)
        networks.append(content_network(content * unit, [4], 3)(content * unit))
    torch.testing.assert_close(*networks)
    assert abs(float(Scale(content * 5)(content * 5).square().mean()) - 1) < 1e-5
    assert [layer.out_features for layer in mlp(7, [5, 4], 3) if isinstance(layer, torch.nn.Linear)] == [5, 4, 3]
    assert len(mlp(7, [], 3)) == 1
