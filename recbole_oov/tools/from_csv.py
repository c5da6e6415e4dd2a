"""``from-csv``: a CSV file of interactions, and one of items, as RecBole's atomic files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from recbole_oov.data.cache import write_atomically
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.tools.arguments import names, read_arguments
from recbole_oov.tools.csv_rows import Column, Convert, as_id, as_number, as_seconds, as_words, rows

_OF_ITEMS = ("item_id", "text", "token", "number")
_OPTIONS = ("name", "user", "item", "time", "rating", "items", *_OF_ITEMS, "output", "separator")
_EXAMPLES = 5


def from_csv(argv: Sequence[str]) -> None:
    """Run the command.

    ``from-csv FILE.csv --name=NAME --user=COLUMN --item=COLUMN [--time=COLUMN] [--rating=COLUMN] [--items=ITEMS.csv
    --item_id=COLUMN --text=[COLUMNS] --token=[COLUMNS] --number=[COLUMNS]] [--output=FOLDER] [--separator=";"]``

    Raises:
        ConfigError: An option is missing, unknown or names a column that is not there.
        DataError: A row is bad; the first few are listed with their line. Nothing was written.
    """
    if not argv or argv[0].startswith("-"):
        raise ConfigError("from-csv: name a file, as in: from-csv interactions.csv --name=shop --user=user --item=item")
    given = read_arguments("from-csv", argv[1:], _OPTIONS, needed=("name", "user", "item"), as_written=_OPTIONS)
    name = str(given["name"])
    if not name or Path(name).name != name or name.startswith("."):
        raise ConfigError(f"from-csv: name {name!r} cannot name a data set; use letters, digits and -")
    separator = {"tab": "\t"}.get(str(given.get("separator", ",")), str(given.get("separator", ",")))
    if len(separator) != 1:
        raise ConfigError(f"from-csv: separator {separator!r} is not one character; write --separator=; or tab")
    folder = Path(str(given.get("output", "dataset"))) / name
    # All is read before anything is written: a bad row leaves what was there. And the interactions, which every run
    # needs, are written last: killed in between, there is no data set rather than half of one.
    tables: dict[Path, tuple[list[Column], list[list[str]]]] = {}
    if given.get("items") is not None:
        columns = item_columns(given)
        lines = list(rows(Path(str(given["items"])), columns, separator, unique=True))
        tables[folder / f"{name}.item"] = columns, lines
    elif any(given.get(option) is not None for option in _OF_ITEMS):
        raise ConfigError(f"from-csv: {', '.join(_OF_ITEMS)} name columns of --items=ITEMS.csv, which is missing")
    columns = interaction_columns(given)
    tables[folder / f"{name}.inter"] = columns, list(rows(Path(argv[0]), columns, separator))
    _write(folder, tables)
    if given.get("items") is not None:
        items, interactions = (lines for _, lines in tables.values())
        _say_what_has_no_row(items, interactions, str(given["items"]))
    print(f"look at it: recbole-oov describe {name} --data_path={folder.parent}")


def interaction_columns(given: Mapping[str, object]) -> list[Column]:
    """The columns of the ``.inter`` file, under the names that RecBole expects."""
    if given["user"] == given["item"]:
        raise ConfigError(f"from-csv: user and item are both {str(given['user'])!r}; name two columns")
    columns = [Column(str(given["user"]), "user_id:token", as_id), Column(str(given["item"]), "item_id:token", as_id)]
    if given.get("rating") is not None:
        columns.append(Column(str(given["rating"]), "rating:float", as_number))
    if given.get("time") is not None:
        columns.append(Column(str(given["time"]), "timestamp:float", as_seconds))
    return columns


def item_columns(given: Mapping[str, object]) -> list[Column]:
    """The columns of the ``.item`` file; the CSV file's own names, without blanks and colons."""
    columns = [Column(str(given.get("item_id", given["item"])), "item_id:token", as_id)]
    kinds: dict[str, tuple[str, Convert]] = {
        "text": ("token_seq", as_words),
        "token": ("token", as_words),
        "number": ("float", as_number),
    }
    for option, (kind, convert) in kinds.items():
        for source in names(option, given.get(option)):
            columns.append(Column(source, f"{'_'.join(source.replace(':', ' ').split())}:{kind}", convert))
    targets = [column.target.partition(":")[0] for column in columns]
    twice = sorted({target for target in targets if targets.count(target) > 1})
    if twice:
        raise ConfigError(f"from-csv: {', '.join(twice)} is named twice in text, token, number and item_id; keep one")
    if len(columns) == 1:
        raise ConfigError("from-csv: name the columns of items to keep, as in --text=[title]")
    return columns


def _write(folder: Path, tables: Mapping[Path, tuple[list[Column], list[list[str]]]]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target, (columns, lines) in tables.items():
            header = [column.target for column in columns]
            write_atomically(target, _writer(header, lines))
            print(f"{target}: {len(lines):,} rows, {', '.join(header)}")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); choose another output") from error


def _writer(header: list[str], lines: list[list[str]]) -> Callable[[Path], None]:
    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines("\t".join(line) + "\n" for line in [header, *lines])

    return write


def _say_what_has_no_row(items: list[list[str]], interactions: list[list[str]], path: str) -> None:
    lacking = sorted({line[1] for line in interactions} - {line[0] for line in items})
    if lacking:
        shown_ids = ", ".join(lacking[:_EXAMPLES]) + (", …" if len(lacking) > _EXAMPLES else "")
        print(f"note: {len(lacking)} items with interactions have no row in {path} ({shown_ids}), and so no content")
