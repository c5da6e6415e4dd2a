"""The suites by name: what each measures, against what, and how much better the plugin has to be."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recbole_oov.bench.harness import Contest


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        data_path: A folder of data sets, beside RecBole's own; None for none.
        tiny: Seconds instead of a minute, for tests; such numbers mean nothing.
    """

    data_path: Path | None = None
    tiny: bool = False


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
        name: Its name on the command line.
        what: What is measured.
        against: What it is measured against.
        bars: By ``time`` and ``memory``, how many times as much the other side has to need.
        where: Module and function that build it; imported when it is run.
        dataset: The data set without which it cannot run; None for one that is made up.
        arguments: Of the function, after the setting.
    """

    name: str
    what: str
    against: str
    bars: Mapping[str, float]
    where: str
    dataset: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)

    def build(self, setting: Setting) -> Contest:
        """The two sides, ready to run."""
        module, _, function = self.where.partition(":")
        make: Callable[..., Contest] = getattr(importlib.import_module(f"recbole_oov.bench.{module}"), function)
        return make(setting, **self.arguments)


_RECBOLE = "RecBole's"

SUITES = {
    suite.name: suite
    for suite in (
        # Those of memory come first: what others leave behind in the process counts as theirs.
        Suite(
            "head-memory",
            "loss and gradients of the tokens that may come, smollm2's sizes",
            "logits of the whole vocabulary, masked",
            {"memory": 5},
            "language:head_memory",
        ),
        Suite(
            "imagination",
            "imagined sequences with their gradients, CiteULike-a's sizes",
            "the same with one-hot rows over all users",
            {"time": 3, "memory": 10},
            "imagination:sequences",
        ),
        Suite(
            "evaluation-ml-100k",
            "full ranking of all users, default options",
            f"{_RECBOLE} evaluation",
            {"time": 8},
            "evaluation:full_ranking",
            "ml-100k",
            {"dataset": "ml-100k"},
        ),
        Suite(
            "evaluation-ml-1m",
            "full ranking of all users, default options",
            f"{_RECBOLE} evaluation",
            {"time": 8},
            "evaluation:full_ranking",
            "ml-1m",
            {"dataset": "ml-1m"},
        ),
        Suite(
            "groups-ml-100k",
            "overall, IV and OOV metrics in one pass",
            "one group",
            {"time": 1 / 1.2},
            "evaluation:three_groups",
            "ml-100k",
            {"dataset": "ml-100k"},
        ),
        Suite(
            "groups-ml-1m",
            "overall, IV and OOV metrics in one pass",
            "one group",
            {"time": 1 / 1.2},
            "evaluation:three_groups",
            "ml-1m",
            {"dataset": "ml-1m"},
        ),
        Suite(
            "collection",
            "top-k and hits out of scores of 40,000 items",
            f"{_RECBOLE} collector",
            {"time": 3},
            "evaluation:collection",
        ),
        Suite(
            "pools-uniform",
            "2,048 × 16 uniform negatives",
            f"{_RECBOLE} sampler",
            {"time": 5},
            "negatives:pools",
            "ml-100k",
            {"distribution": "uniform"},
        ),
        Suite(
            "pools-popularity",
            "2,048 × 16 popularity-weighted negatives",
            f"{_RECBOLE} sampler",
            {"time": 5},
            "negatives:pools",
            "ml-100k",
            {"distribution": "popularity"},
        ),
        Suite(
            "bpr-epoch",
            "an epoch of BPR, sampler: uniform",
            f"{_RECBOLE} trainer",
            {"time": 2},
            "negatives:bpr_epoch",
            "ml-1m",
        ),
        Suite(
            "lightgcn-dns",
            "an epoch of LightGCN, sampler: dns with 10 candidates",
            f"{_RECBOLE} dynamic sampling",
            {"time": 3},
            "negatives:lightgcn_dns",
            "ml-100k",
        ),
        Suite(
            "targets-oovllmrec",
            "gradients of OOVLLMRec at all positions",
            "one prefix a row",
            {"time": 15},
            "sequences:oovllmrec_targets",
            "ml-100k",
        ),
        Suite(
            "targets-sasrec",
            "gradients of SASRec, train_positions: all",
            f"{_RECBOLE} rows, one prefix each",
            {"time": 15},
            "sequences:sasrec_targets",
            "ml-100k",
        ),
        Suite(
            "exact-scoring",
            "exact scores of all of 12,101 items, top 10",
            "transformers' beam search, 10 beams, prefix_allowed_tokens_fn",
            {"time": 10},
            "language:exact_scoring",
        ),
        Suite(
            "startup",
            "import and first batch of the main command",
            f"{_RECBOLE} quick start",
            {"time": 1},
            "startup:first_batch",
            "ml-100k",
        ),
    )
}
"""All suites in the order of the table."""
