"""The search: the mixture's algebra, the gradient of the probabilities, and the objective that must not be used."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_oov.errors import ConfigError
from recbole_oov.sampler import Choice, NegativePools, get_sampler
from recbole_oov.sampler.base_models import BPRModel
from recbole_oov.sampler.contest import halving_sizes
from recbole_oov.sampler.drawing import candidate_names, read_sampler
from recbole_oov.sampler.mixture import Candidate, Mixture
from recbole_oov.sampler.search import Architecture, Steering, gradient_products, hardest, sampled_softmax
from recbole_oov.trainer.autosample import most_probable_first
from recbole_oov.trainer.search_report import SearchReport, Training, report_lines

CONFIG = {"LABEL_FIELD": "label"}


class Factors(nn.Module):
    """Matrix factorisation with BPR's loss, small enough to work out by hand; called BPR for the look-up."""

    USER_ID, ITEM_ID, NEG_ITEM_ID = "user_id", "item_id", "neg_item_id"

    def __init__(self, n_users: int, n_items: int, width: int, seed: int) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        torch.manual_seed(seed)
        self.user_embedding = nn.Embedding(n_users, width, dtype=torch.float64)
        self.item_embedding = nn.Embedding(n_items, width, dtype=torch.float64)

    def loss(self, positive: Tensor, negative: Tensor) -> Tensor:
        return F.softplus(negative - positive).mean()

    def calculate_loss(self, rows: Interaction) -> Tensor:
        user, items = self.user_embedding(rows["user_id"]), self.item_embedding.weight
        positive, negative = ((user * items[rows[name]]).sum(-1) for name in ("item_id", "neg_item_id"))
        return self.loss(positive, negative)


