"""Data sets whose interactions say something in words: reviews, explanations.

RecBole gives every row of a sequential data set the columns of all interactions before it, padded. Words would take
gigabytes so, and no model reads them there. They are kept aside, and a number in each row says whose they are. Numbers
that a model answers in words stay as they are in the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import FeatureSource, FeatureType

TEXT_ROW = "text_row"
"""Column of the interactions: where their words are kept."""


class _TextsAside:
    """For a data set of RecBole's: the words of interactions are kept once.

    Attributes:
        interaction_texts: By column (``token_seq`` in ``.inter``) one array of word numbers an interaction; they are
            those of :attr:`text_words`.
        text_words: By column its words by their numbers.
    """

    config: Any
    inter_feat: Any
    field2type: Any
    field2id_token: Any
    _del_col: Any
    set_field_property: Any

    def _fill_nan(self) -> None:
        """As RecBole's, which puts the mean of all rows, held-out ones included, where there is no number.

        Where a number is asked for in words, none stays none.
        """
        missing = {name: self.inter_feat[name].isna() for name in self._asked_numbers()}
        super()._fill_nan()  # type: ignore[misc]
        for name, rows in missing.items():
            self.inter_feat[name] = self.inter_feat[name].mask(rows)

    def _asked_numbers(self) -> list[str]:
        asks = getattr(self.config.model_class, "interaction_columns", None)
        asked = {} if asks is None else asks(self.config)
        return [name for name in asked if self.field2type.get(name) == FeatureType.FLOAT]

    def _normalize(self) -> None:
        """As RecBole's; under ``normalize_all``, which ml-100k has, what is asked for in words stays as it is."""
        asked = self._asked_numbers() if self.config["normalize_all"] else []
        kept = {name: self.inter_feat[name].copy() for name in asked}
        super()._normalize()  # type: ignore[misc]
        for name, values in kept.items():
            self.inter_feat[name] = values

    def _data_processing(self) -> None:
        super()._data_processing()  # type: ignore[misc]
        kinds = {field: self.field2type[field] for field in self.inter_feat.columns}
        fields = [field for field, kind in kinds.items() if kind == FeatureType.TOKEN_SEQ]
        self.interaction_texts: dict[str, list[np.ndarray]] = {}
        self.text_words: dict[str, np.ndarray] = {}
        for field in fields:
            self.interaction_texts[field] = self.inter_feat[field].tolist()
            self.text_words[field] = self.field2id_token[field]
            self._del_col(self.inter_feat, field)
        if fields:
            self.inter_feat[TEXT_ROW] = np.arange(len(self.inter_feat))
            self.set_field_property(TEXT_ROW, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)


class InteractionTextDataset(_TextsAside, SequentialDataset):
    """RecBole's sequential data set, with the words of interactions kept once."""


class GeneralInteractionTextDataset(_TextsAside, Dataset):
    """RecBole's general data set, with the words of interactions kept once."""


def interaction_text(dataset: Any, field: str, rows: np.ndarray) -> list[str]:
    """What interactions say in a column of words.

    Args:
        dataset: One of the above, or a part of one.
        field: The column.
        rows: Numbers of the column :data:`TEXT_ROW`. (N,)
    """
    words, texts = dataset.text_words[field], dataset.interaction_texts[field]
    return [" ".join(str(words[word]) for word in np.atleast_1d(texts[row]) if word > 0) for row in rows]
