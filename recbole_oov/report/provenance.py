"""Where the numbers come from: versions, hardware, commit, command and the runs themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recbole_oov.report.markup import Markup, tag
from recbole_oov.report.summary import Rows, Table
from recbole_oov.report.words import cost

_COLUMNS = {
    "model": "name",
    "seed": "seed",
    "validation": "best_valid",
    "epochs": "epochs",
    "train s": "train_seconds",
    "all s": "seconds",
    "MiB": "peak_memory_mib",
}


def provenance(table: Table, at: int) -> Markup | None:
    """The runs of a table, folded up; None where nothing has run."""
    rows = [row for line in table.lines for row in line.rows]
    if not rows:
        return None
    facts: list[Markup] = []
    for label, values in _facts(rows).items():
        facts += [tag("dt", label), *(tag("dd", value) for value in values)]
    heads = [_heading(label, place) for place, label in enumerate([*_COLUMNS, "configuration", "its own options"])]
    shared = _shared_options(rows)
    lines = [_row(row, shared) for row in rows]
    content = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *lines), class_="sortable", id=f"runs-{at}")
    return tag(
        "details",
        tag("summary", f"{len(rows)} runs: versions, hardware, options"),
        tag("dl", *facts, tag("dt", "options of all"), tag("dd", tag("code", _json(shared)))),
        tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=f"Runs of {table.title}"),
    )


def _heading(text: str, column: int) -> Markup:
    return tag("th", tag("button", text, type="button"), scope="col", data_column=column, data_first="ascending")


def _facts(rows: Rows) -> dict[str, list[str]]:
    """What all rows say, each different answer once."""
    facts = {
        "versions": [
            ", ".join(f"{name} {version}" for name, version in row.get("versions", {}).items()) for row in rows
        ],
        "hardware": [row.get("hardware", "") for row in rows],
        "commit": [row.get("commit", "") for row in rows],
        "command": [row.get("command", "") for row in rows],
        "started": [min((row["started"] for row in rows if row.get("started")), default="")],
        "seeds": [", ".join(map(str, sorted({row["seed"] for row in rows})))],
        "held-out rows": [f"{len({row['targets'] for row in rows})} split(s), SHA-256 {rows[0]['targets'][:16]}…"],
        "tuning": [_tuning(row) for row in rows],
    }
    different = {label: [str(value) for value in dict.fromkeys(values) if value] for label, values in facts.items()}
    return {label: values for label, values in different.items() if values}


def _tuning(row: Mapping[str, Any]) -> str:
    """How a row's settings were chosen; nothing where the benchmark searches for none."""
    tuned = row.get("tuned")
    if not tuned:
        return ""
    if not tuned.get("trials"):
        return f"{row['name']}: as given, {tuned.get('why', 'no search')}"
    chosen = ", ".join(f"{key}: {value}" for key, value in (tuned.get("settings") or {}).items()) or "as given"
    return f"{row['name']}: trial {tuned.get('chosen')} of {tuned['trials']}, {chosen}"


def _shared_options(rows: Rows) -> dict[str, Any]:
    first = rows[0]["options"]
    return {key: value for key, value in first.items() if all(row["options"].get(key) == value for row in rows)}


def _row(row: Mapping[str, Any], shared: Mapping[str, Any]) -> Markup:
    cells = [tag("th", row["name"], scope="row", data_value=row["name"])]
    for name in list(_COLUMNS.values())[1:]:
        value = row.get(name)
        text = str(value) if name in ("seed", "best_valid") and value is not None else cost(value)
        cells.append(tag("td", text, data_value="" if value is None else value))
    # Of all options, defaults included; twelve digits are enough to find its line.
    key = str(row.get("config") or row["key"])[:12]
    cells.append(tag("td", tag("code", key), data_value=key))
    own = {key: value for key, value in row["options"].items() if key not in shared and key != "seed"}
    text = ", ".join(f"{key}: {value if isinstance(value, str) else _json(value)}" for key, value in own.items())
    return tag("tr", *cells, tag("td", tag("code", text), class_="text", data_value=text))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
