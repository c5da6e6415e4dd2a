"""An exponential moving average of the weights, which is what is validated, saved and tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from recbole.trainer import Trainer
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from recbole_oov.errors import ConfigError
from recbole_oov.trainer.oovllmrec import OOVLLMRecTrainer

_MEAN, _STEPS = "ema", "ema_steps"
"""Keys in the optimiser's state, where checkpoints keep what belongs to a parameter."""


class WeightAveragingMixin:
    r"""Averages a RecBole trainer's weights over its steps (``ema_decay``).

    .. math:: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t)\, \theta_t, \qquad
              d_t = \min\Big(d, \frac{1 + t}{10 + t}\Big)

    Training goes on with :math:`\theta`; validation, early stopping, the checkpoint and the test read
    :math:`\bar\theta`. The smaller decay of the first steps keeps the initial weights from staying in it.

    Reference: after Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control Optim.
    1992, whose mean is uniform; :math:`d_t` as in TensorFlow's ``ExponentialMovingAverage``.
    """

    config: Any
    model: Any
    optimizer: Optimizer
    _is_training = False
    """Whether the model has the weights that are trained, and not those of a checkpoint, which are averaged already."""
    _is_swapped = False

    def __init__(self, config: Any, model: Any) -> None:
        if any(isinstance(part, _BatchNorm) for part in model.modules()):
            raise ConfigError(
                f"ema_decay: {config['model']} normalises batches, and its statistics would be those of other weights "
                f"than the averaged ones; leave ema_decay out"
            )
        super().__init__(config, model)  # type: ignore[call-arg]

    def _build_optimizer(self, **given: Any) -> Any:
        build: Any = super()._build_optimizer  # type: ignore[misc]
        optimizer: Optimizer = build(**given)
        optimizer.register_step_post_hook(_averaging(float(self.config["ema_decay"])))
        return optimizer

    def _train_epoch(self, *args: Any, **kwargs: Any) -> Any:
        self._is_training = True
        epoch: Any = super()._train_epoch  # type: ignore[misc]
        return epoch(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        save: Any = super()._save_checkpoint  # type: ignore[misc]
        with self.averaged():
            return save(*args, **kwargs)

    def resume_checkpoint(self, resume_file: Any) -> Any:
        """As RecBole's, with the weights that were trained, which a checkpoint keeps in the place of the average."""
        resume: Any = super().resume_checkpoint  # type: ignore[misc]
        resume(resume_file)
        self._is_training = True
        _swap(self.optimizer)

    def evaluate(self, eval_data: Any, load_best_model: bool = True, *args: Any, **kwargs: Any) -> Any:
        """As RecBole's, of the averaged weights; those of a checkpoint are averaged already."""
        evaluate: Any = super().evaluate  # type: ignore[misc]
        with nullcontext() if load_best_model else self.averaged():
            result = evaluate(eval_data, load_best_model, *args, **kwargs)
        if load_best_model and eval_data:
            self._is_training = False
        return result

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the model, where it has the others."""
        if not self._is_training or self._is_swapped:
            yield
            return
        self._is_swapped = True
        try:
            with swapped(self.optimizer):
                yield
        finally:
            self._is_swapped = False


def check_can_average(config: Any, trainer: type) -> None:
    """Whether a trainer trains one model once, whose weights are in one place.

    Raises:
        ConfigError: It does not.
    """
    if trainer not in (Trainer, OOVLLMRecTrainer):
        raise ConfigError(
            f"ema_decay: {config['model']} is trained by {trainer.__name__}, in several trainings or by a loop of its "
            f"own, whose weights are not averaged; leave ema_decay out"
        )
    if config["shard_backbone"]:
        raise ConfigError("ema_decay: weights that are divided among processes are not averaged; leave one of them out")


def _averaging(decay: float) -> Callable[[Optimizer, Any, Any], None]:
    @torch.no_grad()
    def average(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for weights in group["params"]:
                if weights.grad is None:  # not trained: optimisers take an empty state for a first step
                    continue
                state = optimizer.state[weights]
                steps = state.get(_STEPS, 0)
                if not steps:
                    state[_MEAN] = weights.detach().clone()
                state[_STEPS] = steps + 1
                state[_MEAN].lerp_(weights.detach(), 1 - min(decay, (1 + steps) / (10 + steps)))

    return average


@contextmanager
def swapped(optimizer: Optimizer) -> Iterator[None]:
    """The averaged weights in the place of the others, and those in theirs."""
    _swap(optimizer)
    try:
        yield
    finally:
        _swap(optimizer)


def _swap(optimizer: Optimizer) -> None:
    for weights, state in optimizer.state.items():
        if _MEAN in state:
            kept = weights.detach().clone()
            weights.data.copy_(state[_MEAN])
            state[_MEAN].copy_(kept)
