"""Prompts: words and OOV tokens interleaved, written as YAML templates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from recbole_oov.errors import ConfigError
from recbole_oov.registry import properties_folder

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """One way to put a user's history into words.

    Attributes:
        before: Pieces before the history, in order: words, or ``{user}`` for the user's two tokens.
        item_text: Whether an item's text follows its two tokens.
    """

    before: tuple[str, ...]
    item_text: bool

    @property
    def words(self) -> list[str]:
        """The pieces that are words."""
        return [piece for piece in self.before if piece != "{user}"]

    def without_user(self) -> Template:
        """The same words, and nothing of who the user is."""
        return Template(tuple(self.words), self.item_text)


@dataclass(frozen=True)
class Prompts:
    """The templates of one file: ``seen`` ones are drawn from in training, ``seen[0]`` is used in evaluation."""

    seen: tuple[Template, ...]
    unseen: tuple[Template, ...]

    @property
    def item_text(self) -> bool:
        """Whether items are followed by their text; the same for all templates of a file."""
        return self.seen[0].item_text

    @property
    def words(self) -> list[str]:
        """All words of all templates: what the tokenizer must know."""
        return [words for template in (*self.seen, *self.unseen) for words in template.words]

    def without_users(self) -> Prompts:
        """The same templates without the user's tokens.

        Raises:
            ConfigError: A template has no words, so that nothing would be left before the history.
        """
        if not all(template.words for template in (*self.seen, *self.unseen)):
            raise ConfigError(
                "user_tokens: False leaves nothing before the history of a template that has {user} and no words; add "
                "words to it, or give user_tokens: True"
            )
        seen, unseen = ([template.without_user() for template in group] for group in (self.seen, self.unseen))
        return Prompts(tuple(seen), tuple(unseen))


def load_prompts(name: str) -> Prompts:
    """Read ``properties/prompts/<name>.yaml``, or the file at the path ``name``.

    Raises:
        ConfigError: The file is missing, is not YAML, or a template cannot be used; says which and why.
    """
    shipped = properties_folder() / "prompts"
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
        raise ConfigError(f"prompts: no template file {path}; shipped ones are {known}, or give a path to a .yaml file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompts: {path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not content.get("seen"):
        raise ConfigError(f"prompts: {path} needs a list of templates under the key 'seen'")
    unknown = set(content) - {"seen", "unseen"}
    if unknown:
        raise ConfigError(f"prompts: {path} has the unknown key {sorted(unknown)[0]!r}; known are seen, unseen")
    parse = [tuple(_template(line, path) for line in content.get(key) or ()) for key in ("seen", "unseen")]
    prompts = Prompts(*parse)
    if len({template.item_text for template in (*prompts.seen, *prompts.unseen)}) > 1:
        raise ConfigError(f"prompts: in {path} all templates must show an item's {{text}}, or none")
    return prompts


def _template(line: object, path: Path) -> Template:
    """``"user {user} chose {history}"`` → pieces before the history; ``{history:text}`` interleaves item text."""
    if not isinstance(line, str):
        raise ConfigError(f"prompts: {path}: a template is a line of text, not {line!r}")
    text = line.replace("{history:text}", "{history}")
    slots = _SLOT.findall(text)
    if slots.count("history") != 1 or slots.count("user") > 1 or set(slots) - {"history", "user"}:
        raise ConfigError(
            f"prompts: {path}: {line!r} must hold {{history}} (or {{history:text}}) once and may hold {{user}} once; "
            f"found {slots}"
        )
    before, _, after = text.partition("{history}")
    if after.strip():
        raise ConfigError(
            f"prompts: {path}: {line!r} has {after.strip()!r} after the history, but the model reads each position of "
            f"the history as the question for the next item; put all words before {{history}}"
        )
    pieces = tuple(piece.strip() for piece in re.split(r"(\{user\})", before) if piece.strip())
    return Template(pieces, item_text="{history:text}" in line)
