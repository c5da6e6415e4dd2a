"""Items without training interactions: placed by content alone, and recommended without being learned."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_oov.config import OOVConfig
from recbole_oov.data.content import item_content
from recbole_oov.data.histories import Histories
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.errors import ConfigError
from recbole_oov.lm.placement import Placement, fit_content_map, fit_shares, placed
from recbole_oov.lm.vocabulary import OOVVocabulary
from recbole_oov.recommendation import Recommender
from recbole_oov.runner import trainer_class
from recbole_oov.testing import write_atomic
from tests.unit.conftest import SMALL

_WORDS = (["dawn", "noon", "dusk"], ["red", "green", "blue", "gold"])
N_ITEMS = 24
TITLES = {
    f"i{i}": f"{'harbour gull tide' if i < 12 else 'cave lamp seam'} {_WORDS[0][i % 3]} {_WORDS[1][i % 4]}"
    for i in range(N_ITEMS)
}
"""Three words in five say whose taste an item is; no two items have the same words."""


def two_tastes() -> dict[str, list[str]]:
    """60 users choose ten items each, half of them among the first twelve and half among the others."""
    random = np.random.default_rng(0)
    return {f"u{u}": [f"i{12 * (u % 2) + i}" for i in random.permutation(12)[:10]] for u in range(60)}


@pytest.mark.parametrize("n", [12, 40])
def test_the_left_out_guesses_are_those_of_maps_fitted_without_the_item(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    content, vectors = torch.randn(n, 6, generator=generator), torch.randn(n, 3, generator=generator)
    fit = fit_content_map(content, vectors)
    x, y = content.double().numpy(), vectors.double().numpy()
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    penalty = fit.penalty * (s**2).mean()
    for item in range(n):
        rest = np.delete(np.arange(n), item)
        # The fit centres by all items; an unpenalised constant for the left-out fit is the same as its own centring.
        ones = np.column_stack([np.ones(n - 1), x[rest]])
        weight = np.linalg.solve(ones.T @ ones + penalty * np.diag([0, *np.ones(6)]), ones.T @ y[rest])
        np.testing.assert_allclose(fit.left_out[item].numpy(), np.array([1, *x[item]]) @ weight, atol=1e-5)


def test_what_content_explains_is_measured_on_items_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(80, 10, generator=generator)
    told = fit_content_map(content, content @ torch.randn(10, 4, generator=generator) + 3)
    assert told.explained > 0.99
    noise = fit_content_map(content, torch.randn(80, 4, generator=generator))
    assert noise.explained < 0.05 and noise.penalty > told.penalty


def a_vocabulary() -> tuple[OOVVocabulary, torch.Tensor, torch.Tensor]:
    """Two tastes in two of three clusters, users in the third; items 9 to 12 have no training interaction."""
    item_cluster = torch.tensor([3, 0, 0, 0, 0, 1, 1, 1, 1, 3, 3, 3, 3])
    item_rank = torch.tensor([0, 0, 1, 2, 4, 0, 1, 2, 3, 1, 2, 3, 4])
    user_cluster, user_rank = torch.tensor([3, 0, 1, 2]), torch.tensor([5, 3, 4, 0])
    centroids = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, 0]])
    vectors = torch.zeros(13, 2)
    vectors[1:9] = torch.nn.functional.normalize(centroids[item_cluster[1:9]] + 0.1 * torch.arange(8)[:, None] / 8)
    content = torch.zeros(13, 3)
    content[1:9, 0], content[1:9, 1] = (item_cluster[1:9] == 0).float(), (item_cluster[1:9] == 1).float()
    content[9:, 0], content[9:, 1] = torch.tensor([1.0, 0, 1, 0.6]), torch.tensor([0.0, 1, 0, 0.4])
    oov = torch.arange(13) >= 9
    return OOVVocabulary(item_cluster, item_rank, user_cluster, user_rank, centroids, vectors), content, oov


def test_content_decides_the_cluster_and_the_rank_is_nobody_elses() -> None:
    vocabulary, content, oov = a_vocabulary()
    with_places = placed(vocabulary, Placement(content, vocabulary, oov))
    assert with_places.item_cluster[9:].tolist() == [0, 1, 0, 0]
    for name, tensor in vocabulary.state().items():
        kept = ~oov if name.startswith("item") else slice(None)
        assert torch.equal(getattr(with_places, name)[kept], tensor[kept]), name
    pairs = [*zip(with_places.item_cluster.tolist(), with_places.item_rank.tolist(), strict=True)]
    pairs += zip(with_places.user_cluster.tolist(), with_places.user_rank.tolist(), strict=True)
    assert len(set(pairs)) == len(pairs)
    assert with_places.item_rank[10] == 5, "cluster 1 has ranks 0 to 4, users' included"
    assert sorted(with_places.item_rank[[9, 11, 12]].tolist()) == [5, 6, 7]
    assert with_places.item_rank[12] == 7, "farthest from the centroid"


def test_shares_are_probabilities_of_the_clusters_that_hold_items() -> None:
    vocabulary, content, oov = a_vocabulary()
    log_shares = Placement(content, vocabulary, oov, spread=True).log_shares[1:]
    torch.testing.assert_close(log_shares.exp().sum(1), torch.ones(12))
    assert (log_shares[:, 2:].exp() == 0).all(), "no item is in the cluster of users, nor in the reserved one"
    assert log_shares[[8, 10, 11]].argmax(1).tolist() == [0, 0, 0] and log_shares[9].argmax() == 1
    assert log_shares[11, 0] < log_shares[8, 0], "less is said of the last item"


def test_where_one_cluster_holds_all_items_it_has_all_of_every_item() -> None:
    weight, bias = fit_shares(torch.rand(5, 3), torch.full((5,), 2), 4)
    shares = (torch.rand(7, 3) @ weight + bias).softmax(dim=1)
    assert shares.tolist() == [[0.0, 0.0, 1.0, 0.0]] * 7


def test_the_weight_of_new_items_follows_what_is_ranked_by(data_path: Path) -> None:
    split = Split(data_path, tasks=["direct"])
    trainer = trainer_class(split.config)(split.config, split.model)
    rows = split.loaders[2]._dataset.inter_feat[:9]
    before = split.model.full_sort_predict(rows)
    trainer.remember(*split.loaders[:2])
    measured = trainer.task_results(split.loaders[2])["direct"]["OOVLLMRec"]
    assert torch.equal(split.model.eval().full_sort_predict(rows), before)
    split.model.rank_by, split.model._calibrated = "direct", False
    own = trainer.evaluate(split.loaders[2], load_best_model=False)
    assert measured == pytest.approx({name: float(value) for name, value in own.items()})


def test_no_item_is_placed_among_users_alone() -> None:
    vocabulary, content, oov = a_vocabulary()
    placement = Placement(content, vocabulary, oov)
    places = placement.clusters(torch.tensor([[-1.0, -0.1]]), vocabulary.centroids, vocabulary.item_cluster)
    assert places.tolist() == [1], "the cluster of users is nearer, and has no item"


def test_guesses_read_the_item_itself_of_nobody() -> None:
    vocabulary, content, oov = a_vocabulary()
    before = Placement(content, vocabulary, oov)
    changed = copy.deepcopy(vocabulary)
    changed.item_vectors[9:] = torch.nan
    changed.item_cluster[9:] = 1
    assert torch.equal(Placement(content, changed, oov).guesses, before.guesses)
    changed.item_vectors[3] += 1  # of a training item: all guesses move but its own, but for the choice of penalty
    after = Placement(content, changed, oov)
    assert not torch.equal(after.guesses[9:], before.guesses[9:])


class Split:
    """Two tastes under the OOV protocol."""

    def __init__(self, data_path: Path, **options: Any) -> None:
        options = {"data_path": str(data_path), "oov_split": "random", **SMALL, "oov_items": "placed", **options}
        self.config = OOVConfig("OOVLLMRec", "tastes", config_dict=options, argv=[])
        init_seed(self.config["seed"], True)
        self.loaders = data_preparation(self.config, create_dataset(self.config))
        self.train_set = self.loaders[0]._dataset
        self.oov = torch.from_numpy(oov_mask(self.train_set))
        init_seed(self.config["seed"], True)
        self.model: Any = get_model("OOVLLMRec")(self.config, self.train_set).eval()

    def fit(self) -> dict[str, float]:
        trainer = trainer_class(self.config)(self.config, self.model)
        trainer.fit(self.loaders[0], self.loaders[1], saved=False, verbose=False)
        result: dict[str, float] = trainer.evaluate(self.loaders[2], load_best_model=False)
        return result


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placement")
    write_atomic(folder, "tastes", two_tastes(), TITLES)
    return folder


@pytest.fixture(scope="module")
def split(data_path: Path) -> Split:
    return Split(data_path)


@pytest.mark.parametrize(("rank_tokens", "oov_items"), [("shared", "placed"), ("own", "placed"), ("shared", "spread")])
def test_new_items_are_found_without_any_training(
    data_path: Path, rank_tokens: str, oov_items: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"epochs": 3, "eval_step": 0, "train_batch_size": 128, "learning_rate": 0.01, "oov_split": None}
    options["eval_args"] = {"split": {"OOV": {"ratio": 0.33, "valid": 0.25, "seed": 3}}, "order": "TO", "mode": "full"}
    metrics = {"metrics": ["Recall", "NDCG"], "topk": [3], "valid_metric": "NDCG@3"}
    split = Split(data_path, **options, **metrics, rank_tokens=rank_tokens, oov_items=oov_items)
    assert int(split.oov.sum()) == 8
    # Three of eight new items by chance, in a test of six of them; by taste .8 to .9.
    assert split.fit()["oov_recall@3"] > 0.65


@pytest.mark.parametrize("oov_items", ["placed", "spread"])
def test_probabilities_are_of_learned_items_and_a_new_one_weighs_as_much_as_one_of_them(
    data_path: Path, oov_items: str
) -> None:
    split = Split(data_path, oov_items=oov_items)
    model, rows = split.model, split.loaders[2]._dataset.inter_feat
    scores = model.full_sort_predict(rows)
    learned = ~split.oov
    torch.testing.assert_close(scores[:, learned].exp().sum(1), torch.ones(len(rows)))
    # All training items, scored as new ones after training histories: together what they are as themselves, 1.
    users = torch.from_numpy(model.histories.user_ids)
    states = model._branches(model._after_training(users))
    weights = model._weights(states, model.placement.of_items(model.placement.learned)).exp()
    assert weights.sum(1).mean().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("oov_items", ["placed", "spread"])
def test_a_new_item_scores_what_an_item_of_the_data_set_with_its_content_scores(
    data_path: Path, oov_items: str
) -> None:
    split = Split(data_path, oov_items=oov_items)
    users = torch.tensor([1, 5, 9])
    of_items = split.model.full_sort_predict(split.model._after_training(users))[:, split.oov]
    content = item_content(split.config, split.train_set)[split.oov]
    torch.testing.assert_close(split.model.score_new_items(users, content), of_items, atol=1e-5, rtol=1e-5)


def test_recommend_takes_new_items_and_items_that_nobody_has_had(split: Split) -> None:
    recommender = Recommender(split.config, split.model, split.train_set)
    found = recommender.recommend(
        user="u0", new_items=[{"title": "harbour gull tide"}, {"title": "cave lamp"}], k=N_ITEMS + 2, keep_seen=True
    )
    assert sum(row.group == "new" for row in found) == 2
    assert sum(row.group == "oov" for row in found) == int(split.oov.sum())
    users = recommender.recommend(new_items=[{"title": "harbour gull tide"}], k=3)
    assert len(users) == 3
    new = split.train_set.field2id_token["item_id"][split.oov.numpy()][0]
    known = split.train_set.field2id_token["item_id"][model_items(split)[0]]
    after = recommender.recommend(history=[str(known), str(new)], k=3, scores=True)
    other = recommender.recommend(history=[str(known)], k=3, scores=True)
    assert [row.score for row in after] != [row.score for row in other], "a new item can be read as well"


def model_items(split: Split) -> list[int]:
    return [int(item) for item in split.model.placement.learned]


@pytest.mark.parametrize("oov_items", ["reserved", "placed", "spread"])
def test_the_softmax_over_all_items_is_over_those_with_training_interactions(data_path: Path, oov_items: str) -> None:
    split = Split(data_path, oov_items=oov_items, item_softmax=1.0, rank_tokens="own", tasks=[])
    model, oov = split.model, split.oov
    assert oov.any() and not oov[model.trained_items].any()
    leaves = model._leaves().detach().requires_grad_()
    rows = split.loaders[0]._dataset.inter_feat[:30]
    before = torch.randn(30, leaves.shape[1])
    model._item_nll(before, leaves, rows["item_id"]).sum().backward()
    moved = leaves.grad.abs().sum(dim=1) > 0
    assert moved[model.trained_items].all() and not moved[oov].any() and not moved[0]


@pytest.mark.parametrize("oov_items", ["placed", "spread"])
def test_a_reload_scores_bit_for_bit_the_same(data_path: Path, oov_items: str) -> None:
    split = Split(data_path, oov_items=oov_items)
    rows = split.loaders[2]._dataset.inter_feat[:20]
    other = Split(data_path, seed=7, oov_items=oov_items).model
    assert not torch.equal(other.placement.guesses, split.model.placement.guesses)
    other.load_state_dict(split.model.state_dict())
    assert torch.equal(other.eval().full_sort_predict(rows), split.model.full_sort_predict(rows))


def test_beams_as_wide_as_the_clusters_rank_as_exact_scores_do(split: Split) -> None:
    model, rows = split.model, split.loaders[2]._dataset.inter_feat[:30]
    exact = model.full_sort_predict(rows)
    try:
        for model.decoding, model.n_beams in (("beam", 10), ("beam", 2)):
            scores = model.full_sort_predict(rows)
            found = scores > torch.finfo(scores.dtype).min
            assert (found.sum(1) == model.n_beams).all()
            torch.testing.assert_close(scores[found], exact[found], atol=1e-5, rtol=1e-5)
            if model.n_beams >= model.n_clusters:
                assert torch.equal(scores.topk(10).indices, exact.topk(10).indices)
    finally:
        model.decoding = "exact"


def test_beams_recommend_no_more_than_they_find(split: Split) -> None:
    recommender = Recommender(split.config, split.model, split.train_set)
    user = recommender.names.user(int(split.loaders[2]._dataset.inter_feat["user_id"][0]))
    n_beams = split.model.n_beams
    try:
        split.model.decoding, split.model.n_beams = "beam", 4
        assert len(recommender.recommend(user=user, k=4, keep_seen=True)) == 4
        with pytest.raises(ConfigError, match=r"k: 6 is more than the 4 items .* more than n_beams: 4"):
            recommender.recommend(user=user, k=6, keep_seen=True)
    finally:
        split.model.decoding, split.model.n_beams = "exact", n_beams


@pytest.mark.parametrize("oov_items", ["placed", "spread"])
def test_interactions_of_new_items_are_never_read(tmp_path: Path, oov_items: str) -> None:
    """Give every interaction of an OOV item to another user: tokens, guesses and scores stay bit for bit the same."""
    # Internal ids follow first appearance: the first user has every item, and keeps them.
    histories = {"first": [f"i{i}" for i in range(24)], **two_tastes()}
    write_atomic(tmp_path / "one", "tastes", histories, TITLES)
    one = Split(tmp_path / "one", oov_items=oov_items)
    tokens = one.train_set.field2id_token["item_id"]
    new = {str(tokens[item]) for item in one.oov.nonzero().squeeze(1).tolist()}
    users = [user for user in histories if user != "first"]
    write_atomic(tmp_path / "two", "tastes", histories, TITLES)
    header, *lines = (tmp_path / "one" / "tastes" / "tastes.inter").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    kept = [row for row in rows if row[0] == "first" or row[1] not in new]
    moved = [row for row in rows if row[0] != "first" and row[1] in new]
    assert len(moved) > 50
    random = np.random.default_rng(0)
    others = [[users[int(random.integers(len(users)))], item, str(random.integers(20))] for _, item, _ in moved]
    for folder, held_out in (("one", moved), ("two", others)):
        text = "\n".join([header, *("\t".join(row) for row in [*kept, *held_out])])
        (tmp_path / folder / "tastes" / "tastes.inter").write_text(text + "\n")
    one = Split(tmp_path / "one", oov_items=oov_items)
    two = Split(tmp_path / "two", data_checks="warn", oov_items=oov_items)
    assert len(one.loaders[2]._dataset) != len(two.loaders[2]._dataset), "held-out rows are others"
    assert torch.equal(one.oov, two.oov) and one.oov.any()
    states = [split.model.state_dict() for split in (one, two)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    some = torch.arange(1, 40)
    scores = [split.model.full_sort_predict(split.model._after_training(some)) for split in (one, two)]
    assert torch.equal(*scores)


def test_the_newest_items_of_users() -> None:
    histories = Histories(np.array([1, 3]), np.array([5, 6, 7, 8, 9]), np.array([0, 2, 5]), 5, 10)
    items, lengths = histories.newest(torch.tensor([3, 1, 2, 4]), 2)
    assert items.tolist() == [[8, 9], [5, 6], [0, 0], [0, 0]]
    assert lengths.tolist() == [2, 2, 0, 0]
    assert histories.newest(torch.tensor([1]), 4)[0].tolist() == [[5, 6, 0, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"oov_items": "place"}, "oov_items: 'place' is not one of reserved, placed, spread"),
        ({"oov_items": "spread", "decoding": "beam"}, "decoding: beam ends in one cluster"),
        ({"item_augmentation": 0}, "item_augmentation: 0 leaves oov_items: placed nothing"),
        ({"oov_tokens": "random"}, "oov_items: placed maps content to walks and needs oov_tokens: clustered"),
        ({"decoding": "greedy"}, "decoding: 'greedy' is not one of exact, beam, softmax"),
        ({"n_beams": 0}, "n_beams: 0 is not allowed"),
        ({"decoding": "beam", "n_beams": 9, "topk": [5, 10]}, "n_beams: 9 beams find no 10 items, which topk asks for"),
        ({"item_text_tokens": 0}, "item_text_tokens: 0 is not allowed; give a whole number, at least 1"),
    ],
)
def test_options_that_cannot_work_are_refused(data_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OOVConfig(
            "OOVLLMRec",
            "tastes",
            config_dict={"data_path": str(data_path), **SMALL, "oov_items": "placed", **options},
            argv=[],
        )
