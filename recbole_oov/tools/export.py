"""``export``: the embeddings of a trained model with the ids of the data set's files, and an index to search them."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_oov import __version__
from recbole_oov.checkpoint_loading import load_checkpoint_and_data
from recbole_oov.data.cache import write_atomically
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.tools.arguments import one_of, read_arguments
from recbole_oov.tools.embeddings import embeddings_of

FORMATS = ("npy", "parquet")
INDEX_FILE = "items.faiss"
ABOUT_FILE = "export.json"
_TABLE_FILES = {"npy": ("{}.npy", "{}.ids.npy"), "parquet": ("{}.parquet",)}


def export(argv: Sequence[str]) -> None:
    """Run the command.

    ``export --checkpoint=saved/NAME.json --output=FOLDER [--format=npy|parquet] [--index=faiss] [--data_path=FOLDER]``

    Raises:
        ConfigError: The model does not rank by a dot product, an extra is missing, or an option is wrong.
        DataError: A file cannot be written.
    """
    given = read_arguments(
        "export",
        argv,
        ("checkpoint", "output", "format", "index", "data_path"),
        needed=("checkpoint", "output"),
    )
    kind = one_of("export: format", given.get("format", "npy"), FORMATS)
    if given.get("index") is not None:
        one_of("export: index", given["index"], ("faiss",))
    _need(kind == "parquet", "pyarrow", "--format=parquet", "parquet")
    _need(given.get("index") is not None, "faiss", "--index=faiss", "faiss")
    config, model, _, train_data, _, test_data = load_checkpoint_and_data(
        Path(str(given["checkpoint"])), given.get("data_path"), log=False
    )
    found = embeddings_of(model, test_data)
    dataset, folder = train_data._dataset, Path(str(given["output"]))
    tables = {"items": (dataset.iid_field, found.items)}
    if found.users is not None:
        tables["users"] = (dataset.uid_field, found.users)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (field, table) in tables.items():
            ids = np.asarray(dataset.field2id_token[field][1:]).astype(str)
            write_table(folder, name, field, ids, table[1:].float().cpu().numpy(), kind)
        if given.get("index") is not None:
            write_index(folder / INDEX_FILE, found.items[1:].float().cpu().numpy())
        stale = remove_stale(folder, tables, kind, index=given.get("index") is not None)
        about = {
            "model": str(config["model"]),
            "dataset": str(config["dataset"]),
            "recbole_oov": __version__,
            "dimensions": found.items.shape[1],
            "items": len(found.items) - 1,
            "users": None if found.users is None else len(found.users) - 1,
            "oov_items": int(oov_mask(dataset).sum()),
            "score": "dot product",
            "largest_relative_gap_to_the_model": found.gap,
            "scores_compared": found.n_scores,
        }
        text = json.dumps(about, indent=1)
        write_atomically(folder / ABOUT_FILE, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); choose another output") from error
    if stale:
        print(f"{folder}: {', '.join(stale)} of an earlier export removed")
    for name, (_, table) in tables.items():
        print(f"{folder}: {len(table) - 1:,} {name}, {table.shape[1]} numbers each")
    print(f"checked: {found.n_scores:,} dot products are the model's scores (largest relative gap {found.gap:.1e})")
    if found.users is None:
        print(f"users: {config['model']} makes a user of a history; ask the model for its representation")


def remove_stale(folder: Path, tables: Collection[str], kind: str, *, index: bool) -> list[str]:
    """Remove what an earlier export wrote into a folder and this one does not: it belongs to another model.

    Args:
        folder: Where to; only one with an ``export.json``, which says that the files are an export's.
        tables: Those that were written now, out of ``items`` and ``users``.
        kind: One of :data:`FORMATS`, their format.
        index: Whether there is a new index.

    Returns:
        Names of the files.

    Raises:
        OSError: One cannot be removed.
    """
    if not (folder / ABOUT_FILE).is_file():
        return []
    every = {form.format(name) for forms in _TABLE_FILES.values() for form in forms for name in ("items", "users")}
    written = {form.format(name) for form in _TABLE_FILES[kind] for name in tables} | ({INDEX_FILE} if index else set())
    stale = sorted(name for name in (every | {INDEX_FILE}) - written if (folder / name).is_file())
    for name in stale:
        (folder / name).unlink()
    return stale


def write_table(folder: Path, name: str, field: str, ids: np.ndarray, vectors: np.ndarray, kind: str) -> None:
    """Write ids and vectors: ``items.npy`` and ``items.ids.npy``, or ``items.parquet``.

    Args:
        folder: Where to.
        name: ``items`` or ``users``.
        field: The id's name, the first column of the Parquet table; the second is ``embedding``, a list of d floats.
        ids: Tokens of the data set's files. (N,) text
        vectors: (N, d) float32
        kind: One of :data:`FORMATS`.

    Raises:
        OSError: It cannot be written.
    """
    if kind == "npy":
        write_atomically(folder / f"{name}.npy", _saver(vectors))
        write_atomically(folder / f"{name}.ids.npy", _saver(ids))
        return
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    flat = arrow.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    lists = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = arrow.table({field: arrow.array(ids.tolist(), arrow.string()), "embedding": lists})
    write_atomically(folder / f"{name}.parquet", lambda part: parquet.write_table(table, part))


def write_index(path: Path, vectors: np.ndarray) -> None:
    """Write an exact index for the largest dot product; its row is the row of ``items.npy``. (N, d) float32

    Raises:
        OSError: It cannot be written.
    """
    faiss: Any = importlib.import_module("faiss")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    content = faiss.serialize_index(index).tobytes()
    write_atomically(path, lambda part: part.write_bytes(content))


def _saver(array: np.ndarray) -> Callable[[Path], None]:
    def save(part: Path) -> None:
        with part.open("wb") as file:  # given a path, numpy would add a suffix to it
            np.save(file, array, allow_pickle=False)

    return save


def _need(asked: bool, module: str, option: str, extra: str) -> None:
    if asked and importlib.util.find_spec(module) is None:
        package = "faiss-cpu" if module == "faiss" else module
        raise ConfigError(
            f'export: {option} needs the package {package}, which is not installed; pip install "recbole-oov[{extra}]"'
        )
