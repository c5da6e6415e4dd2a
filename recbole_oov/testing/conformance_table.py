"""The table of RecBole's models and the checks that they fail; the same on every run.

python -m recbole_oov.testing.conformance_table docs/conformance-table.md
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from recbole_oov import registry
from recbole_oov.testing.baselines import BASELINES, REASONS, REASONS_OF_CHECKS
from recbole_oov.testing.check import FAMILIES
from recbole_oov.testing.conformance import FAILED, NOT_JUDGED, PASSED, Report, all_checks, examine
from recbole_oov.testing.subject import Subject, family_of

HEAD = """# RecBole's models and the checks that they fail

Made by `python -m recbole_oov.testing.conformance_table docs/conformance-table.md`; [conformance.md](conformance.md)
says what each check asks, and how to run them. A model's options are RecBole's, but for sizes, epochs and, for some,
the learning rate, dropout or regularisation with which it learns data this small (`recbole_oov/testing/tiny.py`,
`baselines.py`): the known answer tells whether a model can learn, not which one learns better. The reasons are ours,
from RecBole's source or from what the check found; none has been confirmed by RecBole's authors. A check that comes
after a failed one is not judged.

| model | passed | not judged | fails | because |
|---|---|---|---|---|
"""


def reports(names: Iterable[str]) -> list[Report]:
    """The reports of some of the baselines.

    Raises:
        KeyError: A name is not among ``BASELINES``.
    """
    return [examine(Subject(registry.get_model(name), BASELINES[name])) for name in names]


def rows_of(report: Report) -> list[str]:
    """The rows of a model: one for each check that it fails, or one that says that it fails none."""
    counts = f"{len(report.of(PASSED))} | {len(report.of(NOT_JUDGED)) or ''}"
    family, rows = family_of(registry.get_model(report.model)), list[str]()
    for result in report.of(FAILED):
        name = result.check.name
        known = (REASONS.get((report.model, name)), REASONS.get((family, name)), REASONS_OF_CHECKS.get(name))
        reason = next(filter(None, known), result.message)
        first = f"{report.model} | {counts}" if not rows else " | |"
        rows.append(f"| {first} | `{name}` | {_cell(reason)} |")
    return rows or [f"| {report.model} | {counts} | | |"]


def table(found: Sequence[Report]) -> str:
    """The Markdown page."""
    lines: list[str] = []
    family = ""
    for report in found:
        now = family_of(registry.get_model(report.model))
        if now != family:
            family = now
            lines.append(f"| **{family}** | | | | |")
        lines += rows_of(report)
    passing = sum(not report.failures for report in found)
    return HEAD + "\n".join(lines) + f"\n\n{passing} of these {len(found)} models fail no check.\n"


def list_of_checks() -> str:
    """All checks with what they ask, as ``docs/conformance.md`` lists them."""
    lines = ["| check | of | asks |", "|---|---|---|"]
    group = ""
    for check in all_checks():
        if check.group != group:
            group = check.group
            lines.append(f"| **{group}** | | |")
        of = "all" if check.families == FAMILIES else ", ".join(check.families)
        lines.append(f"| `{check.name}` | {of} | {_cell(check.asks)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("``", "`").split())


def main(arguments: Sequence[str]) -> int:
    """Write the table to the file that is named, or to standard output."""
    warnings.simplefilter("ignore")
    found = []
    for name in BASELINES:
        print(name, file=sys.stderr)
        found += reports([name])
    if arguments:
        Path(arguments[0]).write_text(table(found), encoding="utf-8")
    else:
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
