"""Runs that can be continued after they were cut off, to the same weights and metrics, bit for bit on CPU.

RecBole's trainers call nothing at the end of an epoch. But when ``_train_epoch`` is entered, all that belongs to the
epochs before is done: training, evaluation, early stopping, the best checkpoint. That is when a state is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from recbole_oov.checkpoints import CheckpointError, store
from recbole_oov.checkpoints.values import Encoder
from recbole_oov.data.identity import ids_fingerprint
from recbole_oov.errors import ConfigError
from recbole_oov.processes import from_all, from_first, share_of
from recbole_oov.randomness import random_state, set_random_state
from recbole_oov.trainer.state import (
    Watch,
    data_fingerprint,
    generator_state,
    generators,
    put_back,
    set_generator_state,
)
from recbole_oov.trainer.unfinished import model_file, options_of, progress_file

_LOOPS = ("Trainer", "S3RecTrainer", "RaCTTrainer")
"""RecBole's classes whose ``fit`` begins at ``start_epoch`` and does nothing between epochs that is not repeated."""


class ResumeMixin:
    """Writes the plugin's checkpoints, and lets a run be continued where it was cut off.

    Attributes:
        options: The configuration as :func:`~recbole_oov.trainer.unfinished.options_of` found it before models and data
            sets of RecBole's wrote into it; None reads it now.
        continue_from: The state to go on from, as :func:`~recbole_oov.trainer.unfinished.unfinished_run` found it; set
            before ``fit``.
        keep_progress: Whether the state is kept when ``fit`` has ended, for whoever calls :meth:`forget_progress` when
            the test is done as well.
    """

    config: Any
    model: Any
    epochs: int
    saved_model_file: str
    options: dict[str, str] | None = None
    continue_from: Path | None = None
    keep_progress = False
    _recording = False
    _ids: str | None = None
    _pending: dict[str, Any] | None = None

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        # Each process would name the file by its own clock, and the first one writes it.
        name = str(_unused(Path(self.saved_model_file).with_suffix(store.SUFFIX)))
        self.saved_model_file = from_first(config, name)
        self._history: list[dict[str, Any]] = []
        self._epoch = 0
        if config["resume"] and (reason := cannot_resume(self)):
            raise ConfigError(f"resume: {reason}; leave resume out")

    # ---- RecBole's methods ----

    def fit(
        self, train_data: Any, valid_data: Any = None, verbose: bool = True, saved: bool = True, *args: Any, **more: Any
    ) -> Any:
        fit: Any = super().fit  # type: ignore[misc]
        if not saved or cannot_resume(self):
            if self.continue_from is not None:
                raise ConfigError("resume: a run that saves nothing cannot be continued; call it with saved=True")
            return fit(train_data, valid_data, verbose, saved, *args, **more)
        self._recording = True
        self._begin(train_data, valid_data)
        if self.continue_from is not None:
            self._restore(self.continue_from)
        result = fit(train_data, valid_data, verbose, saved, *args, **more)
        if not self.keep_progress:
            self.forget_progress()
        return result

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        self._epoch = epoch_idx
        if self._pending is not None:
            self._restore_random(self._pending, train_data)
            self._pending = None
        elif self._recording and epoch_idx > 0 and self._is_due(epoch_idx):
            self._save_progress(epoch_idx)
        epoch: Any = super()._train_epoch  # type: ignore[misc]
        return epoch(train_data, epoch_idx, *args, **kwargs)

    def _valid_epoch(self, *args: Any, **kwargs: Any) -> Any:
        valid: Any = super()._valid_epoch  # type: ignore[misc]
        score, result = valid(*args, **kwargs)
        self._history.append({"epoch": self._epoch, "valid_score": score, "valid_result": dict(result)})
        return score, result

    def _save_checkpoint(self, epoch: int, *args: Any, **kwargs: Any) -> Any:
        save: Any = super()._save_checkpoint  # type: ignore[misc]
        with store.adding(history=self._metric_history(), ids=self._ids):
            return save(epoch, *args, **kwargs)

    def _metric_history(self) -> dict[str, Any]:
        return {"train_loss": dict(getattr(self, "train_loss_dict", {})), "valid": list(self._history)}

    # ---- writing ----

    def _begin(self, train_data: Any, valid_data: Any) -> None:
        """Note how everything is before the first epoch."""
        self._progress_file = progress_file(self.saved_model_file)
        ready = getattr(self, "ready", None)
        if ready is not None:
            ready(train_data)
        self._data = {"train": train_data, "valid": valid_data}
        self._fingerprint = data_fingerprint(self._data)
        dataset = getattr(train_data, "_dataset", None)
        self._ids = ids_fingerprint(dataset) if getattr(dataset, "uid_field", None) is not None else None
        self._owners = {"trainer": self, **{f"model.{name}": part for name, part in self.model.named_modules()}}
        self._steppers = dict(_steppers(self))
        self._watch = Watch(self._owners, self._registered())

    def _registered(self) -> dict[str, Any]:
        return {**dict(self.model.named_parameters()), **_persistent_buffers(self.model)}

    def _is_due(self, epoch: int) -> bool:
        step = self.config["resume_step"]
        return bool(step) and epoch % step == 0

    def _save_progress(self, epoch: int) -> None:
        own, *others = from_all(self.config, self._own_state())
        if share_of(self.config)[0]:
            return
        try:
            store.save({**self._state(epoch), **own, "others": others}, self._progress_file, whole=True)
        except CheckpointError as error:
            getLogger().warning(f"the run goes on, but could not be continued from here: {error}")

    def _state(self, epoch: int) -> dict[str, Any]:
        changed = self._watch.changed()
        of_trainer = changed.pop("trainer", {})
        steppers = dict(_steppers(self))
        by_identity = {id(stepper): name for name, stepper in self._steppers.items()}
        unknown = [name for name, stepper in steppers.items() if id(stepper) not in by_identity]
        if unknown:
            raise CheckpointError(f"the trainer made {', '.join(unknown)} during training, which cannot be put back")
        return {
            "epoch": epoch,
            "options": options_of(self.config) if self.options is None else self.options,
            "data": self._fingerprint,
            "best_model": self.saved_model_file if Path(self.saved_model_file).exists() else None,
            "history": self._metric_history(),
            "trainer": {key: entry for key, entry in of_trainer.items() if _can_be_stored(entry)},
            "state_dict": self.model.state_dict(),
            "frozen": [name for name, weights in self.model.named_parameters() if not weights.requires_grad],
            "attributes": changed,
            "steppers": {name: stepper.state_dict() for name, stepper in self._steppers.items()},
            "in_use": {name: by_identity[id(stepper)] for name, stepper in steppers.items()},
        }

    def _own_state(self) -> dict[str, Any]:
        """What each of several processes has of its own: all that is random."""
        return {
            "sampling": self.sampling_state() if hasattr(self, "sampling_state") else {},
            "random": random_state(),
            "generators": {path: generator_state(g) for path, g in generators(self._roots()).items()},
        }

    def _roots(self) -> dict[str, Any]:
        return {**self._data, **self._owners}

    def trains_anew(self) -> None:
        """Note that a trainer begins at its first epoch once more, and that nothing before it counts.

        The first epoch overwrites the best model of the training before: a run that is cut off goes on from here.
        """
        self._history.clear()
        if self._recording and self.config["resume_step"]:
            self._save_progress(0)

    def goes_back(self, history: list[dict[str, Any]]) -> None:
        """Note that what was trained since is dropped, and that these are the validations that count."""
        self._history = list(history)

    @property
    def valid_history(self) -> list[dict[str, Any]]:
        """The validations of this training: epoch, score and result of each."""
        return list(self._history)

    def forget_progress(self) -> None:
        """Remove the state of this run, which is complete."""
        if self._recording:
            store.remove(self._progress_file)

    # ---- going on ----

    def _restore(self, path: Path) -> None:
        state = store.load(path, self.config["device"])
        if state["data"] != self._fingerprint:
            raise ConfigError(
                f"resume: the data set {self.config['dataset']!r} is not the one of the run {path}: rows, ids, "
                f"features or the split differ. Bring the old files back, or leave resume out"
            )
        if state["epoch"] >= self.epochs:
            raise ConfigError(
                f"resume: the run {path} has done {state['epoch']} epochs already, and epochs is {self.epochs}; "
                f"give more epochs"
            )
        rank, n = share_of(self.config)
        others = state["others"]
        if 1 + len(others) != n:
            raise ConfigError(
                f"resume: {path} is a run of {1 + len(others)} processes, this one of {n}; start as many as then"
            )
        if rank == 0:
            self._check_best(state["best_model"], path)
        else:
            state |= others[rank - 1]
        self.saved_model_file = str(model_file(path))
        put_back(self._owners, self._registered(), {"trainer": state["trainer"], **state["attributes"]})
        before = {id(weights): name for name, weights in self.model.named_parameters()}
        self.model.load_state_dict(state["state_dict"])
        follow(self._steppers.values(), before, dict(self.model.named_parameters()))
        for name, weights in self.model.named_parameters():
            weights.requires_grad_(name not in state["frozen"])
        for name, stepper in self._steppers.items():
            stepper.load_state_dict(state["steppers"][name])
        for name, canonical in state["in_use"].items():
            if "." not in name and name != canonical:
                setattr(self, name, self._steppers[canonical])
        self.start_epoch = state["epoch"]
        self._history = list(state["history"]["valid"])
        self._progress_file = path
        self._pending = state
        getLogger().info(f"Resume {path}: {state['epoch']} epochs are done")

    def _check_best(self, best: str | None, path: Path) -> None:
        """The test at the end reads the best checkpoint, which may have been written before the run was cut off."""
        if best is None:
            return
        here = path.with_name(Path(best).name)
        for place in (here, Path(best)):
            if place.exists():
                from recbole_oov.compat import load_checkpoint

                load_checkpoint(place, "cpu")
                return
        raise CheckpointError(f"{here}: the best model of the unfinished run {path} is missing; put it back beside it")

    def _restore_random(self, state: dict[str, Any], train_data: Any) -> None:
        """At the last moment, so that nothing has drawn a number since."""
        if state["sampling"]:
            self.load_sampling_state(state["sampling"], train_data)  # type: ignore[attr-defined]
        found = generators(self._roots())
        if found.keys() != state["generators"].keys():
            differing = ", ".join(sorted(found.keys() ^ state["generators"].keys()))
            raise CheckpointError(
                f"{self._progress_file}: the random generators of the run are other ones: {differing}"
            )
        for path, generator in found.items():
            set_generator_state(generator, state["generators"][path])
        set_random_state(state["random"])


