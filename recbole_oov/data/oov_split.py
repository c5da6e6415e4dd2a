"""The OOV (cold-start) protocol: some items are kept out of training, and validation and test ask for both kinds.

``eval_args: {split: {OOV: {…}}}`` splits the *items* first. In-vocabulary (IV) items are split by interactions, as
RecBole's ratio split does; of an out-of-vocabulary (OOV) item all interactions go to validation or all to test, so
that nothing but its content is known when it is to be recommended. The splits that published work shares as files
(USIM, ALDI, ColdRec: the same 80/20 items, 8:1:1 interactions) are read with ``files``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset

from recbole_oov.errors import ConfigError, DataError

PARTS = ("train", "iv_valid", "iv_test", "oov_valid", "oov_test")
"""The five parts of a split, in this order everywhere."""

WAYS = ("random", "time", "popularity")
Rows = dict[str, np.ndarray]
"""Row numbers of the interactions by part."""


@dataclass(frozen=True)
class OOVOptions:
    """What ``eval_args: {split: {OOV: …}}`` says.

    Attributes:
        ratio: Share of the interacted items that becomes OOV.
        valid: Share of the OOV items that validation asks for; the others are for the test.
        by: ``random``; ``time``, the items whose first interaction is latest; ``popularity``, the rarest items.
        seed: Of the choice of items and of the shuffled split of IV interactions. Apart from the training's seed, so
            that runs with several seeds are tested on the same split.
        iv: Ratios by which IV interactions are split into training, validation and test.
        files: Folder of a published split; the other options are not used then.
    """

    ratio: float = 0.2
    valid: float = 0.5
    by: str = "random"
    seed: int = 2020
    iv: Sequence[float] = (0.8, 0.1, 0.1)
    files: str | None = None


@dataclass(frozen=True)
class OOVSplit:
    """How a data set was split; every part of it carries this as ``oov_split``.

    Attributes:
        mask: True for items that are OOV: kept out of training, or without a row there; [PAD] is False. (n_items,)
        n_rows: Interactions in each of the five parts.
        notes: What was moved or left out, with counts.
    """

    mask: np.ndarray
    n_rows: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = ", ".join(f"{part} {count:,}" for part, count in self.n_rows.items())
        items = f"{int((~self.mask[1:]).sum()):,} IV items, {int(self.mask.sum()):,} OOV items"
        return "; ".join([f"OOV split: {items}; rows: {rows}", *self.notes])


def oov_options(config: Any) -> OOVOptions | None:
    """The options of the OOV protocol, None where another split is asked for.

    Raises:
        ConfigError: The short form ``oov_split`` was given to a configuration that does not know it.
    """
    args = config["eval_args"]
    split = args.get("split") if isinstance(args, Mapping) else None
    if not isinstance(split, Mapping) or "OOV" not in split:
        if config["oov_split"]:
            raise ConfigError(
                f"oov_split: {config['oov_split']!r} is the short form of run_recbole_oov.py and recbole_oov.run; here "
                f"write eval_args: {{split: {{OOV: {{by: random}}}}}}"
            )
        return None
    return OOVOptions(**(split["OOV"] or {}))


def oov_mask(train_dataset: Any) -> np.ndarray:
    """Which items are out of the vocabulary: without a training row. [PAD] is False. (n_items,) bool

    Args:
        train_dataset: The training part of a data set, split in whatever way, general or sequential.
    """
    rows = train_dataset.inter_feat
    mask = np.ones(train_dataset.item_num, dtype=bool)
    mask[np.asarray(rows[train_dataset.iid_field])] = False
    lists = getattr(train_dataset, "item_id_list_field", None)
    if lists is not None and lists in rows:
        mask[np.asarray(rows[lists]).ravel()] = False  # the oldest item of a history is nobody's target
    mask[0] = False
    return mask


def build(dataset: Any) -> list[Any]:
    """RecBole's ``Dataset.build`` for the OOV protocol.

    Args:
        dataset: A general data set, loaded and filtered; sequential ones go through
            :func:`recbole_oov.data.oov_sequences.build`.

    Returns:
        The training, validation and test data sets. Validation holds the rows of the parts ``iv_valid`` and
        ``oov_valid``, test those of ``iv_test`` and ``oov_test``; each carries ``oov_split``.

    Raises:
        DataError: No item can be kept out, a part would be empty, or the files of a published split do not fit.
    """
    options = oov_options(dataset.config)
    assert options is not None
    args = dataset.config["eval_args"]
    dataset._change_feat_format()
    users, items, times = columns(dataset)
    if options.files is not None:
        from recbole_oov.data.oov_files import read_split

        rows, notes = read_split(options.files, dataset)
    else:
        rows, notes = plan(
            users, items, times, options, in_order=args["order"] == "TO", per_user=args["group_by"] == "user"
        )
    refuse_empty(rows)
    dataset._drop_unused_col()
    parts = [rows["train"], *(np.concatenate([rows[f"{kind}_{part}"] for kind in ("iv", "oov")]) for part in _HELD)]
    datasets = [dataset.copy(dataset.inter_feat[torch.from_numpy(part)]) for part in parts]
    held_out = items[np.concatenate([rows["oov_valid"], rows["oov_test"]])]
    return finish(datasets, {part: len(rows[part]) for part in PARTS}, held_out, notes)


_HELD = ("valid", "test")


def finish(datasets: list[Any], n_rows: dict[str, int], held_out: np.ndarray, notes: list[str]) -> list[Any]:
    """Tell the three parts how they were split, and the log.

    Args:
        datasets: Training, validation and test.
        n_rows: Interactions by part.
        held_out: Items of the OOV parts. They are OOV by what was decided, whatever has become of training rows, so
            that the leak guard can tell.
        notes: What was moved or left out.
    """
    mask = oov_mask(datasets[0])
    mask[held_out] = True
    split = OOVSplit(mask, n_rows, notes)
    for part in datasets:
        part.oov_split = split
    getLogger().info(split)
    return datasets


def columns(dataset: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """User ids, item ids and, where loaded, timestamps of all interactions; (N,) each."""
    rows, time_field = dataset.inter_feat, dataset.time_field
    times = np.asarray(rows[time_field]) if time_field is not None and time_field in rows else None
    return np.asarray(rows[dataset.uid_field]), np.asarray(rows[dataset.iid_field]), times


def plan(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None,
    options: OOVOptions,
    *,
    in_order: bool,
    per_user: bool,
) -> tuple[Rows, list[str]]:
    """Which interaction goes where.

    Args:
        users: User of each interaction. (N,)
        items: Item of each interaction. (N,)
        times: Timestamp of each interaction, (N,); needed for ``by: time`` and ``in_order``.
        options: See :class:`OOVOptions`.
        in_order: Split IV interactions by time instead of at random (``order: TO``).
        per_user: Split each user's IV interactions by themselves (``group_by: user``).

    Returns:
        Row numbers by part, and notes on what was moved or left out.
    """
    random = np.random.default_rng(options.seed)
    valid_items, test_items = choose_items(items, times, options, random)
    oov_valid, oov_test = (np.flatnonzero(np.isin(items, chosen)) for chosen in (valid_items, test_items))
    iv = np.flatnonzero(~np.isin(items, np.concatenate([valid_items, test_items])))
    iv = iv[np.argsort(_needed(times, "order: TO")[iv], kind="stable")] if in_order else random.permutation(iv)
    train, iv_valid, iv_test = _by_ratio(iv, users[iv] if per_user else None, options.iv)
    notes: list[str] = []

    homeless = [
        ~(np.isin(users[part], users[train]) & np.isin(items[part], items[train])) for part in (iv_valid, iv_test)
    ]
    n_homeless = sum(int(lost.sum()) for lost in homeless)
    if n_homeless and in_order:
        # Moved into training they would be training rows dated after the rows that training is asked for.
        notes.append(f"{n_homeless} IV rows left out whose user or item has no earlier training row")
    elif n_homeless:
        train = np.concatenate([train, iv_valid[homeless[0]], iv_test[homeless[1]]])
        notes.append(f"{n_homeless} IV rows moved to training since their user or item had no row there")
    iv_valid, iv_test = iv_valid[~homeless[0]], iv_test[~homeless[1]]

    kept = []
    for part in (oov_valid, oov_test):
        known = np.isin(users[part], users[train])
        if in_order and options.by == "time":
            known &= _after_training(users, _needed(times, "by: time"), train, part, per_user=per_user)
        kept.append(part[known])
    n_dropped = len(oov_valid) + len(oov_test) - len(kept[0]) - len(kept[1])
    if n_dropped:
        reason = " or that date from before the training rows" if in_order and options.by == "time" else ""
        notes.append(f"{n_dropped} OOV rows left out of users without a training row{reason}")
    return dict(zip(PARTS, (train, iv_valid, iv_test, *kept), strict=True)), notes


def choose_items(
    items: np.ndarray, times: np.ndarray | None, options: OOVOptions, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The OOV items of validation and of test, ascending.

    Raises:
        DataError: ``ratio`` leaves no OOV item for both, or no IV item.
    """
    known, counts = np.unique(items, return_counts=True)
    n_oov = round(options.ratio * len(known))
    n_valid = round(options.valid * n_oov)
    if not 0 < n_valid < n_oov < len(known):
        raise DataError(
            f"eval_args split OOV: ratio {options.ratio} and valid {options.valid} make {n_valid} of {len(known)} "
            f"items OOV for validation and {n_oov - n_valid} for the test; each needs one at least, and one must stay "
            f"IV"
        )
    lots = random.permutation(len(known))  # decides between equals
    if options.by == "random":
        order = lots
    elif options.by == "popularity":
        order = np.lexsort((lots, -counts))
    else:
        first = np.full(len(known), np.inf)
        np.minimum.at(first, np.searchsorted(known, items), _needed(times, "by: time"))
        order = np.lexsort((lots, first))
    chosen = known[order[-n_oov:]]
    if options.by == "popularity":
        chosen = random.permutation(chosen)  # rarest first would give the test rarer items than validation
    return np.sort(chosen[:n_valid]), np.sort(chosen[n_valid:])


