"""Cold-start models on data of two tastes: an experiment, ready or trained in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_oov.config.keys import KnownKeys
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.runner import Experiment, prepare
from recbole_oov.testing import write_atomic
from recbole_oov.testing.tastes import taste_auc, two_tastes

SMALL: dict[str, Any] = {
    "embedding_size": 16,
    "learning_rate": 0.02,
    "epochs": 12,
    "train_batch_size": 128,
    "item_batch_size": 16,
    "topk": [5],
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "oov_ndcg@5",
    "show_progress": False,
    "state": "ERROR",
    "oov_split": "random",
    "content": {"from": "text", "dim": 8},
}
GENERATIVE = ("DeepMusic", "MetaEmb", "ALDI", "GeneratorControl")
"""Models under which IV items keep the base model's scores."""
FAMILY = (*GENERATIVE, "DropoutNet", "Heater", "CLCRec", "GAR")


def write_tastes(folder: Path) -> Path:
    histories, titles = two_tastes()
    write_atomic(folder, "tastes", histories, titles)
    return folder


def experiment(name: str, folder: Path, **options: Any) -> Experiment:
    """An experiment on the data in ``folder``; options that are None are left out, and so is what the model lacks."""
    known = KnownKeys.of(name, None, {}).of_model
    apart = {"item_batch_size"} - known if "base_model" in known else {"embedding_size", "item_batch_size"} - known
    given = {**{key: value for key, value in SMALL.items() if key not in apart}, "data_path": str(folder), **options}
    given = {key: value for key, value in given.items() if value is not None}
    return prepare(name, "tastes", config_dict=given, argv=[])


def trained(name: str, folder: Path, *, saved: bool = False, **options: Any) -> Experiment:
    """The same after training, as the run would have it for the test."""
    ready = experiment(name, folder, **options)
    ready.trainer.fit(ready.train_data, ready.valid_data if saved else None, saved=saved, verbose=False)
    ready.model.eval()
    return ready


def oov_auc(ready: Experiment) -> float:
    """How well users' tastes are known among OOV items: 1 at best, .5 by chance."""
    train = ready.train_data._dataset
    return taste_auc(ready.model, train, np.flatnonzero(oov_mask(train)))
