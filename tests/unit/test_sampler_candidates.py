"""Every sampler's choice on worked examples, and what makes a sampler known."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.sampler import Choice, NegativePools, PoolBatch, choice, get_sampler, register_sampler, sampler_names
from recbole_oov.sampler import candidates as c
from recbole_oov.sampler.caches import AdaSIRCache, SRNSCache
from recbole_oov.sampler.drawing import read_sampler


def batch(scores: list[list[float]], positive: list[float], **more: Any) -> PoolBatch:
    return PoolBatch(torch.tensor(scores), torch.tensor(positive), generator=torch.Generator().manual_seed(0), **more)


def shares(choose: Any, example: PoolBatch, n: int = 20_000, **options: Any) -> list[float]:
    """How often each column is chosen, over n copies of the example's first row."""
    many = PoolBatch(
        example.scores[:1].expand(n, -1),
        example.positive_scores[:1].expand(n),
        log_q=None if example.log_q is None else example.log_q[:1].expand(n, -1),
        generator=example.generator,
    )
    return (torch.bincount(choose(many, **options).index, minlength=example.scores.shape[1]) / n).tolist()


def test_the_random_ones_take_the_first_of_their_pool() -> None:
    for choose in (c.uniform, c.popularity):
        assert choose(batch([[3.0, 9.0], [2.0, 1.0]], [0.0, 0.0])).index.tolist() == [0, 0]


def test_dns_takes_the_best_scored() -> None:
    assert c.dns(batch([[0.1, 0.7, 0.3], [5.0, -1.0, 2.0]], [0.0, 0.0])).index.tolist() == [1, 0]


def test_dns_mn_takes_each_of_the_best_m_as_often() -> None:
    found = shares(c.dns_mn, batch([[0.1, 0.7, 0.3, 0.9, 0.2]], [0.0]), m=2)
    assert found == pytest.approx([0, 0.5, 0, 0.5, 0], abs=0.02)
    assert shares(c.dns_mn, batch([[0.1, 0.7, 0.3]], [0.0]), m=1) == [0, 1, 0]


def test_softmax_draws_by_the_scaled_losses() -> None:
    """Z = softplus(s_j - s_i), tau = sqrt(Var(Z) / (2 rho)), worked by hand for two candidates."""
    z = [math.log(1 + math.exp(1.0)), math.log(1 + math.exp(-1.0))]  # s_i = 1, s_j = 2 and 0
    tau = math.sqrt(((z[0] - z[1]) / 2) ** 2 / (2 * 0.5))  # Var of two numbers is (half their distance)^2
    first = 1 / (1 + math.exp((z[1] - z[0]) / tau))
    example = batch([[2.0, 0.0]], [1.0])
    assert c.softmax_probabilities(example, rho=0.5)[0].tolist() == pytest.approx([first, 1 - first], abs=1e-6)
    assert shares(c.softmax, example, rho=0.5)[0] == pytest.approx(first, abs=0.02)
    # rho = 0.5 and two candidates: tau is half the distance, so the odds are e^2 whatever the scores.
    assert first == pytest.approx(1 / (1 + math.exp(-2)))
    equal = c.softmax_probabilities(batch([[1.0, 1.0, 1.0]], [0.0]), rho=1.0)
    assert equal[0].tolist() == pytest.approx([1 / 3] * 3)


def test_adasir_draws_by_score_less_log_q() -> None:
    example = batch([[math.log(2.0), math.log(3.0)]], [5.0])
    assert shares(c.adasir, example)[0] == pytest.approx(2 / 5, abs=0.02)
    proposed = batch([[math.log(2.0), math.log(3.0)]], [5.0], log_q=torch.tensor([[math.log(0.5), math.log(0.25)]]))
    assert shares(c.adasir, proposed)[0] == pytest.approx(4 / 16, abs=0.02)


def vectors(user: Tensor, positive: Tensor, pool: Tensor) -> PoolBatch:
    scores = (user[:, None] * pool).sum(-1).mean(-1)
    return PoolBatch(
        scores,
        (user * positive).sum(-1).mean(-1),
        user=user,
        positive=positive,
        pool=pool,
        generator=torch.Generator().manual_seed(0),
    )


def test_mixgcf_mixes_the_positive_into_the_hardest_of_each_layer() -> None:
    random = torch.Generator().manual_seed(1)
    user, positive = torch.randn(6, 1, 4, generator=random), torch.randn(6, 3, 4, generator=random)
    pool = torch.randn(6, 5, 3, 4, generator=random)
    found = c.mixgcf(vectors(user, positive, pool))
    share = found.positive_share
    assert share is not None and share.shape == (6, 3, 1) and found.index.shape == (6, 3)
    assert float(share.min()) >= 0 and float(share.max()) < 1
    literal = share[:, None] * positive[:, None] + (1 - share[:, None]) * pool  # e~ of every candidate and layer
    assert torch.equal(found.index, (user[:, None] * literal).sum(-1).argmax(dim=1))


def test_dins_weighs_each_dimension() -> None:
    """One user (1, 1), positive (ln 2, 0), candidates (0, ln 3) and (-1, -1): the first is the hardest."""
    user = torch.ones(1, 1, 2)
    positive = torch.tensor([[[math.log(2.0), 0.0]]])
    pool = torch.tensor([[[[0.0, math.log(3.0)]], [[-1.0, -1.0]]]])
    found = c.dins(vectors(user, positive, pool), alpha=1.0)
    assert found.index.tolist() == [[0]]
    assert found.positive_share is not None
    assert found.positive_share[0, 0].tolist() == pytest.approx([2 / (2 + 1), 1 / (1 + 3)])
    heavier = c.dins(vectors(user, positive, pool), alpha=4.0).positive_share
    assert heavier is not None and heavier[0, 0].tolist() == pytest.approx([8 / (8 + 1), 4 / (4 + 3)])


