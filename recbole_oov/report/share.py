"""One base model for all rows that stand on the same: trained once, kept as a checkpoint, read by the others.

A method's result does not depend on whether its base model was trained in its own run or read from a checkpoint
(:mod:`recbole_oov.trainer.cold_start`), so sharing it changes costs alone.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_oov import registry
from recbole_oov.config import OOVConfig
from recbole_oov.config.base_model import base_model_config
from recbole_oov.config.keys import KnownKeys, recbole_keys, yaml_keys
from recbole_oov.report.cells import Cell, digest
from recbole_oov.report.results import locked
from recbole_oov.report.sealed import sealed
from recbole_oov.trainer.unfinished import options_of

__all__ = ["with_shared_base"]

_OF_THE_METHOD = ("base_model", "base_config", "base_checkpoint")
_NOTES = "shared.json"


def with_shared_base(cell: Cell, output: Path) -> tuple[Cell, dict[str, Any]]:
    """Give a cell the checkpoint of its base model, which is trained first where no other cell has done so.

    Args:
        cell: A cell; one whose model has no base model, or that names a checkpoint, stays as it is, and so does one on
            a published split without validation, which trains twice on different rows.
        output: The folder of the results; checkpoints go to ``base/`` in it.

    Returns:
        The cell, and what its row says: ``base``, which one; ``base_seconds``, ``base_cpu_seconds`` and
        ``base_epochs``, what it took.
    """
    if cell.refit or cell.options.get("base_checkpoint") is not None or not _stands_on_a_base(cell.model):
        return cell, {}
    options = {"show_progress": False, "state": "WARNING", **cell.options}
    config = OOVConfig(cell.model, cell.dataset, config_dict=options, argv=[])
    key = _key(config)
    folder = output / "base" / key
    with locked(output / "locks" / f"base-{key}"):
        if not (folder / _NOTES).is_file():
            _train(cell, options, folder)
    notes = json.loads((folder / _NOTES).read_text(encoding="utf-8"))
    shared = {"base_checkpoint": str(folder / notes["checkpoint"])}
    said = {"base": key, **{name: notes[name] for name in ("base_seconds", "base_cpu_seconds", "base_epochs")}}
    return replace(cell, options={**cell.options, **shared}), said


def _stands_on_a_base(model: str) -> bool:
    from recbole_oov.model.cold_start import ColdStartRecommender

    return issubclass(registry.get_model(model), ColdStartRecommender)


def _key(config: Any) -> str:
    """Stands for everything that decides the base model; options that only the method reads are left out."""
    base = base_model_config(config)
    own = KnownKeys.of(base.model, base.model_class, {}).of_model
    known = own | recbole_keys() | yaml_keys(registry.properties_folder() / "overall.yaml")
    # Content says which columns are loaded, and load_col has that.
    apart = set() if getattr(base.model_class, "needs_content", False) else {"content"}
    decides = {key: text for key, text in options_of(base).items() if key in known - apart - {*_OF_THE_METHOD}}
    return digest({**decides, "epochs": base["epochs"], "dataset": base["dataset"], "model": base.model})


def _train(cell: Cell, options: dict[str, Any], folder: Path) -> None:
    """Train the base model of a cell as the cell would; the folder appears when it is whole."""
    from recbole_oov import runner

    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed; nobody else has the lock
    started, cpu_started = time.perf_counter(), time.process_time()
    options = {**options, "checkpoint_dir": str(partial)}
    experiment = sealed(runner.prepare(cell.model, cell.dataset, config_dict=options, argv=[]))
    trainer = experiment.trainer
    trainer.train_base(experiment.train_data, experiment.valid_data, verbose=False, saved=True, show_progress=False)
    (checkpoint,) = partial.glob(f"{experiment.config['base_model']}-*.json")
    notes = {
        "checkpoint": checkpoint.name,
        "base_epochs": trainer.stages[0].epochs,
        "base_seconds": round(time.perf_counter() - started, 3),
        "base_cpu_seconds": round(time.process_time() - cpu_started, 3),
    }
    (partial / _NOTES).write_text(json.dumps(notes), encoding="utf-8")
    os.replace(partial, folder)
