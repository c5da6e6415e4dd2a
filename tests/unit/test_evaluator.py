"""The grouped evaluator against RecBole's own, and against what chance must give."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import Collector
from torch import Tensor

from recbole_oov.evaluation.collector import GroupedCollector
from recbole_oov.evaluation.evaluator import GroupedEvaluator
from recbole_oov.evaluation.groups import ALL_USERS, IV, OOV, OVERALL, prefixed
from recbole_oov.evaluation.ties import best_values, fair_topk

Config.compatibility_settings(object.__new__(Config))  # the numpy names that RecBole's metrics use
RANKING = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP", "GAUC"]
RANKING += ["ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage"]


def config(metrics: list[str], topk: list[int]) -> dict[str, Any]:
    return {
        "metrics": metrics,
        "topk": topk,
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
        "device": torch.device("cpu"),
        "metric_decimal_place": 15,
        "seed": 3,
        "single_spec": True,
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LABEL_FIELD": "label",
        "tail_ratio": 0.2,
    }


class Case:
    """Random held-out data: masked scores without ties, positives, and how often items were trained on."""

    def __init__(self, seed: int, *, n_users: int | None = None, n_items: int | None = None) -> None:
        random = np.random.default_rng(seed)
        self.n_users = n_users or int(random.integers(1, 9))
        self.n_items = n_items or int(random.integers(6, 30))
        shape = (self.n_users, self.n_items)
        self.scores = torch.from_numpy(random.permutation(np.prod(shape)).reshape(shape).astype(np.float32))
        positive = random.random(shape) < random.uniform(0.05, 0.4)
        positive[:, 0] = False
        positive[np.arange(self.n_users), random.integers(1, self.n_items, self.n_users)] = True
        masked = (random.random(shape) < 0.1) & ~positive
        masked[:, 0] = True
        self.scores[torch.from_numpy(masked)] = -torch.inf
        self.positives = tuple(torch.from_numpy(x) for x in positive.nonzero())
        self.counts = Counter(dict(enumerate(random.integers(0, 5, self.n_items).tolist())))
        # RecBole recommends masked items where too few are left; there it is no oracle.
        fewest = int((self.n_items - masked.sum(axis=1)).min())
        self.topk = sorted({int(k) for k in random.integers(1, max(2, fewest), 2)})
        self.batches = np.array_split(np.arange(self.n_users), random.integers(1, self.n_users + 1))
        self.oov = random.random(self.n_items) < 0.4
        self.oov[0] = False

    def collect(self, collector: Any, scores: Tensor | None = None) -> Any:
        train = SimpleNamespace(
            num=lambda field: {"item_id": self.n_items, "user_id": self.n_users + 1}[field],
            item_counter=self.counts,
            user_counter=Counter(),
        )
        collector.data_collect(SimpleNamespace(dataset=train))
        collector.n_items = self.n_items
        scores = self.scores if scores is None else scores
        for rows in self.batches:
            inside = torch.from_numpy(np.isin(self.positives[0].numpy(), rows))
            users, items = (part[inside] for part in self.positives)
            batch = {"user_id": torch.from_numpy(rows) + 1}
            collector.eval_batch_collect(scores[rows].clone(), batch, users - int(rows[0]), items)
        return collector.get_data_struct()


def recboles(case: Case, scores: Tensor, positives: tuple[Tensor, Tensor], topk: list[int]) -> dict[str, float]:
    settings_ = config(RANKING, topk)
    collector = Collector(settings_)
    other = object.__new__(Case)
    other.__dict__.update(case.__dict__, positives=positives, n_users=len(scores), n_items=scores.shape[1])
    other.batches = [np.arange(len(scores))]
    # In double precision: of single-precision scores RecBole also sums GAUC's ranks in single precision.
    return Evaluator(settings_).evaluate(other.collect(collector, scores.double()))


@settings(max_examples=10_000)
@given(st.integers(0, 2**32 - 1))
def test_every_ranking_metric_equals_recboles(seed: int) -> None:
    case = Case(seed)
    settings_ = config(RANKING, case.topk)
    ours = GroupedEvaluator(settings_).evaluate(case.collect(GroupedCollector(settings_)))
    stock = recboles(case, case.scores, case.positives, case.topk)
    assert ours.keys() == stock.keys()
    np.testing.assert_allclose(list(ours.values()), list(stock.values()), rtol=0, atol=1e-9)


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1))
def test_each_group_equals_recboles_metrics_on_that_group_alone(seed: int) -> None:
    case = Case(seed)
    settings_ = config(RANKING, case.topk)
    evaluator = GroupedEvaluator(settings_)
    result = evaluator.evaluate(case.collect(GroupedCollector(settings_, case.oov)))
    rows, items = (part.numpy() for part in case.positives)
    with_iv, with_oov = (np.unique(rows[case.oov[items] == kind]) for kind in (False, True))
    everybody = np.arange(case.n_users)
    groups = {
        OVERALL: (np.intersect1d(with_iv, with_oov), np.arange(case.n_items)),
        IV: (with_iv, np.flatnonzero(~case.oov)),
        OOV: (with_oov, np.concatenate([[0], np.flatnonzero(case.oov)])),
        ALL_USERS: (everybody, np.arange(case.n_items)),
    }
    for group, (users, columns) in groups.items():
        left = (case.scores[users][:, columns] > -torch.inf).sum(dim=1)
        if len(users) == 0 or len(left) == 0 or int(left.min()) < max(case.topk):
            continue  # refused before training
        inside = np.isin(rows, users) & np.isin(items, columns)
        positives = (
            torch.from_numpy(np.searchsorted(users, rows[inside])),
            torch.from_numpy(np.searchsorted(columns, items[inside])),
        )
        other = object.__new__(Case)
        other.__dict__.update(case.__dict__)
        other.counts = Counter({n: case.counts[int(item)] for n, item in enumerate(columns)})
        stock = recboles(other, case.scores[users][:, columns], positives, case.topk)
        ours = {name: result[prefixed(group, name)] for name in stock}
        if group in (IV, OOV):  # which items are the tail is a fact about all items, not about a group's
            stock = {name: value for name, value in stock.items() if not name.startswith("tailpercentage")}
        np.testing.assert_allclose([ours[name] for name in stock], list(stock.values()), rtol=0, atol=1e-9)
        counts = evaluator.last.counts()[group]  # type: ignore[union-attr]
        assert counts == {"users": len(users), "items": len(columns) - 1, "targets": int(inside.sum())}


VALUES = {**config(["AUC", "LogLoss"], [10]), "eval_args": {"mode": {"valid": "labeled"}}}


@settings(max_examples=10_000)
@given(st.integers(0, 2**32 - 1))
def test_labelled_metrics_equal_recboles(seed: int) -> None:
    labelled = Labelled(seed)
    ours = labelled.evaluate(GroupedCollector(VALUES), GroupedEvaluator(VALUES), labelled.everything)
    stock = labelled.evaluate(Collector(VALUES), Evaluator(VALUES), labelled.everything)
    assert ours.keys() == stock.keys()
    np.testing.assert_allclose(list(ours.values()), list(stock.values()), rtol=0, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_labelled_metrics_of_a_group_equal_recboles_on_its_rows(seed: int) -> None:
    labelled = Labelled(seed)
    oov = np.arange(12) >= 7
    is_oov = oov[labelled.items]
    ours = labelled.evaluate(GroupedCollector(VALUES, oov), GroupedEvaluator(VALUES), labelled.everything)
    for group, rows in ((IV, np.flatnonzero(~is_oov)), (OOV, np.flatnonzero(is_oov))):
        if len(labelled.label[rows].unique()) < 2:
            continue  # no AUC without both labels
        for name, value in labelled.evaluate(Collector(VALUES), Evaluator(VALUES), rows).items():
            assert ours[prefixed(group, name)] == pytest.approx(value, abs=1e-9)


class Labelled:
    """Random scores of rows with labels, both of which occur."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        n = int(random.integers(6, 60))
        self.everything = np.arange(n)
        self.scores, self.items = torch.from_numpy(random.random(n)).float(), random.integers(1, 12, n)
        label = random.integers(0, 2, n)
        label[:2] = 0, 1
        self.label = torch.from_numpy(label).float()

    def evaluate(self, collector: Any, evaluator: Any, rows: np.ndarray) -> Any:
        for part in np.array_split(rows, 2):
            batch = {"user_id": torch.ones(len(part), dtype=torch.long), "item_id": torch.from_numpy(self.items[part])}
            collector.eval_batch_collect(self.scores[part], {**batch, "label": self.label[part]}, None, None)
        return evaluator.evaluate(collector.get_data_struct())


