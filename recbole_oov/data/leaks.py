"""The leak guard: held-out information that reaches training, found before the first step.

Each check looks for one way in which what is to be predicted, or an item that training must not know, has got into what
a model learns from. The guard runs at the start of every training (option ``leak_guard``) and can be called on any
loaders and model.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import numpy as np
import scipy.sparse
import torch
from recbole.utils import FeatureType
from scipy.sparse import csr_matrix

from recbole_oov.data.histories import seen_matrix
from recbole_oov.data.oov_split import oov_options
from recbole_oov.errors import DataError

_EXAMPLES = 5
_SHARE_OF_INTERACTIONS = 0.9
_MOST_DENSE = 50_000_000


@dataclass(frozen=True)
class Leak:
    """One way in which held-out information reaches training.

    Attributes:
        name: Which check found it.
        what: What is wrong, in a sentence without the count.
        count: How often.
        examples: The first few, by the data set's own ids.
        remedy: What to do.
    """

    name: str
    what: str
    count: int
    examples: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.name}: {self.count:,} {self.what} ({', '.join(self.examples)}{more}); {self.remedy}"


@dataclass(frozen=True)
class Run:
    """What is looked at: the loaders of a run and, where it is there already, the model."""

    config: Any
    train: Any
    valid: Any
    test: Any = None
    train_data: Any = None
    model: Any = None

    @property
    def parts(self) -> dict[str, Any]:
        """The data sets that are there, by name."""
        found = {"training": self.train, "validation": self.valid, "test": self.test}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def sampler(self) -> Any:
        """What draws negative items for training; None where nothing does."""
        # The loader of a knowledge graph has two inside.
        loader = getattr(self.train_data, "general_dataloader", self.train_data)
        return getattr(loader, "_sampler", None)

    @property
    def held_out_items(self) -> np.ndarray | None:
        """True for the items that the OOV protocol keeps out of training; None under another split. (n_items,)"""
        if oov_options(self.config) is None:
            return None
        return np.asarray(self.train.oov_split.mask)

    def items(self, ids: Iterable[int]) -> tuple[str, ...]:
        """The first few items, by their tokens."""
        few = list(ids)[:_EXAMPLES]
        return tuple(f"{self.train.iid_field} {self.train.id2token(self.train.iid_field, int(i))}" for i in few)

    def pairs(self, users: np.ndarray, items: np.ndarray) -> tuple[str, ...]:
        """The first few interactions, by their tokens."""
        tokens = (self.train.id2token(self.train.uid_field, int(u)) for u in users[:_EXAMPLES])
        return tuple(
            f"({self.train.uid_field} {user}, {item})" for user, item in zip(tokens, self.items(items), strict=False)
        )


def check_leaks(config: Any, train_data: Any, valid_data: Any, test_data: Any, model: Any = None) -> None:
    """Run the leak guard as ``leak_guard`` says: ``error``, ``warn`` or ``off``.

    Raises:
        DataError: Something leaks and ``leak_guard`` is ``error``; all leaks are listed.
    """
    if config["leak_guard"] == "off":
        return
    leaks = find_leaks(config, train_data, valid_data, test_data, model)
    if config["leak_guard"] == "warn":
        for leak in leaks:
            getLogger().warning("leak: %s", leak)
    elif leaks:
        lines = "\n".join(f"  - {leak}" for leak in leaks)
        raise DataError(
            f"held-out information reaches training, so that the results would mean nothing:\n{lines}\n"
            f"(--leak_guard=warn runs all the same)"
        )


def find_leaks(config: Any, train_data: Any, valid_data: Any, test_data: Any, model: Any = None) -> list[Leak]:
    """All leaks that the checks find.

    Args:
        config: The configuration.
        train_data, valid_data, test_data: RecBole's loaders; None for one that is not there.
        model: The model, for what it has built from the training data; None to leave that out.

    Returns:
        The leaks, in the order of :data:`CHECKS`.
    """
    valid, test = (data._dataset if data else None for data in (valid_data, test_data))
    run = Run(config, train_data._dataset, valid, test, train_data, model)
    return [leak for check in CHECKS for leak in check(run)]


def oov_items_in_training(run: Run) -> Iterator[Leak]:
    """An item that is to be out of the vocabulary has a training row, or is in a training sequence."""
    held = run.held_out_items
    if held is None:
        return
    rows = run.train.inter_feat
    targets = np.asarray(rows[run.train.iid_field])
    found = held[targets]
    if found.any():
        users = np.asarray(rows[run.train.uid_field])[found]
        yield Leak(
            "OOV item in training rows",
            "training rows have an OOV item",
            int(found.sum()),
            run.pairs(users, targets[found]),
            "remove them, or do not evaluate the item as OOV",
        )
    lists = getattr(run.train, "item_id_list_field", None)
    if lists is not None and lists in rows:
        inside = np.asarray(rows[lists])
        found = held[inside].any(axis=1)
        if found.any():
            yield Leak(
                "OOV item in training sequences",
                "training sequences have an OOV item",
                int(found.sum()),
                run.items(np.unique(inside[held[inside]])),
                "cut sequences after the OOV items are taken out",
            )


def oov_items_as_negatives(run: Run) -> Iterator[Leak]:
    """The negative sampler can draw an item that training must not know."""
    held, sampler = run.held_out_items, run.sampler
    if held is None or sampler is None:
        return
    support = _support(sampler)
    found = support[held[support]]
    if len(found):
        yield Leak(
            "OOV item in the negative sampler",
            "OOV items can be drawn as negatives",
            len(found),
            run.items(found),
            "draw negatives from items with training rows (recbole_oov.data.negatives)",
        )


def _support(sampler: Any) -> np.ndarray:
    """The item ids that a sampler can draw."""
    if sampler.distribution == "popularity":
        return np.fromiter(sampler.prob, dtype=np.int64)
    return np.asarray(getattr(sampler, "iv_items", np.arange(1, sampler.item_num)))


def held_out_popularity(run: Run) -> Iterator[Leak]:
    """Popularity, of the sampler or of the data set that metrics read, counts more than training rows."""
    rows = np.asarray(run.train.inter_feat[run.train.iid_field])
    counts = np.bincount(rows, minlength=run.train.item_num)
    known = np.zeros_like(counts)
    for item, count in run.train.item_counter.items():
        known[int(item)] = count
    sources = {"the training data set's item counter": known}
    sampler = run.sampler
    if sampler is not None and sampler.distribution == "popularity":
        candidates = np.asarray(sampler._get_candidates_list())
        sources["the negative sampler's popularity"] = np.bincount(candidates, minlength=len(counts))
    for source, found in sources.items():
        more = np.flatnonzero(found > counts)
        if len(more):
            yield Leak(
                "popularity",
                f"items have a higher count in {source} than in training",
                len(more),
                run.items(more),
                "count training rows alone; train_neg_sample_args: {distribution: uniform} does without",
            )


def held_out_edges(run: Run) -> Iterator[Leak]:
    """A matrix or graph of interactions that the model holds has one that is not in training.

    A matrix of which more than a tenth is in no part at all holds something else, predictions for example.
    """
    if run.model is None:
        return
    n_users, n_items = run.train.user_num, run.train.item_num
    trained = seen_matrix(run.train)
    known = sum((seen_matrix(part) for part in run.parts.values()), start=csr_matrix(trained.shape, dtype=bool))
    for name, matrix in _sparse_attributes(run.model):
        if matrix.shape == (n_users, n_items):
            users, items = matrix.row, matrix.col
        elif matrix.shape == (n_users + n_items, n_users + n_items):
            between = (matrix.row < n_users) & (matrix.col >= n_users)
            users, items = matrix.row[between], matrix.col[between] - n_users
        else:
            continue
        if len(users) == 0:
            continue
        is_known = np.asarray(known[users, items]).ravel()
        if is_known.mean() < _SHARE_OF_INTERACTIONS:
            continue
        extra = is_known & ~np.asarray(trained[users, items]).ravel()
        if extra.any():
            yield Leak(
                "graph",
                f"edges of {type(run.model).__name__}.{name} are not in training",
                int(extra.sum()),
                run.pairs(users[extra], items[extra]),
                "build it from the training data set",
            )


def _sparse_attributes(model: Any) -> Iterator[tuple[str, Any]]:
    """Matrices that a model or a part of it keeps, sparse or dense, as scipy's COO with entries that are not zero."""
    parts = dict(model.named_modules()) if isinstance(model, torch.nn.Module) else {"": model}
    for path, part in parts.items():
        buffers = getattr(part, "_buffers", {})
        for name, value in {**vars(part), **buffers}.items():
            matrix = _as_matrix(value)
            if matrix is not None:
                matrix.eliminate_zeros()
                yield f"{path}.{name}".lstrip("."), matrix


