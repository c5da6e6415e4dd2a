"""A model under examination: built, trained and scored once, for all checks together."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import KGDataLoaderState, ModelType, init_seed
from torch import Tensor

from recbole_oov import registry
from recbole_oov.config import OOVConfig
from recbole_oov.errors import ConfigError
from recbole_oov.runner import Experiment, prepare, trainer_class
from recbole_oov.testing.check import CHECKS, Check, NotApplicable, NotJudged
from recbole_oov.testing.tiny import SMALL, TinyData, write_tiny

CACHE_VARIABLE = "RECBOLE_OOV_CACHE"

_FAMILIES = {
    ModelType.GENERAL: "general",
    ModelType.TRADITIONAL: "general",
    ModelType.SEQUENTIAL: "sequential",
    ModelType.CONTEXT: "context",
    ModelType.KNOWLEDGE: "knowledge",
}
OTHER_SEED = 7
"""For what must not depend on the seed, and for what must."""


@dataclass
class Trained:
    """A model after training.

    Attributes:
        model: The model, in evaluation mode.
        trainer: Its trainer.
        losses: Of each epoch, as the trainer added them up.
        untouched: A copy of the model that has not scored anything yet; None if it cannot be copied.
        gradients: For each trainable parameter, whether any gradient other than zero reached it.
        broken_gradients: Names of parameters that a gradient reached which is not finite.
    """

    model: Any
    trainer: Any
    losses: list[float]
    untouched: Any
    gradients: dict[str, bool] = field(default_factory=dict)
    broken_gradients: list[str] = field(default_factory=list)


class Subject:
    """A model class under examination. Nothing is built before the first check asks for it.

    All files (data, logs, checkpoints) are in a temporary folder that goes with the object. Logging and the global
    random number generators are as before after every check.

    Args:
        model_class: A recommender class; it is registered if it is not yet.
        options: Options by name, for a model that cannot be trained in a second by the usual ones.
        seed: Of everything.

    Raises:
        ConfigError: The class is not a recommender, its name is taken, or it is a decision tree.
    """

    def __init__(self, model_class: type, options: Mapping[str, Any] | None = None, seed: int = 2020) -> None:
        family = family_of(model_class)
        if (
            model_class.__name__ not in registry.model_names()
            or registry.get_model(model_class.__name__) is not model_class
        ):
            registry.register(model_class)
        self.model_class, self.family, self.seed = model_class, family, seed
        self.options = dict(options or {})
        self._outcomes: dict[str, BaseException | None] = {}
        self._parts: dict[str, Any] = {}
        self._loaders: Any = None

    @property
    def name(self) -> str:
        """The class's name."""
        return self.model_class.__name__

    def flag(self, name: str, default: bool) -> bool:
        """A flag of the model's class."""
        return bool(getattr(self.model_class, name, default))

    @property
    def learns(self) -> bool:
        """Whether gradients train it: ``learns_by_gradient`` of its class; without that, all but traditional models."""
        return self.flag("learns_by_gradient", self.model_class.type != ModelType.TRADITIONAL)  # type: ignore[attr-defined]

    # --- checks ---------------------------------------------------------------------------------------------------

    def run(self, check: Check) -> None:
        """Run a check, or raise again what it raised; see :class:`Check`."""
        if check.name not in self._outcomes:
            self._outcomes[check.name] = self._outcome(check)
        outcome = self._outcomes[check.name]
        if outcome is not None:
            raise outcome

    def _outcome(self, check: Check) -> Exception | None:
        for earlier in check.after:
            try:
                self.run(CHECKS[earlier])
            except NotJudged as error:
                return error
            except NotApplicable:
                continue  # what it asks is nothing to this model
            except Exception:
                return NotJudged(f"{earlier} fails")
        if not check.applies_to(self.model_class, self.family):
            return NotApplicable(f"asks nothing of {self.name}")
        try:
            with self.workplace():
                check.function(self)
        except Exception as error:
            return error
        return None

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="conformance-")

    @property
    def folder(self) -> Path:
        """The temporary folder."""
        return Path(self._folder.name)

    @contextlib.contextmanager
    def workplace(self) -> Iterator[None]:
        """The temporary folder as working directory; logging and random numbers are the caller's again afterwards."""
        root = logging.getLogger()
        before = list(root.handlers), root.level, root.manager.disable
        cache = os.environ.get(CACHE_VARIABLE)
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - RecBole draws from it
        switches = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
        logging.disable(logging.ERROR)
        init_seed(self.seed, True)
        os.environ[CACHE_VARIABLE] = str(self.folder / "cache")  # content of tiny data is nothing to keep
        try:
            with contextlib.chdir(self.folder):
                yield
        finally:
            for handler in [handler for handler in root.handlers if handler not in before[0]]:
                root.removeHandler(handler)
                handler.close()
            os.environ.pop(CACHE_VARIABLE)
            if cache is not None:
                os.environ[CACHE_VARIABLE] = cache
            root.setLevel(before[1])
            logging.disable(before[2])
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_rng_state(states[2])
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = switches

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made once for all checks that ask for the part of this name."""
        if name not in self._parts:
            self._parts[name] = make()
        return self._parts[name]

    # --- building -------------------------------------------------------------------------------------------------

    @cached_property
    def tiny(self) -> TinyData:
        """The data set."""
        return write_tiny(self.folder / "data", self.family)

    @cached_property
    def experiment(self) -> Experiment:
        """Configuration, data, and an untrained model."""
        experiment = prepare(self.name, self.tiny.name, **self._arguments(self.tiny))
        self._loaders = copy.deepcopy((experiment.train_data, experiment.valid_data))
        _without_tensorboard(experiment.trainer)
        return experiment

    @property
    def config(self) -> Any:
        """The configuration."""
        return self.experiment.config

    @property
    def train_set(self) -> Any:
        """The training part of the data set."""
        return self.experiment.train_data._dataset

    @property
    def n_items(self) -> int:
        """Items, with the padding item."""
        return int(self.train_set.item_num)

    def new_config(self, tiny: TinyData | None = None) -> OOVConfig:
        """A configuration that no model has seen."""
        tiny = tiny or self.tiny
        return OOVConfig(self.name, tiny.name, **self._arguments(tiny))

    def new_data(self, config: OOVConfig) -> tuple[Any, Any, Any]:
        """Loaders of training, validation and test data that no model has seen."""
        init_seed(config["seed"], True)
        return data_preparation(config, create_dataset(config))  # type: ignore[no-any-return]

    def build(self, seed: int | None = None, *, config: Any = None, data: Any = None) -> tuple[Any, Any]:
        """A new model and its trainer.

        Args:
            seed: Another seed than the subject's.
            config: A configuration; a copy of the subject's where None.
            data: A training set; the subject's where None.
        """
        if config is None:
            config = copy.deepcopy(self.config)
        config["seed"] = self.seed if seed is None else seed
        init_seed(config["seed"], True)
        model = registry.get_model(self.name)(config, self.train_set if data is None else data).to(config["device"])
        return model, _without_tensorboard(trainer_class(config)(config, model))

    def fit(self, trainer: Any, epochs: int | None = None, data: tuple[Any, Any] | None = None) -> None:
        """Train without evaluating and without saving.

        Args:
            trainer: The trainer.
            epochs: Where not those of the configuration.
            data: Loaders of training and validation data (a trainer may learn from both); the subject's where None.
        """
        trainer.epochs = trainer.epochs if epochs is None else epochs
        trainer.eval_step = 0
        # Copies: a loader keeps the state of its own generator, and would go on where the last training ended.
        train, valid = copy.deepcopy(self._loaders if data is None else data)
        init_seed(self.seed, True)
        trainer.fit(train, valid, saved=False, verbose=False, show_progress=False)
        trainer.model.eval()

    def _arguments(self, tiny: TinyData) -> dict[str, Any]:
        # A file may name options of several models; a dictionary may not.
        file = self.folder / "small.yaml"
        file.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
        options = {"seed": self.seed, **tiny.options, **self.options}
        if self.flag("needs_content", False):
            options.setdefault("content", {"from": "text", "missing": "mean"})  # one item has no text
        if self.flag("needs_base_model", False):
            options.setdefault("base_model", "BPR")
        return {"config_file_list": [str(file)], "config_dict": options, "argv": []}

    # --- training -------------------------------------------------------------------------------------------------

    @cached_property
    def batch(self) -> Any:
        """The first batch of training rows; a copy each time would cost little, so checks that change it take one."""
        loader = self.experiment.train_data
        if hasattr(loader, "set_mode"):
            loader.set_mode(KGDataLoaderState.RSKG)
        init_seed(self.seed, True)
        return next(iter(loader)).to(self.config["device"])

    @cached_property
    def trained(self) -> Trained:
        """The model after training as the configuration says."""
        model, trainer = self.build()
        reached = {name: False for name, parameter in model.named_parameters() if parameter.requires_grad}
        broken: list[str] = []

        def watch(name: str) -> Callable[[Tensor], None]:
            def look(gradient: Tensor) -> None:
                reached[name] = reached[name] or bool((gradient != 0).any())
                if not bool(gradient.isfinite().all()):
                    broken.append(name)

            return look

        hooks = [p.register_hook(watch(name)) for name, p in model.named_parameters() if p.requires_grad]
        try:
            self.fit(trainer)
        finally:
            for hook in hooks:
                hook.remove()
        untouched = None
        with contextlib.suppress(Exception):  # that a model can be copied is a check of its own
            untouched = copy.deepcopy(model)
        return Trained(model, trainer, list(trainer.train_loss_dict.values()), untouched, reached, broken)

    def copy(self) -> Any:
        """A deep copy of the trained model, to be changed.

        Raises:
            NotJudged: It cannot be copied, which is a check of its own.
        """
        try:
            return copy.deepcopy(self.trained.model)
        except Exception as error:
            raise NotJudged("deep_copy_keeps_the_scores fails") from error

    # --- scoring --------------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> Any:
        """What is asked about the users: a row for each user of the test, without an item. (B,)"""
        return self.rows_of(self.experiment.test_data)

    def rows_of(self, test_data: Any) -> Any:
        """The rows of a test loader, one a user; of sequential models the histories."""
        dataset = test_data._dataset
        if self.family == "sequential":
            return test_data.transform(dataset, copy.deepcopy(dataset.inter_feat))
        users = torch.from_numpy(np.unique(dataset.inter_feat[dataset.uid_field].numpy()))
        return dataset.join(Interaction({dataset.uid_field: users}))

    def with_items(self, rows: Any, items: Tensor) -> Any:
        """The rows, each with one item and its features."""
        dataset = self.train_set
        columns = {name: column for name, column in batch_columns(rows).items() if name != dataset.iid_field}
        columns[dataset.iid_field] = items
        if self.family != "sequential" and dataset.item_feat is not None:
            features = dataset.get_item_feature()
            inside = items.clamp(0, self.n_items - 1)
            columns |= {n: features[n][inside] for n in features.columns if n != dataset.iid_field}
        return Interaction(columns)

    def score_pairs(self, model: Any, rows: Any, items: Tensor) -> Tensor:
        """``predict``: a score for each row with its item. (B,)"""
        model.eval()
        with torch.no_grad():
            scores: Tensor = model.predict(self.with_items(rows, items).to(self.config["device"]))
        return scores

    def full_sort(self, model: Any, rows: Any) -> Tensor:
        """What ``full_sort_predict`` returns.

        Raises:
            NotApplicable: The model does not have it.
        """
        model.eval()
        try:
            with torch.no_grad():
                scores: Tensor = model.full_sort_predict(copy.deepcopy(rows).to(self.config["device"]))
        except NotImplementedError:
            raise NotApplicable(f"{self.name} has no full_sort_predict") from None
        return scores

    @cached_property
    def has_full_sort(self) -> bool:
        """Whether the model has ``full_sort_predict``."""
        try:
            self.full_sort(self.trained.model, self.rows[:1])
        except NotApplicable:
            return False
        return True

    def score_all(self, model: Any, rows: Any) -> Tensor:
        """Scores of all items for each row; by ``predict`` where there is no ``full_sort_predict``. (B, n_items)"""
        try:
            scores = self.full_sort(model, rows)
        except NotApplicable:
            n = len(rows)
            every = torch.arange(self.n_items).repeat(n)
            scores = self.score_pairs(model, repeated(rows, self.n_items), every)
        return scores.detach().clone().view(len(rows), self.n_items)

    @cached_property
    def scores(self) -> Tensor:
        """Scores of all items by the trained model. (B, n_items)"""
        return self.score_all(self.trained.model, self.rows)

    def new_user(self) -> Any:
        """A row of the user who is in no training row; of sequential models with a history of one item. (1,)"""
        dataset = self.train_set
        user = {dataset.uid_field: torch.tensor([dataset.token2id(dataset.uid_field, "u_new")])}
        if self.family == "sequential":
            return self.cut(Interaction({**batch_columns(self.rows[:1]), **user}), 1)
        return dataset.join(Interaction(user))

    def cut(self, rows: Any, length: int) -> Any:
        """Rows of a sequential model with the oldest ``length`` items of their histories. (B,)"""
        columns = batch_columns(rows)
        lists, lengths = self.history_fields()
        columns[lengths] = columns[lengths].clamp(max=length)
        for name in lists:
            columns[name] = columns[name].clone()
            columns[name][:, length:] = 0
        return self.experiment.test_data.transform(self.train_set, Interaction(columns))

    def newest_items(self) -> Tensor:
        """The newest item of each history. (B,)"""
        lists, lengths = self.history_fields()
        newest: Tensor = self.rows[lists[0]].gather(1, self.rows[lengths][:, None] - 1).squeeze(1)
        return newest

    def history_fields(self) -> tuple[list[str], str]:
        """The columns with lists, that of the items first, and the column with their length."""
        dataset, suffix = self.train_set, self.config["LIST_SUFFIX"]
        items = dataset.iid_field + suffix
        others = [name for name in self.rows.columns if name.endswith(suffix) and name != items]
        return [items, *others], self.config["ITEM_LIST_LENGTH_FIELD"]


class _NoWriter:
    """Takes whatever a trainer tells TensorBoard."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _without_tensorboard(trainer: Any) -> Any:
    """The trainer, its event file closed: a writer is a thread, and writes to where the process is by then."""
    if getattr(trainer, "tensorboard", None) is not None:
        trainer.tensorboard.close()
        trainer.tensorboard = _NoWriter()
    return trainer


def family_of(model_class: type) -> str:
    """The family of a model class.

    Raises:
        ConfigError: It is none that is checked.
    """
    family = _FAMILIES.get(getattr(model_class, "type", None))
    if family is None:
        raise ConfigError(
            f"conformance: {model_class!r} is no general, sequential, context- or knowledge-aware model of RecBole's"
        )
    return family


def batch_columns(rows: Any) -> dict[str, Tensor]:
    """The columns of a batch by name."""
    return dict(rows.interaction)


def repeated(rows: Any, times: int) -> Any:
    """Each row ``times`` times in succession."""
    return Interaction({name: column.repeat_interleave(times, dim=0) for name, column in batch_columns(rows).items()})


def picked(rows: Any, index: Tensor) -> Any:
    """The rows with these numbers, in this order."""
    return Interaction({name: column[index] for name, column in batch_columns(rows).items()})
