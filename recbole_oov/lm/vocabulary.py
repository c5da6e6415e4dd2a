"""The out-of-vocabulary tokens of users and items, made from training interactions alone (META ID, arXiv 2406.08477).

Users and items are embedded together by skip-gram over random walks on their interaction graph, clustered
together by k-means, and named by two tokens: a coarse one for the cluster and a fine one for the rank inside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import gensim
import numpy as np
import torch
from gensim.models import Word2Vec
from recbole.utils import set_color
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from torch import Tensor
from tqdm import tqdm

from recbole_oov.data.cache import cached, fingerprint
from recbole_oov.data.histories import Histories
from recbole_oov.errors import ConfigError

_FORMAT = 1
"""Raise it when the same walks come to give other vectors: what was cached before is then no longer found."""
_WORTH_KEEPING = 1_000_000
"""Steps of all walks; fewer are walked again in no time."""


@dataclass(frozen=True)
class WalkSettings:
    """How the interaction graph is walked and embedded. The paper does not publish its own settings."""

    walks_per_node: int = 10
    walk_length: int = 40
    window: int = 5
    dim: int = 64
    epochs: int = 3

    @classmethod
    def of(cls, config: Any) -> WalkSettings:
        """The settings that a configuration asks for."""
        keys = ("walks_per_node", "walk_length", "walk_window", "walk_dim", "walk_epochs")
        return cls(*(config[key] for key in keys))


@dataclass(frozen=True)
class OOVVocabulary:
    """Which cluster and which rank every user and item has.

    Clusters are numbered 0 … K-1; cluster K is reserved for users and items without a training interaction.
    (cluster, rank) is unique over users and items together. Row 0, the padding id, is in the reserved cluster
    at a rank of its own, so that no real item shares its tokens.

    Attributes:
        item_cluster: (n_items,) long
        item_rank: (n_items,) long
        user_cluster: (n_users,) long
        user_rank: (n_users,) long
        centroids: Unit vectors; the reserved cluster's is zero. (K + 1, dim) float
        item_vectors: Unit vectors of the items; zero for those without training interactions. (n_items, dim) float
        item_codes: What further codes items have between the cluster and the last token, one column a codebook; None
            where the rank follows the cluster. (n_items, L) long
    """

    item_cluster: Tensor
    item_rank: Tensor
    user_cluster: Tensor
    user_rank: Tensor
    centroids: Tensor
    item_vectors: Tensor
    item_codes: Tensor | None = None

    @property
    def n_clusters(self) -> int:
        """K + 1: the clusters and the reserved one."""
        return self.centroids.shape[0]

    @property
    def n_ranks(self) -> int:
        """How many fine tokens are needed."""
        return int(max(self.item_rank.max(), self.user_rank.max())) + 1

    def state(self) -> dict[str, Tensor]:
        """The tensors by name, to be saved with a model; those that are None are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in values.items() if tensor is not None}

    def names(self, n_fine: int) -> list[str]:
        """The tokens' text: ``<CT0>`` … for clusters, then ``n_fine`` fine ones, ``<1001>`` …"""
        return [cluster_token(c) for c in range(self.n_clusters)] + [fine_token(r) for r in range(n_fine)]


def cluster_token(cluster: int) -> str:
    """The token that names a cluster."""
    return f"<CT{cluster}>"


def fine_token(fine: int) -> str:
    """The fine token at a place, from 0; the first is 1001, as in META ID's code."""
    return f"<{1001 + fine}>"


def clustered(
    histories: Histories,
    *,
    n_clusters: int,
    walk: WalkSettings,
    seed: int,
    separate: bool = False,
    show_progress: bool = False,
) -> OOVVocabulary:
    """Cluster users and items by what training interactions say of them (META ID, section 'meta-path').

    Args:
        histories: Training histories; nothing else is read.
        n_clusters: K.
        walk: Settings of walks and skip-gram.
        seed: Seeds walks, skip-gram and k-means.
        separate: Give items the clusters 0 … K-1 and users K more of their own, which then say nothing about items.
        show_progress: Show a progress bar over the walks.

    Raises:
        ConfigError: There are fewer users and items with training interactions than clusters.
    """
    users, items = histories.pairs()
    known_users, known_items = np.unique(users), np.unique(items)
    sizes = [len(known_items), len(known_users)]
    if separate:
        check_size(n_clusters, sizes[0], "items")
        check_size(n_clusters, sizes[1], "users")
    check_size(n_clusters, sum(sizes))
    nodes = np.concatenate([known_users, known_items + histories.n_users])
    x = unit(node_vectors(histories, nodes, walk, seed, show_progress=show_progress))
    if not separate:
        return named(histories, nodes, x, nearest_centroids(x, n_clusters, seed))
    is_user = nodes < histories.n_users
    of_items, of_users = (nearest_centroids(x[rows], n_clusters, seed) for rows in (~is_user, is_user))
    # Users come first among the nodes.
    cluster = np.concatenate([of_users.cluster + n_clusters, of_items.cluster])
    distance = np.concatenate([of_users.distance, of_items.distance])
    centroids = np.vstack([of_items.centroids, of_users.centroids])
    return named(histories, nodes, x, Clusters(cluster, distance, centroids))


