"""Where a data set lies and where results may be written, found out before anything is loaded or written."""

from __future__ import annotations

import difflib
import os
import tempfile
from pathlib import Path
from typing import Any

from recbole_oov.config.keys import recbole_folder, yaml_keys
from recbole_oov.config.reading import shown
from recbole_oov.errors import ConfigError

BUNDLED = "ml-100k"
"""The data set inside RecBole's package, found wherever the command runs."""


def dataset_folder(dataset: str, data_path: str, *, path_given: bool) -> Path:
    """The folder with a data set's files.

    ``ml-100k`` is the one that RecBole brings, unless the user gave a ``data_path`` that has its own.
    """
    local = Path(data_path) / dataset
    if dataset == BUNDLED and not (path_given and local.is_dir()):
        return recbole_folder() / "dataset_example" / BUNDLED
    return local


def dataset_problems(dataset: str, folder: Path, benchmark: object = None) -> list[str]:
    """What keeps RecBole from loading ``dataset`` out of ``folder``; empty where it is there or can be downloaded.

    Args:
        dataset: The data set's name.
        folder: Where its files should be.
        benchmark: The value of ``benchmark_filename``: the names of three parts, or None.
    """
    if not folder.is_dir():
        return [] if not folder.exists() and dataset in downloadable() else [_missing(dataset, folder)]
    parts = [f"{dataset}.{part}.inter" for part in benchmark] if isinstance(benchmark, list) else [f"{dataset}.inter"]
    missing = [name for name in parts if not (folder / name).is_file()]
    if not missing:
        return []
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "no file"
    return [
        f"dataset: the folder {folder} has {found}, but not {name}; the interactions of a data set called "
        f"{dataset} must be in {name}"
        for name in missing
    ]


def downloadable() -> frozenset[str]:
    """The names of the data sets that RecBole can download."""
    return yaml_keys(recbole_folder() / "properties" / "dataset" / "url.yaml")


def _missing(dataset: str, folder: Path) -> str:
    root = folder.parent
    local = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    message = f"dataset: there is no data set called {dataset!r}; looked for the folder {folder.absolute()}"
    if root.is_dir():
        message += f", where {root} has " + (", ".join(local[:8]) + (", …" if len(local) > 8 else "") or "no folder")
    else:
        message += f", but data_path {str(root)!r} is not a folder"
    by_lower = {name.lower(): name for name in sorted({*downloadable(), *local, BUNDLED})}
    near = [by_lower[name] for name in difflib.get_close_matches(dataset.lower(), by_lower, n=3, cutoff=0.6)]
    if near:
        return f"{message}; did you mean {' or '.join(near)}?"
    if Path(dataset).is_dir():
        return f"{message}; for a folder write --data_path={Path(dataset).parent} --dataset={Path(dataset).name}"
    return f"{message}; set data_path to the folder that holds the data set's folder"


def check_writable(config: Any) -> None:
    """Make sure that what a run writes can be written, and leave nothing behind.

    Args:
        config: A configuration or a mapping with ``checkpoint_dir``. RecBole writes ``log/`` and
            ``log_tensorboard/`` into the working directory.

    Raises:
        ConfigError: A folder is a file, or lies where nothing can be created; the option is named.
    """
    places = {"checkpoint_dir": Path(str(config["checkpoint_dir"]))}
    places |= {"the log (in the working directory)": Path("log"), "the TensorBoard log": Path("log_tensorboard")}
    problems = [problem for option, folder in places.items() if (problem := _write_problem(option, folder))]
    if problems:
        raise ConfigError(problems)


def _write_problem(option: str, folder: Path) -> str | None:
    remedy = "choose another folder" if option == "checkpoint_dir" else "start in another folder"
    try:
        os.lstat(folder)  # unlike Path.exists, it tells a name that cannot be from one that is not there
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return f"{option}: {shown(str(folder))} cannot name a folder: {reason}; {remedy}"
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        return f"{option}: cannot write to {folder}, because {existing} is a file; {remedy}"
    reason = "you have no permission to write there"
    if os.access(existing, os.W_OK | os.X_OK):
        try:
            with tempfile.NamedTemporaryFile(dir=existing, prefix=".recbole_oov-"):
                return None
        except OSError as error:
            reason = error.strerror or str(error)
    return f"{option}: cannot write to {folder} ({existing}: {reason}); {remedy}, or change the folder's permissions"
