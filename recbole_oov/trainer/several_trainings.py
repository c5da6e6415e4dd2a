"""Training from the beginning more than once in one run, and keeping the best of these trainings."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from recbole_oov.processes import on_first
from recbole_oov.randomness import random_state, set_random_state

_OF_A_CHECKPOINT = ("epoch", "cur_step", "state_dict", "other_parameter", "optimizer")
_OF_A_TRAINER = ("best_valid_score", "best_valid_result", "cur_step", "train_loss_dict")


class SeveralTrainingsMixin:
    """For a RecBole trainer whose ``fit`` calls RecBole's more than once.

    Each training but the first begins where the first did: the same weights, the same random numbers, an optimiser
    that has not made a step. What one has ended with can be set aside while the next is run, and brought back.
    """

    config: Any
    model: Any
    optimizer: Any
    saved_model_file: str
    cur_step: int
    train_loss_dict: dict[int, Any]
    _beginning: tuple[dict[str, Any], dict[str, Any], Any] | None = None
    _set_aside: dict[str, Any] | None = None

    def note_beginning(self) -> None:
        """Note how weights, optimiser and random numbers are before anything is trained."""
        self._beginning = self._weights(), copy.deepcopy(self.optimizer.state_dict()), random_state()

    def begin_again(self, weights: dict[str, Any] | None = None) -> None:
        """Leave nothing of what was trained before in the training that follows.

        Args:
            weights: Those to begin with; None for the first ones.
        """
        assert self._beginning is not None
        trainer: Any = self
        self._load_weights(weights if weights is not None else self._beginning[0])
        set_random_state(self._beginning[2])
        trainer.start_epoch, trainer.cur_step, trainer.best_valid_result = 0, 0, None
        trainer.best_valid_score = -np.inf if trainer.valid_metric_bigger else np.inf
        trainer.train_loss_dict = {}

    def set_aside(self, *, saved: bool) -> None:
        """Keep what the training that has just ended came to; what was kept before is dropped.

        Args:
            saved: Whether the best model is in the checkpoint. Else the latest one is kept, as RecBole does.
        """
        from recbole_oov.compat import load_checkpoint

        if saved:  # the first process has written it, maybe where no other one can read
            best = on_first(self.config, lambda: load_checkpoint(self.saved_model_file, "cpu"))
        else:
            best = {
                "epoch": len(self.train_loss_dict) - 1,
                "cur_step": self.cur_step,
                "state_dict": self._weights(),
                "other_parameter": self.model.other_parameter(),
                "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            }
        self._set_aside = {
            "best": {name: best[name] for name in _OF_A_CHECKPOINT},
            "ended": {name: copy.copy(getattr(self, name)) for name in _OF_A_TRAINER},
            "history": getattr(self, "valid_history", []),
            "random": random_state(),
        }

    def bring_back(self, *, saved: bool) -> None:
        """Undo the trainings since :meth:`set_aside`: model, checkpoint and results are those of that one."""
        assert self._set_aside is not None
        trainer: Any = self
        best, ended, history, random = (self._set_aside[name] for name in ("best", "ended", "history", "random"))
        self._set_aside = None
        self._load_weights(best["state_dict"], best["optimizer"])
        self.model.load_other_parameter(best["other_parameter"])
        set_random_state(random)
        for name, value in ended.items():
            setattr(self, name, value)
        if (goes_back := getattr(self, "goes_back", None)) is not None:
            goes_back(history)
        if saved:
            trainer.cur_step = best["cur_step"]
            trainer._save_checkpoint(best["epoch"], verbose=False)
            trainer.cur_step = ended["cur_step"]

    def _weights(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self.model.state_dict()))

    def _load_weights(self, weights: dict[str, Any], optimizer: dict[str, Any] | None = None) -> None:
        """Set the model's weights, and the optimiser's state; None for one that has not made a step."""
        self.model.load_state_dict(weights)
        # Not a new object: a run that is continued knows its optimiser by identity.
        assert self._beginning is not None
        self.optimizer.load_state_dict(copy.deepcopy(optimizer if optimizer is not None else self._beginning[1]))