def toy(
    seed: int = 0, *, n_users: int = 6, n_items: int = 12, width: int = 5
) -> tuple[Any, NegativePools, Interaction]:
    model = Factors(n_users, n_items, width, seed)
    users = torch.tensor([1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    items = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    source = NegativePools(
        torch.cat([users, torch.tensor([5])]), torch.cat([items, torch.tensor([11])]), n_users=n_users, n_items=n_items
    )
    return BPRModel(model, CONFIG), source, Interaction({"user_id": users, "item_id": items})


NAMES = ["uniform", "dns", {"name": "dns_mn", "m": 2, "pool": 5}, "mixgcf"]


def mixture_of(base: Any, source: NegativePools, names: list[Any] = NAMES) -> Mixture:
    samplers = []
    for name in names:
        sampler, options = read_sampler(name)
        samplers.append((sampler, {**options, "pool": min(options["pool"], 5)}))
    return Mixture(samplers, base, source)


# ---- the loss-to-instance approximation ----


@pytest.mark.parametrize("at", range(4))
def test_one_hot_probabilities_give_the_single_sampler_s_loss(at: int) -> None:
    base, source, rows = toy()
    mixture = mixture_of(base, source)
    candidates = mixture.candidates(rows)
    mixture.weights = F.one_hot(torch.tensor(at), 4).double()
    single = candidates[at]
    mixed = float(mixture.mixed_loss(rows, candidates).detach())
    if single.choice.positive_share is None:
        negatives = single.pool.gather(1, single.choice.index[:, None]).squeeze(1)
        own = base.item_loss(Interaction(dict(rows.interaction)), negatives)
    else:
        own = mixture.mixed_loss(rows, {at: single})
        share, user = single.choice.positive_share[:, 0], base.user_vectors(rows["user_id"])
        positive = base.merge(base.item_layers(rows["item_id"]))
        hard = base.merge(base.item_layers(single.pool.gather(1, single.choice.index).squeeze(1)))
        worked = F.softplus((user * (share * positive + (1 - share) * hard)).sum(-1) - (user * positive).sum(-1)).mean()
        assert float(own.detach()) == pytest.approx(float(worked.detach()), abs=1e-6)
    assert mixed == pytest.approx(float(own.detach()), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), logits=st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_the_mixed_instance_s_loss_is_at_most_the_mixture_of_losses(seed: int, logits: list[float]) -> None:
    base, source, rows = toy(seed)
    mixture = mixture_of(base, source)
    candidates = mixture.candidates(rows)
    p = torch.tensor(logits, dtype=torch.float64).softmax(0)
    mixture.weights = p
    together = float(mixture.mixed_loss(rows, candidates).detach())
    apart = 0.0
    for at, candidate in candidates.items():
        mixture.weights = F.one_hot(torch.tensor(at), 4).double()
        apart += float(p[at]) * float(mixture.mixed_loss(rows, {at: candidate}).detach())
    assert together <= apart + 1e-12


def test_shared_pools_hold_no_positive_and_are_the_beginning_of_the_largest() -> None:
    base, source, rows = toy()
    candidates = mixture_of(base, source).candidates(rows)
    largest = max((c.pool for c in candidates.values()), key=lambda pool: pool.shape[1])
    for candidate in candidates.values():
        assert not source.is_positive(rows["user_id"][:, None], candidate.pool).any()
        assert torch.equal(candidate.pool, largest[:, : candidate.pool.shape[1]])


# ---- the gradient of the probabilities ----


def fixed_candidates(source: NegativePools, rows: Interaction, n: int) -> dict[int, Candidate]:
    """n samplers that choose real items, and one that mixes."""
    generator = torch.Generator().manual_seed(5)
    chosen = {}
    for at in range(n):
        pool = source.uniform(rows["user_id"], 5)
        chosen[at] = Candidate(pool, Choice(torch.randint(5, (len(pool),), generator=generator)))
    pool = source.uniform(rows["user_id"], 5)
    share = torch.rand(len(pool), 1, 1, generator=generator, dtype=torch.float64)
    chosen[n] = Candidate(pool, Choice(torch.randint(5, (len(pool), 1), generator=generator), share))
    return chosen


def test_the_products_are_the_finite_differences_of_one_unrolled_step() -> None:
    """dL_val(W - xi grad sum_k p_k l_k) / dp_k = -xi h_k as xi goes to 0, on 5 users and 5-wide vectors."""
    base, source, rows = toy(3)
    candidates = fixed_candidates(source, rows, 4)
    valid = Interaction({"user_id": torch.tensor([1, 2, 3, 4, 5]), "item_id": torch.tensor([3, 5, 7, 9, 1])})
    negatives = source.uniform(valid["user_id"], 4)
    base.begin_step()
    products, lengths = gradient_products(base, rows, candidates, valid, negatives, 5)

    model, xi, delta = base.model, 1e-5, 1e-2
    tables = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss_after(p: Tensor) -> float:
        model.load_state_dict(tables)
        mixture = SimpleNamespace(base=base, weights=None)
        total = torch.zeros((), dtype=torch.float64)
        for at, candidate in candidates.items():
            mixture.weights = F.one_hot(torch.tensor(at), 5).double()
            total = total + p[at] * Mixture.mixed_loss(mixture, rows, {at: candidate})  # type: ignore[arg-type]
        step = torch.autograd.grad(total, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), step, strict=True):
                parameter -= xi * gradient
        user = model.user_embedding(valid["user_id"])
        items = model.item_embedding(torch.cat([valid["item_id"][:, None], negatives], 1))
        scores = (user[:, None] * items).sum(-1)
        return float(sampled_softmax(scores[:, 0], scores[:, 1:]).detach())

    p = torch.full((5,), 0.2, dtype=torch.float64)
    for at in range(5):
        nudge = F.one_hot(torch.tensor(at), 5).double() * delta
        difference = (loss_after(p + nudge) - loss_after(p - nudge)) / (2 * delta)
        assert difference == pytest.approx(-xi * float(products[at]), rel=1e-3, abs=1e-11)
    assert products.abs().min() > 1e-4, "none of them is zero by accident"

    model.load_state_dict(tables)
    mixture = SimpleNamespace(base=base, weights=None)
    for at, candidate in candidates.items():
        mixture.weights = F.one_hot(torch.tensor(at), 5).double()
        loss = Mixture.mixed_loss(mixture, rows, {at: candidate})  # type: ignore[arg-type]
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        whole = math.sqrt(sum(float(part.square().sum()) for part in gradient))
        assert float(lengths[at]) == pytest.approx(whole, rel=1e-9), "rows that several pairs share are summed first"


def test_a_model_without_known_vectors_has_the_same_products() -> None:
    from recbole_oov.sampler.base_models import BaseModel

    base, source, rows = toy(4)
    base.model.predict = lambda r: (
        base.model.user_embedding(r["user_id"]) * base.model.item_embedding(r["item_id"])
    ).sum(-1)
    candidates = fixed_candidates(source, rows, 3)
    del candidates[3]
    valid = Interaction({"user_id": torch.tensor([1, 3]), "item_id": torch.tensor([3, 5])})
    negatives = source.uniform(valid["user_id"], 4)
    by_vectors, by_parameters = (
        gradient_products(kind, rows, candidates, valid, negatives, 4) for kind in (base, BaseModel(base.model, CONFIG))
    )
    for ours, theirs in zip(by_vectors, by_parameters, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)
    assert by_vectors[0][3] == 0 and by_vectors[1][3] == 1, "which was not asked"


def test_probabilities_follow_the_products_and_losers_are_dropped() -> None:
    architecture = Architecture(3, epochs=10, final_temperature=0.2, learning_rate=0.3)
    assert architecture.temperature(0) == 1 and architecture.temperature(9) == pytest.approx(0.2)
    for epoch in range(10):
        for _ in range(5):
            architecture.step(epoch, torch.tensor([0.0, 2.0, 1.0]))
        architecture.end_epoch(epoch)
    assert architecture.trajectory[0][1] < architecture.trajectory[-1][1]
    assert architecture.trajectory[-1][1] > 0.99
    assert architecture.alive.tolist() == [False, True, True], "two are always left"
    before = architecture.alpha.detach().clone()
    architecture.step(9, torch.zeros(3))
    assert torch.equal(before, architecture.alpha.detach()), "no direction, no step"


# ---- the wrong objective ----


def test_descent_on_the_mixture_s_own_validation_loss_collapses_to_the_easiest() -> None:
    """dL~ / dp_k = sigma(s - s_ui) s_u,jk: the lowest-scored candidate always wins, whatever it does to ranking."""
    base, source, rows = toy(1, width=8)
    weights: list[Tensor] = []
    alpha = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=0.1)
    mixture = mixture_of(base, source, ["uniform", "dns", {"name": "dns_mn", "m": 2, "pool": 5}])
    training = torch.optim.SGD(base.model.parameters(), lr=0.05)
    for _ in range(150):
        p = alpha.softmax(0)
        mixture.weights = p.detach()
        training.zero_grad()
        mixture.loss(rows).backward()
        training.step()
        vectors = [
            base.merge(base.item_layers(c.pool.gather(1, c.choice.index[:, None]).squeeze(1))).detach()
            for c in mixture.candidates(rows).values()
        ]
        user = base.user_vectors(rows["user_id"]).detach()
        positive = base.merge(base.item_layers(rows["item_id"])).detach()
        mixed = sum(p[at] * vector for at, vector in enumerate(vectors))
        optimizer.zero_grad()
        F.softplus((user * mixed).sum(-1) - (user * positive).sum(-1)).mean().backward()
        optimizer.step()
        weights.append(p.detach())
    assert weights[-1][0] > 0.9, "all weight on random sampling"
    assert get_sampler(mixture.names[0]).name == "uniform"


