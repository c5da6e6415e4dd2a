"""Item vectors that the user brings, out of a text file in RecBole's notation or an ``.npz`` archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from recbole_oov.data.atomic_table import AtomicTable
from recbole_oov.errors import DataError

HEADER = "item_id:token<TAB>vector:float_seq"


def read_vectors(path: Path, item_field: str) -> tuple[list[str], np.ndarray]:
    """The item tokens and vectors in a file.

    Args:
        path: A text file whose header is ``item_id:token<TAB>vector:float_seq`` and whose rows hold a vector's numbers
            separated by blanks; or, much faster to read, an ``.npz`` archive with the arrays ``ids`` (N,) and
            ``vectors`` (N, dim), as ``numpy.savez(path, ids=…, vectors=…)`` writes it. Pickled objects are refused.
        item_field: RecBole's ``ITEM_ID_FIELD``.

    Returns:
        Item tokens, each once, and their vectors, finite. (N,), (N, dim) float32

    Raises:
        DataError: The file is missing or cannot be read, its header is another, vectors differ in width or hold NaN or
            infinite numbers, or an item is there twice. Names the line or row, and the item.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; content path must name a text file or an .npz archive")
    ids, vectors, lines = _read_npz(path) if path.suffix == ".npz" else _read_text(path, item_field)
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        position = int((~np.isfinite(vectors[row])).argmax())
        raise DataError(
            f"{path}, {lines(row)}: the vector of item {ids[row]} holds {vectors[row, position]} (number "
            f"{position + 1}); write finite numbers ({int(bad.sum())} such vectors)"
        )
    first: dict[str, int] = {}
    for row, item in enumerate(ids):
        earlier = first.setdefault(item, row)
        if earlier != row:
            raise DataError(f"{path}, {lines(row)}: item {item} is there already, at {lines(earlier)}; keep one vector")
    return ids, vectors


class _Lines:
    """Where in the file a row is, for messages."""

    def __init__(self, word: str, numbers: np.ndarray) -> None:
        self.word, self.numbers = word, numbers

    def __call__(self, row: int) -> str:
        return f"{self.word} {int(self.numbers[row])}"


def _read_text(path: Path, item_field: str) -> tuple[list[str], np.ndarray, _Lines]:
    table = AtomicTable(path)
    items = [name for name in (item_field, "item_id") if name in table.columns and table.columns[name].type == "token"]
    vectors = [column.name for column in table.columns.values() if column.type == "float_seq"]
    if not items or len(vectors) != 1:
        header = ", ".join(f"{column.name}:{column.type}" for column in table.columns.values())
        raise DataError(
            f"{path}, line 1: the header is {header}; it must be {HEADER.replace('item_id', item_field)}, with one "
            f"column of type float_seq"
        )
    ids: list[str] = []
    rows: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    for block in table.blocks([items[0], vectors[0]]):
        for item, text, line in zip(block.frame[items[0]], block.frame[vectors[0]], block.lines, strict=True):
            vector = np.array(text.split() if isinstance(text, str) else [], dtype=np.float64)
            if not isinstance(item, str):
                raise DataError(f"{path}, line {line}: the item has no id; write its token, or remove the line")
            if not len(vector) or (rows and len(vector) != len(rows[0])):
                wanted = f"; the lines before have {len(rows[0])}" if rows else ""
                raise DataError(
                    f"{path}, line {line}: the vector of item {item} has {len(vector)} numbers{wanted}; all vectors "
                    f"must be of one width"
                )
            ids.append(item)
            rows.append(vector)
        numbers.append(block.lines)
    if not rows:
        raise DataError(f"{path}: there is a header but no row")
    return ids, _single_precision(np.stack(rows)), _Lines("line", np.concatenate(numbers))


def _read_npz(path: Path) -> tuple[list[str], np.ndarray, _Lines]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not {"ids", "vectors"} <= set(archive.files):
                raise DataError(
                    f"{path}: holds the arrays {', '.join(archive.files) or 'none'}; it must hold ids (N,) and "
                    f"vectors (N, dim)"
                )
            ids, vectors = archive["ids"], archive["vectors"]
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); write it with numpy.savez(path, ids=…, vectors=…), ids as an array of "
            f"text or whole numbers"
        ) from None
    if ids.ndim != 1 or ids.dtype.kind not in "Uiu":
        raise DataError(f"{path}: ids is {ids.dtype} {ids.shape}; it must be text or whole numbers of shape (N,)")
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or len(vectors) != len(ids) or not vectors.size:
        raise DataError(
            f"{path}: vectors is {vectors.dtype} {vectors.shape} for {len(ids)} ids; it must be numbers of shape "
            f"({len(ids)}, dim)"
        )
    return [str(item) for item in ids], _single_precision(vectors), _Lines("row", np.arange(len(ids)))


def _single_precision(vectors: np.ndarray) -> np.ndarray:
    """As float32; what is too large for it becomes infinite and is reported as that."""
    with np.errstate(over="ignore"):
        return vectors.astype(np.float32)
