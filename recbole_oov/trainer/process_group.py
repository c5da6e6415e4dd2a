"""Training in several processes that comes to what one process would do with the same options.

RecBole's loop and torch's ``DistributedDataParallel`` do it. What differs from RecBole: the processes share each batch
of one and the same order, a process's loss counts by its share of the batch's terms, the epoch's loss is that of all
processes, and the first of all processes reads and writes checkpoints, also where there are several machines.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from logging import getLogger
from typing import Any

import torch
import torch.distributed as dist
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.utils import ModelType
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from recbole_oov.compat import load_checkpoint
from recbole_oov.data.histories import WindowLoader
from recbole_oov.data.shares import SharedBatches
from recbole_oov.errors import ConfigError
from recbole_oov.lm.sharding import is_sharded
from recbole_oov.processes import alone, from_all, from_first, on_first, share_of
from recbole_oov.trainer.loss_reduction import loss_reduction

Losses = Tensor | tuple[Tensor, ...]

_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_BUFFERS = "forward_sync_buffers" if _RENAMED else "broadcast_buffers"
"""torch's option to send all buffers, whole content matrices, in every step; its name since torch 2.13 and before."""


class ProcessGroupTrainer(Trainer):
    """RecBole's trainer as one of several processes; below every other trainer of the run, next to RecBole's own.

    Outside of a process group, and within :func:`~recbole_oov.processes.alone`, it is RecBole's trainer.
    """

    model: Any

    def __init__(self, config: Any, model: Any) -> None:
        with alone(config):  # what RecBole would wrap here is wrapped when training begins, if it does
            super().__init__(config, model)
        self._shared: tuple[Any, Any, Any] = (None, None, None)
        self._parallel: DistributedDataParallel | None = None
        self._learning: list[int] = []
        self._reduction: str | None = None
        self._in_epoch = False

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Callable[[Any], Losses] | None = None,
        show_progress: bool = False,
    ) -> Any:
        loader = self._own_batches(train_data)
        if self.config["single_spec"]:
            return super()._train_epoch(loader, epoch_idx, loss_func, show_progress)
        compute = loss_func or self.model.calculate_loss
        self._get_ready(loader)
        weight_of_sum = self._reduction == "sum"
        n = share_of(self.config)[1]

        def loss_of_part(batch: Interaction) -> Losses:
            part = getattr(loader, "part", 1 / n)
            weight = n * (float(part > 0) if weight_of_sum else part)
            losses: Losses = compute(batch) if self._parallel is None else self._parallel(compute, batch)
            return tuple(weight * loss for loss in losses) if isinstance(losses, tuple) else weight * losses

        self._in_epoch = True
        total = super()._train_epoch(loader, epoch_idx, loss_of_part, show_progress)
        self._in_epoch = False
        return self._mean_of_all(total)

    def _own_batches(self, train_data: Any) -> Any:
        """The loader of this process's part of each batch, where the one given is RecBole's for one of several."""
        sampler = getattr(train_data, "sampler", None)
        if not isinstance(train_data, AbstractDataLoader) or not isinstance(sampler, DistributedSampler):
            return train_data
        # What RecBole calls traditional is counted or solved, not learned by gradients: each process does all of it.
        whole = self.config["MODEL_TYPE"] == ModelType.TRADITIONAL
        share = (0, 1) if whole else share_of(self.config)
        if self._shared[0] is not train_data or self._shared[1] != share:
            self._shared = (train_data, share, SharedBatches(train_data, share))
        return self._shared[2]

    def _get_ready(self, loader: Any) -> None:
        """Wrap the model for the exchange of gradients, anew where other parameters learn than before."""
        learning = [id(weights) for weights in self.model.parameters() if weights.requires_grad]
        if learning == self._learning:
            return
        if not self._learning:
            self._reduction = self._how_the_loss_adds_up(loader)
        on_gpu = self.device.type != "cpu"
        if on_gpu:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        elif any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self.model.modules()):
            getLogger().warning(
                f"nproc: {type(self.model).__name__} normalises over a batch, on CPUs over each process's part of it"
            )
        self._learning = learning
        self._parallel = None
        if learning:
            options: dict[str, Any] = {_BUFFERS: False}
            step = _Step(self.model)
            kept_in_parts = [name for name, weights in step.named_parameters() if is_sharded(weights)]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, kept_in_parts)
            self._parallel = DistributedDataParallel(step, **options)

    def _how_the_loss_adds_up(self, loader: Any) -> str:
        declared: str | None = getattr(self.model, "loss_reduction", None)
        if declared is not None or isinstance(loader, WindowLoader):
            return declared or "mean"
        if self.config["MODEL_TYPE"] == ModelType.TRADITIONAL or not hasattr(loader, "part"):
            return "mean"
        found = from_first(self.config, loss_reduction(self.model, loader))
        if found is None:
            getLogger().warning(
                f"nproc: the loss of {type(self.model).__name__} is no mean over a batch's rows (a norm over the "
                f"batch, negatives within the batch, random numbers): gradients are near to one process's, not equal"
            )
        return found or "mean"

    def _mean_of_all(self, total: Any) -> Any:
        """An epoch's loss, of all processes."""
        parts = torch.tensor(total if isinstance(total, tuple) else [total], dtype=torch.float64, device=self.device)
        dist.all_reduce(parts)
        found = (parts / dist.get_world_size()).tolist()
        return tuple(found) if isinstance(total, tuple) else found[0]

    def set_reduce_hook(self) -> None:
        """RecBole's loops call it before a loss; here the loss is computed inside of what exchanges the gradients.

        Raises:
            ConfigError: The loop is not the one that computes it there, so that every process would learn for itself.
        """
        if not self._in_epoch:
            name = self.config["model"]
            raise ConfigError(
                f"nproc: the trainer of {name} has a loop of its own, which is not shared; leave nproc out"
            )

    def sync_grad_loss(self) -> Any:
        """Zero, to which each parameter that learns contributes, so that none is waited for in vain."""
        learning = [weights.sum() for weights in self.model.parameters() if weights.requires_grad]
        return 0 * torch.stack(learning).sum() if learning else 0

    def _save_checkpoint(self, epoch: int, *args: Any, **kwargs: Any) -> None:
        if share_of(self.config)[0] == 0:
            with alone(self.config):  # who reads the file should not be one of several processes because of it
                super()._save_checkpoint(epoch, *args, **kwargs)

    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> Any:
        """As RecBole's; the first process reads the best model, for all."""
        if eval_data and load_best_model and not self.config["single_spec"]:
            load_for_all(self.config, self.model, model_file or self.saved_model_file)
            load_best_model = False
        return super().evaluate(eval_data, load_best_model, model_file, show_progress)


