"""The one place where a name becomes a class, in RecBole's own look-ups.

RecBole resolves names by looking into its own modules: ``recbole.model.<family>.<name in lower case>`` for a
model, ``recbole.trainer.<Name>Trainer`` for its trainer, ``recbole.data.dataset.<Name>Dataset`` for its
dataset. The registry puts the plugin's classes where those look-ups look, without replacing any of RecBole's
functions, so that ``get_model``, ``get_trainer``, ``create_dataset`` and with them ``run_recbole``,
``load_data_and_model`` and ``objective_function`` know them. A model's module is imported when it is first
asked for, so that running ``BPR`` never pays for importing a language-model library.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_oov.errors import ConfigError

ENTRY_POINT_GROUP = "recbole_oov.models"
"""Installed packages name their models under this entry-point group; see ``docs/add-a-model.md``."""

_FAMILY_OF_TYPE = {
    "GENERAL": "general_recommender",
    "TRADITIONAL": "general_recommender",
    "SEQUENTIAL": "sequential_recommender",
    "CONTEXT": "context_aware_recommender",
    "KNOWLEDGE": "knowledge_aware_recommender",
    "DECISIONTREE": "exlib_recommender",
}


@dataclass(frozen=True)
class Entry:
    """Where one model's parts are. A part is a class, or ``"module:Class"`` to import it when needed."""

    name: str
    model: type | str
    family: str
    trainer: type | str | None = None
    dataset: type | str | None = None
    properties: Path | None = None
    properties_of: str | None = None
    """Another model of the plugin whose options, and their defaults, it has."""


def _cold_start(name: str, trainer: str = "recbole_oov.trainer.cold_start:ColdStartTrainer") -> Entry:
    """A model that gives new items embeddings, on top of a base model that is trained first."""
    return Entry(name, f"recbole_oov.model.{name.lower()}:{name}", "general_recommender", trainer=trainer)


_BUILT_IN = (
    Entry(
        "OOVLLMRec",
        "recbole_oov.model.oovllmrec:OOVLLMRec",
        "sequential_recommender",
        trainer="recbole_oov.trainer.oovllmrec:OOVLLMRecTrainer",
        dataset="recbole_oov.data.interaction_texts:InteractionTextDataset",
    ),
    Entry(
        "OOVLLMRecGeneral",
        "recbole_oov.model.oovllmrecgeneral:OOVLLMRecGeneral",
        "general_recommender",
        trainer="recbole_oov.trainer.oovllmrec:OOVLLMRecTrainer",
        dataset="recbole_oov.data.interaction_texts:GeneralInteractionTextDataset",
        properties_of="OOVLLMRec",
    ),
    Entry("ClusterPop", "recbole_oov.model.clusterpop:ClusterPop", "sequential_recommender"),
    Entry("SequentialRules", "recbole_oov.model.sequentialrules:SequentialRules", "sequential_recommender"),
    Entry("ContentKNN", "recbole_oov.model.contentknn:ContentKNN", "general_recommender"),
    Entry(
        "AutoSample",
        "recbole_oov.model.autosample:AutoSample",
        "general_recommender",
        trainer="recbole_oov.trainer.autosample:AutoSampleTrainer",
    ),
    Entry("ContentClusterPop", "recbole_oov.model.contentclusterpop:ContentClusterPop", "general_recommender"),
    *map(_cold_start, ("DeepMusic", "DropoutNet", "MetaEmb", "Heater", "CLCRec", "GAR", "ALDI")),
    _cold_start("USIM", "recbole_oov.trainer.usim:USIMTrainer"),
    _cold_start("GeneratorControl", "recbole_oov.trainer.generator_control:GeneratorControlTrainer"),
)

_entries: dict[str, Entry] = {}


def _resolve(part: type | str) -> Any:
    if not isinstance(part, str):
        return part
    module, _, attribute = part.partition(":")
    return getattr(importlib.import_module(module), attribute)


class _ModelFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers RecBole's look-up of ``recbole.model.<family>.<name>`` for registered models."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("recbole.model.") or self._entry(fullname) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        entry = self._entry(module.__name__)
        assert entry is not None
        setattr(module, entry.name, _resolve(entry.model))
        # Trainer and dataset are looked up by name only after the model was, so they can wait until here.
        if entry.trainer is not None:
            setattr(importlib.import_module("recbole.trainer"), f"{entry.name}Trainer", _resolve(entry.trainer))
        if entry.dataset is not None:
            setattr(importlib.import_module("recbole.data.dataset"), f"{entry.name}Dataset", _resolve(entry.dataset))

    @staticmethod
    def _entry(fullname: str) -> Entry | None:
        family, _, name = fullname.removeprefix("recbole.model.").partition(".")
        return next((e for e in _entries.values() if (e.family, e.name.lower()) == (family, name)), None)