def test_a_constant_scorer_gets_what_chance_gives_on_every_group() -> None:
    n_users, n_items, k = 4_000, 41, 10
    random = np.random.default_rng(0)
    case = Case(0, n_users=n_users, n_items=n_items)
    # Popular items have low ids, as in data read from a file: RecBole's ties, which go by id, are far from a lot.
    weights = 1.0 / np.arange(1, n_items)
    weights /= weights.sum()
    case.oov = np.arange(n_items) % 3 == 1
    items = np.stack([random.choice(np.arange(1, n_items), 3, replace=False, p=weights) for _ in range(n_users)])
    case.positives = (torch.arange(n_users).repeat_interleave(3), torch.from_numpy(items.ravel()))
    scores = torch.zeros(n_users, n_items)
    scores[:, 0] = -torch.inf
    case.batches = np.array_split(np.arange(n_users), 7)
    settings_ = config(["Recall", "NDCG"], [k])
    evaluator = GroupedEvaluator(settings_)
    result = evaluator.evaluate(case.collect(GroupedCollector(settings_, case.oov), scores))
    for group, cases in evaluator.last.groups.items():  # type: ignore[union-attr]
        values = evaluator.last.per_user[group]  # type: ignore[union-attr]
        chance = min(1.0, k / cases.n_items)
        error = values[f"recall@{k}"].std() / np.sqrt(len(cases.users))
        assert abs(result[prefixed(group, f"recall@{k}")] - chance) < 4 * error + 1e-12, group
        # Of random rankings each place holds a positive with probability n_positives / n_items.
        hits, n_positives = np.split(cases.struct.get("rec.topk").numpy(), [k], axis=1)
        discount = 1 / np.log2(np.arange(2, k + 2))
        ideal = np.array([discount[: min(k, int(n))].sum() for n in n_positives[:, 0]])
        expected = (n_positives[:, 0] / cases.n_items * discount.sum() / ideal).mean()
        error = values[f"ndcg@{k}"].std() / np.sqrt(len(cases.users))
        assert abs(result[prefixed(group, f"ndcg@{k}")] - expected) < 4 * error, group
    stock = Evaluator(settings_).evaluate(case.collect(Collector(settings_), scores))
    assert abs(stock[f"recall@{k}"] - k / (n_items - 1)) > 0.1  # what ties by place in memory make of it


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 12))
def test_ties_are_broken_alike_in_any_batch_and_never_against_the_scores(seed: int, k: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.integers(0, levels, (7, 9)).astype(np.float32))
    cases, items = torch.arange(7), torch.arange(9)
    values, chosen = fair_topk(scores, k, cases, items, seed=1)
    assert torch.equal(values, scores.topk(k).values)
    assert torch.equal(scores.gather(1, chosen), values)
    assert all(len(set(row)) == k for row in chosen.tolist())
    for row in range(7):
        alone = fair_topk(scores[row : row + 1], k, cases[row : row + 1], items, seed=1)
        assert torch.equal(alone[1][0], chosen[row])
    shuffled = torch.from_numpy(random.permutation(9))
    assert torch.equal(fair_topk(scores[:, shuffled], k, cases, shuffled, seed=1)[1], chosen)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(1, 25),
    st.sampled_from(["float32", "float64", "bfloat16"]),
)
def test_best_values_are_those_of_topk_among_any_columns(seed: int, n: int, k: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.normal(size=(6, n))).to(getattr(torch, dtype))
    scores[torch.from_numpy(random.random((6, n)) < 0.2)] = -torch.inf
    before = scores.clone()
    columns = torch.from_numpy(np.flatnonzero(random.random(n) < 0.5))
    of_all, of_some = best_values(scores, (k, None), (2 * k, columns))
    assert torch.equal(of_all, scores.topk(min(k, n)).values)
    assert torch.equal(of_some, scores[:, columns].topk(min(2 * k, len(columns))).values)
    assert torch.equal(scores, before)


