"""Seconds: on the wall, and of the processor's work for this process and the ones that it started."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Seconds:
    """Between two points.

    Attributes:
        wall: As a clock on the wall shows them.
        processor: Of all threads, and of processes that were started and have ended.
    """

    wall: float
    processor: float


class Stopwatch:
    """Measures from its construction on."""

    def __init__(self) -> None:
        self._start = _now()

    def read(self) -> Seconds:
        """The time since, once a GPU has finished what it was given."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = _now()
        return Seconds(now.wall - self._start.wall, now.processor - self._start.processor)


def _now() -> Seconds:
    times = os.times()
    return Seconds(time.perf_counter(), time.process_time() + times.children_user + times.children_system)
