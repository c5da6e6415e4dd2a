"""Prompt templates: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_oov.errors import ConfigError
from recbole_oov.lm.backbone import add_oov_tokens, tiny_tokenizer
from recbole_oov.lm.prompts import load_prompts


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("name", "with_text"), [("sequential", False), ("sequential-text", True)])
def test_shipped_prompts(name: str, with_text: bool) -> None:
    prompts = load_prompts(name)
    assert prompts.item_text is with_text
    assert prompts.seen[0].before == ("user", "{user}", "has chosen")
    assert len(set(prompts.seen)) == len(prompts.seen)
    assert not set(prompts.seen) & set(prompts.unseen)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seen: ['user {user}']", "must hold {history} .* once"),
        ("seen: ['{history} {history}']", "must hold {history} .* once"),
        ("seen: ['{history} and then']", "put all words before {history}"),
        ("seen: ['{titel} {history}']", "found"),
        ("seen: ['a {history}', 'b {history:text}']", "all templates must show"),
        ("seen: []", "needs a list of templates"),
        ("seen: ['a {history}']\nsean: []", "unknown key 'sean'"),
        ("seen: [3]", "a template is a line of text, not 3"),
        ("seen: [", "is not YAML"),
    ],
)
def test_bad_templates_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "own.yaml", text)
    with pytest.raises(ConfigError, match=message) as error:
        load_prompts(file)
    assert "own.yaml" in str(error.value)


def test_missing_prompts_name_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="shipped ones are sequential, sequential-text"):
        load_prompts("no-such-prompts")


def test_oov_tokens_follow_the_words_and_stay_whole() -> None:
    tokenizer = tiny_tokenizer(["toy story", "golden eye"], vocab_size=100)
    words = len(tokenizer)
    assert add_oov_tokens(tokenizer, ["<CT0>", "<CT1>", "<1001>"]) == words
    assert tokenizer.encode("<CT1><1001>") == [words + 1, words + 2]
    with pytest.raises(ConfigError, match="already has the token '<CT1>'"):
        add_oov_tokens(tokenizer, ["<CT1>", "<CT2>"])
