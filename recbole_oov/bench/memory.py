"""The most memory that a block of code had in use, above what was in use before it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_MMAP_THRESHOLD, _LARGEST_THRESHOLD = -3, 32 << 20  # of glibc's mallopt; where it ends by itself in a long run
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass
class Peak:
    """What was found out; None where the system cannot tell."""

    bytes: int | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the block: device memory on a GPU, else the resident memory of this process, which Linux keeps.

    The kernel's high-water mark is reset before and read after, so that nothing runs beside the block.
    """
    peak = Peak()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        torch.cuda.synchronize()
        peak.bytes = torch.cuda.max_memory_allocated() - before
        return
    _give_back()
    try:
        _CLEAR.write_text("5", encoding="ascii")
        resident = _kib("VmRSS")
    except OSError:
        yield peak
        return
    yield peak
    peak.bytes = max(0, _kib("VmHWM") - resident) * 1024


@contextmanager
def blocks_apart() -> Iterator[None]:
    """Let the C library fetch each large block from the system and give it back, so that a peak counts what is in use.

    Else it keeps large blocks, the more of them the longer a process has run, and both sides of a comparison fill what
    others have left. It is slower, alike for both.
    """
    _set_threshold(256 << 10)
    try:
        yield
    finally:
        _set_threshold(_LARGEST_THRESHOLD)


def _set_threshold(size: int) -> None:
    try:
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, size)
    except (OSError, AttributeError):
        return  # another C library


def _kib(name: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {name}")


def _give_back() -> None:
    """Let the C library return what is free, which would otherwise be filled without a trace."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: what it kept is not counted
