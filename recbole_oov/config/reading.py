"""Reading values: YAML files, strings in dictionaries and the command line. Nothing is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_oov.errors import ConfigError

_INT = r"[-+]?(?:0|[1-9][0-9_]*)"
# RecBole's own float pattern (configurator.py, _build_yaml_loader) less base-60 numbers: 1e-3 is a number, 1:30 is not.
_FLOAT = (
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NULL = r"~|null|Null|NULL|None"
_OPTION = re.compile(r"--([A-Za-z_][\w.-]*)")
_PLAIN = re.compile(f"(?:{_INT}|{_FLOAT}|{_NULL}|[Tt]rue|TRUE|[Ff]alse|FALSE)")

# What PyYAML's constructors let through besides YAMLError, for text such as `!!int ""` or thousands of brackets.
_YAML_FAULTS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


_MOST_BRACKETS = 1_000
"""A string with more is taken as text: PyYAML would need seconds to find that it nests too deeply."""


_LARGEST_FILE = 1 << 20
_MOST_VALUES = 100_000
"""Values in one text, each alias counted with all that it stands for: nine lines of aliases can stand for a billion."""
_NOT_PLAIN = ("binary", "timestamp", "set", "omap", "pairs")


class Loader(yaml.SafeLoader):
    """A safe YAML loader for what users write, on the command line, in dictionaries and in files.

    As RecBole's, it reads ``1e-3`` as a number. ``None`` is null, as ``~``; dates, ``1:30`` and ``007`` stay text; and
    a key given twice is an error rather than the last one's victory. What comes out is plain: mappings, lists, text,
    numbers, truth values and None, and no larger than the text that it was written as suggests.
    """

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count_values(node, {}, set())
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        try:
            return super().construct_yaml_int(node)
        except ValueError:
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(node.value, 40)} is no whole number, or one of too many digits", node.start_mark
            ) from None

    def _refuse(self, node: yaml.Node) -> None:
        kind = node.tag.rpartition(":")[2]
        raise yaml.constructor.ConstructorError(
            None, None, f"no option takes a value of type !!{kind}", node.start_mark
        )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen and name != ("tag:yaml.org,2002:merge", "<<"):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} twice", key.start_mark)
            if name is not None:
                seen.add(name)
        return super().construct_mapping(node, deep=deep)


def _count_values(node: yaml.Node, known: dict[int, int], open_nodes: set[int]) -> int:
    """The values that a node stands for, itself included; raises where there are too many, or no end of them."""
    found = known.get(id(node))
    if found is not None:
        return found
    if id(node) in open_nodes:
        raise yaml.constructor.ConstructorError(None, None, "an alias that holds itself", node.start_mark)
    open_nodes.add(id(node))
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    inner = (part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,)))
    total = 1 + sum(_count_values(part, known, open_nodes) for part in inner)
    if total > _MOST_VALUES:
        raise yaml.constructor.ConstructorError(
            None, None, f"more than {_MOST_VALUES} values, aliases counted with what they stand for", node.start_mark
        )
    open_nodes.discard(id(node))
    known[id(node)] = total
    return total


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
for _kind_of_value in _NOT_PLAIN:
    Loader.add_constructor(f"tag:yaml.org,2002:{_kind_of_value}", Loader._refuse)

# A dictionary of its own, so that PyYAML's loaders keep their meaning for everybody else.
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in {"bool", "merge", "value"}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^(?:{_INT})$"), list("-+0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT})$"), list("-+0123456789."))
Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(f"^(?:{_NULL}|)$"), ["~", "n", "N", ""])


def shown(value: object, limit: int = 80) -> str:
    """A value as an error message shows it: its ``repr``, cut at ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def parse_value(text: str) -> Any:
    """The value that a string on the command line or in a dictionary stands for.

    Numbers, ``True``, ``False``, ``None`` (also in YAML's spelling), quoted text, ``[…]`` and ``{…}`` are read as YAML;
    all else, intervals such as ``[5,inf)`` and separators such as ``|`` included, is the text as it stands.

    Raises:
        ConfigError: A mapping without a space after its colon, ``{a:1}``, which YAML reads as a set of names.
    """
    stripped = text.strip()
    if not stripped or not (_PLAIN.fullmatch(stripped) or stripped[0] in "[{'\""):
        return text
    if stripped.count("[") + stripped.count("{") > _MOST_BRACKETS:
        return text
    try:
        value = yaml.load(stripped, Loader=Loader)  # noqa: S506 (a SafeLoader)
    except _YAML_FAULTS:
        return text
    if isinstance(value, dict) and any(v is None and isinstance(k, str) and ":" in k for k, v in value.items()):
        raise ConfigError(f"{shown(text)} is not a mapping: write a space after the colon, as in {{key: value}}")
    return value


