"""Prompt templates: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

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
        ("seen: ['user']", "asks for nothing; end it with {history}"),
        ("seen: ['user {user}']", "a user is not asked for"),
        ("seen: ['{history} {history}']", "must hold {history} .* at its end alone"),
        ("seen: ['{history} and then']", "put all words before {history}"),
        ("seen: ['{titel} {history}']", "may hold {user} once before {history} and nothing else; found"),
        ("seen: ['{user} {history:text} {rating}']", "must hold {history} .* at its end alone"),
        ("seen: ['{user} {user} {item} {rating}']", "no slot twice"),
        ("seen: ['{user} {rating:text} {item}']", "may add :text to {history} at its end and to {item} before it"),
        ("seen: ['{user} {item:text}']", "may add :text to"),
        ("seen: ['something {item}']", "must hold {user} once before {item}"),
        ("seen: ['{user} {rating} {item}']", "must hold {user} once before {item}, and nothing else"),
        ("seen: ['{user} {rating}']", "must say by {user} and {item} whose {rating} it asks for"),
        (
            "seen: ['{user} {item} {rating}', '{user} {history}']",
            "all templates must ask for the same.* {history}, {rating}",
        ),
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


@pytest.mark.parametrize(
    ("name", "answer", "slots"),
    [
        ("direct", "item", {"{user}"}),
        ("rating", "rating", {"{user}", "{item}"}),
        ("explanation", "explanation", {"{user}", "{item}"}),
        ("review", "review", {"{user}", "{item}"}),
    ],
)
def test_shipped_prompts_of_tasks(name: str, answer: str, slots: set[str]) -> None:
    prompts = load_prompts(name)
    assert prompts.answer == answer and len(prompts.seen) >= 6 and prompts.unseen
    assert prompts.columns == ([] if answer == "item" else [answer])
    for template in prompts.all:
        assert set(template.before) - set(template.words) == slots
    assert not set(prompts.seen) & set(prompts.unseen)


def test_columns_and_texts_may_be_read(tmp_path: Path) -> None:
    prompts = load_prompts(
        write(tmp_path / "own.yaml", "seen: ['{user} rates {item:text} ( {item} ) {stars} as {words}']")
    )
    assert prompts.seen[0].before == ("{user}", "rates", "{item:text}", "(", "{item}", ")", "{stars}", "as")
    assert prompts.seen[0].words == ["rates", "(", ")", "as"] and prompts.seen[0].columns == ["stars"]
    assert prompts.columns == ["words", "stars"] and prompts.asks_item_text and not prompts.item_text


def test_text_that_is_written_is_put_together_again(tmp_path: Path) -> None:
    text = "it's 3.5 stars, no more"
    tokenizer = tiny_tokenizer([text, "so many stories"], vocab_size=60, writes=True)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    again = tiny_tokenizer([text, "so many stories"], vocab_size=60, writes=True)
    assert again.get_vocab() == tokenizer.get_vocab()  # checkpoints hold no words, which are made anew


def test_missing_prompts_name_the_shipped_ones() -> None:
    with pytest.raises(
        ConfigError, match="shipped ones are direct, explanation, rating, review, sequential, sequential-text"
    ):
        load_prompts("no-such-prompts")


def test_oov_tokens_follow_the_words_and_stay_whole() -> None:
    tokenizer = tiny_tokenizer(["toy story", "golden eye"], vocab_size=100)
    words = len(tokenizer)
    assert add_oov_tokens(tokenizer, ["<CT0>", "<CT1>", "<1001>"]) == words
    assert tokenizer.encode("<CT1><1001>") == [words + 1, words + 2]
    known = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<CT1>": 0, "a": 1}, unk_token="a")))
    with pytest.raises(ConfigError, match="already has the token '<CT1>'"):
        add_oov_tokens(known, ["<CT0>", "<CT1>"])  # among its ordinary words
    with pytest.raises(ConfigError, match="already has the token '<CT1>'"):
        add_oov_tokens(tokenizer, ["<CT1>", "<CT2>"])
