"""RecBole's metrics of hits without loops: RecBole's numbers, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from recbole.evaluator.metrics import MAP, MRR, NDCG, Hit, ItemCoverage, Precision, Recall

from recbole_oov.config import OOVConfig
from recbole_oov.evaluation.metrics import without_loops


@pytest.mark.parametrize("stock", [Hit, MRR, NDCG, MAP, Recall, Precision])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_the_numbers_are_recboles(stock: Any, k: int) -> None:
    config = OOVConfig("BPR", "ml-100k", config_dict={"topk": [k], "valid_metric": f"MRR@{k}"}, argv=[])
    draw = np.random.default_rng(0)
    hits = (draw.random((200, k)) < 0.3).astype(int)
    hits[:20] = 0
    n_positives = hits.sum(axis=1) + draw.integers(0, 2 * k, 200)
    n_positives[:10] = 0
    fast = without_loops({"metric": stock(config)}, config)["metric"]
    given = (hits,) if stock in (Hit, MRR, Precision) else (hits, n_positives)
    assert type(fast) is not stock and isinstance(fast, stock)
    with np.errstate(invalid="ignore"):  # recall of nothing, which the collector leaves out
        assert np.array_equal(fast.metric_info(*given), stock(config).metric_info(*given), equal_nan=True)


def test_other_metrics_stay_as_they_are() -> None:
    config = OOVConfig("BPR", "ml-100k", argv=[])
    coverage = ItemCoverage(config)
    assert without_loops({"itemcoverage": coverage}, config)["itemcoverage"] is coverage
