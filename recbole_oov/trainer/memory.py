"""How much memory a part of a training takes."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

_EVERY = 0.02
"""Seconds between two looks. What is held for a shorter time may be missed."""


class MemoryWatch:
    """A context that sees how much memory its block has in use at most, above what was in use when it began.

    On a CPU it is the process's resident memory, on a GPU what torch has allocated there. The marks of the operating
    system and of torch for the whole process are left alone, so that several of them can be nested.

    Args:
        device: Where the block computes.

    Attributes:
        peak: Bytes, after the block.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.peak = 0
        self._device = torch.device(device)
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._before = self._now()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, self._now() - self._before)

    def _now(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.memory_allocated(self._device))
        return int(self._process.memory_info().rss)
