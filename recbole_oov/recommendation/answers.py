"""What a model says of the items that it recommends: the rating it expects, an explanation, a review."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_oov.data.answers import Answers
from recbole_oov.errors import ConfigError

_AT_ONCE = 128
"""Pairs that are asked about together."""


def check_can_answer(model: Any, asked: object, users: object, new_items: object) -> None:
    """Whether a model has learned the tasks that are asked for, and can do them for these users and items.

    Raises:
        ConfigError: It cannot; says what it can.
    """
    if isinstance(asked, str) or not isinstance(asked, Sequence):
        raise ConfigError(f"answers: {asked!r} is not allowed; give a list of tasks, as in ['rating']")
    known = getattr(model, "tasks", {})
    for name in asked:
        if name not in known:
            can = f"it has learned {', '.join(known)}" if known else "OOVLLMRec can, trained with tasks: [rating]"
            raise ConfigError(f"answers: {type(model).__name__} has not learned the task {name!r}; {can}")
        if known[name].question.columns:
            raise ConfigError(
                f"answers: the prompts of {name} read the column {known[name].question.columns[0]!r} of interactions, "
                f"which nobody knows before there is one; leave it out of the first template, and train again"
            )
    if users is None or new_items is not None:
        raise ConfigError("answers: tasks ask about users and items of the data set; give user or users alone")


def answers(model: Any, names: Sequence[str], users: np.ndarray, items: np.ndarray) -> list[dict[str, float | str]]:
    """What a model says of pairs of users and items.

    Args:
        model: With ``tasks``, as of OOVLLMRec.
        names: Of tasks.
        users: Internal ids. (N,)
        items: Internal ids. (N,)

    Returns:
        For each pair by task a number or a text.
    """
    from recbole_oov.lm.tasks import NumberTask  # its libraries take as long to import as all of the plugin

    pairs, said = Answers(users, items, {}), {}
    for name in names:
        task = model.tasks[name]
        number = isinstance(task, NumberTask)
        answer = task.predict if number else task.write
        parts = (np.arange(at, min(at + _AT_ONCE, len(users))) for at in range(0, len(users), _AT_ONCE))
        found = [one for part in parts for one in answer(model, pairs.rows(part), model.device)]
        said[name] = [float(value) for value in found] if number else found
    return [{name: said[name][at] for name in names} for at in range(len(users))]
