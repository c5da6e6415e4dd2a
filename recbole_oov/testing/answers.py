"""How well a model finds the known answers of the tiny data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from recbole_oov.testing.tiny import N_LEFT

if TYPE_CHECKING:
    from recbole_oov.testing.subject import Subject


def hit_rate(subject: Subject) -> tuple[float, str]:
    """Recall of held-out items that have training rows, and the metric's name.

    Training and validation items of a user are left out of a general model's ranking, and items without training rows
    out of everyone's. Of a sequential model's ranking the newest item of the history is left out: it is never the next
    one, but comes first where one table of vectors serves the history and the candidates. Items that tie share their
    places, so that a model which cannot tell them apart scores what chance scores.
    """
    dataset, scores = subject.train_set, subject.scores.double().cpu()
    candidates = torch.from_numpy(items_with_rows(dataset)).expand_as(scores).clone()
    users = subject.rows[dataset.uid_field]
    if subject.family == "sequential":
        positives = torch.zeros_like(candidates)
        positives[torch.arange(len(users)), subject.rows[dataset.iid_field]] = True
        candidates[torch.arange(len(users)), subject.newest_items()] = False
        k = 1
    else:
        test = subject.experiment.test_data._dataset.inter_feat
        positives = _matrix(dataset, test)[users] & candidates
        for part in (subject.experiment.train_data, subject.experiment.valid_data):
            candidates &= ~_matrix(dataset, part._dataset.inter_feat)[users]
        k = N_LEFT
    return float(_recall(scores, positives, candidates, k).mean()), f"recall@{k}"


def labelled_auc(subject: Subject) -> float:
    """AUC over the labelled test rows. Ties count half."""
    dataset = subject.experiment.test_data._dataset
    rows = dataset.inter_feat
    scores = subject.score_pairs(
        subject.trained.model, dataset.join(rows[np.arange(len(rows))]), rows[dataset.iid_field]
    )
    return float(roc_auc_score(rows[subject.config["LABEL_FIELD"]].numpy(), scores.cpu().numpy()))


def items_with_rows(dataset: Any) -> np.ndarray:
    """Whether each item is in the training part, the lists of sequential data sets included. (n_items,) bool"""
    found = np.zeros(dataset.item_num, dtype=bool)
    for name in (dataset.iid_field, getattr(dataset, "item_id_list_field", None)):
        if name is not None:
            found[dataset.inter_feat[name].numpy().ravel()] = True
    found[0] = False
    return found


def oov_auc(subject: Subject) -> float:
    """Over the test rows of OOV items: the share of OOV items with a title, of other blocks, that score lower."""
    dataset, scores = subject.train_set, subject.scores.double().cpu()
    test = subject.experiment.test_data._dataset.inter_feat
    oov = [
        item for item in np.flatnonzero(~items_with_rows(dataset)).tolist() if item and _token(dataset, item) != "bare"
    ]
    block = {item: int(_token(dataset, item)[1:]) // 3 for item in oov}
    row = {int(user): at for at, user in enumerate(subject.rows[dataset.uid_field].tolist())}
    shares = []
    for user, item in zip(test[dataset.uid_field].tolist(), test[dataset.iid_field].tolist(), strict=True):
        if item in block:
            mine = scores[row[user]]
            others = mine[[other for other in oov if block[other] != block[item]]]
            shares.append(float((mine[item] > others).double().mean() + 0.5 * (mine[item] == others).double().mean()))
    return float(np.mean(shares))


def _token(dataset: Any, item: int) -> str:
    return str(dataset.id2token(dataset.iid_field, item))


def _matrix(dataset: Any, rows: Any) -> Tensor:
    """Which items each user has. (n_users, n_items) bool"""
    matrix = torch.zeros(dataset.user_num, dataset.item_num, dtype=torch.bool)
    matrix[rows[dataset.uid_field], rows[dataset.iid_field]] = True
    return matrix


def _recall(scores: Tensor, positives: Tensor, candidates: Tensor, k: int) -> Tensor:
    """Expected recall@k, when ties are broken at random, of each row that has a positive. (at most B,)"""
    values = []
    for mine, good, among in zip(scores, positives & candidates, candidates, strict=True):
        if good.any():
            own, others = mine[good][:, None], mine[among]
            above = (others > own).sum(dim=1)
            ties = (others == own).sum(dim=1)  # the item itself among them
            values.append(float(((k - above).clamp(min=0).minimum(ties) / ties).mean()))
    return torch.tensor(values)
