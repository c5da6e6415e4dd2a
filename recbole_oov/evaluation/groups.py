"""The groups of items and users that metrics are computed for, and what one group was measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from recbole.evaluator.collector import DataStruct

OVERALL, IV, OOV, ALL_USERS = "overall", "iv", "oov", "overall_all_users"
GROUPS = (OVERALL, IV, OOV, ALL_USERS)
"""``overall`` ranks all items for the users who have a positive in both groups, as the published protocol does;
``overall_all_users`` for everyone; ``iv`` and ``oov`` rank the group's items for those with a positive in it."""


def prefixed(group: str, metric: str) -> str:
    """How a result calls a metric of a group: RecBole's name overall, ``oov_recall@10`` and so on otherwise."""
    return metric if group == OVERALL else f"{group}_{metric}"


def group_of(name: str) -> str:
    """The group that a metric's name in a result belongs to."""
    return next((group for group in (ALL_USERS, IV, OOV) if name.startswith(f"{group}_")), OVERALL)


@dataclass
class GroupCases:
    """What one group was measured on: one entry a case, that is a user, or a target of a sequential model.

    Attributes:
        struct: What RecBole's metrics read.
        users: Internal user ids. (C,)
        n_items: Items that were ranked.
        n_targets: Held-out interactions that were to be found.
        among: Which cases of the group of all users these are, where they are a part of it. (C',) bool
    """

    struct: DataStruct
    users: np.ndarray
    n_items: int
    n_targets: int
    among: np.ndarray | None = None

    @property
    def n_users(self) -> int:
        """Different users."""
        return len(np.unique(self.users))
