"""``run_recbole_oov.py recommend``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_oov.errors import ConfigError
from recbole_oov.recommendation.api import recommend
from recbole_oov.recommendation.files import read_item_file

_OPTIONS = (
    "checkpoint",
    "user",
    "users",
    "history",
    "new_items",
    "k",
    "groups",
    "scores",
    "keep_seen",
    "explain",
    "answers",
    "data_path",
    "json",
)
_SWITCHES = ("scores", "keep_seen", "explain", "json")


def command(argv: Sequence[str]) -> None:
    """Print recommendations.

    Args:
        argv: ``--checkpoint=FILE`` and one of ``--user=ID``, ``--users="ID ID"``, ``--history="ID ID"``,
            ``--new_items=FILE``; all else as of :func:`recbole_oov.recommend`. ``--json`` prints JSON.

    Raises:
        RecBoleOOVError: What is asked for cannot be; see :func:`recbole_oov.recommend`.
    """
    given = _options(argv)
    if "checkpoint" not in given:
        raise ConfigError("recommend: give the checkpoint of a run, as in --checkpoint=saved/DeepMusic.json")
    arguments: dict[str, Any] = {name: given[name] for name in ("user", "groups", "data_path") if name in given}
    # Ids are texts: 007 is not 7. One that holds a blank can be given with --user.
    arguments |= {name: given[name].split() for name in ("users", "history", "answers") if name in given}
    arguments |= {name: _switch(name, given[name]) for name in ("scores", "keep_seen", "explain") if name in given}
    if "k" in given:
        if not (given["k"].isascii() and given["k"].isdecimal()):
            raise ConfigError(f"k: {given['k']!r} is not allowed; give a whole number of at least 1")
        arguments["k"] = int(given["k"])
    if "new_items" in given:
        arguments["new_items"] = read_item_file(Path(given["new_items"]))
    with _quiet():
        found = recommend(given["checkpoint"], **arguments)
    print(found.to_json(indent=2) if _switch("json", given.get("json", "False")) else found)


@contextmanager
def _quiet() -> Iterator[None]:
    """What libraries say about themselves is no part of the answer, nor what the training has said already."""
    logging.getLogger("recbole").setLevel(logging.ERROR)
    ours = logging.getLogger("recbole_oov")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ours.setLevel(level)


def _options(argv: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for argument in argv:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in _OPTIONS:
            raise ConfigError(f"recommend: {argument!r} is not known; there are --{', --'.join(_OPTIONS)}")
        if not equals and name not in _SWITCHES:
            raise ConfigError(f"--{name} has no value; write --{name}=value, joined by = and without a space")
        if name in given:
            raise ConfigError(f"--{name} is given twice; keep one")
        given[name] = value if equals else "True"
    return given


def _switch(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"{name}: {value!r} is not allowed; give True or False")
    return value.lower() == "true"
