"""All-position training has the loss and the gradients of RecBole's one prefix a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.utils import get_model, init_seed

from recbole_oov.errors import ConfigError
from recbole_oov.trainer.all_positions import all_position_loss, check_same_loss, window_loader


def build(circles: Any, name: str, **options: Any) -> tuple[Any, Any, Any]:
    config = circles.config(name, train_batch_size=4096, **options)
    init_seed(0, True)
    model = get_model(name)(config, circles.loaders[0]._dataset)
    return config, model, circles.loaders[0]._dataset


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SASRec", {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
        ("GRU4Rec", {"dropout_prob": 0.0}),
        ("OOVLLMRec", {"dropout": 0.0}),
    ],
)
def test_same_loss_and_gradients_as_one_prefix_a_row(circles: Any, name: str, options: dict[str, float]) -> None:
    config, model, train = build(circles, name, **options)
    model.eval()  # one fixed prompt; there is no dropout to switch off
    rows = train.inter_feat
    (windows,) = list(window_loader(config, train))
    assert int((windows["next_items"] > 0).sum()) == len(rows)
    by_window = model.calculate_loss(windows) if name == "OOVLLMRec" else all_position_loss(model, windows)
    ours, stock = gradients(model, by_window), gradients(model, model.calculate_loss(rows))
    torch.testing.assert_close(by_window, model.calculate_loss(rows), atol=1e-6, rtol=1e-5)
    assert ours.keys() == stock.keys()
    for parameter in ours:
        torch.testing.assert_close(ours[parameter], stock[parameter], atol=1e-6, rtol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_causal_networks_are_accepted(circles: Any, name: str) -> None:
    _, model, train = build(circles, name)
    model.train()
    check_same_loss(model, train.inter_feat[:100])
    assert model.training
    assert "gather_indexes" not in vars(model), "the model is left as it was"


@pytest.mark.parametrize("name", ["BERT4Rec", "NARM", "STAMP", "NextItNet", "LightSANs", "CORE", "GCSAN"])
def test_networks_of_another_form_are_refused(circles: Any, name: str) -> None:
    _, model, train = build(circles, name)
    with pytest.raises(ConfigError, match=f"train_positions: .*{name}.*set train_positions: last"):
        check_same_loss(model, train.inter_feat[:100])


def test_another_loss_is_refused(circles: Any) -> None:
    negatives = {"distribution": "uniform", "sample_num": 1}
    _, model, train = build(circles, "SASRec", loss_type="BPR", train_neg_sample_args=negatives)
    with pytest.raises(ConfigError, match="needs loss_type: CE"):
        check_same_loss(model, train.inter_feat[:100])