def _as_matrix(value: Any) -> Any:
    if scipy.sparse.issparse(value):
        return value.tocoo(copy=True)
    if not isinstance(value, torch.Tensor) or value.dim() != 2 or value.requires_grad:
        return None
    if value.layout == torch.strided:
        if value.numel() > _MOST_DENSE or min(value.shape) < 2 or value.dtype in (torch.int64, torch.int32):
            return None  # (lists of ids are no matrices)
        value = value.detach().cpu()
        return scipy.sparse.coo_matrix(value.numpy()) if value.count_nonzero() * 2 < value.numel() else None
    sparse = value.detach().to_sparse_coo().coalesce().cpu()
    return scipy.sparse.coo_matrix((sparse.values().numpy(), sparse.indices().numpy()), shape=tuple(sparse.shape))


def pairs_in_two_parts(run: Run) -> Iterator[Leak]:
    """The same user and item in two parts, where repeated interactions are not what the model is for."""
    if run.config["repeatable"]:
        return
    keys = {name: np.unique(_keys(part)) for name, part in run.parts.items()}
    for one, other in itertools.combinations(keys, 2):
        shared = np.intersect1d(keys[one], keys[other], assume_unique=True)
        if len(shared):
            users, items = np.divmod(shared, run.train.item_num)
            yield Leak(
                "duplicates",
                f"pairs are in both {one} and {other}",
                len(shared),
                run.pairs(users, items),
                "set rm_dup_inter: first",
            )