def install() -> None:
    """Make the built-in models and those of installed packages known to RecBole. Safe to call again."""
    if not any(isinstance(finder, _ModelFinder) for finder in sys.meta_path):
        # Appended: RecBole's own files are found first, a plugin never shadows one of them by accident.
        sys.meta_path.append(_ModelFinder())
    for entry in _BUILT_IN:
        _entries.setdefault(entry.name, entry)
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            register(point.load())
        except Exception as error:  # another package's fault must not keep RecBole's models from running
            getLogger(__name__).warning("entry point %s of %s is left out: %s", point.name, point.value, error)


def register(
    model: type,
    *,
    trainer: type | None = None,
    dataset: type | None = None,
    properties: str | Path | None = None,
) -> type:
    """Add a model class to RecBole's look-ups, under its own name. Can be used as a decorator.

    Args:
        model: A subclass of one of RecBole's recommender classes.
        trainer: Its trainer, where RecBole's choice for the model's type will not do.
        dataset: Its dataset class, likewise.
        properties: A YAML file with the default values of its options.

    Returns:
        The model class.

    Raises:
        ConfigError: ``model`` is not a recommender of RecBole's, its name is taken, or ``properties`` is missing.
    """
    model_type = getattr(getattr(model, "type", None), "name", None)
    if not isinstance(model, type) or model_type not in _FAMILY_OF_TYPE:
        raise ConfigError(
            f"register: {model!r} is not a recommender class; subclass GeneralRecommender, SequentialRecommender, "
            f"ContextRecommender or KnowledgeRecommender of recbole.model.abstract_recommender"
        )
    name = model.__name__
    known = _entries.get(name)
    if known is not None and _identity(known.model) != _identity(model):
        raise ConfigError(f"register: the name {name} is taken by {_identity(known.model)}; rename your class")
    if known is None and name.lower() in {other.lower() for other in model_names()}:
        raise ConfigError(f"register: RecBole or the plugin has a model called {name} already; rename your class")
    path = Path(properties) if properties is not None else None
    if path is not None and not path.is_file():
        raise ConfigError(f"register: the properties file of {name} does not exist: {path}")
    _entries[name] = Entry(name, model, _FAMILY_OF_TYPE[model_type], trainer, dataset, path)
    sys.modules.pop(f"recbole.model.{_entries[name].family}.{name.lower()}", None)
    importlib.invalidate_caches()
    return model


def _identity(part: type | str) -> str:
    return part if isinstance(part, str) else f"{part.__module__}:{part.__qualname__}"


def model_names() -> list[str]:
    """The names of all models that a command can run: the plugin's, registered ones and RecBole's, sorted."""
    return sorted(set(_entries) | set(_recbole_models()), key=str.lower)


def plugin_model_names() -> list[str]:
    """The names of the plugin's own and of registered models, sorted."""
    return sorted(_entries)


@functools.cache
def _recbole_models() -> tuple[str, ...]:
    """RecBole's own model classes, read from its files without importing them."""
    names: list[str] = []
    for family in sorted(set(_FAMILY_OF_TYPE.values())):
        spec = importlib.util.find_spec("recbole.model")
        assert spec is not None and spec.submodule_search_locations
        for location in spec.submodule_search_locations:
            folder = Path(location) / family
            for module in pkgutil.iter_modules([str(folder)]):
                names += _class_named_like(folder / f"{module.name}.py", module.name)
    return tuple(names)


def _class_named_like(path: Path, module: str) -> list[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("class "):
            name = line.removeprefix("class ").split("(")[0].split(":")[0].strip()
            if name.lower() == module:
                return [name]
    return []


def get_model(name: str) -> type:
    """The model class called ``name``, of the plugin, registered, or RecBole's.

    Raises:
        ConfigError: There is none; the message offers the nearest names.
    """
    names = model_names()
    if name not in names:
        by_lower = {other.lower(): other for other in names}
        near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(by_lower[n] for n in near)}?" if near else "no name comes near it"
        raise ConfigError(f"model: there is no model called {name!r}; {hint}")
    from recbole.utils import get_model as recbole_get_model

    try:
        return recbole_get_model(name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"model: {name} needs the package {error.name!r}, which is not installed; pip install {error.name}"
        ) from error


def properties_files(model: str, dataset: str) -> list[Path]:
    """The plugin's YAML defaults for a model and a dataset, weakest first; files that do not exist are left out."""
    folder = properties_folder()
    entry = _entries.get(model)
    named = model if entry is None or entry.properties_of is None else entry.properties_of
    candidates = [folder / "overall.yaml", folder / "model" / f"{named}.yaml", folder / "dataset" / f"{dataset}.yaml"]
    if entry is not None and entry.properties is not None:
        candidates.insert(2, entry.properties)
    return [path for path in candidates if path.is_file()]


def properties_folder() -> Path:
    """Where the plugin's YAML files are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "properties"
    return inside if inside.is_dir() else package.parent / "properties"