def test_the_products_do_not_collapse_to_the_easiest() -> None:
    """In the same place, with the objective that is used: held-out items of the users' own kind, not the easiest."""
    base, source, rows = toy(1, width=8)
    architecture = Architecture(3, epochs=1, learning_rate=0.1)
    mixture = mixture_of(base, source, ["uniform", "dns", {"name": "dns_mn", "m": 2, "pool": 5}])
    training = torch.optim.SGD(base.model.parameters(), lr=0.05)
    valid = Interaction({"user_id": torch.arange(1, 6), "item_id": torch.tensor([3, 5, 7, 9, 1])})
    for _ in range(150):
        mixture.weights = architecture.probabilities(0).detach()
        training.zero_grad()
        mixture.loss(rows).backward()
        training.step()
        negatives = hardest(base, valid["user_id"], source.uniform(valid["user_id"], 4), 2)
        candidates = mixture.candidates(rows)
        products, lengths = gradient_products(base, rows, candidates, valid, negatives, 3)
        architecture.step(0, products / lengths)
    assert float(architecture.probabilities(0)[0].detach()) < 0.1


# ---- what steers ----


def test_half_of_the_validation_users_steer() -> None:
    _, source, _ = toy()
    users, items = torch.tensor([1, 1, 2, 3, 4, 5, 5]), torch.tensor([3, 4, 5, 7, 1, 2, 6])
    steering = Steering(users, items, source, batch_size=64, pool_size=3, seed=1)
    half = set(steering.steering_users.tolist())
    assert len(half) == 2 and half < {1, 2, 3, 4, 5}
    known = set(zip(users.tolist(), items.tolist(), strict=True))
    for _ in range(10):
        rows, negatives = steering.batch("user_id", "item_id")
        assert set(rows["user_id"].tolist()) <= half
        assert set(zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True)) <= known
        assert not source.is_positive(rows["user_id"][:, None], negatives).any()
    again = Steering(users, items, source, batch_size=64, pool_size=3, seed=1)
    assert torch.equal(again.steering_users, steering.steering_users)


