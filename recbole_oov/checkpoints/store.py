"""One checkpoint: a manifest in JSON, which is the path that users pass round, and the tensor file that it names.

The tensor file is written first, under a name out of its content; then the manifest replaces the previous one, in one
step of the file system. At each instant the manifest names a tensor file that is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import metadata
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from recbole_oov.checkpoints.error import CheckpointError
from recbole_oov.checkpoints.files import put_in_place, remove_quietly, sync_folder, write_temporary
from recbole_oov.checkpoints.tensors import read_tensors
from recbole_oov.checkpoints.values import Decoder, Encoder

SUFFIX = ".json"
FORMAT = "recbole_oov checkpoint"
VERSION = 1

_CHECKSUM = re.compile(rb'"sha256": "([0-9a-f]{64})"')
_BLANK = b'"sha256": "' + b"0" * 64 + b'"'
_TRIES = 5
_added: ContextVar[dict[str, Any]] = ContextVar("_added", default={})  # noqa: B039 (never changed in place)


@contextmanager
def adding(**entries: Any) -> Iterator[None]:
    """Within it, every checkpoint that is saved gets these entries beside those of its state.

    For what a caller knows and RecBole's trainers, which put the state together, do not.
    """
    token = _added.set({**_added.get(), **entries})
    try:
        yield
    finally:
        _added.reset(token)


def save(state: dict[str, Any], path: str | os.PathLike[str], *, whole: bool = False) -> None:
    """Write a checkpoint, whole or not at all: after any error, crash or loss of power the previous one is there.

    Args:
        state: What to save; what it may hold: :class:`~recbole_oov.checkpoints.values.Encoder`. Objects of other
            kinds are left out with a warning.
        path: The manifest, ``NAME.json``; the tensors go to ``NAME.<first digits of their SHA-256>.safetensors``.
        whole: Refuse to write a state of which something would be left out.

    Raises:
        CheckpointError: It cannot be written (no space, no permission), or holds what cannot be stored.
    """
    target = Path(os.path.realpath(path))
    encoder = Encoder()
    tree = encoder.encode({**state, **_added.get()})
    if encoder.left_out:
        what = f"{', '.join(encoder.left_out)}; keep plain values, arrays and tensors instead"
        if whole:
            raise CheckpointError(f"{target}: not written, because a checkpoint cannot hold {what}")
        getLogger(__name__).warning("%s is saved without %s", target, what)
    try:
        _write(target, encoder, tree)
    except OSError as error:
        raise CheckpointError(
            f"{target}: this checkpoint could not be written ({error.strerror or error}); make room there or choose "
            f"another checkpoint_dir. What was saved before is as it was"
        ) from error


def _write(target: Path, encoder: Encoder, tree: Any) -> None:
    files = []
    if encoder.table.tensors:
        temporary, sha256, size = write_temporary(target.with_suffix(".safetensors"), encoder.table.pieces())
        tensor_file = target.with_name(f"{target.stem}.{sha256[:16]}.safetensors")
        put_in_place(temporary, tensor_file)
        files.append({"name": tensor_file.name, "sha256": sha256, "bytes": size})
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": "0" * 64,
        "written_by": _versions(),
        "files": files,
        "state": tree,
    }
    text = json.dumps(manifest, indent=1, allow_nan=False).encode()
    text = text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode(), 1)
    temporary, *_ = write_temporary(target, [text])
    if files:
        try:
            sync_folder(target.parent)  # the tensor file's name before the manifest that names it
        except BaseException:
            remove_quietly(temporary)
            raise
    put_in_place(temporary, target)
    sync_folder(target.parent)
    kept = {file["name"] for file in files}
    remove_quietly(*(file for file in _files_of(target) if file.name not in kept))


def _files_of(target: Path) -> list[Path]:
    """Tensor files of a checkpoint, of all states, and what killed processes left half written."""
    stem = re.escape(target.stem)
    left = re.escape(target.name), re.escape(f"{target.stem}.safetensors")
    pattern = re.compile(rf"{stem}\.[0-9a-f]{{16}}\.safetensors|\.(?:{'|'.join(left)})\.\d+-[0-9a-f]{{8}}\.tmp")
    try:
        return [target.with_name(name) for name in os.listdir(target.parent) if pattern.fullmatch(name)]
    except OSError:
        return []


@cache
def _versions() -> dict[str, str]:
    from recbole_oov import __version__

    names = ("torch", "numpy", "recbole")
    found = {name: metadata.version(name) for name in names}
    return {"recbole_oov": __version__, "python": platform.python_version(), **found}


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A manifest, whose every byte has been checked; the tensor files have not been looked at.

    Raises:
        CheckpointError: There is none, or it is damaged or of another kind.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: this checkpoint cannot be read ({error.strerror}); give the .json file that a run saved"
        ) from error
    checksum = _CHECKSUM.search(text[:300])
    if checksum is None:
        raise CheckpointError(f"{path}: this is no checkpoint, or its first lines are damaged; use another one")
    blank = text[: checksum.start()] + _BLANK + text[checksum.end() :]
    if hashlib.sha256(blank).hexdigest().encode() != checksum[1]:
        raise CheckpointError(
            f"{path}: this checkpoint is damaged: the manifest is not what was written, its SHA-256 differs; use "
            f"another one"
        )
    manifest = json.loads(text)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: this is not a checkpoint of version {VERSION} of the format {FORMAT!r}; read it with the release "
            f"of recbole_oov that wrote it"
        )
    return manifest


def load(path: str | os.PathLike[str], map_location: Any = None) -> Any:
    """Read a checkpoint, after comparing every byte of its files with the SHA-256 that was written.

    Args:
        path: The manifest, ``NAME.json``.
        map_location: The device for all tensors, as ``torch.device`` or its name. None puts each where it was,
            and on the CPU where this machine has no such device.

    Raises:
        CheckpointError: A file is missing, damaged, or not a checkpoint; which one and what to do is said.
    """
    device = None if map_location is None else torch.device(map_location)
    for _ in range(_TRIES):
        manifest = read_manifest(path)
        try:
            tensors = _tensors(Path(os.path.realpath(path)), manifest)
        except FileNotFoundError as error:
            if read_manifest(path) != manifest:
                continue  # it was replaced between the two reads, and its tensor file with it
            raise CheckpointError(
                f"{error.filename}: this file is missing, which belongs to the checkpoint {path}; move both together, "
                f"or use another checkpoint"
            ) from error
        except OSError as error:
            raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from error
        try:
            return Decoder(tensors, device).decode(manifest["state"])
        except (CheckpointError, KeyError) as error:
            raise CheckpointError(f"{path}: this checkpoint cannot be read: {error}") from error
    raise CheckpointError(f"{path}: this checkpoint is being replaced all the time; wait until its run has ended")


def _tensors(path: Path, manifest: dict[str, Any]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in manifest["files"]:
        name = file["name"]
        if Path(name).name != name:
            raise CheckpointError(f"{path}: names the file {name!r}, which does not lie beside it")
        tensors |= read_tensors(path.with_name(name), file["sha256"], file["bytes"])
    return tensors


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a checkpoint: the manifest first, so that none is left without its tensors."""
    target = Path(os.path.realpath(path))
    remove_quietly(target)
    remove_quietly(*_files_of(target))