def parse_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A copy of ``values`` whose strings are parsed, and the faults found; a value with a fault is left out.

    The text of ``dataset`` is a name, also where it looks like a number, as ``1e3``.
    """
    parsed: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in values.items():
        try:
            parsed[key] = parse_value(value) if isinstance(value, str) else value
            if key == "dataset" and isinstance(value, str) and isinstance(parsed[key], int | float):
                parsed[key] = value
        except ConfigError as error:
            problems += [f"{key}: {problem}" for problem in error.errors]
    return parsed, problems


def parse_command_line(argv: Iterable[str]) -> dict[str, Any]:
    """The options ``--key=value`` of a command line, parsed; the value may hold further ``=``.

    Raises:
        ConfigError: An argument of another form, or a key given twice with two values; all of them are listed.
    """
    values, problems = read_command_line(argv)
    if problems:
        raise ConfigError(problems)
    return values


def read_command_line(argv: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """As :func:`parse_command_line`, but returns the problems beside the options that are in order."""
    texts: dict[str, str] = {}
    problems: list[str] = []
    for argument in argv:
        name, equals, text = argument.partition("=")
        key = name.removeprefix("--")
        if not _OPTION.fullmatch(name):
            problems.append(f"{shown(argument)} is not an option; options are written --key=value")
        elif not equals:
            problems.append(f"{name} has no value; write {name}=value, joined by = and without a space")
        elif texts.get(key, text) != text:
            problems.append(f"{name} is given twice, as {shown(texts[key])} and as {shown(text)}; keep one")
        else:
            texts[key] = text
    values, faults = parse_values(texts)
    return values, problems + faults


def split_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """``argv`` parted into ``--key=value`` and the rest, for a command line that is not the plugin's own."""
    options = [arg for arg in argv if "=" in arg and _OPTION.fullmatch(arg.partition("=")[0])]
    return options, [arg for arg in argv if arg not in options]


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The options in one YAML file; an empty file has none.

    Raises:
        ConfigError: The file is missing, is not readable as UTF-8, is not YAML (line and column are named), or holds
            something else than ``key: value`` lines.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise ConfigError(f"config file {path} has more than {_LARGEST_FILE} bytes; is it another kind of file?")
        text = content.decode("utf-8-sig")
        values = yaml.load(text, Loader=Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist (looked for {path.absolute()})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror or error}") from None
    except _YAML_FAULTS as error:
        raise ConfigError(f"config file {path}{_position(error)} is not valid YAML: {_reason(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"config file {path} holds {_kind(values)}; it must hold lines of the form key: value")
    wrong = [key for key in values if not isinstance(key, str)]
    if wrong:
        raise ConfigError(f"config file {path} has a key that is not a name: {shown(wrong[0])}; put it in quotes")
    return values


def read_config_files(paths: Iterable[str | Path]) -> tuple[dict[str, Any], list[str]]:
    """The options of several YAML files, later ones first in rank, and the problems found in them."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for path in paths:
        try:
            values.update(read_config_file(path))
        except ConfigError as error:
            problems += error.errors
    return values, problems


def _position(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1},"


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it nests too deeply"
    return str(getattr(error, "problem", None) or str(error) or type(error).__name__)


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"{shown(value, 40)} alone"