def test_ahns_takes_the_candidate_nearest_to_the_wanted_hardness() -> None:
    """beta (s_i + alpha)^(p + 1) = 0.1 / (s_i + 1): 0.05 for s_i = 1 and -0.2 for s_i = -1.5."""
    example = batch([[0.5, 0.06, -0.3], [0.2, -0.25, 0.0]], [1.0, -1.5])
    assert c.ahns(example, alpha=1.0, beta=0.1, power=-2.0).index.tolist() == [1, 1]
    assert c.ahns(batch([[0.5, 0.06]], [-1.0])).index.tolist() == [0], "the power is not taken of 0"


def test_srns_adds_the_spread_as_epochs_go_by() -> None:
    example = {"scores": [[1.0, 0.0]], "positive": [0.0], "spread": torch.tensor([[0.0, 0.5]])}
    early = batch(example["scores"], example["positive"], spread=example["spread"], epoch=0)  # type: ignore[arg-type]
    late = batch(example["scores"], example["positive"], spread=example["spread"], epoch=50)  # type: ignore[arg-type]
    # sigmoid(1) = .731 against sigmoid(0) = .5 plus alpha * min(1, t / warmup) * .5
    assert c.srns(early, alpha=1.0, warmup=50).index.tolist() == [0]
    assert c.srns(late, alpha=1.0, warmup=50).index.tolist() == [1]


def toy_pools() -> NegativePools:
    users, items = torch.tensor([1, 2, 3, 3]), torch.tensor([1, 2, 3, 4])
    extra = torch.arange(5, 21)
    return NegativePools(
        torch.cat([users, torch.full_like(extra, 4)]), torch.cat([items, extra]), n_users=5, n_items=22, seed=0
    )


def by_id(users: Tensor, items: Tensor) -> Tensor:
    return items.float()


def test_adasir_s_cache_keeps_what_scores_well() -> None:
    pools = toy_pools()
    cache = AdaSIRCache(pools, cache=10, candidates=200)
    cache.begin_epoch(0, by_id)
    drawn = cache.draw(torch.tensor([1, 2, 3]), 6)
    assert drawn.shape == (3, 6)
    assert float(drawn.float().mean()) > 18, "softmax over ids up to 20 hardly leaves the largest"
    assert not pools.is_positive(torch.tensor([[1], [2], [3]]), drawn).any()
    assert cache.items is not None
    before = cache.items.clone()
    cache.begin_epoch(1, lambda users, items: -items.float())
    # Half of the old ones stay in the running; with the scores turned around they lose.
    assert cache.items[1:4].float().mean() < before[1:4].float().mean() - 5


def test_srns_remembers_five_epochs() -> None:
    pools = toy_pools()
    cache = SRNSCache(pools, size=4, candidates=1, temperature=1e9)
    cache.begin_epoch(0, by_id)
    users = torch.tensor([1, 2, 3])
    assert torch.equal(cache.spread(users, cache.draw(users, 4)), torch.zeros(3, 4)), "one score has no spread"
    assert cache.history is not None and cache.items is not None
    kept: Counter[bool] = Counter()
    for epoch in range(1, 8):
        cache.begin_epoch(epoch, lambda users, items, epoch=epoch: items.float() + 100 * (epoch % 2))  # type: ignore[misc]
        assert not pools.is_positive(users[:, None], cache.items[users]).any()
        spread = cache.spread(users, cache.draw(users, 4))
        assert spread is not None
        kept[bool((spread > 40).any())] += 1
    assert kept[True] > 0, "an item that stays sees its score go up and down by 100"
    assert cache.history.shape == (5, 4, 5)


def test_names_options_and_their_values_are_checked() -> None:
    names = ["uniform", "popularity", "dns", "dns_mn", "softmax", "adasir", "mixgcf", "dins", "ahns", "srns"]
    assert sampler_names()[: len(names)] == names
    assert read_sampler({"name": "dns_mn", "m": 2})[1] == {"pool": 32, "m": 2}
    for value, message in [
        ("dnss", r"no sampler called 'dnss'; did you mean dns"),
        ({"name": "dns", "rho": 1}, r"dns has no option 'rho'; it has pool"),
        ({"name": "dns", "pool": 0}, r"sampler pool: 0 is not allowed; it must be a whole number of at least 1"),
        ({"name": "dns", "pool": "many"}, r"sampler pool: .many. is not allowed; it must be a number"),
        ({"name": "dns_mn", "pool": 4, "m": 5}, r"sampler m: 5 is more than pool, 4"),
        ({"pool": 4}, r"it must be a name, as in dns, or a mapping with a name"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_sampler(value)


def test_a_user_s_own_sampler_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_samplers", dict(choice._samplers))

    @register_sampler("second_hardest", pool=16)
    def second_hardest(example: PoolBatch) -> Choice:
        return Choice(example.scores.topk(2).indices[:, 1])

    sampler, options = read_sampler("second_hardest")
    assert options == {"pool": 16}
    assert sampler.choose(batch([[1.0, 3.0, 2.0]], [0.0])).index.tolist() == [2]
    with pytest.raises(ConfigError, match=r"the name 'dns' is taken by dns"):
        register_sampler("dns")(second_hardest)
    assert get_sampler("dns").choose is c.dns
