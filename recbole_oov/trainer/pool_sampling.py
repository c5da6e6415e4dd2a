"""Training with a chosen negative sampler, for any model that learns from (user, positive, negative).

RecBole's trainer is kept whole (optimiser, clipping, early stopping, logs, checkpoints); what changes is where its
batches come from, shuffled index tensors on the device, and how a batch gets its negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from logging import getLogger
from typing import Any

import torch
from recbole.data.interaction import Interaction

from recbole_oov.data.shares import own_part
from recbole_oov.processes import share_of
from recbole_oov.sampler.base_models import base_model_of, check_learns_from_negatives
from recbole_oov.sampler.drawing import Drawing, read_sampler
from recbole_oov.sampler.pools import NegativePools


class PositiveLoader:
    """Batches of training rows without negatives, in a new random order each epoch.

    Args:
        rows: All training rows.
        batch_size: Rows a batch.
        seed: Of the order, the same in every process of a group.
        device: Where batches are made.
        shuffle: Whether the order is random.
        share: This process and the number of processes; each takes every n-th row of each batch.

    Attributes:
        part: Of the latest batch, the part that is this process's.
    """

    def __init__(
        self,
        rows: Interaction,
        *,
        batch_size: int,
        seed: int,
        device: Any,
        shuffle: bool = True,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.rows, self.batch_size, self.share = rows.to(device).interaction, batch_size, share
        self.part = 1.0
        self._n = len(rows)
        self.shuffle = False  # RecBole would ask for torch's sampler
        self._random_order = shuffle
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def __len__(self) -> int:
        return -(-self._n // self.batch_size)

    def __iter__(self) -> Iterator[Interaction]:
        device = self.generator.device
        order = torch.arange(self._n, device=device)
        if self._random_order:
            order = torch.randperm(self._n, generator=self.generator, device=device)
        for whole in order.split(self.batch_size):
            index, self.part = own_part(whole, torch.ones(len(whole)), self.share)
            # Column by column: indexing an Interaction makes a Python list of the index first.
            yield Interaction({name: column[index] for name, column in self.rows.items()})


class PoolSamplingMixin:
    """Draws negatives with the configuration's ``sampler``, for any of RecBole's trainers that runs one loss.

    ``sampling_state`` and ``load_sampling_state`` hold all that the order of rows and the negatives of the next epoch
    depend on.
    """

    config: Any
    model: Any
    drawing: Drawing | None = None
    _positives: PositiveLoader | None = None

    def _build_optimizer(self, **given: Any) -> Any:
        build: Any = super()._build_optimizer  # type: ignore[misc]
        optimizer = build(**given)
        if type(optimizer) is torch.optim.Adam and torch.device(self.config["device"]).type == "cpu":
            # One kernel a step in the place of six; half of an epoch of BPR is Adam's step over all embeddings.
            for group in optimizer.param_groups:
                group["fused"] = True
        return optimizer

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Any:
        self.ready(train_data)
        assert self.drawing is not None
        self.model.train()
        self.drawing.begin_epoch(epoch_idx)
        epoch: Any = super()._train_epoch  # type: ignore[misc]
        return epoch(self._positives, epoch_idx, loss_func or self.drawing.loss, show_progress)

    def ready(self, train_data: Any) -> None:
        """Build what draws the negatives where that has not been done, before the first epoch.

        Raises:
            ConfigError: The model does not learn from negatives, or the sampler does not fit the model or the data.
        """
        if self.drawing is not None:
            return
        config, dataset = self.config, train_data._dataset
        base = base_model_of(self.model, config)
        rows = dataset.inter_feat
        rows = rows if isinstance(rows, Interaction) else Interaction(rows)
        check_learns_from_negatives(base, rows[torch.arange(min(64, len(rows)))].to(config["device"]))
        pools = NegativePools.from_train(dataset, device=config["device"], seed=config["seed"] + share_of(config)[0])
        sampler, options = read_sampler(config["sampler"])
        self.drawing = Drawing(sampler, options, base, pools)
        self._positives = positive_loader(config, rows, pairwise=base.pairwise)
        getLogger().info(f"[Sampler]: {sampler.name} {options}, pools of {sampler.source} candidates on {pools.device}")

    def sampling_state(self) -> dict[str, Any]:
        """The state of all randomness of sampling, for a checkpoint; empty before the first epoch."""
        if self.drawing is None or self._positives is None:
            return {}
        return {"order": self._positives.generator.get_state(), "drawing": self.drawing.state_dict()}

    def load_sampling_state(self, state: dict[str, Any], train_data: Any) -> None:
        """Continue from a state of ``sampling_state``."""
        self.ready(train_data)
        if state and self.drawing is not None and self._positives is not None:
            self._positives.generator.set_state(state["order"].cpu())
            self.drawing.load_state_dict(state["drawing"])


def positive_loader(config: Any, rows: Interaction, *, pairwise: bool) -> PositiveLoader:
    """The training rows in batches as large as RecBole's.

    ``train_batch_size`` counts rows with their negatives for models that learn point by point, as it does for RecBole,
    and those of all processes together.
    """
    size = config["train_batch_size"]
    return PositiveLoader(
        rows,
        batch_size=size if pairwise else max(1, size // 2),
        seed=config["seed"],
        device=config["device"],
        shuffle=config["shuffle"],
        share=share_of(config),
    )
