"""Training from every position of a history at once, for causal sequential networks.

RecBole turns a history of n items into n - 1 rows and encodes a prefix for each; a causal network computes all of
those states in one pass over the history. Same loss, same gradients where a history fits the window, a fraction of
the work. Only here can items of the history be left out of the loss (``history_items: excluded``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.data.excluded_history import had_before, struck_out
from recbole_oov.data.histories import NEXT_ITEMS, Histories, WindowLoader, is_unordered
from recbole_oov.errors import ConfigError
from recbole_oov.processes import share_of

_TOLERANCE = 1e-3


class AllPositionMixin:
    """Lets a RecBole trainer iterate history windows instead of one prefix a row.

    The model's ``calculate_loss`` must understand windows (see ``WindowLoader``), or ``window_loss`` must say what
    to minimise. ``train_batch_size`` counts targets, as it does for RecBole's rows.
    """

    config: Any
    model: Any
    _windows: WindowLoader | None = None

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Any:
        self.ready(train_data)
        epoch: Any = super()._train_epoch  # type: ignore[misc]
        return epoch(self._windows, epoch_idx, loss_func or self.window_loss, show_progress)

    def ready(self, train_data: Any) -> None:
        """Build the windows where that has not been done; a run that is continued needs them before its first epoch."""
        if self._windows is None:
            self._windows = window_loader(self.config, train_data._dataset)
            self.prepare(train_data)

    def prepare(self, train_data: Any) -> None:
        """Called once before the first epoch."""

    def window_loss(self, interaction: Interaction) -> Tensor:
        """The loss of a batch of windows."""
        loss: Tensor = self.model.calculate_loss(interaction)
        return loss


class CausalNetworkMixin(AllPositionMixin):
    """All-position training for RecBole's own causal networks (SASRec, GRU4Rec, …), chosen by ``train_positions: all``.

    These networks compute a state for every position and then keep the last one (``gather_indexes``); here all are
    kept. Before the first epoch the loss is compared with the model's own on RecBole's rows, so that a network that
    looks ahead, pools over the history or has further loss terms is refused instead of trained on something else.
    """

    def prepare(self, train_data: Any) -> None:
        rows = train_data._dataset.inter_feat
        first_rows = rows[torch.arange(min(256, len(rows)))].to(self.config["device"])
        check_same_loss(self.model, first_rows)

    def window_loss(self, interaction: Interaction) -> Tensor:
        return all_position_loss(self.model, interaction)


def window_loader(config: Any, dataset: Any) -> WindowLoader:
    """The windows over a training split, as the configuration asks for them."""
    length = config["MAX_ITEM_LIST_LENGTH"]
    return WindowLoader(
        Histories.from_train(dataset),
        user_field=dataset.uid_field,
        list_field=dataset.iid_field + config["LIST_SUFFIX"],
        length_field=config["ITEM_LIST_LENGTH_FIELD"],
        length=length,
        stride=config["window_stride"] or max(1, length // 2),
        batch_size=config["train_batch_size"],
        seed=config["seed"],
        shuffle=config["shuffle"],
        group_lengths=config["group_lengths"],
        share=share_of(config),
        reorder=is_unordered(dataset),
    )


def all_position_loss(model: Any, interaction: Interaction) -> Tensor:
    """Mean cross-entropy over all items, at every position that has a target.

    With ``excludes_history`` of the model a target's wrong answers are the items that were not read before it.

    Args:
        model: A causal sequential network of RecBole's whose ``forward`` ends in ``gather_indexes``.
        interaction: Windows with ``next_items``.
    """
    targets = interaction[NEXT_ITEMS]
    states = all_position_states(model, interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])
    row, position = targets.nonzero(as_tuple=True)
    logits = states[row, position] @ model.item_embedding.weight.T
    if getattr(model, "excludes_history", False):
        logits = struck_out(logits, had_before(interaction[model.ITEM_SEQ], targets))
    return F.cross_entropy(logits, targets[row, position])


def all_position_states(model: Any, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """The network's output at every position, (B, L, d), where ``forward`` gives it at the last one, (B, d)."""
    # The model is left as it was, also after an error: an instance attribute hides the method for one call.
    model.gather_indexes = lambda output, index: output
    try:
        states: Tensor = model.forward(item_seq, item_seq_len)
    finally:
        del model.gather_indexes
    return states


@torch.no_grad()
def check_same_loss(model: Any, rows: Interaction) -> None:
    """Refuse a model whose loss on RecBole's rows is not what all-position training minimises.

    Args:
        model: The model.
        rows: Prefix rows of RecBole's, the prefixes of a user among them.

    Raises:
        ConfigError: It differs, or the model does not have the needed form.
    """
    name = type(model).__name__
    remedy = "set train_positions: last"
    if getattr(model, "loss_type", None) != "CE":
        raise ConfigError(f"train_positions: 'all' needs loss_type: CE, which {name} is not set to; {remedy}")
    mode = model.training
    model.eval()
    try:
        expected = model.calculate_loss(rows)
        seq, lengths, target = rows[model.ITEM_SEQ], rows[model.ITEM_SEQ_LEN], rows[model.POS_ITEM_ID]
        at = torch.arange(len(seq), device=seq.device)
        states = all_position_states(model, seq, lengths)
        if states.dim() != 3 or states.shape[1] != seq.shape[1]:
            raise ConfigError(f"train_positions: {name} has no state for each position of a history; {remedy}")
        last = states[at, lengths - 1]
        same_loss = torch.allclose(
            F.cross_entropy(last @ model.item_embedding.weight.T, target), expected, rtol=_TOLERANCE
        )
        # What comes later must not change an earlier state: replace the items of the second half and compare.
        half = (lengths // 2).clamp(min=1)
        later = torch.arange(seq.shape[1], device=seq.device) >= half[:, None]
        changed = torch.where(later & (seq > 0), (seq % (model.n_items - 1)) + 1, seq)
        before = all_position_states(model, changed, lengths)[at, half - 1]
        causal = torch.allclose(before, states[at, half - 1], atol=_TOLERANCE, rtol=_TOLERANCE)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"train_positions: {name} cannot be trained from all positions ({error}); {remedy}"
        ) from error
    finally:
        model.train(mode)
    if not causal:
        raise ConfigError(f"train_positions: {name} is not causal, a position reads what comes after it; {remedy}")
    if not same_loss:
        raise ConfigError(
            f"train_positions: the loss of {name} is not the cross-entropy of the next item alone; {remedy}"
        )
