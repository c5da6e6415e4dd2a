"""Files that describe new items: JSON lines, a JSON list, or CSV with a header."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from recbole_oov.errors import DataError

_KINDS = (".jsonl", ".json", ".csv")


def read_item_file(path: Path) -> list[dict[str, Any]]:
    """The items of a file, by column; empty cells of a CSV file are left out.

    Args:
        path: ``.jsonl`` with an object a line, ``.json`` with a list of objects, or ``.csv``, UTF-8.

    Raises:
        DataError: The file is missing, of another kind, or cannot be read; names the line.
    """
    if path.suffix not in _KINDS:
        raise DataError(f"new_items: {path} is of no known kind; give a file {', '.join(_KINDS)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or f"not UTF-8: {error}"
        raise DataError(f"new_items: {path} cannot be read ({reason})") from error
    if path.suffix == ".csv":
        return _csv(path, text)
    if path.suffix == ".json":
        found = _json(path, 1, text)
        if not isinstance(found, list):
            raise DataError(f"new_items: {path} holds no list; write [{{…}}, {{…}}], or an object a line as .jsonl")
        return [_object(path, at, item) for at, item in enumerate(found, start=1)]
    # Not splitlines, which also cuts at characters that JSON's texts may hold, such as U+2028.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [_object(path, number, _json(path, number, line)) for number, line in lines]


def _csv(path: Path, text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    items = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"new_items: {path}, line {reader.line_num}: the row is not as long as the header, "
                    f"{', '.join(reader.fieldnames or [])}; quote cells that hold commas"
                )
            items.append({column: value for column, value in row.items() if value})
    except csv.Error as error:
        # DictReader counts a line when it is whole.
        raise DataError(f"new_items: {path}, line {reader.reader.line_num}: {error}") from error
    return items


def _json(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"new_items: {path}, line {line} is not JSON: {error}") from error


def _object(path: Path, number: int, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise DataError(f'new_items: {path}, {number}: {item!r} is no object; write {{"title": "…"}}')
    return item