def _keys(part: Any) -> np.ndarray:
    users, items = (np.asarray(part.inter_feat[name]).astype(np.int64) for name in (part.uid_field, part.iid_field))
    keys: np.ndarray = users * part.item_num + items
    return keys


def rows_from_the_past(run: Run) -> Iterator[Leak]:
    """In a split by time, a held-out row is dated before a training row that it should follow."""
    args, time = run.config["eval_args"], run.train.time_field
    kind, value = next(iter(args["split"].items()))
    sequential = hasattr(run.train, "item_id_list_field")  # which is split user by user whatever group_by says
    by_user = kind in ("LS", "TS") or args["group_by"] == "user" or sequential
    if args["order"] != "TO" or time is None or time not in run.train.inter_feat or kind == "TS":
        return  # (RecBole's TS puts one moment between all training and all test rows by its own definition)
    random_items = kind == "OOV" and value.get("by", "random") != "time"
    last = _last_times(run.train, by_user)
    for name, part in list(run.parts.items())[1:]:
        rows = part.inter_feat
        users, items = np.asarray(rows[part.uid_field]), np.asarray(rows[part.iid_field])
        early = np.asarray(rows[time]) < last[users]
        if random_items and run.held_out_items is not None:
            early &= ~run.held_out_items[items]  # an item kept out by lot has interactions of any date
        if early.any():
            yield Leak(
                "time",
                f"{name} rows are dated before the training rows that they should follow",
                int(early.sum()),
                run.pairs(users[early], items[early]),
                "split in the order of time, or set order: RO where time does not matter",
            )
        last = np.maximum(last, _last_times(part, by_user)) if name == "validation" and kind != "OOV" else last