def test_the_most_probable_are_trained_first() -> None:
    assert most_probable_first([0.4, 0.06, 0.2, 0.3, 0.04]) == [0, 3, 2, 1, 4]
    assert most_probable_first([0.2, 0.3, 0.3, 0.2]) == [1, 2, 0, 3], "of equal ones the first comes first"


def test_negatives_that_steer_are_the_hardest_of_a_pool() -> None:
    base, source, rows = toy(2)
    base.begin_step()
    pool = source.uniform(rows["user_id"], 6)
    found = hardest(base, rows["user_id"], pool, 2)
    expected = pool.gather(1, base.scores(rows["user_id"], pool).argsort(dim=1, descending=True)[:, :2])
    assert torch.equal(found, expected)


def test_variants_of_a_sampler_are_told_apart_by_what_differs() -> None:
    given = ["uniform", {"name": "dns_mn", "m": 2}, {"name": "dns_mn", "pool": 8, "m": 2}, {"name": "dns", "pool": 8}]
    names = candidate_names([read_sampler(value) for value in given])
    default = read_sampler("dns_mn")[1]["pool"]
    assert names == ["uniform", f"dns_mn pool {default}", "dns_mn pool 8", "dns"]
    both = [{"name": "dns_mn", "m": 2}, {"name": "dns_mn", "m": 4}, {"name": "dns_mn", "m": 4, "pool": 8}]
    assert candidate_names([read_sampler(value) for value in both])[2] == "dns_mn pool 8 m 4"


def test_halving_keeps_the_better_half_down_to_two() -> None:
    assert halving_sizes(10) == [10, 5, 3, 2] and halving_sizes(4) == [4, 2] and halving_sizes(2) == [2]


def test_the_log_says_what_was_trained_and_what_was_kept() -> None:
    report = SearchReport("gradient", "BPR", ["dns", "dins"], "dins", "dins", gradient_work=4.0, kept=1)
    report.trainings = [Training("dns", 0.2, epochs=9, work=9.0), Training("dins", 0.25, epochs=12, work=12.0)]
    report.trainings.append(Training("srns", 0.1, epochs=2, work=3.0, cut=True))
    lines = "\n".join(report_lines(report))
    assert "trained: dns 0.2000 on validation, 9 epochs\n" in lines
    assert "srns 0.1000 on validation, 2 epochs, given up where the budget ended" in lines
    assert "4.0 for the probabilities, 12.0 for what was trained and not kept" in lines
    assert SearchReport.of(report.as_dict()) == report
    report.trainings, report.kept = report.trainings[:1], 0
    assert "trained: " not in "\n".join(report_lines(report)), "a single training is RecBole's log already"


