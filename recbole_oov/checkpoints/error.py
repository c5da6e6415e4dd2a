"""What is wrong with a checkpoint."""

from __future__ import annotations

import pickle

from recbole_oov.errors import RecBoleOOVError


class CheckpointError(RecBoleOOVError, pickle.UnpicklingError):
    """A checkpoint cannot be read, not without running code out of it, or not be written. Says what to do.

    Also an ``UnpicklingError``, which is what ``torch.load`` raises.
    """
