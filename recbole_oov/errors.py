"""What a user did that cannot work, said in a way that tells them what to do instead."""

from __future__ import annotations

from collections.abc import Sequence


class RecBoleOOVError(Exception):
    """Base of every error that the plugin raises on purpose; the command line prints it without a traceback."""


class ConfigError(RecBoleOOVError):
    """The configuration cannot work. Carries *all* the problems found, one line each.

    Args:
        errors: The problems, each naming the key, the value and the remedy.
    """

    def __init__(self, errors: Sequence[str] | str) -> None:
        self.errors = [errors] if isinstance(errors, str) else list(errors)
        if len(self.errors) == 1:
            message = self.errors[0]
        else:
            message = f"{len(self.errors)} problems in the configuration:\n" + "\n".join(
                f"  - {error}" for error in self.errors
            )
        super().__init__(message)


class DataError(RecBoleOOVError):
    """A data file cannot be used. Names the file, the line or column, the value and the remedy."""