def _last_times(part: Any, by_user: bool) -> np.ndarray:
    """The latest time of each user's rows, or of all rows. (n_users,)"""
    rows = part.inter_feat
    times = np.asarray(rows[part.time_field], dtype=np.float64)
    if not by_user:
        return np.full(part.user_num, times.max() if len(times) else -np.inf)
    last = np.full(part.user_num, -np.inf)
    np.maximum.at(last, np.asarray(rows[part.uid_field]), times)
    return last


def ids_in_text(run: Run) -> Iterator[Leak]:
    """Items whose text contains their own id, so that a model that reads text reads the answer.

    A few matches are chance (a film called 1984 whose id is 1984); more than one item in a hundred are not.
    """
    features = run.train.item_feat
    if features is None:
        return
    tokens = run.train.field2id_token[run.train.iid_field]
    ids = np.asarray(features[run.train.iid_field])
    for name in features.columns:
        if name not in run.train.field2id_token or not _is_read_as_text(run, name):
            continue
        words = run.train.field2id_token[name]
        if len(words) <= 1:
            continue
        values = np.asarray(features[name]).reshape(len(ids), -1)
        found = [
            int(item)
            for item, row in zip(ids, values, strict=True)
            if item and any(_says(str(words[int(word)]), str(tokens[int(item)])) for word in row[row > 0])
        ]
        if len(found) > max(2, 0.01 * len(ids)):
            yield Leak(
                "id in text",
                f"items have their own id in {name}",
                len(found),
                run.items(found),
                f"take the ids out of {name}, or do not load it",
            )


def _is_read_as_text(run: Run, field: str) -> bool:
    """Whether the run reads a column as words; a column of ids (``parent_asin``) may well repeat the id."""
    content = run.config["content"]
    texts = run.config["item_text_fields"] if "item_text_fields" in run.config else None  # noqa: SIM401
    named = [*((content or {}).get("fields") or []), *(texts or [])]
    reads = (
        run.model is None or content or any(getattr(run.model, flag, False) for flag in ("needs_text", "needs_content"))
    )
    return bool(reads) and (field in named or run.train.field2type[field] == FeatureType.TOKEN_SEQ)


def _says(text: str, token: str) -> bool:
    return token in text and re.search(rf"(?<!\w){re.escape(token)}(?!\w)", text) is not None


def ids_in_content(run: Run) -> Iterator[Leak]:
    """A column of the content vectors that is the item's id, as a number, in RecBole's order or in the data's."""
    content = getattr(run.model, "content", None)
    if not isinstance(content, torch.Tensor) or content.dim() != 2 or len(content) != run.train.item_num:
        return
    values = content[1:].detach().double().cpu().numpy()
    numbers = [np.arange(1, len(content), dtype=np.float64)]
    tokens = [str(token) for token in run.train.field2id_token[run.train.iid_field][1:]]
    if all(token.isdecimal() for token in tokens):
        numbers.append(np.array(tokens, dtype=np.float64))
    for number in numbers:
        columns = np.flatnonzero(_correlation(values, number) > 1 - 1e-6)
        if len(columns):
            yield Leak(
                "id in content",
                "columns of the content are the item's id",
                len(columns),
                tuple(f"column {column}" for column in columns[:_EXAMPLES]),
                "leave those columns out of the content file",
            )
            return


def _correlation(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Absolute correlation of each column of ``values`` (N, D) with ``number`` (N,); 0 for a constant column. (D,)"""
    centred, number = values - values.mean(axis=0), number - number.mean()
    scale = np.linalg.norm(centred, axis=0) * np.linalg.norm(number)
    correlation: np.ndarray = np.divide(np.abs(number @ centred), scale, out=np.zeros_like(scale), where=scale > 0)
    return correlation


Check = Callable[[Run], Iterator[Leak]]

CHECKS: tuple[Check, ...] = (
    oov_items_in_training,
    oov_items_as_negatives,
    held_out_popularity,
    held_out_edges,
    pairs_in_two_parts,
    rows_from_the_past,
    ids_in_text,
    ids_in_content,
)
"""All checks, in the order of the report."""