def test_a_batch_of_the_search_asks_some_samplers_by_their_probability() -> None:
    base, source, rows = toy()
    mixture = mixture_of(base, source)
    mixture.weights = torch.tensor([0.6, 0.4, 0.0, 0.0], dtype=torch.float64)
    assert mixture.some(1) in ([0], [1]) and mixture.some(3) == [0, 1]
    share = sum(mixture.some(1) == [0] for _ in range(2000)) / 2000
    assert share == pytest.approx(0.6, abs=0.04)
    mixture.weights = torch.tensor([0.5, 0.3, 0.1, 0.1], dtype=torch.float64)
    some = mixture.candidates(rows, [1, 2])
    apart = float(mixture.mixed_loss(rows, some).detach())
    mixture.weights = torch.tensor([0.0, 0.75, 0.25, 0.0], dtype=torch.float64)
    assert apart == pytest.approx(float(mixture.mixed_loss(rows, some).detach())), "p among those asked sums to one"


# ---- options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"base_model: none is given; name one, as in --base_model=LightGCN"),
        ({"base_model": "LightGNC"}, r"base_model: there is no model called 'LightGNC'; did you mean LightGCN"),
        ({"base_model": "EASE"}, r"base_model: EASE is no general recommender but traditional; choose"),
        ({"base_model": "MultiVAE"}, r"base_model: MultiVAE learns from whole histories"),
        ({"base_model": "AutoSample"}, r"base_model: AutoSample has a base model itself"),
        ({"base_model": "BPR", "search": "grid"}, r"search: 'grid' is not known"),
        ({"base_model": "BPR", "samplers": ["dns"]}, r"samplers: \['dns'\] must be at least two"),
        ({"base_model": "BPR", "samplers": ["dns", "dnss"]}, r"no sampler called 'dnss'"),
        (
            {"base_model": "BPR", "samplers": ["dns", "srns", {"name": "dns", "pool": 16}]},
            r"samplers: dns is named twice with the same options; name it once, or change an option",
        ),
        (
            {"base_model": "BPR", "steering_negatives": 300},
            r"steering_negatives: 300 is more than steering_pool, 256",
        ),
        (
            {"base_model": "BPR", "samplers": ["dns", {"name": "uniform", "pool": 9}]},
            r"samplers: uniform draws one item and has no pool to choose from; leave pool out",
        ),
        (
            {"base_model": "BPR", "train_neg_sample_args": {"distribution": "popularity", "alpha": 0.3}},
            r"train_neg_sample_args distribution is 'popularity', but negatives come from the sampler's pool",
        ),
        ({"base_model": "DropoutNet"}, r"base_model: DropoutNet has a base model itself"),
        ({"base_model": "NCL"}, r"base_model: NCL needs a trainer of its own; choose a general recommender"),
        ({"base_model": "BPR", "finalists": 0}, r"finalists: 0 is not allowed; it must be a whole number"),
        ({"base_model": "BPR", "finalists": 2.5}, r"finalists: 2.5 is not allowed"),
        ({"base_model": "BPR", "search_epochs": 0}, r"search_epochs: 0 is not allowed"),
        ({"base_model": "BPR", "search_width": 0}, r"search_width: 0 is not allowed"),
        ({"base_model": "BPR", "alpha_every": 0}, r"alpha_every: 0 is not allowed"),
        ({"base_model": "BPR", "final_temperature": 0}, r"final_temperature: 0 is not allowed; it must be .* above 0"),
        ({"base_model": "BPR", "steering_negatives": 0}, r"steering_negatives: 0 is not allowed"),
        (
            {"base_model": "BPR", "search_budget": -5},
            r"search_budget: -5 is not allowed; it must be None, or a number above 0",
        ),
        (
            {"base_model": "BPR", "search": "halving", "search_budget": 19},
            r"search_budget: 19 is less than the 20 epochs that search: halving takes",
        ),
        (
            {"base_model": "BPR", "search": "random", "search_budget": 3},
            r"search_budget: 3 is less than the 4 epochs that search: random takes",
        ),
        (
            {"base_model": "BPR", "search": "halving", "samplers": [{"name": "dns", "pool": n} for n in range(2, 40)]},
            r"search_budget: 56 is less than the 77 epochs that search: halving takes",
        ),
        ({"base_model": "BPR", "pool": 0}, r"pool: 0 is not allowed; it must be None, or a whole number of at least 1"),
        ({"base_model": "BPR", "pool": 3}, r"samplers m: 4 is more than pool, 3; set m to at most pool"),
        (
            {"base_model": "BPR", "initialisation": "rewind", "rewind_epoch": 9},
            r"rewind_epoch: 9 is after the last of search_epochs: 2",
        ),
        ({"base_model": "BPR", "first": "dnss"}, r"first: there is no sampler called 'dnss'; did you mean dns"),
        ({"base_model": "BPR", "sampler": "dns"}, r"sampler: AutoSample searches for one"),
        ({"base_model": "BPR", "search": "random", "initialisation": "warm"}, r"takes weights of search: gradient"),
        (
            {"base_model": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 4}},
            r"train_neg_sample_args sample_num is 4, but negatives come from the sampler's pool",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_data_is_loaded(circles: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        circles.config("AutoSample", **options)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("BPR", {"sampler": "dnss"}, r"no sampler called 'dnss'"),
        ("BPR", {"sampler": 3}, r"sampler: 3 is not allowed"),
        ("Pop", {"sampler": "dns"}, r"Pop is no general recommender but|Pop learns from whole histories"),
        (
            "SASRec",
            {"sampler": "dns", "train_neg_sample_args": None},
            r"SASRec is no general recommender but sequential",
        ),
        ("MultiDAE", {"sampler": "dns"}, r"MultiDAE learns from whole histories"),
        ("NCL", {"sampler": "dns"}, r"sampler: NCL has a trainer of its own, which draws its negatives; choose"),
    ],
)
def test_samplers_that_cannot_work_are_refused(circles: Any, model: str, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        circles.config(model, **options)


def test_options_may_be_of_each_documented_kind(circles: Any) -> None:
    options = {"pool": None, "first": {"name": "dns", "pool": 8}, "search": "halving", "search_budget": None}
    config = circles.config("AutoSample", base_model="BPR", **options)
    assert {key: config[key] for key in options} == options


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "dns", "pool": math.inf}, "sampler pool: inf is not allowed; it must be a number"),
        ({"name": "popularity", "alpha": math.inf}, "sampler alpha: inf is not allowed"),
        ({"name": "softmax", "rho": -1}, "sampler rho: -1 is not allowed; it must be a number above 0"),
        ({"name": "srns", "temperature": 0.0}, "sampler temperature: 0.0 is not allowed; it must be a number above 0"),
        ({"name": "dins", "alpha": -1}, "sampler alpha: -1 is not allowed; it must be a number above 0"),
    ],
)
def test_options_that_would_fail_in_training_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_sampler(value)
    assert read_sampler({"name": "dns_mn", "m": 2.0})[1]["m"].__class__ is int


def test_the_options_of_the_base_model_are_known(circles: Any) -> None:
    config = circles.config("AutoSample", base_model="LightGCN", n_layers=1)
    assert config["n_layers"] == 1 and config["reg_weight"] == 1e-05
    with pytest.raises(ConfigError, match="n_layers is not an option"):
        circles.config("AutoSample", base_model="BPR", n_layers=1)
