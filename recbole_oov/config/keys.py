"""Which keys somebody reads: in RecBole, in the plugin, in the model that runs. A key that nobody reads is a typo."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import recbole
from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_oov import registry

COMMAND_KEYS = frozenset(
    ["model", "dataset", "config_files", "nproc", "ip", "port", "world_size", "group_offset", "offset", "local_rank"]
)
"""Options of the command itself, and what the processes of one run tell each other."""

_NOT_FOR_USERS = {
    "phase",
    "local_rank",
    "offset",
    "device",
    "single_spec",
    "eval_type",
    "MODEL_TYPE",
    "MODEL_INPUT_TYPE",
}

OTHER_NAMES = {
    "lr": "learning_rate",
    "batch_size": "train_batch_size",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "optimizer": "learner",
    "device": "use_gpu: True or False",
    "patience": "stopping_step",
    "neg_sampling": "train_neg_sample_args",
    "training_neg_sample_num": "train_neg_sample_args",
    "eval_setting": "eval_args",
    "split_ratio": "eval_args: {split: {RS: [0.8, 0.1, 0.1]}}",
    "leave_one_num": "eval_args: {split: {LS: valid_and_test}}",
    "min_user_inter_num": "user_inter_num_interval",
    "min_item_inter_num": "item_inter_num_interval",
    "max_seq_length": "MAX_ITEM_LIST_LENGTH",
}
"""Names that other libraries and RecBole before 1.0 use, and what RecBole 1.2.1 calls the thing."""

_READS = re.compile(
    r"""config(?:_dict)?\s*\[\s*["']([\w-]+)["']\s*\]"""  # config["key"], final_config_dict["key"]
    r"""|config(?:_dict)?\.get\(\s*["']([\w-]+)["']"""  # config.get("key")
    r"""|["']([\w-]+)["']\s+(?:not\s+)?in\s+(?:self\.)?config\b"""  # "key" in config
    r"""|\bconfig\.(?!\w*config_dict)([A-Za-z]\w*)\b(?!\s*\()"""  # config.key
    r"""|(?:has|get)attr\(\s*(?:self\.)?config,\s*["']([\w-]+)["']"""  # hasattr(config, "key")
)


def keys_read_by(source: str) -> set[str]:
    """The keys that a piece of source reads from a variable called ``config``."""
    return {key for match in _READS.findall(source) for key in match if key}


def recbole_folder() -> Path:
    """Where RecBole is installed."""
    assert recbole.__file__ is not None
    return Path(recbole.__file__).parent


_TOP_LEVEL = re.compile(r"^([A-Za-z_][\w-]*)\s*:", re.MULTILINE)


@cache
def yaml_keys(path: Path) -> frozenset[str]:
    """The keys in a YAML file that ships with RecBole or a plugin, found without parsing the whole of it."""
    return frozenset(_TOP_LEVEL.findall(path.read_text(encoding="utf-8", errors="replace")))


@cache
def recbole_keys() -> frozenset[str]:
    """The keys that RecBole's data, training and evaluation read, whatever the model."""
    folder = recbole_folder()
    read: set[str] = set()
    for path in folder.rglob("*.py"):
        if path.relative_to(folder).parts[0] != "model":
            read |= keys_read_by(path.read_text(encoding="utf-8", errors="replace"))
    properties = folder / "properties"
    files = [properties / name for name in ("overall.yaml", "dataset/sample.yaml", "dataset/ml-100k.yaml")]
    files += (properties / "quick_start_config").glob("*.yaml")
    listed = {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments}.union(
        *map(yaml_keys, files)
    )
    # A trainer also reads options of single models, such as pretrain_epochs: those are the model's, not everybody's.
    return frozenset(listed | (read - set(models_of_key())))


@cache
def models_of_key() -> dict[str, list[str]]:
    """For each key in a model's YAML file, RecBole's or the plugin's, the models that have it."""
    models: dict[str, list[str]] = {}
    folders = (recbole_folder() / "properties" / "model", registry.properties_folder() / "model")
    for path in sorted(path for folder in folders for path in folder.glob("*.yaml")):
        for key in yaml_keys(path):
            models.setdefault(key, []).append(path.stem)
    return models


def model_keys(model_class: type) -> set[str] | None:
    """The keys that a model's class, its bases, its trainer and its dataset read; None where there is no source."""
    parts = [
        model_class,
        getattr(sys.modules.get("recbole.trainer"), f"{model_class.__name__}Trainer", None),
        getattr(sys.modules.get("recbole.data.dataset"), f"{model_class.__name__}Dataset", None),
    ]
    keys: set[str] = set()
    for base in {base for part in parts if part is not None for base in inspect.getmro(part)}:
        if base.__module__.partition(".")[0] not in ("torch", "builtins", "abc"):
            source = _source(base)
            if source is None:
                return None
            keys |= keys_read_by(source)
    return keys


def _source(base: type) -> str | None:
    """The source to search for the keys of a class: its module's; its own alone in RecBole's shared modules."""
    shared = base.__module__.startswith("recbole.") and "_recommender." not in base.__module__
    for part in (base,) if shared else (sys.modules.get(base.__module__), base):
        try:
            return inspect.getsource(part)  # type: ignore[arg-type]
        except (OSError, TypeError):
            continue
    return None


@dataclass(frozen=True)
class KnownKeys:
    """The keys that one run reads."""

    model: str
    every: frozenset[str]
    of_model: frozenset[str]
    certain: bool = True
    """False where the model is unknown or has no source to read: then other models' keys pass."""

    @classmethod
    def of(cls, model: str, model_class: type | None, defaults: Mapping[str, Any]) -> KnownKeys:
        """The known keys of a run whose defaults, of all layers below the user's, are ``defaults``."""
        own = model_keys(model_class) if model_class is not None else None
        of_model = frozenset(own or ()) | _model_yaml_keys(model)
        return cls(model, recbole_keys() | COMMAND_KEYS | of_model | set(defaults), of_model, own is not None)

    def problem(self, key: str) -> str | None:
        """What is wrong with ``key``, with the nearest known names; None where it is known."""
        if key in OTHER_NAMES and key not in _model_yaml_keys(self.model):
            return f"{key} is not an option; RecBole calls it {OTHER_NAMES[key]}"
        if key in self.every:
            return None
        elsewhere, near = models_of_key().get(key, []), self.near(key)
        if not self.certain and (elsewhere or not near):
            return None  # it may well be an option of the model whose source cannot be read
        if elsewhere:
            return f"{key} is not an option of {self.model}{self._own()}; it is one of {_some(elsewhere)}"
        hint = f"did you mean {' or '.join(near)}?" if near else f"no option comes near it{self._own()}"
        return f"{key} is not an option; {hint}"

    def is_of_another_model(self, key: str) -> bool:
        """Whether another model has an option called ``key``, so that a file shared by models may well name it."""
        return key in models_of_key() and key not in OTHER_NAMES

    def near(self, key: str) -> list[str]:
        """Up to three known keys that ``key`` may be a misspelling of, nearest first."""
        settable = self.every if self.certain else self.every | set(models_of_key())
        by_lower = {known.lower(): known for known in sorted(settable - _NOT_FOR_USERS)}
        return [by_lower[name] for name in difflib.get_close_matches(key.lower(), by_lower, n=3, cutoff=0.7)]

    def _own(self) -> str:
        own = sorted(self.of_model & set(models_of_key()) - recbole_keys())
        return f" (its own are {', '.join(own)})" if own else ""


def _model_yaml_keys(model: str) -> frozenset[str]:
    stock = recbole_properties(model)
    files = [path for path in registry.properties_files(model, "") if path.stem != "overall"]
    return frozenset().union(*map(yaml_keys, files + ([stock] if stock else [])))


def recbole_properties(model: str) -> Path | None:
    """RecBole's YAML file for a model, also where its name differs in case (``lightgbm.yaml`` for LightGBM)."""
    for path in (recbole_folder() / "properties" / "model").glob("*.yaml"):
        if path.stem.lower() == model.lower():
            return path
    return None


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (" and others" if len(names) > 4 else "")
