"""What the plugin adds to RecBole's evaluation, for any trainer: groups, fair ties, a guard, larger batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import EvaluatorType
from torch import Tensor
from torch.utils.data import DistributedSampler

from recbole_oov.data.histories import seen_matrix
from recbole_oov.data.leaks import check_leaks
from recbole_oov.data.oov_split import oov_options
from recbole_oov.errors import ConfigError, RecBoleOOVError
from recbole_oov.evaluation.checks import check_evaluation
from recbole_oov.evaluation.collector import GroupedCollector
from recbole_oov.evaluation.evaluator import Evaluation, GroupedEvaluator
from recbole_oov.evaluation.item_blocks import BlockScorer, ItemBlocks
from recbole_oov.lm.sharding import is_sharded
from recbole_oov.model.block_scorer import block_scorer
from recbole_oov.processes import from_first, share_of

_MIB = 1 << 20
_ROWS_OF_BLOCKS = 64
"""Cases of a batch whose items are scored some at a time: item embeddings are read once for all of them."""
_N_COMPARED = 64


class EvaluationMixin:
    """Scores that can be believed, for a RecBole trainer.

    RecBole's loop, masks and metrics stay. Under the OOV protocol the metrics are reported for all, IV and OOV items,
    from one pass. A score that is NaN or infinite raises in the batch that made it (RecBole ranks NaN highest), ties
    are broken by lot (RecBole gives them to the lowest id), and a batch has as many users as ``eval_memory`` allows.
    With ``mask_history: True`` the items a user has in the training part (and, in the test, in the validation part)
    are left out of a sequential model's ranking, unless one of them is what is to be predicted.

    Attributes:
        last_evaluation: The latest evaluation, with its groups and the values of each user.
    """

    config: Any
    model: Any
    eval_collector: GroupedCollector
    evaluator: GroupedEvaluator
    device: Any
    tot_item_num: int
    _scorer: BlockScorer | None = None
    _train_data: Any = None
    _valid_data: Any = None
    _phase = "valid"
    _batch = -1

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        self._use_groups(None)

    def _use_groups(self, mask: np.ndarray | None) -> None:
        self.eval_collector = GroupedCollector(self.config, mask)
        self.evaluator = GroupedEvaluator(self.config)

    def averaged(self) -> AbstractContextManager[None]:
        """What weights are tested with: those of the model, where no average of them is kept (``ema_decay``)."""
        return nullcontext()

    @property
    def last_evaluation(self) -> Evaluation | None:
        return self.evaluator.last

    def fit(self, train_data: Any, valid_data: Any = None, *args: Any, **kwargs: Any) -> Any:
        if self._train_data is not train_data:
            self.remember(train_data, valid_data)
            check_evaluation(self.config, train_data, valid_data, None)
            check_leaks(self.config, train_data, valid_data, None, self.model)
        fit: Any = super().fit  # type: ignore[misc]
        return fit(train_data, valid_data, *args, **kwargs)

    def remember(self, train_data: Any, valid_data: Any) -> None:
        """Tell the trainer what it needs to evaluate without ``fit``: histories to mask, OOV items, item counts."""
        self._train_data, self._valid_data = train_data, valid_data
        self._seen: dict[str, Any] = {}
        self._batches: dict[tuple[int, int, bool], _MemoryBatches] = {}
        split = getattr(train_data._dataset, "oov_split", None)
        self._use_groups(split.mask if split is not None else None)
        self.eval_collector.data_collect(train_data)

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        if not eval_data:
            return None
        if self._train_data is None and oov_options(self.config) is not None:
            raise ConfigError("evaluate: call trainer.remember(train_data, valid_data) first; it tells OOV items apart")
        self._phase, self._batch = "valid" if eval_data is self._valid_data else "test", -1
        cases = own_cases(eval_data, share_of(self.config))
        self.eval_collector.begin(cases, eval_data._dataset.item_num)
        if isinstance(eval_data, FullSortEvalDataLoader):
            self._scorer = self._block_scorer(eval_data)
            eval_data = self._in_memory(eval_data)
        elif isinstance(eval_data.sampler, DistributedSampler):
            eval_data = _OwnBatches(eval_data, cases)
        evaluate: Any = super().evaluate  # type: ignore[misc]
        with getattr(self.model, "keeping_vectors", nullcontext)():
            return evaluate(eval_data, load_best_model, model_file, show_progress)

    def _block_scorer(self, loader: Any) -> BlockScorer | None:
        """How to score some items at a time, where one row of scores of all items is more than ``eval_memory``."""
        n_items = loader._dataset.item_num
        if 4 * n_items <= self.config["eval_memory"] * _MIB or self.eval_collector.register.need("rec.meanrank"):
            return None
        self.model.eval()
        cases = loader.dataset.inter_feat if loader.is_sequential else loader.user_df
        scorer = block_scorer(self.model, cases[: min(len(cases), _N_COMPARED)])
        if scorer is None:
            getLogger(__name__).warning(
                "eval_memory: the scores of one user take %.1f MiB, and %s scores all items at once; more than %d MiB "
                "are used",
                4 * n_items / _MIB,
                type(self.model).__name__,
                self.config["eval_memory"],
            )
        return scorer

    def _in_memory(self, loader: Any) -> _MemoryBatches:
        cases = own_cases(loader, share_of(self.config))
        known, key = getattr(self, "_batches", {}), (id(loader), len(cases), self._scorer is None)
        if key not in known:
            at_once = self._cases_at_once(loader)
            known[key] = _MemoryBatches(loader, at_once, cases, self._batches_of_all(loader, at_once))
        batches: _MemoryBatches = known[key]
        return batches

    def _batches_of_all(self, loader: Any, at_once: int) -> int | None:
        """How many batches this process has to make of its cases, where all must call the model equally often."""
        if not any(is_sharded(weights) for weights in self.model.parameters()):
            return None
        n_all, n_processes = int(loader.sample_size), share_of(self.config)[1]
        n_batches = -(-n_all // (n_processes * at_once))
        if n_all // n_processes < n_batches:
            raise ConfigError(
                f"shard_backbone: {n_all} cases are too few for {n_processes} processes that take {at_once} at a time; "
                f"raise eval_memory, or start fewer processes"
            )
        return n_batches

    def _cases_at_once(self, loader: Any) -> int:
        """As many as ``eval_memory`` has room for the scores of; RecBole's number if ``eval_batch_size`` is given."""
        user_set = getattr(self.config, "external_config_dict", {})
        own = getattr(type(self.model), "full_sort_predict", None)
        pair_by_pair = own is AbstractRecommender.full_sort_predict
        if "eval_batch_size" in user_set or pair_by_pair:  # (RecBole writes every feature of every pair out for those)
            return max(1, int(loader.step))
        room = self.config["eval_memory"] * _MIB // (4 * loader._dataset.item_num)
        if self._scorer is not None:
            room = _ROWS_OF_BLOCKS
        most = int(loader.step) if loader.is_sequential else loader.sample_size
        return int(max(1, min(room, most)))

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        interaction, history, positive_u, positive_i = batched_data
        self._batch += 1
        if self._scorer is not None:
            return interaction, self._in_blocks(self._scorer, batched_data), positive_u, positive_i
        batch_eval: Any = super()._full_sort_batch_eval  # type: ignore[misc]
        interaction, scores, positive_u, positive_i = batch_eval((interaction, None, positive_u, positive_i))
        self._check_finite(scores[:, 1:], interaction)
        if history is not None:
            scores = scores.contiguous()
            row, item = (part.to(scores.device) for part in history)
            scores.view(-1).index_fill_(0, row * scores.shape[1] + item, -torch.inf)
        elif self.config["mask_history"]:
            kept = scores[positive_u, positive_i]
            scores[self._seen_by(interaction[self.config["USER_ID_FIELD"]])] = -torch.inf
            scores[positive_u, positive_i] = kept
        return interaction, scores, positive_u, positive_i

    def _in_blocks(self, scorer: BlockScorer, batched_data: Any) -> ItemBlocks:
        interaction, hidden, positive_u, positive_i = batched_data
        n_items, device = self.tot_item_num, self.device
        if hidden is None and self.config["mask_history"]:
            row, item = self._seen_by(interaction[self.config["USER_ID_FIELD"]])
            kept = ~torch.isin(row * n_items + item, positive_u * n_items + positive_i)
            hidden = row[kept], item[kept]
        if hidden is None:
            hidden = torch.zeros(2, 0, dtype=torch.long)
        size = max(1, self.config["eval_memory"] * _MIB // (2 * 4 * len(interaction)))  # one is made beside another
        return ItemBlocks(
            scorer(interaction.to(device), int(size)),
            len(interaction),
            n_items,
            (hidden[0].to(device), hidden[1].to(device)),
            lambda scores: self._check_finite(scores, interaction),
        )

    def _neg_sample_batch_eval(self, batched_data: Any) -> Any:
        interaction, rows, _, _ = batched_data
        self._batch += 1
        batch_eval: Any = super()._neg_sample_batch_eval  # type: ignore[misc]
        interaction, scores, positive_u, positive_i = batch_eval(batched_data)
        if self.config["eval_type"] == EvaluatorType.RANKING:
            first = np.unique(np.asarray(rows), return_index=True)[1]
            self.eval_collector.batch_users = interaction[self.config["USER_ID_FIELD"]].cpu()[torch.from_numpy(first)]
            sampled = scores[rows, interaction[self.config["ITEM_ID_FIELD"]]]
            self._check_finite(sampled[:, None], interaction)
        else:
            self._check_finite(scores.reshape(len(scores), -1), interaction)
        return interaction, scores, positive_u, positive_i

    def _map_reduce(self, result: Any, num_sample: Any) -> Any:
        """The collector has merged all cases already. All processes go by one result, so that they stop together."""
        return from_first(self.config, result)

    def _seen_by(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """(row of the batch, item) of all that the batch's users have seen."""
        if self._train_data is None:
            raise ConfigError("mask_history: call trainer.remember(train_data, valid_data) before evaluating")
        if self._phase not in self._seen:
            parts = [self._train_data] if self._phase == "valid" else [self._train_data, self._valid_data]
            self._seen[self._phase] = seen_matrix(*(part._dataset for part in parts if part is not None))
        rows = self._seen[self._phase][users.cpu().numpy()].tocoo()
        return tuple(torch.from_numpy(x.astype(np.int64)).to(users.device) for x in (rows.row, rows.col))  # type: ignore[return-value]

    def _check_finite(self, scores: Tensor, interaction: Any) -> None:
        """Raise where the model scored an item NaN or infinite. (B, M)"""
        if scores.sum().isfinite():
            return  # one number says it for all, as long as it does not overflow
        bad = ~scores.isfinite().all(dim=1)
        if bad.any():
            field = self.config["USER_ID_FIELD"]
            users = interaction[field][bad.to(interaction[field].device)]
            raise RecBoleOOVError(
                f"{type(self.model).__name__} scored some items NaN or infinite, for {int(bad.sum())} of {len(bad)} "
                f"rows of batch {self._batch} in {self._phase} (internal {field} {users[:5].tolist()}); such scores "
                f"would be ranked first. Lower the learning rate, or look for a division by zero in the model"
            )


class _MemoryBatches(FullSortEvalDataLoader):
    """The batches of RecBole's full-ranking loader, with another number of users in each.

    RecBole takes ``eval_batch_size // n_items`` users at a time, 2 of them on ml-100k by default, and builds each
    batch user by user. Here positives and histories lie in flat arrays that a batch is cut out of.

    Args:
        loader: RecBole's loader.
        n: Cases in a batch.
        cases: The cases that are evaluated. (C,)
        n_batches: How many batches of nearly the same size are made of them; None where ``n`` decides.
    """

    def __init__(self, loader: Any, n: int, cases: np.ndarray, n_batches: int | None = None) -> None:
        # Not a loader of its own: nothing of the base class's construction is wanted, only what it is.
        self.__dict__.update(loader.__dict__)
        self._loader = loader
        self._parts = np.array_split(cases, n_batches or range(n, len(cases), n)) if len(cases) else []
        self._flat: tuple[_Ragged, _Ragged] | None = None

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Any]:
        return map(self._batch, self._parts)

    def _batch(self, cases: np.ndarray) -> Any:
        loader = self._loader
        if loader.is_sequential:
            return loader.collate_fn(cases)
        if self._flat is None:
            users = loader.uid_list.numpy()
            self._flat = (_Ragged.of(loader.uid2history_item[users]), _Ragged.of(loader.uid2positive_item[users]))
        consecutive = cases[-1] - cases[0] + 1 == len(cases)
        interaction = loader.user_df[slice(cases[0], cases[-1] + 1) if consecutive else torch.from_numpy(cases)]
        history, positive = (flat.rows(cases) for flat in self._flat)
        return interaction, history, *positive


class _OwnBatches:
    """The batches of another evaluation loader of RecBole's, with a process's cases.

    Args:
        loader: RecBole's loader.
        cases: The cases. (C,)
    """

    def __init__(self, loader: Any, cases: np.ndarray) -> None:
        self._loader, self._cases, self._dataset = loader, cases, loader._dataset

    def __len__(self) -> int:
        return -(-len(self._cases) // int(self._loader.step))

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self._cases), self._loader.step):
            yield self._loader.collate_fn(self._cases[start : start + self._loader.step])


