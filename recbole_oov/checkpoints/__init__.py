"""Checkpoints as a JSON manifest and safetensors files: whole or not at all, checked when read, never code.

:mod:`store` is the format, :mod:`values` turns Python values into JSON and tensors, :mod:`files` writes to the disk,
and :mod:`legacy` reads what stock RecBole pickled. ``docs/checkpoints.md`` describes the format and its guarantees.
"""

from __future__ import annotations

from recbole_oov.checkpoints.error import CheckpointError
from recbole_oov.checkpoints.store import load, remove, save

__all__ = ["CheckpointError", "load", "remove", "save"]