def follow(steppers: Iterable[Any], before: Mapping[int, str], now: Mapping[str, Any]) -> None:
    """Let optimisers train the parameters that a model has now, where loading made new ones of the same names.

    Args:
        steppers: Optimisers without a state, and schedulers, which are left alone.
        before: Names of the parameters by the identity that they had.
        now: Parameters by name.

    Raises:
        CheckpointError: A parameter that is trained has gone.
    """
    for stepper in steppers:
        for group in getattr(stepper, "param_groups", []):
            gone = [before[id(p)] for p in group["params"] if id(p) in before and before[id(p)] not in now]
            if gone:
                raise CheckpointError(f"the checkpoint's model has no {', '.join(gone)}, which this run would train")
            group["params"] = [now[before[id(p)]] if id(p) in before else p for p in group["params"]]


def cannot_resume(trainer: Any) -> str | None:
    """Why runs of a trainer cannot be continued; None where they can."""
    for owner in type(trainer).__mro__:
        if "fit" in vars(owner) and not owner.__module__.startswith("recbole_oov."):
            known = owner.__module__ == "recbole.trainer.trainer" and owner.__name__ in _LOOPS
            if known and issubclass(owner, _trainer()):
                return None
            return f"{owner.__name__} has a training loop of its own, which cannot begin in the middle"
    return f"{type(trainer).__name__} has no training loop"


def _trainer() -> type:
    from recbole.trainer import Trainer

    return Trainer  # type: ignore[no-any-return]


def _unused(path: Path) -> Path:
    """``path``, or one with a number where another run of the same second has that name."""
    number, free = 1, path
    while free.exists() or progress_file(free).exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _persistent_buffers(model: Any) -> dict[str, Any]:
    kept = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def _steppers(trainer: Any) -> list[tuple[str, Any]]:
    """Optimizers, schedulers and gradient scalers among a trainer's attributes, also in lists and mappings."""
    found: list[tuple[str, Any]] = []
    for name, value in vars(trainer).items():
        if name.startswith("_"):
            continue
        inner = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
        )
        for path, part in [(name, value), *((f"{name}.{key}", item) for key, item in inner)]:
            if isinstance(part, Optimizer | LRScheduler | GradScaler):
                found.append((path, part))
    return found


def _can_be_stored(value: Any) -> bool:
    encoder = Encoder()
    try:
        encoder.encode(value)
    except CheckpointError:
        return False
    return not encoder.left_out