def own_cases(loader: Any, share: tuple[int, int]) -> np.ndarray:
    """Numbers of the cases that a process evaluates: every n-th, none twice. (C,)

    Args:
        loader: A loader of RecBole's. Where it gives each process a part, it repeats cases until all have as many.
        share: Which process, of how many.
    """
    if isinstance(loader.sampler, DistributedSampler):
        return np.arange(share[0], loader.sample_size, share[1])
    return np.fromiter(loader.sampler, dtype=np.int64)


class _Ragged:
    """Lists of different lengths in one array."""

    def __init__(self, values: Tensor, ends: Tensor) -> None:
        self.values, self.ends = values, ends

    @classmethod
    def of(cls, lists: Any) -> _Ragged:
        return cls(torch.cat(list(lists)), torch.tensor([len(one) for one in lists]).cumsum(0))

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """(place in ``index``, value) of all values of some lists."""
        ends = self.ends[index]
        starts = torch.where(torch.from_numpy(index) > 0, self.ends[index - 1], 0)
        lengths = ends - starts
        row = torch.repeat_interleave(torch.arange(len(index)), lengths)
        if index[-1] - index[0] + 1 == len(index):  # neighbours, which lie one after another
            return row, self.values[starts[0] : ends[-1]]
        within = torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row]
        return row, self.values[starts[row] + within]
