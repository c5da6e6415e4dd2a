"""What exact scoring costs: the language model's part grows with clusters, an item adds a dot product.

``pytest tests/slow/test_scoring_scale.py -s`` prints the tables of docs/results/llmrec-cost.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recbole_oov.lm.backbone import Backbone, TinySettings, tiny_backbone
from recbole_oov.lm.beam import beam_search
from recbole_oov.lm.scoring import TokenTree

BATCH, LENGTH, CLUSTERS = 4, 100, 32
ITEMS = (1_000, 10_000, 100_000, 1_000_000)
TINY = TinySettings(64, n_layers=2, n_heads=2, inner_size=256, dropout=0.0)
LARGE = TinySettings(576, n_layers=30, n_heads=9, inner_size=1536, dropout=0.0)
"""As wide and as deep as SmolLM2-135M."""


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """The fastest of a few calls."""
    call()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


class Scorer:
    """The scoring pass of OOVLLMRec on random weights and histories of fifty items."""

    def __init__(self, n_items: int, n_clusters: int, settings: TinySettings = TINY) -> None:
        torch.manual_seed(0)
        width = settings.hidden_size
        self.backbone = Backbone(tiny_backbone(settings, vocab_size=8, max_positions=LENGTH + 1).eval(), 8, 0)
        cluster = torch.arange(n_items + 1) % n_clusters
        self.tree = TokenTree(cluster, n_clusters)
        self.tree.keeps = True  # as in an evaluation
        self.leaves = torch.randn(n_items + 1, width)
        self.prefix, self.tokens = torch.randn(BATCH, LENGTH, width), torch.randn(n_clusters, width)
        self.real = torch.ones(BATCH, LENGTH, dtype=torch.bool)

    def states(self) -> tuple[Tensor, Tensor]:
        """What the language model computes: cluster logits (B, K), states at cluster tokens (B, K, d)."""
        siblings = self.tokens.expand(BATCH, -1, -1)
        state, branches = self.backbone.branches(self.prefix, self.real, siblings)
        return state @ self.tokens.T, branches

    def exact(self) -> Tensor:
        """All items. (B, n_items)"""
        return self.tree.log_probs(*self.states(), self.leaves)

    def beams(self) -> Tensor:
        """The ten best of ten beams. (B, 10)"""
        state, go_on = self.backbone.read(self.prefix, self.real)
        logits = state @ self.tokens.T
        return beam_search(self.tree, logits, lambda chosen: go_on(self.tokens[chosen]), self.leaves, 10)[1]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@torch.no_grad()
def test_the_cost_of_a_thousand_times_as_many_items() -> None:
    print(f"\n{'items':>10} {'model ms':>9} {'all ms':>9} {'us/item':>9} {'beam ms':>9}")
    total: dict[int, float] = {}
    model: dict[int, float] = {}
    for n_items in ITEMS:
        scorer = Scorer(n_items, CLUSTERS)
        model[n_items], total[n_items] = seconds(scorer.states), seconds(scorer.exact)
        extra = (total[n_items] - model[n_items]) / n_items
        print(
            f"{n_items:>10,} {1e3 * model[n_items]:>9.1f} {1e3 * total[n_items]:>9.1f} {1e6 * extra:>9.3f} "
            f"{1e3 * seconds(scorer.beams):>9.1f}"
        )
    assert model[ITEMS[-1]] < 2 * model[ITEMS[0]], "the language model does not see how many items there are"
    assert total[ITEMS[1]] < 3 * total[ITEMS[0]]
    assert total[ITEMS[-1]] < 1e-5 * ITEMS[-1], "less than ten microseconds an item for four users"


@torch.no_grad()
def test_the_cost_of_more_clusters() -> None:
    print(f"\n{'clusters':>10} {'all ms':>9}")
    found = {}
    for n_clusters in (8, 32, 128, 512):
        found[n_clusters] = seconds(Scorer(10_000, n_clusters).exact)
        print(f"{n_clusters:>10} {1e3 * found[n_clusters]:>9.1f}")
    assert found[512] > 2 * found[8]


@torch.no_grad()
def test_beside_a_larger_language_model_items_cost_little() -> None:
    print(f"\n{'items':>10} {'clusters':>9} {'model s':>9} {'all s':>9}")
    found = {}
    for n_items, n_clusters in ((1_000, 32), (10_000, 32), (100_000, 32), (1_000_000, 32), (10_000, 8), (10_000, 512)):
        scorer = Scorer(n_items, n_clusters, LARGE)
        model, found[n_items, n_clusters] = seconds(scorer.states, 3), seconds(scorer.exact, 3)
        print(f"{n_items:>10,} {n_clusters:>9} {model:>9.2f} {found[n_items, n_clusters]:>9.2f}")
    assert found[1_000_000, 32] < 2 * found[1_000, 32]
    assert found[10_000, 512] > 2 * found[10_000, 8]
