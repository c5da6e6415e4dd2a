"""``encode``: item content, made once, in a file that ``content: {from: file, path: …}`` reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_oov.config.content import TFIDF
from recbole_oov.data.cache import write_atomically
from recbole_oov.data.content import item_content
from recbole_oov.data.content_file import read_vectors
from recbole_oov.data.oov_split import oov_mask, oov_options
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.tools.arguments import split_arguments
from recbole_oov.tools.datasets import open_dataset, training_part

SUFFIXES = (".npz", ".tsv", ".txt")
"""The kinds of file: an archive, and two names of RecBole's text notation."""


def encode(argv: Sequence[str]) -> None:
    """Run the command: ``encode --dataset=NAME --output=FILE [--content=minilm] [a run's options]``.

    Raises:
        ConfigError: The options cannot work; nothing was loaded.
        DataError: The data or the file cannot be used.
    """
    given, rest = split_arguments(argv, ("output", "content"))
    output, settings = _output(given.get("output")), _settings(given.get("content"))
    config, dataset, notes = open_dataset("ContentKNN", rest, {"content": settings})
    for note in notes:
        print(f"note: {note}")
    train = training_part(dataset)
    print(
        f"{config['dataset']}: encoding the text of {train.item_num - 1:,} items by {settings.get('encoder', TFIDF)} …"
    )
    vectors = item_content(config, train).numpy()[1:]
    ids = np.asarray(train.field2id_token[train.iid_field][1:]).astype(str)
    about = _about(config, settings, train, vectors)
    write_content(output, ids, vectors, item_field=train.iid_field, about=about)
    read_ids, read = read_vectors(output, train.iid_field)
    if read_ids != ids.tolist() or not np.array_equal(read, vectors):
        raise DataError(f"{output}: does not read back as it was written; is the disk full, or another program at it?")
    print(f"{output}: {len(ids):,} items, {vectors.shape[1]} numbers each")
    print(about["fitted_on"])
    print(f'use it: --content="{{from: file, path: {output}}}"')


def write_content(
    path: Path, ids: np.ndarray, vectors: np.ndarray, *, item_field: str, about: Mapping[str, Any] | None = None
) -> None:
    """Write a content file, all of it or nothing.

    Args:
        path: ``.npz`` for an archive; ``.tsv`` or ``.txt`` for text whose numbers read back to the same bits.
        ids: Item tokens. (N,) text
        vectors: (N, dim) float32
        item_field: The text file's first column.
        about: How the vectors were made; kept in the archive as JSON.

    Raises:
        DataError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            write_atomically(path, lambda part: _write_archive(part, ids, vectors, about or {}))
        else:
            write_atomically(path, lambda part: _write_text(part, ids, vectors, item_field))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); choose another output") from error


def _write_archive(part: Path, ids: np.ndarray, vectors: np.ndarray, about: Mapping[str, Any]) -> None:
    with part.open("wb") as file:  # given a path, numpy would add a suffix to it
        np.savez(file, ids=ids, vectors=vectors, about=np.array(json.dumps(dict(about))))


def _write_text(part: Path, ids: np.ndarray, vectors: np.ndarray, item_field: str) -> None:
    with part.open("w", encoding="utf-8") as file:
        file.write(f"{item_field}:token\tvector:float_seq\n")
        for item, vector in zip(ids, vectors, strict=True):
            file.write(f"{item}\t{' '.join(str(number) for number in vector)}\n")


def _output(value: object) -> Path:
    path = Path(str(value or ""))
    if value is None or path.suffix not in SUFFIXES:
        said = "--output=… is needed" if value is None else f"output {str(value)!r} has another ending"
        raise ConfigError(f"encode: {said}; name a file that ends in {', '.join(SUFFIXES)}, as in --output=content.npz")
    return path


def _settings(value: object) -> dict[str, Any]:
    """The option ``content``, for which here an encoder's name will do."""
    if value is None or isinstance(value, str):
        return {"from": "text", "encoder": value or TFIDF}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"encode: content {value!r} is not allowed; give an encoder, as in --content=minilm, or a mapping, as in "
            f'--content="{{encoder: minilm, fields: [title]}}"'
        )
    if value.get("from", "text") != "text":
        raise ConfigError("encode: content from: file is what encode writes; leave from out, or write from: text")
    return {"from": "text", **value}


def _about(config: Any, settings: Mapping[str, Any], train: Any, vectors: np.ndarray) -> dict[str, Any]:
    """How the vectors were made, and for which split they are free of what is held out."""
    n_oov = int(oov_mask(train).sum())
    n_iv = len(vectors) - n_oov
    if settings.get("encoder", TFIDF) != TFIDF and not settings.get("dim") and not settings.get("whiten"):
        fitted = "Nothing was fitted on the data: the file serves every split."
    else:
        options = oov_options(config)
        split = str(config["eval_args"]["split"])
        if options is not None:
            split = f"OOV by {options.by}, ratio {options.ratio}, seed {options.seed}"
            split = f"OOV in {options.files}" if options.files is not None else split
        fitted = (
            f"Fitted on the {n_iv:,} items with training rows of the split {split}; use it with that split alone, "
            f"since under another one it knows words of items that are held out."
        )
    return {"dataset": str(config["dataset"]), "content": dict(settings), "items": len(vectors), "fitted_on": fitted}
