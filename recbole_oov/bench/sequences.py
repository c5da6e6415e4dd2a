"""Suites of next-item training: the gradients of all positions of a history, beside one row for each prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.bench.harness import Contest, Side, tensors_differ
from recbole_oov.bench.recbole_side import experiment
from recbole_oov.bench.suites import Setting
from recbole_oov.data.histories import NEXT_ITEMS
from recbole_oov.trainer.all_positions import all_position_loss, window_loader

_WALKS = {"walks_per_node": 1, "walk_length": 5, "walk_epochs": 1}
"""Short ones: which cluster an item is in decides no cost here."""


def oovllmrec_targets(setting: Setting) -> Contest:
    """OOVLLMRec with its default options, without dropout and with one prompt, so that gradients can be compared."""
    small = {"hidden_size": 16, "inner_size": 32, "n_clusters": 4} if setting.tiny else {}
    mine = experiment(setting, "OOVLLMRec", "ml-100k", dropout=0.0, **_WALKS, **small)
    return _contest(setting, mine, mine.model.calculate_loss)


def sasrec_targets(setting: Setting) -> Contest:
    """RecBole's SASRec with its default options and the cross-entropy, without dropout."""
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "train_neg_sample_args": None}
    mine = experiment(setting, "SASRec", "ml-100k", train_positions="all", **still)
    return _contest(setting, mine, lambda windows: all_position_loss(mine.model, windows))


def _contest(setting: Setting, mine: Any, loss_of_windows: Callable[[Interaction], Tensor]) -> Contest:
    """The mean loss over the same targets, backwards, from windows and from RecBole's rows of the same users."""
    model, train = mine.model.eval(), mine.train_data._dataset
    windows, n_users = _whole_histories(mine.config, train, 60 if setting.tiny else 2048)
    wanted = torch.isin(train.inter_feat[train.uid_field], windows[train.uid_field])
    rows = train.inter_feat[wanted.nonzero().squeeze(1)]

    def gradients(loss: Callable[[Interaction], Tensor], batch: Interaction) -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        loss(batch).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    return Contest(
        Side("all positions", lambda: gradients(loss_of_windows, windows)),
        Side("one prefix a row", lambda: gradients(model.calculate_loss, rows)),
        lambda a, b: tensors_differ(a, b, within=1e-4, what="gradients"),
        note=f"{len(rows):,} targets of {n_users} users whose histories fit the window, forward and backward",
    )


def _whole_histories(config: Any, train: Any, n_targets: int) -> tuple[Interaction, int]:
    """A batch of the plugin's own windows, of users with one window, in which each target sees its whole history."""
    loader = window_loader(config, train)
    users, counts = np.unique(loader.users.numpy(), return_counts=True)
    index = torch.isin(loader.users, torch.from_numpy(users[counts == 1])).nonzero().squeeze(1)
    filled = (loader.targets[index] > 0).sum(dim=1).cumsum(0)
    index = index[: int((filled < n_targets).sum()) + 1]
    longest = int(loader.lengths[index].max())
    fields = {
        loader.user_field: loader.users[index],
        loader.list_field: loader.inputs[index, :longest],
        loader.length_field: loader.lengths[index],
        NEXT_ITEMS: loader.targets[index, :longest],
    }
    return Interaction(fields), len(index)
