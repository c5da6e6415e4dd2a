"""What would make a score meaningless, found before training: groups nobody is in, more places than candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import EvaluatorType

from recbole_oov.data.histories import seen_matrix
from recbole_oov.errors import DataError
from recbole_oov.evaluation.groups import IV, OOV, OVERALL


def check_evaluation(config: Any, train_data: Any, valid_data: Any, test_data: Any) -> None:
    """Check what validation and test are going to ask.

    Args:
        config: The configuration.
        train_data, valid_data, test_data: RecBole's loaders; None for one that is not there.

    Raises:
        DataError: A group has no user to average over, an AUC is asked of labels that are all the same, or ``topk`` is
            larger than the items there are to rank for a user. All problems are listed.
    """
    split = getattr(train_data._dataset, "oov_split", None)
    mask = split.mask if split is not None else None
    problems: list[str] = []
    history = [train_data._dataset]
    for phase, data in (("validation", valid_data), ("test", test_data)):
        if not data:
            continue
        if mask is not None and config["eval_type"] == EvaluatorType.RANKING:
            problems += _empty_groups(phase, data._dataset, mask)
        if config["eval_type"] == EvaluatorType.VALUE:
            problems += _useless_labels(config, phase, data._dataset, mask)
        elif isinstance(data, FullSortEvalDataLoader):
            problems += _too_few_candidates(config, phase, data, mask, history)
        else:
            problems += _too_few_samples(config, phase, data)
        history.append(data._dataset)
    if problems:
        raise DataError("\n".join(problems))


def _empty_groups(phase: str, part: Any, mask: np.ndarray) -> Iterator[str]:
    users, items = (np.asarray(part.inter_feat[name]) for name in (part.uid_field, part.iid_field))
    with_iv, with_oov = np.unique(users[~mask[items]]), np.unique(users[mask[items]])
    in_group = {IV: with_iv, OOV: with_oov, OVERALL: np.intersect1d(with_iv, with_oov)}
    for group, who in in_group.items():
        if len(who) == 0:
            what = "both an IV and an OOV item" if group == OVERALL else f"an {group.upper()} item"
            yield (
                f"{phase}: no user has {what} to be found, so that the group {group!r} has nothing to average over; "
                f"raise ratio, iv or valid in eval_args split OOV, or use more data"
            )


def _useless_labels(config: Any, phase: str, part: Any, mask: np.ndarray | None) -> Iterator[str]:
    label = config["LABEL_FIELD"]
    if config["eval_args"]["mode"]["valid"] != "labeled" or label not in part.inter_feat:
        return
    labels, items = np.asarray(part.inter_feat[label]), np.asarray(part.inter_feat[part.iid_field])
    groups = {OVERALL: np.ones(len(items), dtype=bool)}
    if mask is not None:
        groups |= {IV: ~mask[items], OOV: mask[items]}
    needed = 2 if "AUC" in [name.upper() for name in config["metrics"]] else 1
    for group, rows in groups.items():
        if len(np.unique(labels[rows])) < needed:
            yield (
                f"{phase}: the group {group!r} has {int(rows.sum())} rows, and an AUC needs both labels among them; "
                f"raise ratio, iv or valid in eval_args split OOV, choose another threshold, or use more data"
            )


def _too_few_samples(config: Any, phase: str, loader: Any) -> Iterator[str]:
    """Sampled evaluation ranks a user's items among ``sample_num`` others for each."""
    k, args = max(config["topk"]), loader.neg_sample_args
    if args["distribution"] != "none" and k > args["sample_num"] + 1:
        yield (
            f"topk: {k} is more than the {args['sample_num'] + 1} items that {phase} ranks for a user (eval_args "
            f"mode); lower topk, or sample more"
        )


def _too_few_candidates(
    config: Any, phase: str, loader: Any, mask: np.ndarray | None, history: list[Any]
) -> Iterator[str]:
    k, n_items = max(config["topk"]), loader._dataset.item_num
    groups = {"": np.arange(n_items) > 0}
    if mask is not None:
        groups |= {"IV ": ~mask & groups[""], "OOV ": mask}
    for name, member in groups.items():
        left, who = _fewest_candidates(config, loader, member, history)
        if left < k:
            remedy = "lower topk, or filter such users with user_inter_num_interval" if who else "lower topk"
            remedy += " or raise ratio" if name == "OOV " else ""
            yield (
                f"topk: {k} is more than the {left} {name}items that are left to rank in {phase}{who} (of "
                f"{int(member.sum())} {name}items); {remedy}"
            )


def _fewest_candidates(config: Any, loader: Any, member: np.ndarray, history: list[Any]) -> tuple[int, str]:
    """The least number of items of a group that a case can be given, and whose it is."""
    n = int(member.sum())
    if loader.is_sequential:
        if not config["mask_history"]:
            return n, ""
        longest = int(seen_matrix(*history)[:, member].sum(axis=1).max())
        return n - longest + 1, " for the user with the longest history"  # the target stays, seen or not
    # Only the users who are asked about the group: of the others nothing is averaged.
    asked = [user for user in loader.uid_list.tolist() if member[loader.uid2positive_item[user].numpy()].any()]
    masked = np.array([int(member[loader.uid2history_item[user].numpy()].sum()) for user in asked], dtype=np.int64)
    if len(masked) == 0 or masked.max() == 0:
        return n, ""
    worst = asked[int(masked.argmax())]
    token = loader._dataset.id2token(loader.uid_field, worst)
    return n - int(masked.max()), f" for {loader.uid_field} {token}, who has interacted with the others"
