"""The OOV protocol for sequential models: an OOV item may be a target, never part of a sequence.

RecBole cuts histories into rows before it splits them, so OOV interactions are taken out first. The IV histories that
remain are split leave-one-out, as ever; each OOV interaction then becomes one more row of validation or test, whose
history is what the user had done by then.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction, cat_interactions

from recbole_oov.data.oov_split import (
    PARTS,
    OOVOptions,
    choose_items,
    columns,
    finish,
    oov_mask,
    oov_options,
    refuse_empty,
)
from recbole_oov.errors import DataError


def build(dataset: Any) -> list[Any]:
    """RecBole's ``SequentialDataset.build`` for the OOV protocol.

    The history of an OOV row in validation is the user's training items up to its time, in the test the validation
    item as well; rows of users who had done nothing by then are left out, and IV targets that nobody has in training.

    Raises:
        DataError: No item can be kept out, a part would be empty, or the data set's rows have columns of their own.
    """
    options = oov_options(dataset.config)
    assert options is not None
    if options.files is not None:
        raise DataError(
            "eval_args split OOV files: a published split has no order in time; sequential models take by: random, "
            "time or popularity"
        )
    _, items, times = columns(dataset)
    random = np.random.default_rng(options.seed)
    chosen = choose_items(items, times, options, random)
    frames = [dataset.inter_feat[np.isin(items, part)].reset_index(drop=True) for part in chosen]
    is_oov = np.isin(items, np.concatenate(chosen))
    dataset.inter_feat = dataset.inter_feat[~is_oov].reset_index(drop=True)
    dataset._change_feat_format()  # RecBole's augmentation, of IV histories alone
    oov = [dataset._dataframe_to_interaction(frame) for frame in frames]
    iv = dataset.leave_one_out(group_by=dataset.uid_field, leave_one_mode="valid_and_test")

    notes: list[str] = []
    unknown = oov_mask(iv[0])
    held = [_known_targets(part, unknown, notes) for part in iv[1:]]
    histories = [iv[0].inter_feat, cat_interactions([iv[0].inter_feat, held[0]])]
    added = [_rows_after(dataset, rows, seen, options, notes) for rows, seen in zip(oov, histories, strict=True)]
    sizes = dict(zip(PARTS, map(len, (iv[0].inter_feat, *held, *added)), strict=True))
    refuse_empty({part: range(size) for part, size in sizes.items()})
    parts = [iv[0].inter_feat] + [cat_interactions([a, b]) for a, b in zip(held, added, strict=True)]
    held_out = np.concatenate([np.asarray(rows[dataset.iid_field]) for rows in added])
    return finish([dataset.copy(part) for part in parts], sizes, held_out, notes)


def _known_targets(part: Any, unknown: np.ndarray, notes: list[str]) -> Interaction:
    rows = part.inter_feat
    lost = torch.from_numpy(unknown)[rows[part.iid_field]]
    if lost.any():
        notes.append(f"{int(lost.sum())} IV targets left out that have no training row")
    return rows[~lost]


def _rows_after(
    dataset: Any, oov: Interaction, seen: Interaction, options: OOVOptions, notes: list[str]
) -> Interaction:
    """One row for each OOV interaction: it is the target, its user's items up to its time are the history.

    Args:
        dataset: The data set, for its fields' names.
        oov: OOV interactions, as loaded.
        seen: RecBole's augmented rows, from which the histories are read.
        options: With ``by: time``, interactions older than the user's last one in ``seen`` are left out.
        notes: Takes what was left out.
    """
    uid, length_field = dataset.uid_field, dataset.item_list_length_field
    seen = seen[torch.from_numpy(np.lexsort((seen[dataset.time_field].numpy(), seen[uid].numpy())))]
    row, is_first = _last_done(dataset, oov, seen, latest_only=options.by == "time")
    kept = row >= 0
    if not kept.all():
        notes.append(f"{int((~kept).sum())} OOV rows left out whose user has no history before them")
    first = torch.from_numpy(is_first[kept])
    oov, base = oov[torch.from_numpy(kept)], seen[torch.from_numpy(row[kept])]

    columns = {name: oov[name] for name in seen.columns if name in oov.columns}
    lengths = base[length_field]
    for name in columns:
        list_field = getattr(dataset, f"{name}_list_field", None)
        if name != uid and list_field in seen.columns:
            columns = {**columns, list_field: _appended(base[list_field], base[name], lengths, first)}
    longest = int(base[dataset.item_id_list_field].shape[1])
    columns[length_field] = torch.where(first, lengths, (lengths + 1).clamp(max=longest))
    unknown = sorted(set(seen.columns) - set(columns))
    if unknown:
        raise DataError(
            f"eval_args split OOV: {type(dataset).__name__} adds the columns {', '.join(unknown)} to each row, which "
            f"are not known for OOV targets; use another model or another split"
        )
    return Interaction(columns)


def _last_done(
    dataset: Any, oov: Interaction, seen: Interaction, *, latest_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """For each OOV interaction the row of ``seen`` whose target the user did last before it, -1 without one. (N,)

    And whether all that was done before it is the first item of that row's list. (N,) bool
    """
    time, uid = dataset.time_field, dataset.uid_field
    users, times = seen[uid].numpy(), seen[time].numpy()
    begin, end = (np.searchsorted(users, oov[uid].numpy(), side=side) for side in ("left", "right"))
    first_time = seen[getattr(dataset, f"{time}_list_field")].numpy()[:, 0]
    row, is_first = np.full(len(oov), -1), np.zeros(len(oov), dtype=bool)
    for n, (low, high, when) in enumerate(zip(begin, end, oov[time].numpy(), strict=True)):
        done = low + np.searchsorted(times[low:high], when, side="right")
        if latest_only and done < high:
            continue
        if done > low:
            row[n] = done - 1
        elif low < high and first_time[low] <= when:
            row[n], is_first[n] = low, True
    return row, is_first


def _appended(
    lists: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, unchanged: torch.Tensor
) -> torch.Tensor:
    """Lists (B, L, …) of the given lengths with one more value (B, …) at the end; full ones lose their oldest."""
    longest = lists.shape[1]
    full = lengths == longest
    new = lists.clone()
    new[full] = torch.roll(lists[full], -1, dims=1)
    place = lengths.clamp(max=longest - 1)
    new[torch.arange(len(new)), place] = values.to(new.dtype)
    new[unchanged] = lists[unchanged]
    return new
