"""Training in two stages: a base model on interactions, then what gives OOV items their embeddings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any

from recbole.trainer import Trainer
from recbole.utils import init_seed, set_color
from tabulate import tabulate

from recbole_oov.compat import load_checkpoint
from recbole_oov.config.base_model import base_model_config
from recbole_oov.data.item_loader import ItemLoader
from recbole_oov.evaluation.groups import GROUPS, group_of, prefixed
from recbole_oov.model.base_embeddings import base_embeddings
from recbole_oov.processes import on_first, seed_process
from recbole_oov.trainer.base_checkpoint import load_base_checkpoint
from recbole_oov.trainer.memory import MemoryWatch


@dataclass
class Stage:
    """One stage of a training.

    Attributes:
        name: ``base``, ``generator``, or what a subclass adds.
        model: The model that was trained.
        epochs: Epochs it took; 0 where a checkpoint was read.
        seconds: How long it took.
        peak_memory: The most memory it had in use, above what was in use when it began, in bytes.
        valid_result: The best validation result by metric; empty without validation.
    """

    name: str
    model: str
    epochs: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    valid_result: dict[str, float] = field(default_factory=dict)


class ColdStartTrainer(Trainer):
    """Trains a :class:`~recbole_oov.model.cold_start.ColdStartRecommender`: base model, then the model itself.

    The base model gets RecBole's trainer, extended as its options ask for, a loader of the same training rows and the
    validation part. It is built and trained from the run's seed, as ``--model=<base_model>`` with the same options
    would be, to the same weights; its best epoch is used or, without ``saved``, its last one, as RecBole does. The
    second stage starts from the seed as well, so that it does not matter whether the base model was trained here or
    comes from ``base_checkpoint``.

    Attributes:
        stages: What was done, stage by stage.
        base_is_trained: Whether ``fit`` finds the base model's embeddings in the model already.
    """

    base_is_trained = False

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.stages: list[Stage] = []
        self._items: ItemLoader | None = None

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> Any:
        """Train both stages. Arguments and result as RecBole's; ``epochs``, ``callback_fn`` are of the second stage.

        Raises:
            ConfigError: The base model has no embeddings, or the checkpoint does not fit.
        """
        if getattr(self, "_pending", None) is None and not self.base_is_trained:  # else they are in the model
            self.train_base(train_data, valid_data, verbose=verbose, saved=saved, show_progress=show_progress)
        init_seed(self.config["seed"], self.config["reproducibility"])
        if self.model.learns_from == "items":
            self._items = self.item_loader()
        with self.stage("generator", self.config["model"], verbose=verbose) as stage:
            result = super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
            stage.epochs, stage.valid_result = len(self.train_loss_dict), dict(self.best_valid_result or {})
        return result

    def train_base(self, train_data: Any, valid_data: Any, *, verbose: bool, saved: bool, show_progress: bool) -> None:
        """The first stage: train the base model, or read it, and hand its embeddings to the model."""
        from recbole_oov.runner import trainer_class

        config = base_model_config(self.config)
        init_seed(config["seed"], config["reproducibility"])
        base = config.model_class(config, train_data._dataset).to(config["device"])
        base_embeddings(base)  # refuses a model without embeddings before it is trained
        with self.stage("base", config["model"], verbose=verbose) as stage:
            trainer = trainer_class(config)(config, base)
            seed_process(config)
            if (path := self.config["base_checkpoint"]) is not None:
                load_base_checkpoint(path, base, config)
                self._log(f"base model read from {path}", verbose)
                trainer.remember(train_data, valid_data)
                stage.valid_result = dict(trainer.evaluate(valid_data, load_best_model=False) or {})
            else:
                # A loader of its own: with the base model's batches and negatives, and an order of its own.
                loader = type(train_data)(config, train_data._dataset, train_data._sampler, shuffle=train_data.shuffle)
                trainer.fit(loader, valid_data, verbose, saved, show_progress)
                stage.epochs, stage.valid_result = len(trainer.train_loss_dict), dict(trainer.best_valid_result or {})
                if saved:
                    best = on_first(config, lambda: load_checkpoint(trainer.saved_model_file, "cpu")["state_dict"])
                    base.load_state_dict(best)
                    self._log(
                        f"base_checkpoint: {trainer.saved_model_file} has the base model, for other runs", verbose
                    )
            trainer.tensorboard.close()
            self.model.take_base(*base_embeddings(base))

    def item_loader(self) -> ItemLoader:
        """Batches of ``item_batch_size`` IV items; of ``train_batch_size`` where that is not set."""
        return ItemLoader(
            self.model.iv_items,
            item_field=self.model.ITEM_ID,
            batch_size=self.config["item_batch_size"] or self.config["train_batch_size"],
            seed=self.config["seed"],
        )

    @contextmanager
    def stage(self, name: str, model: str, *, verbose: bool = True) -> Iterator[Stage]:
        """A context in which a stage runs: logged when it begins and, with cost and validation result, when it ends."""
        stage = Stage(name, model)
        self._log(set_color(f"stage {name}", "yellow") + f": {model}", verbose)
        begun = time.perf_counter()
        with MemoryWatch(self.device) as memory:
            yield stage
        stage.seconds, stage.peak_memory = time.perf_counter() - begun, memory.peak
        self.stages.append(stage)
        cost = f"{stage.seconds:.1f} s, {stage.peak_memory / 2**20:.0f} MiB at most"
        table = f"; best validation:\n{result_table(stage.valid_result)}" if stage.valid_result else ""
        self._log(set_color(f"stage {name}: {model}, {stage.epochs} epochs, {cost}", "yellow") + table, verbose)

    def _log(self, message: str, verbose: bool) -> None:
        if verbose:
            getLogger().info(message)

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Any:
        loader = train_data if self._items is None else self._items
        return super()._train_epoch(loader, epoch_idx, loss_func, show_progress)


def result_table(result: Mapping[str, float]) -> str:
    """A result by group: groups down, metrics across.

    Args:
        result: Metric values by the names of RecBole's result, those of groups prefixed.
    """
    metrics = [name for name in result if group_of(name) == GROUPS[0]]
    groups = [group for group in GROUPS if all(prefixed(group, name) in result for name in metrics)]
    rows = [[group, *(result[prefixed(group, name)] for name in metrics)] for group in groups]
    text: str = tabulate(rows, headers=["group", *metrics], floatfmt=".4f")
    return text
