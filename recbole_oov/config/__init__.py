"""The configuration: RecBole's layers and the plugin's, read without ``eval`` and checked whole before data loads.

``OOVConfig`` is RecBole's ``Config`` with three differences: its strings are parsed as safe YAML, keys that nobody
reads are refused with a hint, and every problem is reported at once. See :mod:`recbole_oov.config.oov_config`.
"""

from __future__ import annotations

from recbole_oov.config.oov_config import OOVConfig, install
from recbole_oov.config.places import check_writable
from recbole_oov.config.reading import parse_command_line, parse_value

__all__ = ["OOVConfig", "check_writable", "install", "parse_command_line", "parse_value"]