def _by_ratio(rows: np.ndarray, groups: np.ndarray | None, ratios: Sequence[float]) -> list[np.ndarray]:
    """``rows`` cut into three in their order, each group by itself; RecBole's rounding."""
    shares = [ratio / sum(ratios) for ratio in ratios]
    if groups is None:
        return np.split(rows, Dataset._calcu_split_ids(None, len(rows), shares))
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.unique(groups, return_counts=True)[1])
    of_groups = np.split(rows[order], ends[:-1])
    cut = [np.split(own, Dataset._calcu_split_ids(None, len(own), shares)) for own in of_groups]
    return [np.concatenate(part) for part in zip(*cut, strict=True)]


def _after_training(
    users: np.ndarray, times: np.ndarray, train: np.ndarray, part: np.ndarray, *, per_user: bool
) -> np.ndarray:
    """Which rows of ``part`` are no older than the training rows, of the same user or of everybody."""
    last = np.full(users.max() + 1, -np.inf if per_user else times[train].max())
    np.maximum.at(last, users[train], times[train])
    after: np.ndarray = times[part] >= last[users[part]]
    return after


def _needed(times: np.ndarray | None, what: str) -> np.ndarray:
    if times is None:
        raise DataError(f"eval_args {what} needs the time of each interaction; set TIME_FIELD and load it (load_col)")
    return times


def refuse_empty(rows: Mapping[str, np.ndarray | Sequence[int]]) -> None:
    """Raise a DataError where a part of the split has no row."""
    empty = [part for part in PARTS if len(rows[part]) == 0]
    if empty:
        raise DataError(
            f"eval_args split OOV: the part {' and the part '.join(empty)} would be empty; raise ratio, change valid "
            f"or iv, or loosen the filters (user_inter_num_interval, item_inter_num_interval, val_interval)"
        )
