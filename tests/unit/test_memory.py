"""Memory in use by a part of a training."""

from __future__ import annotations

import time

import numpy as np
import pytest

from recbole_oov.trainer.memory import MemoryWatch

MIB = 1 << 20


def test_what_a_block_has_in_use_at_most_is_seen_after_it_was_given_back() -> None:
    kept = np.ones(32 * MIB, dtype=np.uint8)  # in use before: does not count
    with MemoryWatch("cpu") as whole:
        with MemoryWatch("cpu") as first:
            block = np.ones(64 * MIB, dtype=np.uint8)
            time.sleep(0.1)
            del block
        with MemoryWatch("cpu") as second:
            time.sleep(0.05)
    assert 60 * MIB < first.peak < 90 * MIB
    assert second.peak < 30 * MIB
    assert whole.peak >= first.peak - MIB
    assert len(kept)


def test_an_error_inside_passes_and_ends_the_watch() -> None:
    watch = MemoryWatch("cpu")
    with pytest.raises(RuntimeError, match="inside"), watch:
        raise RuntimeError("inside")
    assert not watch._thread.is_alive()
