"""Every sampler's choice on worked examples, and what makes a sampler known."""

from __future__ import annotations

import math
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
    by_layer = (user[:, None] * pool).sum(-1)
    return PoolBatch(
        by_layer.mean(-1),
        (user * positive).sum(-1).mean(-1),
        user=user,
        positive=positive,
        layer_scores=by_layer,
        pool=lambda columns: pool.gather(1, columns[:, None, :, None].expand(-1, 1, -1, pool.shape[-1])).squeeze(1),
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


def test_ahns_dins_takes_the_one_s_candidate_and_mixes_it_as_the_other() -> None:
    """As in the examples above: s_i = 1 wants 0.05, of scores 0.5, 0.06 and -0.3 the second; then w by dimension."""
    user = torch.ones(1, 1, 2)
    positive = torch.tensor([[[math.log(2.0), 1 - math.log(2.0)]]])
    pool = torch.tensor([[[[0.5, 0.0]], [[math.log(3.0), 0.06 - math.log(3.0)]], [[-0.3, 0.0]]]])
    example = vectors(user, positive, pool)
    assert example.scores[0].tolist() == pytest.approx([0.5, 0.06, -0.3], abs=1e-6)
    assert float(example.positive_scores) == pytest.approx(1)
    found = c.ahns_dins(example)
    assert found.index.tolist() == [[1]]
    assert found.positive_share is not None
    first, second = (math.exp(float(value)) for value in positive[0, 0])
    rest = math.exp(0.06 - math.log(3.0))
    assert found.positive_share[0, 0].tolist() == pytest.approx([first / (first + 3), second / (second + rest)])
    heavier = c.ahns_dins(example, share=4.0).positive_share
    assert heavier is not None and heavier[0, 0].tolist()[0] == pytest.approx(4 * first / (4 * first + 3))


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


def test_adasir_s_cache_keeps_what_scores_well_and_renews_a_random_half() -> None:
    pools = toy_pools()
    cache = AdaSIRCache(pools, cache=400, candidates=200)
    cache.begin_epoch(0, by_id)
    drawn = cache.draw(torch.tensor([1, 2, 3]), 6)
    assert drawn.shape == (3, 6)
    assert float(drawn.float().mean()) > 18, "softmax over ids up to 20 hardly leaves the largest"
    assert not pools.is_positive(torch.tensor([[1], [2], [3]]), drawn).any()
    cache.begin_epoch(1, lambda users, items: -items.float())
    assert cache.items is not None
    # The scores are turned around: what was resampled now has small ids; half of the cache is left from before,
    # although it scores worst by far.
    assert float((cache.items[1:4] > 15).float().mean()) == pytest.approx(0.5, abs=0.06)
    assert float((cache.items[1:4] < 6).float().mean()) == pytest.approx(0.5, abs=0.06)


def test_adasir_knows_the_weight_with_which_each_candidate_came() -> None:
    """Scores log 1 and log 3 of two items: weights 1/4 and 3/4 among as many proposals of each; and the second step
    takes them out again, so that with unchanged scores every place of the cache is as likely."""
    users, items = torch.tensor([1, 2, 2]), torch.tensor([1, 2, 3])
    pools = NegativePools(users, items, n_users=3, n_items=4, seed=1)
    cache = AdaSIRCache(pools, cache=2000, candidates=2000)
    scores = torch.tensor([0.0, 0.0, 0.0, math.log(3.0)])
    cache.begin_epoch(0, lambda users, items: scores[items])
    user = torch.ones(4000, dtype=torch.long)
    pool = cache.draw(user, 5)
    log_q = cache.log_q(user, pool)
    assert log_q is not None and pool.unique().tolist() == [2, 3]
    assert float((pool == 3).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert float(log_q[pool == 3].mean() - log_q[pool == 2].mean()) == pytest.approx(math.log(3.0), abs=1e-5)
    chosen = c.adasir(PoolBatch(scores[pool], torch.zeros(4000), log_q=log_q, generator=pools.generator)).index
    assert torch.bincount(chosen).tolist() == pytest.approx([800] * 5, abs=100)


class Drift:
    """A base model whose scores are ids times a weight that changes."""

    def __init__(self, weight: float = 0.0) -> None:
        self.weight = weight
        self.model = self

    def snapshot(self, weights: Any = None) -> Drift:
        return Drift(self.weight if weights is None else float(weights["weight"]))

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        return self.weight * items.float()

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": torch.tensor(self.weight)}


def test_srns_s_spread_is_that_of_the_likelihood_over_five_epochs() -> None:
    """sigmoid(w (j - i)) over the weights w of the last five epochs; the first of six is forgotten."""
    pools, base = toy_pools(), Drift()
    cache = SRNSCache(pools, base, size=4, candidates=8, temperature=1e9)  # type: ignore[arg-type]
    users, positives = torch.tensor([1, 2]), torch.tensor([1, 2])
    for epoch, weight in enumerate([50.0, 0.0, 1.0, 0.0, 1.0, 0.0]):
        base.weight = weight
        cache.begin_epoch(epoch, base.scores)
        if epoch == 0:
            pool = cache.draw(users, 4)
            assert torch.equal(cache.spread(users, positives, pool), torch.zeros(2, 4)), "one epoch has no spread"
    spread = cache.spread(users, positives, torch.tensor([[3], [2]]))  # sigmoid(2 w) and sigmoid(0)
    high, mean = 1 / (1 + math.exp(-2.0)), (3 * 0.5 + 2 / (1 + math.exp(-2.0))) / 5
    expected = math.sqrt((3 * (0.5 - mean) ** 2 + 2 * (high - mean) ** 2) / 5)
    assert spread is not None and spread.flatten().tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    again = SRNSCache(pools, base, size=4, candidates=8, temperature=1e9)  # type: ignore[arg-type]
    again.load_state_dict(cache.state_dict())
    assert [past.weight for past in again.past] == [0.0, 1.0, 0.0, 1.0, 0.0]  # type: ignore[attr-defined]


def test_srns_keeps_the_hardest_where_the_temperature_is_too_low_for_chance() -> None:
    """With exp(-1000) beside 1 only one weight is above 0: the others of a cache are the next by score, not any."""
    rows = torch.tensor([1, 2]), torch.tensor([1, 2])
    many = torch.arange(3, 2_003) % 2 + 3, torch.arange(1, 2_001)
    pools = NegativePools(*map(torch.cat, zip(rows, many, strict=True)), n_users=5, n_items=2_001, seed=0)
    cache = SRNSCache(pools, Drift(1.0), size=3, candidates=8, temperature=0.001)  # type: ignore[arg-type]
    cache.begin_epoch(0, by_id)
    asked: list[Tensor] = []
    cache.renew(torch.tensor([1, 2]), lambda users, items: (asked.append(items), items.float())[1])  # type: ignore[func-returns-value]
    assert cache.items is not None and asked[0].unique().numel() == asked[0].numel(), "no ties"
    assert torch.equal(cache.items[[1, 2]].sort(dim=1).values, asked[0].topk(3).values.sort(dim=1).values)


def test_srns_draws_the_caches_of_a_batch_anew_and_no_others() -> None:
    pools, base = toy_pools(), Drift(1.0)
    cache = SRNSCache(pools, base, size=4, candidates=64, temperature=1.0)  # type: ignore[arg-type]
    cache.begin_epoch(0, base.scores)
    assert cache.items is not None
    before = cache.items.clone()
    cache.renew(torch.tensor([1, 1, 3]), base.scores)
    assert torch.equal(cache.items[2], before[2]) and not torch.equal(cache.items[1], before[1])
    assert float(cache.items[[1, 3]].float().mean()) > 17, "by softmax of ids up to 20"
    assert not pools.is_positive(torch.tensor([[1], [3]]), cache.items[[1, 3]]).any()


def test_names_options_and_their_values_are_checked() -> None:
    names = [
        "uniform",
        "popularity",
        "dns",
        "dns_mn",
        "softmax",
        "adasir",
        "mixgcf",
        "dins",
        "ahns",
        "ahns_dins",
        "srns",
    ]
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
    with pytest.raises(ConfigError, match=r"other: rnk is read neither by the source uniform nor by .*\(batch, rank\)"):
        register_sampler("other", rnk=2)(lambda batch, rank=1: Choice(batch.scores.argmax(1)))
    with pytest.raises(ConfigError, match="other: the source adasir reads cache, candidates; give defaults"):
        register_sampler("other", source="adasir")(second_hardest)
    with pytest.raises(ConfigError, match="other names the source 'pop'; there are uniform, popularity, adasir, srns"):
        register_sampler("other", source="pop")(second_hardest)
    assert get_sampler("dns").choose is c.dns
