"""Item content: one vector an item, made from its text or read from a file, the same for IV and OOV items.

The option ``content`` says how (``properties/overall.yaml``). Everything that is fitted (vocabulary, document
frequencies, singular vectors, means) is fitted on IV items, those with a training row, and then applied to all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_oov.config.content import TFIDF
from recbole_oov.data import content_sentences as sentences
from recbole_oov.data import content_text as words
from recbole_oov.data.cache import cached, fingerprint
from recbole_oov.data.content_file import read_vectors
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.data.text import item_texts
from recbole_oov.errors import ConfigError, DataError

_TFIDF_DIM = 128
_FORMAT = 1
"""Raise it when the same inputs come to give other vectors: what was cached before is then no longer found."""
_EXAMPLES = 5


@dataclass(frozen=True)
class ContentSettings:
    """What the option ``content`` says.

    Attributes:
        source: ``text`` or ``file``.
        fields: Item fields to make text of; None for all that hold words.
        encoder: ``tfidf``, ``minilm``, or a sentence-transformers id or folder.
        dim: Width; None for 128 with ``tfidf``, and for the encoder's or the file's own width otherwise.
        min_df: IV items that must have a word for ``tfidf`` to count it.
        path: The file, with ``source: file``.
        missing: What becomes of items without content: ``error``, ``mean`` or ``zero``.
        whiten: Whether all directions are made equally large.
    """

    source: str = "text"
    fields: tuple[str, ...] | None = None
    encoder: str = TFIDF
    dim: int | None = None
    min_df: int = 2
    path: str | None = None
    missing: str = "error"
    whiten: bool = False

    @classmethod
    def of(cls, config: Any) -> ContentSettings:
        """The settings in a configuration; the defaults where it has none."""
        given: Mapping[str, Any] = config["content"] or {}
        values = {key: value for key, value in given.items() if key != "from" and value is not None}
        if "fields" in values:
            values["fields"] = tuple(values["fields"])
        settings = cls(source=given.get("from", "text"), **values)
        if settings.source == "text" and settings.encoder == TFIDF and settings.dim is None:
            return cls(**{**vars(settings), "dim": _TFIDF_DIM})
        return settings


def item_content(config: Any, dataset: Any) -> Tensor:
    """The content of every item.

    Args:
        config: RecBole's or the plugin's configuration.
        dataset: The training part of a data set, as a model's constructor gets it.

    Returns:
        (n_items, dim) float32 on the CPU, by internal item id; the padding item's row is zero. Made from text, the
        other rows have length 1; out of a file they are as written, unless ``dim`` is smaller than the file's vectors,
        or ``whiten`` gives them length 1. Whitened, the mean of the items is zero, and what is unknown has it.

    Raises:
        ConfigError: No text field is there, or the encoder cannot be loaded.
        DataError: The file cannot be used, or items have no content and ``missing`` is ``error``.
    """
    settings = ContentSettings.of(config)
    iv = ~oov_mask(dataset)
    iv[0] = False
    if not iv.any():
        raise DataError(f"content: no item of {dataset.dataset_name} has a training row, so there is nothing to fit on")
    content = _from_file(settings, dataset, iv) if settings.source == "file" else _from_text(config, dataset, iv)
    if not torch.isfinite(content).all():
        raise DataError(f"content: {settings.encoder} made vectors that are not finite; choose another encoder")
    return content


def new_item_content(config: Any, dataset: Any, given: Sequence[str] | np.ndarray) -> Tensor:
    """The content of items that are in no data set, in the space of :func:`item_content`.

    What the encoder learned it learned from IV items; it is fitted again, to the same, and applied to these.

    Args:
        config: As of :func:`item_content`.
        dataset: The training part of the data set.
        given: With content from text the items' texts, (N,); from a file their vectors, as wide as the file's,
            (N, width).

    Returns:
        (N, dim) float32 on the CPU.

    Raises:
        ConfigError: The encoder cannot be loaded.
        DataError: The file cannot be used, or its vectors are of another width.
    """
    settings = ContentSettings.of(config)
    iv = ~oov_mask(dataset)
    iv[0] = False
    if settings.source == "file":
        return _from_file(settings, dataset, iv, np.asarray(given, dtype=np.float32))[dataset.item_num :]
    if settings.encoder != TFIDF and settings.dim is None and not settings.whiten and all(given):
        # Nothing was fitted: the others need not be encoded again.
        vectors = sentences.sentence_vectors(
            list(given),
            np.zeros(len(given), dtype=bool),
            encoder=settings.encoder,
            device=str(config["device"]),
            show_progress=False,
        )
        return torch.from_numpy(vectors)
    texts = item_texts(dataset, text_fields_of(config, dataset), single_tokens=True, option="content fields")
    of_all = np.concatenate([iv, np.zeros(len(given), dtype=bool)])
    return _encode(config, settings, [*texts, *given], of_all)[dataset.item_num :]


def text_fields_of(config: Any, dataset: Any) -> list[str]:
    """The item fields whose text is the content."""
    settings = ContentSettings.of(config)
    return list(settings.fields) if settings.fields is not None else words.default_fields(dataset)


def _from_text(config: Any, dataset: Any, iv: np.ndarray) -> Tensor:
    settings = ContentSettings.of(config)
    fields = text_fields_of(config, dataset)
    if not fields:
        raise ConfigError(
            f"content: {dataset.dataset_name} has no item field that holds words (of type token_seq or token, in the "
            f".item file and in load_col); add one, name it in content fields, or give vectors with "
            f"content: {{from: file, path: …}}"
        )
    texts = item_texts(dataset, fields, single_tokens=True, option="content fields")
    lacking = [item for item in range(1, len(texts)) if not texts[item].strip()]
    _check_missing(lacking, settings, dataset, f"no text in {', '.join(fields)}", "add their text")
    logger = getLogger(__name__)
    logger.info(
        "content: %d items (%d IV, %d OOV), %s of %s",
        len(texts) - 1,
        iv.sum(),
        len(texts) - 1 - iv.sum(),
        settings.encoder,
        ", ".join(fields),
    )
    key = fingerprint(
        format=_FORMAT,
        settings={name: value for name, value in vars(settings).items() if name not in ("fields", "whiten")},
        **({"whiten": True} if settings.whiten else {}),  # what was kept before there was such an option is still found
        items=[str(token) for token in dataset.field2id_token[dataset.iid_field]],
        texts=texts,
        iv=iv,
        versions=sentences.encoder_version(settings.encoder),
    )
    return cached("content", key, lambda: _encode(config, settings, texts, iv))


def _encode(config: Any, settings: ContentSettings, texts: Sequence[str], iv: np.ndarray) -> Tensor:
    if settings.encoder == TFIDF:
        assert settings.dim is not None
        vectors = words.tfidf_vectors(texts, iv, dim=settings.dim, min_df=settings.min_df)
    else:
        vectors = sentences.sentence_vectors(
            texts,
            iv,
            encoder=settings.encoder,
            device=str(config["device"]),
            show_progress=bool(config["show_progress"]),
        )
        if settings.dim is not None and not settings.whiten:
            with_text = iv & np.array([bool(text) for text in texts])
            vectors = words.normalised(words.reduced(vectors, with_text, texts, settings.dim))
    if settings.whiten:
        there = np.asarray(vectors.any(axis=1))
        vectors = words.whitened(vectors, iv & there, texts, settings.dim) * there[:, None]
    known = np.asarray(vectors.any(axis=1))
    unknown = ~known & np.array([bool(text.strip()) for text in texts])
    if unknown.any():
        # There is text, but in words that no training item has: nothing is wrong with the data.
        getLogger(__name__).warning(
            "content: %d items (%d OOV) have no word in common with the vocabulary of IV items and get the %s",
            unknown.sum(),
            (unknown & ~iv).sum(),
            "zero vector" if settings.missing == "zero" else "mean of the IV items",
        )
    if settings.missing != "zero" and not settings.whiten:  # whitened, the mean is zero
        _fill_with_mean(vectors, known, iv, length_one=True)
    return _as_tensor(vectors)


def _from_file(settings: ContentSettings, dataset: Any, iv: np.ndarray, new: np.ndarray | None = None) -> Tensor:
    """The content of all items, followed by that of new ones whose vectors are given. (n_items + N, dim)"""
    path = Path(settings.path or "")
    ids, read = read_vectors(path, dataset.iid_field)
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    row_of = {item: row for row, item in enumerate(ids)}
    rows = np.array([row_of.get(token, -1) for token in tokens])
    rows[0] = -1
    known = rows >= 0
    lacking = [item for item in range(1, len(tokens)) if not known[item]]
    _check_missing(lacking, settings, dataset, f"no vector in {path}", "add their vectors")
    if not (known & iv).any():
        raise DataError(f"{path}: has a vector for none of the {int(iv.sum())} IV items of {dataset.dataset_name}")
    vectors = np.zeros((len(tokens), read.shape[1]), dtype=np.float32)
    vectors[known] = read[rows[known]]
    zero = int((known & ~vectors.any(axis=1)).sum())
    logger = getLogger(__name__)
    logger.info("content: %d items, %d numbers each, from %s", known.sum(), read.shape[1], path)
    if len(ids) > known.sum():
        logger.info("content: %d items of the file are not in %s", len(ids) - known.sum(), dataset.dataset_name)
    if zero:
        logger.warning("content: the vectors of %d items are zero, so that nothing is similar to them", zero)
    if new is not None:
        if new.ndim != 2 or new.shape[1] != vectors.shape[1]:
            raise DataError(
                f"new items: vectors of shape {new.shape}; {path} has vectors of {vectors.shape[1]} numbers, and new "
                f"ones must be as wide"
            )
        vectors = np.concatenate([vectors, new])
        known, iv = (np.concatenate([mask, np.full(len(new), value)]) for mask, value in ((known, True), (iv, False)))
        tokens = [*tokens, *map(str, range(len(new)))]
    if settings.whiten:
        there = known & vectors.any(axis=1)
        vectors = words.whitened(vectors, iv & there, tokens, settings.dim) * there[:, None]
    elif settings.dim is not None:
        vectors = words.reduced(vectors, iv & known, tokens, settings.dim)
    if settings.missing == "mean" and not settings.whiten:
        _fill_with_mean(vectors, known, iv, length_one=False)
    return _as_tensor(vectors)


def _check_missing(lacking: list[int], settings: ContentSettings, dataset: Any, what: str, remedy: str) -> None:
    if not lacking:
        return
    tokens = dataset.field2id_token[dataset.iid_field]
    examples = ", ".join(str(tokens[item]) for item in lacking[:_EXAMPLES]) + (", …" * (len(lacking) > _EXAMPLES))
    counted = f"{len(lacking)} of {dataset.item_num - 1} items of {dataset.dataset_name} have {what}"
    if settings.missing == "error":
        raise DataError(
            f"content: {counted} ({dataset.iid_field} {examples}); {remedy}, or set missing inside content: mean, for "
            f"the mean of all IV items, or zero"
        )
    getLogger(__name__).warning("content: %s (%s); missing: %s", counted, examples, settings.missing)


def _fill_with_mean(vectors: np.ndarray, known: np.ndarray, iv: np.ndarray, *, length_one: bool) -> None:
    """Give items without content the mean of IV items, in place."""
    mean = vectors[known & iv].astype(np.float64).mean(axis=0)
    vectors[~known] = words.normalised(mean[None])[0] if length_one else mean


def _as_tensor(vectors: np.ndarray) -> Tensor:
    content = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    content[0] = 0
    return content
