"""How good answers are: numbers by their errors, texts by what they share with the true ones; and what says as much."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from recbole_oov.data.answers import Answers

TaskResults = dict[str, dict[str, dict[str, float]]]
"""By task, by who answers, metrics by name."""

DAMPING = 10.0
"""How many ratings at the mean a user, and an item, is given besides their own (Koren 2010, eq. 3 and 4: 10 and 25)."""
_NEEDED = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}


def missing_text_metrics() -> list[str]:
    """Packages that the metrics of texts need and that are not installed."""
    return [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]


def number_metrics(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """``rmse`` and ``mae`` of predictions. (N,), (N,)"""
    return {
        "rmse": float(root_mean_squared_error(true, predicted)),
        "mae": float(mean_absolute_error(true, predicted)),
    }


def text_metrics(texts: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """``bleu`` (BLEU-4 of all texts, 0 to 100, case ignored), ``rouge1``, ``rouge2``, ``rougeL`` (mean F1, 0 to 1)."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=False)
    scores = [scorer.score(one, other) for one, other in zip(true, texts, strict=True)]
    bleu = sacrebleu.corpus_bleu(list(texts), [list(true)], lowercase=True).score
    return {"bleu": float(bleu), **{kind: float(np.mean([score[kind].fmeasure for score in scores])) for kind in kinds}}


def number_controls(known: Answers, asked: Answers, column: str) -> dict[str, np.ndarray]:
    """Predictions that need no model: the mean of training, and the mean with what users and items differ from it.

    Args:
        known: Training interactions.
        asked: Others.
        column: What is predicted.

    Returns:
        By name, (N,) each.
    """
    numbers = np.asarray(known.columns[column])
    mean = float(numbers.mean())
    of_items = _offsets(known.items, numbers - mean, asked.items)
    rest = numbers - mean - _offsets(known.items, numbers - mean, known.items)
    of_users = _offsets(known.users, rest, asked.users)
    return {"training mean": np.full(len(asked), mean), "user and item means": mean + of_items + of_users}


def text_controls(known: Answers, asked: Answers, column: str) -> dict[str, list[str]]:
    """Texts that need no model: what another user has said of the same item, and the user of another one.

    Args:
        known: Training interactions.
        asked: Others.
        column: What is written.
    """
    texts = known.texts(column)
    found: dict[str, list[str]] = {}
    for name, ids, others, wanted, apart in (
        ("another's of the item", known.items, known.users, asked.items, asked.users),
        ("another of the user", known.users, known.items, asked.users, asked.items),
    ):
        said: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
        for one, other, text in zip(ids.tolist(), others.tolist(), texts, strict=True):
            said[one].append((other, text))
        found[name] = [
            next((text for other, text in said.get(one, ()) if other != not_of), "")
            for one, not_of in zip(wanted.tolist(), apart.tolist(), strict=True)
        ]
    return found


def _offsets(ids: np.ndarray, numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The damped mean of each id's numbers, 0 for an id without. -> of the wanted ids (N,)"""
    n = 1 + int(max(ids.max(initial=0), wanted.max(initial=0)))
    offsets: np.ndarray = np.bincount(ids, numbers, minlength=n) / (np.bincount(ids, minlength=n) + DAMPING)
    chosen: np.ndarray = offsets[wanted]
    return chosen
