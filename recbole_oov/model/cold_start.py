"""What methods share that give items without interactions an embedding, on top of a trained base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_oov.config.base_model import base_model_config, base_model_problems
from recbole_oov.data.content import item_content
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.evaluation.item_blocks import BlockScorer, dot_product_blocks
from recbole_oov.model.base_embeddings import base_embeddings


class ColdStartRecommender(GeneralRecommender):
    r"""Scores users and items by the dot product of their embeddings, :math:`\hat y_{ui} = e_u^\top e_i`.

    The embeddings come from a base model, ``base_model``, that the trainer trains first and hands over with
    :meth:`take_base`; a subclass says in :meth:`item_embeddings` what OOV items get, and learns it with
    ``calculate_loss``. Of OOV items nothing but their content is ever read: their rows of the base model, which were
    drawn at random, are zero here.

    Attributes:
        content: Item content, row 0 zero. (n_items, content_dim)
        oov: True for items without a training row; [PAD] is False. (n_items,) bool
        base_users: Embeddings of the base model. (n_users, d)
        base_items: Embeddings of the base model; zero for OOV items and [PAD]. (n_items, d)
        learns_from: What a training batch holds: ``rows``, interactions as RecBole loads them (with a negative for
            pairwise models), or ``items``, each IV item once an epoch.
        keeps_iv_items: Whether IV items and users keep the base model's embeddings, so that the ranking among IV
            items is the base model's, bit for bit.
    """

    input_type = InputType.PAIRWISE
    recommends_for_oov_items = True
    needs_content = True
    needs_text = False
    needs_base_model = True
    paper = ""
    learns_from: Literal["rows", "items"] = "rows"
    keeps_iv_items = True
    recommends_new_items = True

    content: Tensor
    oov: Tensor
    base_users: Tensor
    base_items: Tensor
    _table: Tensor | None
    _user_table: Tensor | None

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        # Built for its widths and its first embeddings; the trainer trains another one, from the same seed.
        base = _build_base(base_model_config(config), dataset)
        users, items = base_embeddings(base)
        self.register_buffer("content", item_content(config, dataset).to(self.device))
        self.register_buffer("oov", torch.from_numpy(oov_mask(dataset)).to(self.device))
        self.register_buffer("base_users", torch.zeros_like(users))
        self.register_buffer("base_items", torch.zeros_like(items))
        self.register_buffer("_table", None, persistent=False)
        self.register_buffer("_user_table", None, persistent=False)
        ColdStartRecommender.take_base(self, users, items)  # what a subclass adds is not there yet

    @property
    def iv_items(self) -> Tensor:
        """Ids of the items with training rows, ascending. (n_iv,)"""
        known = ~self.oov
        known[0] = False
        return known.nonzero().squeeze(1)

    @property
    def content_dim(self) -> int:
        """Width of the content."""
        return self.content.shape[1]

    @property
    def embedding_dim(self) -> int:
        """Width of the base model's embeddings."""
        return self.base_items.shape[1]

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        return base_model_problems(config)

    @torch.no_grad()
    def take_base(self, users: Tensor, items: Tensor) -> None:
        """Keep the embeddings of a trained base model; rows of OOV items and [PAD] are not looked at.

        Args:
            users: (n_users, d)
            items: (n_items, d)

        Raises:
            ValueError: The shapes are others.
        """
        if users.shape != self.base_users.shape or items.shape != self.base_items.shape:
            raise ValueError(
                f"base embeddings of shapes {tuple(users.shape)} and {tuple(items.shape)}; "
                f"{tuple(self.base_users.shape)} and {tuple(self.base_items.shape)} are expected"
            )
        kept = self.iv_items
        self.base_users.copy_(users)
        self.base_items.zero_()
        self.base_items[kept] = items[kept].to(self.base_items)
        self.forget_tables()

    def item_embeddings(self) -> Tensor:
        """Embeddings that items are scored with. (n_items, d)"""
        raise NotImplementedError

    def user_embeddings(self) -> Tensor:
        """Embeddings that users are scored with: the base model's. (n_users, d)"""
        return self.base_users

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """What OOV items get, for items that are in no data set and have nothing but content.

        Args:
            content: As :func:`~recbole_oov.data.content.new_item_content` makes it. (N, content_dim)

        Returns:
            (N, d)
        """
        raise NotImplementedError

    @torch.no_grad()
    def score_new_items(self, users: Tensor, content: Tensor) -> Tensor:
        """Scores of users and new items, to be held against those of :meth:`full_sort_predict`.

        Args:
            users: Internal ids. (B,)
            content: As of :meth:`new_item_embeddings`. (N, content_dim)

        Returns:
            (B, N)
        """
        return F.embedding(users, self._tables()[0]) @ self.new_item_embeddings(content).T

    def with_base_items(self, generated: Tensor) -> Tensor:
        """The base model's item embeddings, with those of OOV items filled in.

        Args:
            generated: One row for each OOV item, ascending by id. (n_oov, d)

        Returns:
            (n_items, d)
        """
        table = self.base_items.to(generated.dtype).clone()
        table[self.oov] = generated
        return table

    # ---- scoring ----

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,)"""
        users, items = self._tables()
        user, item = F.embedding(interaction[self.USER_ID], users), F.embedding(interaction[self.ITEM_ID], items)
        return (user * item).sum(dim=1)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, n_items)"""
        users, items = self._tables()
        return F.embedding(interaction[self.USER_ID], users) @ items.T

    def block_scorer(self) -> BlockScorer | None:
        """How evaluation scores some items at a time, where a row of all scores would not fit its memory."""
        users, items = self._tables()
        return lambda interaction, size: dot_product_blocks(F.embedding(interaction[self.USER_ID], users), items, size)

    def train(self, mode: bool = True) -> ColdStartRecommender:
        """Switch to training, or with ``eval()`` to evaluation; either way tables are computed anew when asked for."""
        self.forget_tables()
        super().train(mode)
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of every module."""
        self.forget_tables()
        return super().load_state_dict(*args, **kwargs)

    def forget_tables(self) -> None:
        """Drop what scoring has kept, since what it was computed from has changed."""
        self._table = self._user_table = None

    @torch.no_grad()
    def _tables(self) -> tuple[Tensor, Tensor]:
        """The user and item embeddings, kept until training or evaluation begins."""
        if self.training or self._table is None or self._user_table is None:
            # Detached: a parameter would be registered as one under the name of the buffer.
            self._user_table, self._table = self.user_embeddings().detach(), self.item_embeddings().detach()
        return self._user_table, self._table


def _build_base(config: Any, dataset: Any) -> Any:
    return config.model_class(config, dataset).to(config["device"])
