"""Prompts: words and OOV tokens interleaved, written as YAML templates; the last slot is what is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from recbole_oov.errors import ConfigError
from recbole_oov.registry import properties_folder

_SLOT = re.compile(r"\{(\w+(?::text)?)\}")
HISTORY, ITEM = "history", "item"
"""What a template may ask for besides a column of the interactions: every next item of a history; one item."""


@dataclass(frozen=True)
class Template:
    """One way to ask for something, in words and OOV tokens.

    Attributes:
        before: Pieces before what is asked for, in order: words; ``{user}`` and ``{item}`` for their two tokens;
            ``{item:text}`` for an item's text; ``{column}`` for what an interaction says in that column.
        item_text: Whether an item's text follows its two tokens in a history.
        answer: What is asked for: ``history``, ``item``, or a column.
    """

    before: tuple[str, ...]
    item_text: bool
    answer: str = HISTORY

    @property
    def words(self) -> list[str]:
        """The pieces that are words."""
        return [piece for piece in self.before if not _SLOT.fullmatch(piece)]

    @property
    def columns(self) -> list[str]:
        """The columns that are read, without the one that is asked for."""
        slots = (piece[1:-1] for piece in self.before if _SLOT.fullmatch(piece))
        return [slot for slot in slots if slot not in ("user", "item", "item:text")]

    def without_user(self) -> Template:
        """The same pieces, and nothing of who the user is."""
        return Template(tuple(piece for piece in self.before if piece != "{user}"), self.item_text, self.answer)


@dataclass(frozen=True)
class Prompts:
    """The templates of one file: ``seen`` ones are drawn from in training, ``seen[0]`` is used in evaluation.

    All of them ask for the same.
    """

    seen: tuple[Template, ...]
    unseen: tuple[Template, ...]

    @property
    def all(self) -> tuple[Template, ...]:
        """Seen and unseen ones."""
        return self.seen + self.unseen

    @property
    def answer(self) -> str:
        """What is asked for; see :class:`Template`."""
        return self.seen[0].answer

    @property
    def item_text(self) -> bool:
        """Whether items of a history are followed by their text; the same for all templates of a file."""
        return self.seen[0].item_text

    @property
    def asks_item_text(self) -> bool:
        """Whether a template shows the text of the item that it asks about."""
        return any("{item:text}" in template.before for template in self.all)

    @property
    def words(self) -> list[str]:
        """All words of all templates: what the tokenizer must know."""
        return [words for template in self.all for words in template.words]

    @property
    def columns(self) -> list[str]:
        """Columns of the interactions that the templates read or ask for, each once."""
        asked = [] if self.answer in (HISTORY, ITEM) else [self.answer]
        return list(dict.fromkeys([*asked, *(column for template in self.all for column in template.columns)]))

    def without_users(self) -> Prompts:
        """The same templates without the user's tokens.

        Raises:
            ConfigError: A template has no words, so that nothing would be left before the history.
        """
        if not all(template.words for template in self.all):
            raise ConfigError(
                "user_tokens: False leaves nothing before the history of a template that has {user} and no words; add "
                "words to it, or give user_tokens: True"
            )
        seen, unseen = ([template.without_user() for template in group] for group in (self.seen, self.unseen))
        return Prompts(tuple(seen), tuple(unseen))


def load_prompts(name: str, option: str = "prompts") -> Prompts:
    """Read ``properties/prompts/<name>.yaml``, or the file at the path ``name``.

    Args:
        name: A shipped file's name, or a path that ends in .yaml or .yml.
        option: Which option names it, for messages.

    Raises:
        ConfigError: The file is missing, is not YAML, or a template cannot be used; says which and why.
    """
    shipped = properties_folder() / "prompts"
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
        raise ConfigError(
            f"{option}: no template file {path}; shipped ones are {known}, or give a path to a .yaml file"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not content.get("seen"):
        raise ConfigError(f"{option}: {path} needs a list of templates under the key 'seen'")
    unknown = set(content) - {"seen", "unseen"}
    if unknown:
        raise ConfigError(f"{option}: {path} has the unknown key {sorted(unknown)[0]!r}; known are seen, unseen")
    where = f"{option}: {path}"
    prompts = Prompts(*(tuple(_template(line, where) for line in content.get(key) or ()) for key in ("seen", "unseen")))
    if len({template.item_text for template in prompts.all}) > 1:
        raise ConfigError(f"{option}: in {path} all templates must show an item's {{text}}, or none")
    answers = sorted({template.answer for template in prompts.all})
    if len(answers) > 1:
        raise ConfigError(
            f"{option}: in {path} all templates must ask for the same, what their last slot names; found "
            f"{{{'}, {'.join(answers)}}}"
        )
    return prompts


def _template(line: object, where: str) -> Template:
    """``"user {user} chose {history}"`` → pieces before the history; ``{history:text}`` interleaves item text."""
    if not isinstance(line, str):
        raise ConfigError(f"{where}: a template is a line of text, not {line!r}")
    slots = _SLOT.findall(line)
    if not slots:
        raise ConfigError(
            f"{where}: {line!r} asks for nothing; end it with {{history}} (or {{history:text}}), {{item}}, or a column "
            f"of the interactions"
        )
    before, _, after = line.rpartition(f"{{{slots[-1]}}}")
    answer = slots[-1].removesuffix(":text") if slots[-1] == "history:text" else slots[-1]
    if after.strip():
        raise ConfigError(
            f"{where}: {line!r} has {after.strip()!r} after its last slot, which is what is asked for: each position "
            f"of a history, an item, a column; put all words before {{{slots[-1]}}}"
        )
    problem = _slots_problem(answer, slots[:-1])
    if problem:
        raise ConfigError(f"{where}: {line!r} {problem}; found {slots}")
    pieces = (piece.strip() for piece in re.split(r"(\{\w+(?::text)?\})", before))
    return Template(tuple(piece for piece in pieces if piece), slots[-1] == "history:text", answer)


def _slots_problem(answer: str, read: list[str]) -> str | None:
    """What is wrong with the slots of a template; None for nothing."""
    if len(set(read)) < len(read) or answer in read or any(slot.startswith("history") for slot in read):
        return "must hold {history} (or {history:text}) at its end alone, and no slot twice"
    if any(slot.endswith(":text") and slot != "item:text" for slot in (*read, answer)) or answer == "item:text":
        return "may add :text to {history} at its end and to {item} before it"
    if answer == HISTORY and set(read) - {"user"}:
        return "may hold {user} once before {history} and nothing else"
    if answer == ITEM and read != ["user"]:
        return "must hold {user} once before {item}, and nothing else: the items of all others are asked for without"
    if answer == "user":
        return "must end with {history}, {item} or a column; a user is not asked for"
    if answer not in (HISTORY, ITEM) and not {"user", "item"} <= set(read):
        return f"must say by {{user}} and {{item}} whose {{{answer}}} it asks for"
    return None