@dataclass(frozen=True)
class Clusters:
    """Which cluster each of N vectors is in.

    Attributes:
        cluster: (N,)
        distance: The larger, the farther from the cluster's centroid. (N,)
        centroids: Unit vectors. (K, dim)
    """

    cluster: np.ndarray
    distance: np.ndarray
    centroids: np.ndarray


def nearest_centroids(x: np.ndarray, n_clusters: int, seed: int, *, fit_on: np.ndarray | None = None) -> Clusters:
    """K-means, then the centroid that is nearest by cosine, as META ID's code has it.

    Args:
        x: Unit vectors. (N, dim)
        n_clusters: K.
        seed: Of the start.
        fit_on: The vectors that decide the centroids, where they are not all of ``x``. (M, dim)
    """
    kmeans = KMeans(n_clusters=n_clusters, n_init=4, random_state=seed).fit(x if fit_on is None else fit_on)
    centroids = unit(kmeans.cluster_centers_)
    similarity = x @ centroids.T
    cluster = similarity.argmax(axis=1)
    return Clusters(cluster, -similarity[np.arange(len(x)), cluster], centroids)


def node_vectors(
    histories: Histories, nodes: np.ndarray, walk: WalkSettings, seed: int, *, show_progress: bool = False
) -> np.ndarray:
    """Skip-gram vectors of users and items, made once for the same interactions, settings and seed and then kept.

    They are the larger part of what small runs cost, and the same for every model and setting that reads them.

    Args:
        histories: Training histories.
        nodes: User ids, and item ids counted on from ``n_users``. (N,)
        walk: Settings.
        seed: Seeds walks and skip-gram.
        show_progress: Show a progress bar over the walks.

    Returns:
        (N, dim) float32
    """
    users, items = histories.pairs()

    def compute() -> Tensor:
        walks = random_walks(users, items, histories.n_users, walk, seed)
        vectors = skip_gram(walks, walk, seed, show_progress=show_progress)
        return torch.from_numpy(np.stack([vectors[node] for node in nodes]))

    if len(nodes) * walk.walks_per_node * walk.walk_length < _WORTH_KEEPING:
        return compute().numpy()
    versions = {"gensim": gensim.__version__, "numpy": np.__version__}
    interactions = {"users": users, "items": items, "n_users": histories.n_users, "nodes": nodes}
    key = fingerprint(format=_FORMAT, walk=vars(walk), seed=seed, versions=versions, **interactions)
    return cached("walks", key, compute).numpy()


def shuffled(vocabulary: OOVVocabulary, histories: Histories, *, seed: int) -> OOVVocabulary:
    """The control: ids of exactly the same shape, dealt out at random, so that they say nothing.

    Users keep the multiset of users' (cluster, rank) pairs and items that of items'; who has which is random.
    Those without training interactions stay in the reserved cluster. Centroids and item vectors stay what they
    are; a control that must not know them sets both augmentations to 0.
    """
    generator = torch.Generator().manual_seed(seed)
    state = vocabulary.state()
    known = {
        "item": torch.from_numpy(np.unique(histories.items)),
        "user": torch.from_numpy(np.unique(histories.user_ids)),
    }
    for kind, ids in known.items():
        dealt = ids[torch.randperm(len(ids), generator=generator)]
        for part in (f"{kind}_{part}" for part in ("cluster", "rank", "codes")):
            if part in state:
                values = state[part].clone()
                values[ids] = values[dealt]
                state[part] = values
    return OOVVocabulary(**state)


