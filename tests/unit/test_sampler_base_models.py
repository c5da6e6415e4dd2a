"""Base models: the vectors score as the model does, and the loss of a real item is the model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model

from recbole_oov.errors import ConfigError
from recbole_oov.sampler import NegativePools, base_models
from recbole_oov.sampler.base_models import KNOWN, VectorModel, base_model_of, check_learns_from_negatives
from recbole_oov.sampler.drawing import Drawing, negative_vector, read_sampler

SPLIT = {
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
}


@pytest.fixture(scope="module")
def built(circles: Any) -> Any:
    """``built(name, **options)``: a base model of the data set, with some training rows and the pools."""

    def build(name: str, **options: Any) -> tuple[Any, Any, Interaction, NegativePools]:
        small = {"mf_embedding_size": 8, "mlp_embedding_size": 6} if name == "NeuMF" else {"embedding_size": 8}
        config = circles.config(name, **SPLIT, **small, **options)
        train, _, _ = data_preparation(config, create_dataset(config))
        torch.manual_seed(0)
        model = get_model(name)(config, train._dataset).eval()  # without dropout two passes agree
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        rows = train._dataset.inter_feat[torch.arange(0, 64)]
        base = base_model_of(model, config)
        return model, base, rows, NegativePools.from_train(train._dataset, seed=2)

    return build


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_vectors_give_the_model_s_scores_and_loss(built: Any, name: str) -> None:
    model, base, rows, pools = built(name)
    assert isinstance(base, VectorModel)
    users = rows[model.USER_ID]
    pool = pools.uniform(users, 5)
    base.begin_step()
    scores = base.scores(users, pool)
    assert not scores.requires_grad
    flat = {model.USER_ID: users.repeat_interleave(5), model.ITEM_ID: pool.reshape(-1)}
    expected = model.predict(Interaction(flat)).view(pool.shape)
    if name in ("NeuMF", "DMF"):
        scores = scores.sigmoid()  # which ``predict`` applies, and the order does not feel
    assert torch.allclose(scores, expected, atol=1e-5)

    negatives = pool[:, 0]
    own = float(model.calculate_loss(base.with_negatives(Interaction(dict(rows.interaction)), negatives)).detach())
    reused = base.item_loss(Interaction(dict(rows.interaction)), negatives)
    assert float(reused.detach()) == pytest.approx(own, abs=1e-6), "without a second propagation"
    vector = base.merge(base.item_layers(negatives))
    assert float(base.vector_loss(rows, vector, [(negatives, 1.0)]).detach()) == pytest.approx(own, abs=1e-6)
    assert base.user_layers(base.user_vectors(users)).shape[1] in (1, base.n_layers)
    layers = base.item_layers(pool)
    assert layers.shape[:3] == (*pool.shape, base.n_layers)
    of_each = torch.stack([pool[:, at % 5] for at in range(base.n_layers)], dim=-1)
    expected = torch.stack([layers[:, at % 5, at] for at in range(base.n_layers)], dim=-2)
    assert torch.equal(base.layers_of(of_each), expected)
    assert torch.allclose(base.item_vectors(pool), base.merge(layers), atol=1e-6)
    if base.n_layers > 1:
        with torch.no_grad():
            by_layer = (base.user_layers(base.user_vectors(users))[:, None] * layers).sum(-1)
            assert torch.allclose(base.layer_scores(users, pool), by_layer, atol=1e-5)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_snapshot_scores_as_the_model_did(built: Any, name: str) -> None:
    model, base, rows, pools = built(name)
    users = rows[model.USER_ID]
    pool = pools.uniform(users, 3)
    base.begin_step()
    before = base.scores(users, pool).clone()
    past = base.snapshot()
    weights = {key: value.clone() for key, value in past.model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    base.begin_step()
    assert torch.allclose(past.scores(users, pool), before, atol=1e-6)
    assert not torch.allclose(base.scores(users, pool), before, atol=1e-3)
    assert torch.allclose(base.snapshot(weights).scores(users, pool), before, atol=1e-6)


@pytest.mark.parametrize("name", ["LightGCN", "NGCF"])
def test_the_gradients_of_a_reused_propagation_are_the_model_s(built: Any, name: str) -> None:
    model, base, rows, pools = built(name)
    negatives = pools.uniform(rows[model.USER_ID], 1)[:, 0]
    gradients = []
    for reuse in (False, True):
        model.zero_grad()
        prepared = base.with_negatives(Interaction(dict(rows.interaction)), negatives)
        if reuse:
            base.begin_step()
        (base.own_loss(prepared) if reuse else model.calculate_loss(prepared)).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_what_a_sampler_sees_has_no_graph(built: Any, name: str) -> None:
    model, base, rows, pools = built(name)
    drawing = Drawing(*read_sampler({"name": "dins", "pool": 4}), base, pools)
    base.begin_step()
    pool = drawing.draw(rows[model.USER_ID])
    seen = drawing.scored(rows, pool)
    choice = drawing.choose(rows, pool)
    assert seen.user is not None and seen.positive is not None and seen.layer_scores is not None
    assert choice.positive_share is not None
    for tensor in (seen.scores, seen.positive_scores, seen.user, seen.positive, seen.layer_scores):
        assert not tensor.requires_grad
    assert not choice.positive_share.requires_grad
    assert base.user_vectors(rows[model.USER_ID]).requires_grad, "which have one where they are learned from"


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "NeuMF"])
def test_one_propagation_a_step(built: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, base, rows, pools = built(name)
    calls = []
    stock = torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda *args, **more: calls.append(torch.is_grad_enabled()) or stock(*args, **more)
    )
    loss = Drawing(*read_sampler({"name": "dns", "pool": 4}), base, pools).loss(rows).sum()
    layers = model.n_layers if name == "LightGCN" else 0
    assert calls == [False] * layers  # torch records the propagation as one step, not what is done in it
    loss.backward()
    assert calls == [False] * 2 * layers


def test_scores_in_blocks_are_those_of_one_block(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, base, rows, pools = built("BPR")
    users = rows[model.USER_ID]
    pool = pools.uniform(users, 5)
    whole = base.scores(users, pool)
    for gathered in (1, 100, 5 * 8 * 63):  # one user a block, two, all but one
        monkeypatch.setattr(base_models, "_GATHERED", gathered)
        assert torch.equal(base.scores(users, pool), whole)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_mean_of_the_layers_is_recbole_s_bit_for_bit(built: Any, n_layers: int) -> None:
    _, base, _, _ = built("LightGCN", n_layers=n_layers)
    base.begin_step()
    stacked = torch.stack(base.layers, dim=1)
    assert stacked.shape[:2] == (len(base.items), n_layers + 1)
    assert torch.equal(base.items, stacked.mean(dim=1))


def test_mixed_layers_are_those_of_their_own_items(built: Any) -> None:
    model, base, rows, pools = built("LightGCN")
    drawing = Drawing(*read_sampler({"name": "mixgcf", "pool": 6}), base, pools)
    base.begin_step()
    pool = drawing.draw(rows[model.USER_ID])
    choice = drawing.choose(rows, pool)
    vector, shares = negative_vector(base, rows, [(pool, choice, 1.0)])
    assert choice.positive_share is not None
    layers = base.item_layers(pool)
    for row in (0, 17):
        expected = torch.stack(
            [
                share * positive + (1 - share) * layers[row, column, at]
                for at, (column, share, positive) in enumerate(
                    zip(
                        choice.index[row],
                        choice.positive_share[row],
                        base.item_layers(rows[model.ITEM_ID])[row],
                        strict=True,
                    )
                )
            ]
        ).mean(dim=0)
        assert torch.allclose(vector[row], expected, atol=1e-6)
    assert [weight for _, weight in shares] == [1 / 3] * 3


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "NGCF"])
def test_several_negatives_at_once_are_the_weighted_sum_of_each(built: Any, name: str) -> None:
    model, base, rows, pools = built(name)
    base.begin_step()
    chosen = []
    for sampler, weight in (("dns", 0.5), ("mixgcf", 0.3), ("dins", 0.2)):
        drawing = Drawing(*read_sampler({"name": sampler, "pool": 6}), base, pools)
        pool = drawing.draw(rows[model.USER_ID])
        chosen.append((pool, drawing.choose(rows, pool), weight))
    together, shares = negative_vector(base, rows, chosen)
    each = [negative_vector(base, rows, [one]) for one in chosen]
    assert torch.allclose(together, sum(vector for vector, _ in each), atol=1e-6)
    assert [weight for _, weight in shares] == pytest.approx([weight for _, parts in each for _, weight in parts])
    assert sum(weight for _, weight in shares) == pytest.approx(1)
    assert all(
        torch.equal(a, b) for (a, _), (b, _) in zip(shares, (part for _, parts in each for part in parts), strict=True)
    )


def test_lightgcn_without_layers_is_matrix_factorisation(built: Any) -> None:
    model, base, rows, pools = built("LightGCN", n_layers=0)
    negatives = pools.uniform(rows[model.USER_ID], 1)[:, 0]
    gradients = []
    for reuse in (False, True):
        model.zero_grad()
        base.begin_step()
        prepared = base.with_negatives(Interaction(dict(rows.interaction)), negatives)
        (base.own_loss(prepared) if reuse else model.calculate_loss(prepared)).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_an_unknown_pairwise_model_is_scored_by_predict(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KNOWN, "BPR")
    model, base, rows, pools = built("BPR")
    assert not base.has_vectors
    pool = pools.uniform(rows[model.USER_ID], 3)
    expected = (model.user_embedding(rows[model.USER_ID])[:, None] * model.item_embedding(pool)).sum(-1)
    assert torch.allclose(base.scores(rows[model.USER_ID], pool), expected, atol=1e-6)
    assert Drawing(*read_sampler({"name": "dns", "pool": 4}), base, pools).loss(rows).requires_grad
    with pytest.raises(ConfigError, match=r"mixgcf makes negatives that are no items, .* BPR would have to be known"):
        Drawing(*read_sampler({"name": "mixgcf", "pool": 4}), base, pools)


def test_models_are_scored_without_being_switched(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models such as SGL draw new graphs whenever ``train`` is called."""
    monkeypatch.delitem(KNOWN, "BPR")
    model, base, rows, pools = built("BPR")
    model.train()
    monkeypatch.setattr(model, "train", lambda mode=True: pytest.fail("switched"))
    seen = []
    stock = model.predict
    monkeypatch.setattr(model, "predict", lambda rows: seen.append(model.training) or stock(rows))
    base.scores(rows[model.USER_ID], pools.uniform(rows[model.USER_ID], 3))
    assert seen == [False] and model.training


def test_a_model_that_does_not_learn_from_negatives_is_refused(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, base, rows, _ = built("BPR")
    check_learns_from_negatives(base, rows)
    with monkeypatch.context() as patch:
        patch.setattr(model, "calculate_loss", lambda interaction: model.predict(interaction).sum())
        with pytest.raises(ConfigError, match=r"the loss of BPR does not depend on negatives"):
            check_learns_from_negatives(base, rows)
    monkeypatch.setattr(model, "calculate_loss", lambda interaction: interaction["rating_matrix"])
    with pytest.raises(ConfigError, match=r"BPR cannot learn from .*: KeyError"):
        check_learns_from_negatives(base, rows)