@settings(max_examples=1_000)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0, 1))
def test_hits_told_by_values_are_those_told_by_items(seed: int, k: int, oov_share: float) -> None:
    # Rows of a few levels have ties and are told by items; asking for the items tells all rows by them.
    random = np.random.default_rng(seed)
    case = Case(seed, n_users=12, n_items=25)
    case.oov = random.random(25) < oov_share
    case.oov[0] = False
    scores = torch.from_numpy(random.normal(size=(12, 25)).astype(np.float32))
    scores[::3] = scores[::3].round()
    scores[torch.from_numpy(random.random((12, 25)) < 0.3)] = -torch.inf
    scores[:, 0] = -torch.inf
    found = []
    for metrics in (["Recall"], ["Recall", "ItemCoverage"]):
        settings_ = config(metrics, [k])
        groups = case.collect(GroupedCollector(settings_, case.oov), scores)
        found.append({name: group.struct.get("rec.topk") for name, group in groups.items()})
    for name, by_value in found[0].items():
        assert torch.equal(by_value, found[1][name]), name


def test_each_of_equal_items_is_as_often_first_in_every_place() -> None:
    n = 20_000
    _, chosen = fair_topk(torch.zeros(n, 5), 3, torch.arange(n), torch.arange(5))
    for place in range(3):
        counts = np.bincount(chosen[:, place].numpy(), minlength=5)
        assert np.abs(counts - n / 5).max() < 4 * np.sqrt(n * 0.2 * 0.8)
    other = fair_topk(torch.zeros(n, 5), 3, torch.arange(n), torch.arange(5), seed=1)[1]
    assert 0.1 < (other[:, 0] == chosen[:, 0]).float().mean() < 0.3
