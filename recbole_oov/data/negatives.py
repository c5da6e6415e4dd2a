"""RecBole's negative samplers, kept to what training may know.

RecBole draws negatives from all ids, those of OOV items included, and its popularity counts validation and test rows.
These samplers draw from the items that have training rows, and count training rows alone. They take the place of
RecBole's under the OOV protocol, and wherever training draws negatives by popularity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.data import utils as data_utils
from recbole.sampler import RepeatableSampler, Sampler

from recbole_oov.data.histories import seen_matrix
from recbole_oov.data.oov_split import oov_mask, oov_options
from recbole_oov.errors import DataError


class _TrainingItems:
    """Candidates are the items with training rows, popularity is their number.

    Attributes:
        iv_items: Ids of the candidates. (n_iv,)
    """

    iv_items: np.ndarray
    _train: Any
    iid_field: str

    def _know(self, train: Any) -> None:
        self._train = train
        self.iv_items = np.flatnonzero(~oov_mask(train))[1:]  # without [PAD]

    def _uni_sampling(self, sample_num: int) -> np.ndarray:
        return self.iv_items[np.random.randint(0, len(self.iv_items), sample_num)]  # noqa: NPY002 (RecBole seeds this one)

    def _get_candidates_list(self) -> list[int]:
        return list(self._train.inter_feat[self.iid_field].numpy())


class IVSampler(_TrainingItems, Sampler):
    """RecBole's ``Sampler`` over IV items.

    Args:
        phases: As RecBole's.
        datasets: The data sets of the phases, training first.
        distribution, alpha: As RecBole's.

    Raises:
        DataError: A user has interacted with every training item, so that no negative is left.
    """

    def __init__(
        self, phases: list[str], datasets: list[Any], distribution: str = "uniform", alpha: float = 1.0
    ) -> None:
        self._know(datasets[0])
        self._refuse_insatiable(datasets[0])
        super().__init__(phases, datasets, distribution, alpha)

    def _refuse_insatiable(self, train: Any) -> None:
        pairs = seen_matrix(train)
        full = np.flatnonzero(np.diff(pairs.indptr) >= len(self.iv_items))
        if len(full):
            names = ", ".join(train.id2token(train.uid_field, full[:5]))
            raise DataError(
                f"{len(full)} users ({train.uid_field} {names}) have interacted with all {len(self.iv_items)} items of "
                f"the training data, so that no negative can be drawn for them; leave them out with "
                f"user_inter_num_interval"
            )


class IVRepeatableSampler(_TrainingItems, RepeatableSampler):
    """RecBole's ``RepeatableSampler``, which excludes no item but the target, over IV items."""

    def __init__(
        self, phases: list[str], dataset: Any, train: Any, distribution: str = "uniform", alpha: float = 1.0
    ) -> None:
        self._know(train)
        super().__init__(phases, dataset, distribution, alpha)


def _draws_negatives(config: Any) -> bool:
    """Whether RecBole makes a sampler for a phase, be it only to know the positives for full ranking."""
    args = (config[f"{phase}_neg_sample_args"] for phase in ("train", "valid", "test"))
    return any(arg["distribution"] != "none" for arg in args)


def _refuse_full(dataset: Any, built_datasets: list[Any]) -> None:
    """Raise a DataError where RecBole's samplers would find no item for a user, and not say whom."""
    pairs = seen_matrix(*built_datasets)
    full = np.flatnonzero(np.diff(pairs.indptr) >= dataset.item_num - 1)
    if len(full):
        names = ", ".join(dataset.id2token(dataset.uid_field, full[:5]))
        raise DataError(
            f"{len(full)} users ({dataset.uid_field} {names}) have interacted with all {dataset.item_num - 1} "
            f"items, so that none is left to draw as a negative or to rank; set user_inter_num_interval to leave "
            f"them out"
        )


_recbole_create_samplers = data_utils.create_samplers


def create_samplers(config: Any, dataset: Any, built_datasets: list[Any]) -> tuple[Any, Any, Any]:
    """RecBole's ``create_samplers``, but for what would leak.

    Under the OOV protocol negatives are IV items, and popularity is counted in training rows under any split.

    Args:
        config: The configuration.
        dataset: The whole data set.
        built_datasets: Training, validation and test.

    Returns:
        The samplers of training, validation and test; None where the phase draws no negatives.
    """
    args = config["train_neg_sample_args"]
    distribution = args["distribution"]
    ours: Any = None
    if distribution == "popularity" or (distribution != "none" and oov_options(config) is not None):
        phases = ["train", "valid", "test"]
        if config["repeatable"]:
            ours = IVRepeatableSampler(phases, dataset, built_datasets[0], distribution, args["alpha"])
        else:
            ours = IVSampler(phases, built_datasets, distribution, args["alpha"])
    if not config["repeatable"] and _draws_negatives(config):
        _refuse_full(dataset, built_datasets)
    # Validation and test keep RecBole's samplers, which full ranking reads the known positives from.
    train, valid, test = _recbole_create_samplers(config, dataset, built_datasets)
    return train if ours is None else ours.set_phase("train"), valid, test
