"""The cells of a benchmark file: what is trained and measured once each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole.utils import ModelType

from recbole_oov import registry
from recbole_oov.errors import ConfigError, RecBoleOOVError
from recbole_oov.report.carve import carve_validation
from recbole_oov.report.spec import parts_of

__all__ = ["Cell", "as_given", "carved", "check_apart", "digest", "is_sequential"]


def digest(value: Any) -> str:
    """16 digits that stand for a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Cell:
    """One model with one seed on one data set.

    Attributes:
        tuned: What the search of its row chose; None where the row was not tuned. Does not identify the cell: the
            settings that were chosen are among its options.
        carve: Share and seed of the validation part that is carved out of a published split's training rows; None for
            a split that has one.
    """

    name: str
    model: str
    dataset: str
    options: dict[str, Any]
    part: str = ""
    measure: str = "ranks"
    refit: bool = False
    tuned: dict[str, Any] | None = None
    carve: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """Identifies the cell by what decides its result."""
        # Where the data lies decides nothing.
        options = {key: value for key, value in self.options.items() if key != "data_path"}
        decides: list[Any] = [self.name, self.model, self.dataset, options]
        if self.measure != "ranks":
            decides += [self.measure, self.part]
        if self.carve is not None:
            decides.append({"carve": self.carve})
        return digest(decides)

    @property
    def label(self) -> str:
        """Part and name."""
        return f"{self.part}: {self.name}" if self.part else self.name


def is_sequential(model: str) -> bool:
    """Whether a model learns sequences, which RecBole cuts into rows before it splits them; False of an unknown one."""
    try:
        return bool(getattr(registry.get_model(model), "type", None) == ModelType.SEQUENTIAL)
    except RecBoleOOVError:
        return False


def check_apart(cells: Iterable[Cell]) -> None:
    """Refuse two cells of one key whose data lie in two folders.

    Raises:
        ConfigError: There are such.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.key, cell)
        folders = [one.options.get("data_path") for one in (other, cell)]
        if folders[0] != folders[1]:
            raise ConfigError(
                f"benchmark: {other.label} and {cell.label} are one cell but for data_path ({folders[0]}, "
                f"{folders[1]}), which does not tell results apart; rename the rows"
            )


def as_given(spec: Mapping[str, Any]) -> Iterator[Cell]:
    """All cells with the options that the file gives.

    One seed of every model comes before the next seed, so that an unfinished sweep is a fair one.
    """
    parts = parts_of(spec)
    for at in range(max((len(part.seeds) for part in parts), default=0)):
        for part in parts:
            for name, entry in part.models.items() if at < len(part.seeds) else ():
                own = {key: value for key, value in entry.items() if key != "model"}
                options = {**part.common, **own, "seed": part.seeds[at]}
                yield Cell(name, entry["model"], part.dataset, options, part.name, part.measure, carve=part.carve)


def carved(cell: Cell, output: Path) -> Cell:
    """The cell on a published split whose validation part has been carved out of training, where its part says so.

    Validation then says for how many epochs to train, and the model that is tested is trained on all training rows.
    """
    if cell.carve is None:
        return cell
    source = Path(cell.options.get("data_path", "dataset/")) / cell.dataset
    folder = carve_validation(source, output / "data", **cell.carve)
    three = {"data_path": str(folder.parent), "benchmark_filename": ["train", "valid", "test"]}
    return replace(cell, options={**cell.options, **three}, refit=True)
