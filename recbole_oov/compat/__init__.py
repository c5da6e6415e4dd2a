"""What RecBole 1.2.1 gets wrong on today's libraries, one small named fix each.

RecBole's files are never edited and no other library's functions are replaced: a fix changes names inside
one of RecBole's own modules, right after RecBole imports it, so that nothing is imported before it is needed
and everybody else's ``torch``, ``yaml`` and ``ray`` stay as they are. (Two libraries are given names that
they lack, never a new meaning for one they have: scipy's ``dok_matrix._update``, and the numpy aliases that
RecBole itself sets on every run.)

:func:`apply` installs all fixes; ``import recbole_oov`` calls it. :func:`fixes` lists them, and
``docs/compat.md`` tells the story of each.
"""

from __future__ import annotations

from collections.abc import Collection

from recbole_oov.compat import checkpoints, faults, libraries
from recbole_oov.compat.checkpoints import CheckpointError, allow_in_checkpoints, load_checkpoint, save_checkpoint
from recbole_oov.compat.mending import Fix, fixes, install

__all__ = [
    "CheckpointError",
    "Fix",
    "allow_in_checkpoints",
    "apply",
    "checkpoints",
    "faults",
    "fixes",
    "libraries",
    "load_checkpoint",
    "save_checkpoint",
]

libraries.require_recbole()  # now, before the package's next import fails with less to say


def apply(*, skip: Collection[str] = ()) -> None:
    """Mend RecBole in this process. Safe to call again: what is mended already stays as it is.

    Args:
        skip: Names of fixes to leave out, where they have not been applied yet.

    Raises:
        ImportError: pandas is 3.0 or newer, on which RecBole's data loading is silently wrong.
        ValueError: ``skip`` names a fix that does not exist.
    """
    libraries.refuse_pandas_3()
    install(skip=skip)
