"""The arguments of the tools' commands: ``--key=value``, read as everywhere, those of a command told from a run's."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import Any

from recbole_oov.config import parse_command_line
from recbole_oov.errors import ConfigError


def split_arguments(argv: Sequence[str], own: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """A command's own options, parsed, and the arguments that are a run's.

    Args:
        argv: Arguments ``--key=value``; one of ``own`` without a value, ``--json``, is True.
        own: The names of the command's own options.

    Raises:
        ConfigError: An argument of another form.
    """
    mine: list[str] = []
    rest: list[str] = []
    for argument in argv:
        name, equals, _ = argument.partition("=")
        is_own = name.startswith("--") and name.removeprefix("--") in own
        (mine if is_own else rest).append(argument if equals or not is_own else f"{name}=True")
    return parse_command_line(mine), rest


def read_arguments(
    command: str,
    argv: Sequence[str],
    own: Collection[str],
    needed: Collection[str] = (),
    *,
    as_written: Collection[str] = (),
) -> dict[str, Any]:
    """The options of a command that takes no others.

    Args:
        command: Its name, for messages.
        argv: Arguments ``--key=value``.
        own: The names of its options.
        needed: Those that must be given.
        as_written: Those that are names: ``1e3`` and ``true`` are the text, no number and no truth value.

    Raises:
        ConfigError: An option that it does not know or that it lacks.
    """
    given, rest = split_arguments(argv, own)
    texts = {name.removeprefix("--"): text for name, _, text in (argument.partition("=") for argument in argv)}
    for name in as_written:
        if isinstance(given.get(name), int | float):
            given[name] = texts[name]
    problems = []
    for argument in rest:
        near = difflib.get_close_matches(argument.removeprefix("--").partition("=")[0], own, n=1)
        hint = f"did you mean --{near[0]}?" if near else f"it has {', '.join(f'--{name}' for name in own)}"
        problems.append(f"{command}: {argument!r} is not an option; {hint}")
    problems += [f"{command}: --{name}=… is needed" for name in needed if given.get(name) is None]
    problems += [f"{command}: --{name}= has no value; give one, or leave it out" for name in given if given[name] == ""]
    if problems:
        raise ConfigError(problems)
    return given


def names(option: str, value: object) -> list[str]:
    """A list of names, given as ``[title, genre]``, ``title`` or not at all.

    Raises:
        ConfigError: It is something else.
    """
    if value is None:
        return []
    listed = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(name, str | int) and not isinstance(name, bool) and str(name) for name in listed):
        raise ConfigError(f"{option}: {value!r} is not a list of names; write --{option}=[title, genre]")
    return [str(name) for name in listed]


def one_of(option: str, value: object, allowed: Sequence[str]) -> str:
    """A word out of some.

    Raises:
        ConfigError: It is another one.
    """
    if value not in allowed:
        raise ConfigError(f"{option}: {value!r} is not allowed; it must be {' or '.join(allowed)}")
    return str(value)