class _Step(nn.Module):
    """What ``DistributedDataParallel`` calls: any loss of a model, not its ``forward``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Callable[[Any], Losses], batch: Any) -> Losses:
        return loss(batch)


class LaterStagesMixin:
    """For a trainer whose base model is trained first: that by all processes, what follows by the first one.

    The others take over what it has learned. All evaluate.
    """

    config: Any
    model: Any

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> Any:
        trainer: Any = self
        if trainer.continue_from is None:  # else it is in the state that the first process goes on from
            trainer.train_base(train_data, valid_data, verbose=verbose, saved=saved, show_progress=show_progress)
        getLogger().info("nproc: the base model is trained; the first process alone goes on")
        fit: Any = super().fit  # type: ignore[misc]
        kept = ("best_valid_score", "best_valid_result", "stages", "train_loss_dict")

        def rest() -> dict[str, Any]:
            trainer.base_is_trained = trainer.continue_from is None
            fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
            return {"model": _on_cpu(self.model), **{name: getattr(self, name) for name in kept}}

        found = on_first(self.config, rest)
        _give(self.model, found["model"])
        for name in kept:
            setattr(self, name, found[name])
        return found["best_valid_score"], found["best_valid_result"]


def one_of_several(model: str, parts: tuple[type, ...]) -> tuple[type, ...]:
    """The bases of a trainer for one of several processes.

    Args:
        model: The model's name.
        parts: Those of the trainer for one process: mixins, and RecBole's or the plugin's trainer last.

    Raises:
        ConfigError: The model is not trained by gradients.
    """
    from recbole_oov.trainer.cold_start import ColdStartTrainer

    base = parts[-1]
    if not issubclass(base, Trainer):
        raise ConfigError(f"nproc: {model} is not trained by gradients; leave nproc out")
    first = (LaterStagesMixin,) if issubclass(base, ColdStartTrainer) else ()
    # Python puts the last one behind all others, in front of RecBole's Trainer, of which it is a subclass.
    return (*first, *(part for part in parts if part is not Trainer), ProcessGroupTrainer)


def load_for_all(config: Any, model: Any, path: str) -> None:
    """Give a model the weights of a checkpoint that the first process can read.

    Raises:
        CheckpointError: It cannot; in all processes.
    """

    def read() -> dict[str, Any]:
        saved = load_checkpoint(path, "cpu")
        return {name: saved.get(name) for name in ("state_dict", "other_parameter")}

    _give(model, on_first(config, read))
    getLogger().info(f"Loading model structure and parameters from {path}")


def agree(config: Any, model: Any) -> None:
    """Give a model that was built in each process the first one's weights and buffers, where they differ.

    Token clusters and other tables that are computed may differ from one kind of machine to another in their last bit,
    and then in which cluster an item is.
    """
    own = {name: _checksum(values) for name, values in model.state_dict().items()}
    if not all(other == own for other in from_all(config, own)):
        _give(model, from_first(config, _on_cpu(model)))


def _checksum(values: Any) -> Any:
    if not isinstance(values, Tensor):
        return repr(values)
    return tuple(values.shape), float(values.double().sum()), float(values.double().square().sum())


def _on_cpu(model: Any) -> dict[str, Any]:
    weights = {name: v.cpu() if isinstance(v, Tensor) else v for name, v in model.state_dict().items()}
    return {"state_dict": weights, "other_parameter": model.other_parameter()}


def _give(model: Any, state: dict[str, Any]) -> None:
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state["other_parameter"])
