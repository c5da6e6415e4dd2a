"""What RecBole itself refuses, said as the plugin says such things: one line, without a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from recbole_oov.config.keys import recbole_folder
from recbole_oov.errors import ConfigError

_NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")


@contextmanager
def recbole_refusals(what: str) -> Iterator[None]:
    """Within it, an error that RecBole raises on purpose is a ConfigError; all others are left as they are.

    Args:
        what: What RecBole is doing, for the message: ``the data set``, ``the model``.

    Raises:
        ConfigError: RecBole raised a ValueError or a NotImplementedError in code of its own, or memory is short.
    """
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        if not Path(place).is_relative_to(recbole_folder()):
            raise
        raise ConfigError(f"RecBole cannot make {what}: {str(error) or type(error).__name__}") from error
    except (MemoryError, RuntimeError) as error:
        out = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or any(w in str(error) for w in _NO_MEMORY)
        if not out:
            raise
        raise ConfigError(
            f"there is not enough memory for {what} ({error}); lower its sizes, such as embedding_size"
        ) from error
