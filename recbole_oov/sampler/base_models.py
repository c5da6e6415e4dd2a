"""What has to be known of a base model to sample negatives for it: its vectors, its scores, its loss.

A base model is reached in one of two ways. Models with user and item vectors (``VectorModel`` and its subclasses,
listed in ``KNOWN``) are scored from vectors that are computed once a step, without a graph, and can learn from
negatives that are no items. Every other model that learns from a positive and a negative is scored by its ``predict``.
Real items always go through the model's own ``calculate_loss``, so that its loss is RecBole's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.randomness import random_state, set_random_state
from recbole_oov.sampler.propagation import SymmetricMatrix
from recbole_oov.sampler.work import Work

_GATHERED = 1 << 17
"""Numbers of candidates' vectors that are gathered at once on a CPU: half a MiB."""

Shares = Sequence[tuple[Tensor, float | Tensor]]
"""Items that a negative is made of, (B,) each, and the weight of each in the regularisation."""


class BaseModel:
    """Any model that learns from (user, positive, negative), scored through ``predict``.

    Args:
        model: A general recommender of RecBole's.
        config: Its configuration.
    """

    has_vectors = False

    def __init__(self, model: Any, config: Any) -> None:
        self.model = model
        self.pairwise = getattr(model, "input_type", InputType.PAIRWISE) == InputType.PAIRWISE
        self.label_field: str = config["LABEL_FIELD"]
        self.work = Work()
        """What was scored and learned so far, by snapshots too."""

    def begin_step(self) -> None:
        """Compute what all users and items of a step share. Called once before each step."""
        for kept in ("restore_user_e", "restore_item_e"):  # what RecBole's models keep for evaluation
            if getattr(self.model, kept, None) is not None:
                setattr(self.model, kept, None)

    @torch.no_grad()
    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of a block of items, without a graph. (B,), (B, P) -> (B, P)"""
        self.work.scored += items.numel()
        return self._scores(users, items)

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        rows = {self.model.USER_ID: users.repeat_interleave(items.shape[1]), self.model.ITEM_ID: items.reshape(-1)}
        with _evaluating(self.model):
            predicted: Tensor = self.model.predict(Interaction(rows))
        return predicted.view(items.shape)

    def snapshot(self, weights: Mapping[str, Tensor] | None = None) -> BaseModel:
        """The model as it is now, or with other weights, kept apart while this one is trained on: it scores, no more.

        Weights and buffers are copied; what else the model holds (matrices of the data) is shared.
        """
        shared = {
            id(value): value
            for module in self.model.modules()
            for name, value in vars(module).items()
            if not name.startswith("_")
        }
        past = copy.copy(self)
        past.model = copy.deepcopy(self.model, shared)
        if weights is not None:
            past.model.load_state_dict(weights)
        with torch.no_grad():
            past.begin_step()
        return past

    def with_negatives(self, interaction: Interaction, negatives: Tensor) -> Interaction:
        """The rows that RecBole's loader would have made with ``negatives``, (B,)."""
        if self.pairwise:
            interaction.update(Interaction({self.model.NEG_ITEM_ID: negatives}))
            return interaction
        n = len(negatives)
        both = interaction.repeat(2)
        both[self.model.ITEM_ID][n:] = negatives
        label = torch.zeros(2 * n, device=negatives.device)
        label[:n] = 1.0
        both.update(Interaction({self.label_field: label}))
        return both

    def own_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """The model's own loss of rows as of ``with_negatives``, without computing again what the step shares."""
        loss: Tensor | tuple[Tensor, ...] = self.model.calculate_loss(interaction)
        return loss

    def item_loss(self, interaction: Interaction, negatives: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The model's own loss with the items ``negatives``, (B,), for the rows of ``interaction``."""
        self.work.learned += 2 * len(negatives)
        return self.own_loss(self.with_negatives(interaction, negatives))


class VectorModel(BaseModel):
    """A model whose score is a function of one user vector and one item vector.

    Item vectors have a layer axis, (…, L, d), which ``merge`` removes: L is 1 but for graph models.
    """

    has_vectors = True
    n_layers = 1

    def user_vectors(self, users: Tensor) -> Tensor:
        """(B,) -> (B, d), with a graph."""
        raise NotImplementedError

    def item_layers(self, items: Tensor) -> Tensor:
        """(…) -> (…, L, d), with a graph."""
        raise NotImplementedError

    def layers_of(self, items: Tensor) -> Tensor:
        """Layer l of the l-th of L items, with a graph. (…, L) -> (…, L, d)"""
        if self.n_layers == 1:
            return self.item_layers(items.squeeze(-1))
        return torch.stack([self.item_layers(items[..., at])[..., at, :] for at in range(self.n_layers)], dim=-2)

    def layer_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """U . e_j at every layer, without a graph, of a model with several. (B,), (B, P) -> (B, P, L)"""
        raise NotImplementedError

    def merge(self, layers: Tensor) -> Tensor:
        """The layers as one vector, linear in them. (…, L, d) -> (…, d')"""
        return layers.squeeze(-2)

    def item_vectors(self, items: Tensor) -> Tensor:
        """(…) -> (…, d'), with a graph."""
        return self.merge(self.item_layers(items))

    def user_layers(self, user: Tensor) -> Tensor:
        """The user's vectors as layers are compared with them: (B, d') -> (B, 1 or L, d)."""
        return user.unsqueeze(1)

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """(…, d'), (…, d') -> (…)"""
        return (user * item).sum(-1)

    def ranking_loss(self, positive: Tensor, negative: Tensor, interaction: Interaction | None = None) -> Tensor:
        """The loss of scores, without regularisation. (B,), (B,) -> ()"""
        raise NotImplementedError

    def regularisation(self, users: Tensor, positives: Tensor, shares: Shares) -> Tensor | float:
        """What the model's loss adds for the rows it touches."""
        return 0.0

    def vector_loss(self, interaction: Interaction, negative: Tensor, shares: Shares) -> Tensor:
        """The model's loss of negatives that are vectors.

        Args:
            interaction: Users and positives.
            negative: (B, d').
            shares: The items that they are made of.
        """
        users, positives = interaction[self.model.USER_ID], interaction[self.model.ITEM_ID]
        self.work.learned += len(users) * (1 + len(shares))
        user = self.loss_user_vectors(users)
        positive = self.item_vectors(positives)
        loss = self.ranking_loss(self.score(user, positive), self.score(user, negative), interaction)
        return loss + self.regularisation(users, positives, shares)

    def loss_user_vectors(self, users: Tensor) -> Tensor:
        """The user vectors of the loss, where they differ (dropout) from those that score."""
        return self.user_vectors(users)

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        user = self.user_vectors(users)
        return self.score(user[:, None], self.item_vectors(items))


class BPRModel(VectorModel):
    """BPR: embeddings, dot product."""

    def user_vectors(self, users: Tensor) -> Tensor:
        return F.embedding(users, self.model.user_embedding.weight)

    def item_layers(self, items: Tensor) -> Tensor:
        return F.embedding(items, self.model.item_embedding.weight).unsqueeze(-2)

    def ranking_loss(self, positive: Tensor, negative: Tensor, interaction: Interaction | None = None) -> Tensor:
        loss: Tensor = self.model.loss(positive, negative)
        return loss

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        return _dot(self.user_vectors(users), self.model.item_embedding.weight, items)


class GraphModel(VectorModel):
    """A model with ``forward() -> (all users, all items)``: propagated once a step, for scores and loss alike."""

    def begin_step(self) -> None:
        super().begin_step()
        self.users, self.items = self.model.forward()

    def user_vectors(self, users: Tensor) -> Tensor:
        return F.embedding(users, self.users)

    def item_layers(self, items: Tensor) -> Tensor:
        return F.embedding(items, self.items).unsqueeze(-2)

    def item_vectors(self, items: Tensor) -> Tensor:
        return F.embedding(items, self.items)

    def ranking_loss(self, positive: Tensor, negative: Tensor, interaction: Interaction | None = None) -> Tensor:
        loss: Tensor = self.model.mf_loss(positive, negative)
        return loss

    def own_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        with _forward(self.model, lambda: (self.users, self.items)):
            return super().own_loss(interaction)

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        return _dot(self.user_vectors(users), self.items, items)


class LightGCNModel(GraphModel):
    """LightGCN: the mean of the propagated layers; embeddings before propagation are regularised."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__(model, config)
        self.n_layers = model.n_layers + 1
        self.adjacency = SymmetricMatrix(model.norm_adj_matrix)

    def begin_step(self) -> None:
        BaseModel.begin_step(self)
        model = self.model
        if not model.n_layers:  # matrix factorisation
            self.users, self.items = model.user_embedding.weight, model.item_embedding.weight
            self.layers = [self.items]
            return
        layers = [model.get_ego_embeddings()]
        for _ in range(model.n_layers):
            layers.append(self.adjacency @ layers[-1])
        self.layers = [layer[model.n_users :] for layer in layers]  # the items', cut out once a step
        # Summed one by one, in place: bit for bit the mean of the stacked layers, without a copy of them all.
        mean = layers[0] + layers[1]
        for layer in layers[2:]:
            mean += layer
        mean /= self.n_layers
        self.users, self.items = torch.split(mean, [model.n_users, model.n_items])

    def item_layers(self, items: Tensor) -> Tensor:
        return torch.stack([F.embedding(items, layer) for layer in self.layers], dim=-2)

    def layers_of(self, items: Tensor) -> Tensor:
        return torch.stack([F.embedding(items[..., at], layer) for at, layer in enumerate(self.layers)], dim=-2)

    def layer_scores(self, users: Tensor, items: Tensor) -> Tensor:
        user = self.user_vectors(users)
        return torch.stack([_dot(user, layer, items) for layer in self.layers], dim=-1)

    def merge(self, layers: Tensor) -> Tensor:
        return layers.mean(dim=-2)

    def regularisation(self, users: Tensor, positives: Tensor, shares: Shares) -> Tensor | float:
        model, power = self.model, self.model.require_pow
        # Looked up at once: each look-up has a gradient as large as all items.
        positive, *others = model.item_embedding(torch.stack([positives, *(items for items, _ in shares)])).unbind()
        reg = model.reg_loss(model.user_embedding(users), positive, require_pow=power)
        for vectors, (_, weight) in zip(others, shares, strict=True):
            reg = reg + weight * model.reg_loss(vectors, require_pow=power)
        total: Tensor = model.reg_weight * reg
        return total


class NGCFModel(GraphModel):
    """NGCF: the layers side by side; the propagated embeddings are regularised."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__(model, config)
        sizes = model.hidden_size_list
        self.n_layers = len(sizes) if len(set(sizes)) == 1 else 1  # layers of unequal width are mixed as one

    def item_layers(self, items: Tensor) -> Tensor:
        layers: Tensor = F.embedding(items, self.items).unflatten(-1, (self.n_layers, -1))
        return layers

    def layers_of(self, items: Tensor) -> Tensor:
        layers = self.items.unflatten(-1, (self.n_layers, -1)).unbind(1)
        return torch.stack([F.embedding(items[..., at], layer) for at, layer in enumerate(layers)], dim=-2)

    def layer_scores(self, users: Tensor, items: Tensor) -> Tensor:
        layers = self.items.unflatten(-1, (self.n_layers, -1)).unbind(1)
        user = self.user_layers(self.user_vectors(users)).unbind(1)
        return torch.stack([_dot(u, layer, items) for u, layer in zip(user, layers, strict=True)], dim=-1)

    def merge(self, layers: Tensor) -> Tensor:
        return layers.flatten(-2)

    def user_layers(self, user: Tensor) -> Tensor:
        layers: Tensor = user.unflatten(-1, (self.n_layers, -1))
        return layers

    def regularisation(self, users: Tensor, positives: Tensor, shares: Shares) -> Tensor | float:
        model = self.model
        positive, *others = self.item_vectors(torch.stack([positives, *(items for items, _ in shares)])).unbind()
        reg = model.reg_loss(self.user_vectors(users), positive)
        for vectors, (_, weight) in zip(others, shares, strict=True):
            reg = reg + weight * model.reg_loss(vectors)
        total: Tensor = model.reg_weight * reg
        return total


class NeuMFModel(VectorModel):
    """NeuMF: the vectors of its two parts side by side; the score is the network's logit."""

    def user_vectors(self, users: Tensor) -> Tensor:
        model = self.model
        return torch.cat([model.user_mf_embedding(users), model.user_mlp_embedding(users)], dim=-1)

    def item_layers(self, items: Tensor) -> Tensor:
        model = self.model
        return torch.cat([model.item_mf_embedding(items), model.item_mlp_embedding(items)], dim=-1).unsqueeze(-2)

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        model = self.model
        width = model.mf_embedding_size
        parts = []
        if model.mf_train:
            parts.append(user[..., :width] * item[..., :width])
        if model.mlp_train:
            user_part = user[..., width:].expand_as(item[..., width:])
            parts.append(model.mlp_layers(torch.cat([user_part, item[..., width:]], dim=-1)))
        logit: Tensor = model.predict_layer(torch.cat(parts, dim=-1)).squeeze(-1)
        return logit

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        with _evaluating(self.model):  # candidates are compared without dropout
            return super()._scores(users, items)

    def ranking_loss(self, positive: Tensor, negative: Tensor, interaction: Interaction | None = None) -> Tensor:
        labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
        loss: Tensor = self.model.loss(torch.cat([positive, negative]), labels)
        return loss


class DMFModel(VectorModel):
    """DMF: two towers over the rows and columns of the training matrix, each computed once a step."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__(model, config)
        matrix = model.interaction_matrix.copy()
        matrix.sum_duplicates()
        matrix = matrix.tocoo()
        index = torch.stack([torch.from_numpy(matrix.row).long(), torch.from_numpy(matrix.col).long()])
        values = torch.from_numpy(matrix.data).float()
        if model.inter_matrix_type == "01":
            values = torch.ones_like(values)  # the model's rows hold a pair once, however often it was trained on
        sparse = torch.sparse_coo_tensor(index, values, matrix.shape, check_invariants=False)
        self.by_user = sparse.to(model.device).coalesce()
        self.by_item = self.by_user.t().coalesce()

    def begin_step(self) -> None:
        model = self.model
        model.i_embedding = None  # what evaluation keeps of the step before
        self.users = model.user_fc_layers(torch.sparse.mm(self.by_user, model.user_linear.weight.t()))
        self.items = model.item_fc_layers(torch.sparse.mm(self.by_item, model.item_linear.weight.t()))

    def user_vectors(self, users: Tensor) -> Tensor:
        return F.embedding(users, self.users)

    def item_layers(self, items: Tensor) -> Tensor:
        return F.embedding(items, self.items).unsqueeze(-2)

    def ranking_loss(self, positive: Tensor, negative: Tensor, interaction: Interaction | None = None) -> Tensor:
        model = self.model
        labels = torch.ones_like(positive)
        if model.inter_matrix_type == "rating":
            assert interaction is not None
            labels = interaction[model.RATING].float()
        labels = torch.cat([labels, torch.zeros_like(negative)]) / model.max_rating
        loss: Tensor = model.bce_loss(torch.cat([positive, negative]), labels)
        return loss

    def own_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        def forward(user: Tensor, item: Tensor) -> Tensor:
            return self.score(F.embedding(user, self.users), F.embedding(item, self.items))

        with _forward(self.model, forward):
            return super().own_loss(interaction)

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        return _dot(self.user_vectors(users), self.items, items)


class SimpleXModel(VectorModel):
    """SimpleX: the user's vector is aggregated with the history's; cosine; a margin on negatives."""

    def user_vectors(self, users: Tensor) -> Tensor:
        model = self.model
        history = model.item_emb(model.history_item_id[users])
        vectors: Tensor = model.get_UI_aggregation(model.user_emb(users), history, model.history_item_len[users])
        return vectors

    def loss_user_vectors(self, users: Tensor) -> Tensor:
        dropped: Tensor = self.model.dropout(self.user_vectors(users))
        return dropped

    def item_layers(self, items: Tensor) -> Tensor:
        layers: Tensor = self.model.item_emb(items).unsqueeze(-2)
        return layers

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        return (F.normalize(user, dim=-1) * F.normalize(item, dim=-1)).sum(-1)

    def ranking_loss(self, positive: Tensor, negative: Tensor, interaction: Interaction | None = None) -> Tensor:
        model = self.model
        losses: Tensor = torch.relu(1 - positive) + model.negative_weight * torch.relu(negative - model.margin)
        return losses.mean()

    def regularisation(self, users: Tensor, positives: Tensor, shares: Shares) -> Tensor | float:
        model, power = self.model, self.model.require_pow
        history = model.item_emb(model.history_item_id[users])
        own = (model.user_emb(users), model.item_emb(positives), history)
        parts: list[tuple[Tensor, float | Tensor]] = [(vectors, 1.0) for vectors in own]
        parts += [(model.item_emb(items), weight) for items, weight in shares]
        total: Tensor = model.reg_weight * sum(
            weight * model.reg_loss(part, require_pow=power) for part, weight in parts
        )
        return total.sum()


KNOWN: dict[str, type[VectorModel]] = {
    "BPR": BPRModel,
    "LightGCN": LightGCNModel,
    "NGCF": NGCFModel,
    "NeuMF": NeuMFModel,
    "DMF": DMFModel,
    "SimpleX": SimpleXModel,
}
"""The models whose vectors are known, by the name of their class."""


def base_model_of(model: Any, config: Any) -> BaseModel:
    """How ``model`` is reached: by its vectors where they are known, else by its ``predict``."""
    return KNOWN.get(type(model).__name__, BaseModel)(model, config)


class _Watched(Interaction):
    """Rows that remember which of their columns were read."""

    def __init__(self, rows: Interaction) -> None:
        super().__init__(dict(rows.interaction))
        self.read: set[str] = set()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            self.read.add(index)
        return super().__getitem__(index)


@torch.no_grad()
def check_learns_from_negatives(base: BaseModel, interaction: Interaction) -> None:
    """Refuse a model whose loss does not read the negative.

    Args:
        base: The model.
        interaction: A few training rows.

    Raises:
        ConfigError: It does not, or the loss cannot be computed from (user, positive, negative).
    """
    name, model = type(base.model).__name__, base.model
    remedy = "leave sampler out for it, or choose a model that learns from pairs, such as BPR or LightGCN"
    state, training = random_state(), base.model.training
    rows = _Watched(base.with_negatives(interaction, interaction[model.ITEM_ID].flip(0)))
    try:
        base.model.train()  # some models make what their loss needs here
        base.begin_step()
        base.own_loss(rows)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"sampler: {name} cannot learn from (user, positive, negative): {type(error).__name__}: {error}; {remedy}"
        ) from error
    finally:
        base.model.train(training)
        set_random_state(state)
    if (model.NEG_ITEM_ID if base.pairwise else base.label_field) not in rows.read:
        raise ConfigError(f"sampler: the loss of {name} does not depend on negatives; {remedy}")


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout. By the flags alone: some models draw new graphs whenever ``train`` is called."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _forward(model: Any, forward: Any) -> Iterator[None]:
    """Let ``model.forward`` give what a step has computed already."""
    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def _dot(user: Tensor, items: Tensor, ids: Tensor) -> Tensor:
    """Dot products of (B, d) with rows of (n_items, d), without a graph. (B, P) -> (B, P)"""
    if items.device.type != "cpu":
        return _dot_block(user, items, ids)
    # What is gathered stays in the processor's cache, and in memory that is used again for the next block.
    n_users = max(1, _GATHERED // (ids.shape[1] * items.shape[1]))
    return torch.cat([_dot_block(u, items, i) for u, i in zip(user.split(n_users), ids.split(n_users), strict=True)])


def _dot_block(user: Tensor, items: Tensor, ids: Tensor) -> Tensor:
    rows = items.index_select(0, ids.reshape(-1)).view(*ids.shape, -1)
    return torch.bmm(rows, user.unsqueeze(2)).squeeze(2)
