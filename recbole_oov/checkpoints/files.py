"""Writing files so that a crash at any instant leaves either the old one or the new one, and never half of either."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PIECE = 1 << 24
"""Bytes handed to the operating system at a time."""


def write_temporary(target: Path, pieces: Iterable[bytes | memoryview]) -> tuple[Path, str, int]:
    """Write a file beside ``target`` and force it to the disk; on an error nothing of it is left.

    Args:
        target: What the file is going to be; only its folder and its name are used.
        pieces: The content, in order.

    Returns:
        The file's path, the SHA-256 of its content in hexadecimal, its size in bytes.

    Raises:
        OSError: No space, no permission, no such folder.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        try:
            for piece in pieces:
                size += _write(descriptor, piece, digest)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        remove_quietly(temporary)
        raise
    return temporary, digest.hexdigest(), size


def _write(descriptor: int, piece: bytes | memoryview, digest: hashlib._Hash) -> int:
    view = memoryview(piece).cast("B")
    at = 0
    while at < len(view):  # a disk that is nearly full takes a part before it refuses
        written = os.write(descriptor, view[at : at + _PIECE])
        digest.update(view[at : at + written])
        at += written
    return len(view)


def put_in_place(temporary: Path, target: Path) -> None:
    """Rename a finished temporary file to what it is to be; the temporary is gone either way.

    Raises:
        OSError: It could not be renamed.
    """
    try:
        os.replace(temporary, target)
    except BaseException:
        remove_quietly(temporary)
        raise


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, as ``fsync`` of a file does not.

    Raises:
        OSError: The disk does not take them.
    """
    if os.name == "nt":  # Windows knows no such thing
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_quietly(*paths: Path) -> None:
    """Remove files; one that cannot be removed only wastes space, so that it is left without an error."""
    for path in paths:
        with suppress(OSError):
            os.unlink(path)
