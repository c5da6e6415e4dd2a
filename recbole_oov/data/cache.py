"""Tensors that are computed once and kept in the user's cache folder, under a hash of all that decided them.

A file is written beside its place and renamed into it, so that no reader ever sees half of one, and carries the
SHA-256 of its tensor, so that a damaged one is noticed and computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_TENSOR = "tensor"
_DIGEST = "sha256"


def cache_folder() -> Path:
    """The folder for what can be computed again: ``$RECBOLE_OOV_CACHE``, or ``recbole_oov`` in the user's cache."""
    own = os.environ.get("RECBOLE_OOV_CACHE")
    if own:
        return Path(own).expanduser()
    # The XDG base directory specification: a relative path is to be ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "recbole_oov"


def fingerprint(**inputs: object) -> str:
    """The SHA-256 of named inputs: arrays by their bytes, all else as JSON. Equal inputs have equal fingerprints."""

    def plain(value: object) -> object:
        if isinstance(value, np.ndarray) and value.dtype != object:
            array = np.ascontiguousarray(value)
            return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        raise TypeError(f"{type(value).__name__} has no fingerprint")

    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=plain).encode()).hexdigest()


def cached(kind: str, key: str, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor that an earlier run kept under ``key``, or else what ``compute`` returns, which is kept.

    Args:
        kind: A folder inside the cache.
        key: The :func:`fingerprint` of everything that decides the tensor.
        compute: Makes it.

    Returns:
        The tensor, on the CPU. A cache that cannot be read or written costs time and a warning, never the run.
    """
    path = cache_folder() / kind / f"{key}.safetensors"
    kept = _read(path)
    if kept is not None:
        getLogger(__name__).info("%s: taken from %s", kind, path)
        return kept
    tensor = compute().cpu().contiguous()
    content = save({_TENSOR: tensor}, {_DIGEST: _digest(tensor)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda part: part.write_bytes(content))
    except OSError as error:
        getLogger(__name__).warning(
            "%s: cannot be kept in %s (%s) and will be computed again; RECBOLE_OOV_CACHE names another folder",
            kind,
            path.parent,
            error.strerror or error,
        )
    return tensor


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file in the folder of ``path``, then rename it to ``path``: all of it or nothing.

    Raises:
        OSError: There is no folder, permission or space. What was at ``path`` before is untouched.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)  # mkstemp's files are their owner's alone
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _read(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            tensor: Tensor = file.get_tensor(_TENSOR)
            if (file.metadata() or {}).get(_DIGEST) == _digest(tensor):
                return tensor
        problem: object = "its checksum is wrong"
    except (SafetensorError, OSError, ValueError) as error:
        problem = error
    getLogger(__name__).warning("%s is damaged (%s) and is computed again", path, problem)
    return None


def _digest(tensor: Tensor) -> str:
    shape = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(shape + tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
