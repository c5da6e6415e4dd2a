"""recbole_oov: out-of-vocabulary items, users and language-model recommenders for RecBole.

Importing the package is enough to make its models known to RecBole's own functions.
"""

from __future__ import annotations

from recbole_oov import compat, config, registry
from recbole_oov.registry import register

__version__ = "0.1.0"
__all__ = ["Recommender", "__version__", "load", "recommend", "register", "run"]

compat.apply()
registry.install()
config.install()
compat.allow_in_checkpoints(config.OOVConfig)

from recbole_oov.data import oov_hook  # noqa: E402  (RecBole must be mended before its data sets are imported)

oov_hook.install()

from recbole_oov.recommendation import Recommender, recommend  # noqa: E402
from recbole_oov.runner import load, run  # noqa: E402