def random_walks(users: np.ndarray, items: np.ndarray, n_users: int, walk: WalkSettings, seed: int) -> np.ndarray:
    """User-item-user walks on the bipartite graph, all walked at once, one step a loop.

    Args:
        users, items: One entry an interaction; repeated pairs are one edge that is taken more often.
        n_users: Items are numbered after the users: node ``n_users + item``.
        walk: Number and length of walks.
        seed: Seeds starts and steps.

    Returns:
        Node ids, one row a walk. (nodes × walks_per_node, walk_length) int
    """
    nodes = np.concatenate([users, items + n_users]), np.concatenate([items + n_users, users])
    size = int(max(nodes[0].max(), nodes[1].max())) + 1
    graph = csr_matrix((np.ones(2 * len(users), dtype=np.int32), nodes), shape=(size, size))
    graph.sort_indices()
    degree = np.diff(graph.indptr)
    random = np.random.default_rng(seed)
    here = np.repeat(np.flatnonzero(degree), walk.walks_per_node)
    random.shuffle(here)
    walks = np.empty((len(here), walk.walk_length), dtype=np.int64)
    for step in range(walk.walk_length):
        walks[:, step] = here
        here = graph.indices[graph.indptr[here] + (random.random(len(here)) * degree[here]).astype(np.int64)]
    return walks


def skip_gram(
    walks: np.ndarray, walk: WalkSettings, seed: int, *, show_progress: bool = False
) -> dict[int, np.ndarray]:
    """Skip-gram with negative sampling over the walks: one vector a node. One thread, so that a seed decides it."""
    # gensim tells the root logger about every second of work; RecBole's log is not the place for it.
    logging.getLogger("gensim").setLevel(logging.WARNING)
    # One pass to count the words, then the epochs.
    total = len(walks) * (1 + walk.epochs)
    bar = tqdm(total=total, ncols=100, desc=set_color("OOV tokens ", "pink"), disable=not show_progress, unit="walk")
    model = Word2Vec(
        _Sentences(walks, bar),
        vector_size=walk.dim,
        window=walk.window,
        sg=1,
        negative=5,
        min_count=1,
        sample=0,
        epochs=walk.epochs,
        workers=1,
        seed=seed,
    )
    bar.close()
    return {int(node): model.wv[node] for node in model.wv.index_to_key}


class _Sentences:
    """Walks as lists of words, made row by row: a large graph's walks would not fit into memory as strings."""

    def __init__(self, walks: np.ndarray, bar: Any) -> None:
        self.walks, self.bar = walks, bar
        self.words = [str(node) for node in range(int(walks.max()) + 1)]

    def __iter__(self) -> Iterator[list[str]]:
        for row in self.walks:
            self.bar.update()
            yield [self.words[node] for node in row]


def named(histories: Histories, nodes: np.ndarray, vectors: np.ndarray, clusters: Clusters) -> OOVVocabulary:
    """Rank nodes inside their clusters, nearest to the centroid first; name the rest in the reserved cluster.

    Args:
        histories: Says how many users and items there are.
        nodes: User ids, and item ids counted on from ``n_users``. (N,)
        vectors: Theirs; those of items are kept. (N, dim)
        clusters: Theirs.
    """
    centroids = clusters.centroids
    n_clusters = len(centroids)
    total = histories.n_users + histories.n_items
    all_cluster = np.full(total, n_clusters)
    all_cluster[nodes] = clusters.cluster
    all_distance = np.zeros(total)
    all_distance[nodes] = clusters.distance
    order = np.lexsort((np.arange(total), all_distance, all_cluster))
    sizes = np.bincount(all_cluster, minlength=n_clusters + 1)
    rank = np.empty(total, dtype=np.int64)
    rank[order] = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    item_vectors = np.zeros((histories.n_items, vectors.shape[1]))
    is_item = nodes >= histories.n_users
    item_vectors[nodes[is_item] - histories.n_users] = vectors[is_item]
    n_users = histories.n_users
    return OOVVocabulary(
        item_cluster=torch.from_numpy(all_cluster[n_users:]),
        item_rank=torch.from_numpy(rank[n_users:]),
        user_cluster=torch.from_numpy(all_cluster[:n_users]),
        user_rank=torch.from_numpy(rank[:n_users]),
        centroids=torch.from_numpy(np.vstack([centroids, np.zeros((1, centroids.shape[1]))])).float(),
        item_vectors=torch.from_numpy(item_vectors).float(),
    )


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; those that are zero stay zero. (N, dim)"""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def check_size(n_clusters: int, n_nodes: int, of: str = "users and items") -> None:
    """Raise ConfigError where there are fewer nodes than clusters."""
    if n_clusters > n_nodes:
        raise ConfigError(
            f"n_clusters: {n_clusters} clusters cannot be made of {n_nodes} {of} with training "
            f"interactions; choose n_clusters ≤ {n_nodes}"
        )
