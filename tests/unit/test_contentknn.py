"""ContentKNN: RecBole's ItemKNN with another similarity, and new items found by their titles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.general_recommender.itemknn import ComputeSimilarity
from recbole.utils import get_model, get_trainer
from scipy.sparse import csr_matrix

from recbole_oov.config import OOVConfig
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.errors import ConfigError
from recbole_oov.model import contentknn
from recbole_oov.model.contentknn import ContentKNN, similar_items

GENRES = {
    "crime": "murder police detective jury poison witness",
    "space": "rocket orbit planet comet nebula shuttle",
    "farm": "tractor meadow harvest barn cattle orchard",
    "ocean": "reef current harbour whale island sail",
}
PER_GENRE, OOV_PER_GENRE, N_USERS = 20, 5, 40


def genre_of(user: str) -> str:
    return list(GENRES)[int(user[1:]) % 4]


def write(folder: Path) -> None:
    """Users like one genre each. The last five items of a genre are in the validation and test files alone."""
    place = folder / "genres"
    place.mkdir(parents=True)
    random = np.random.default_rng(0)
    titles = {}
    for genre, words in GENRES.items():
        for item in range(PER_GENRE):
            titles[f"{genre}{item}"] = " ".join(random.choice(words.split(), 3, replace=False))
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user in range(N_USERS):
        genre = genre_of(f"u{user}")
        old, new = PER_GENRE - OOV_PER_GENRE, np.arange(PER_GENRE - OOV_PER_GENRE, PER_GENRE)
        items = random.permutation(old)
        parts["train"] += [f"u{user}\t{genre}{item}" for item in items[:8]]
        for part in ("valid", "test"):
            parts[part] += [f"u{user}\t{genre}{item}" for item in [*items[8:10], *random.choice(new, 3, replace=False)]]
    for part, rows in parts.items():
        header = "user_id:token\titem_id:token"
        (place / f"genres.{part}.inter").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    lines = [f"{item}\t{title}" for item, title in titles.items()]
    (place / "genres.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *lines]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def genres(tmp_path_factory: pytest.TempPathFactory) -> tuple[OOVConfig, tuple[Any, Any, Any]]:
    folder = tmp_path_factory.mktemp("data")
    write(folder)
    options = {"data_path": str(folder), "benchmark_filename": ["train", "valid", "test"], "show_progress": False}
    config = OOVConfig("ContentKNN", "genres", config_dict=options, argv=[])
    return config, data_preparation(config, create_dataset(config))


@pytest.fixture
def model(genres: tuple[OOVConfig, Any]) -> ContentKNN:
    config, (train, _, _) = genres
    return ContentKNN(config, train._dataset)


def test_new_items_of_the_user_s_genre_come_first(model: ContentKNN, genres: tuple[OOVConfig, Any]) -> None:
    _, (train, _, test) = genres
    oov = torch.from_numpy(np.flatnonzero(oov_mask(train._dataset)))
    assert len(oov) == 4 * OOV_PER_GENRE
    users = torch.arange(1, N_USERS + 1)
    scores = model.full_sort_predict(Interaction({"user_id": users}))
    top = oov[scores[:, oov].topk(OOV_PER_GENRE).indices]
    names = train._dataset.field2id_token["item_id"][top.numpy()]
    liked = [genre_of(name) for name in train._dataset.field2id_token["user_id"][1:]]
    own = np.array([[name.startswith(genre) for name in row] for row, genre in zip(names, liked, strict=True)])
    assert own.mean() > 0.95, "chance is 0.25"


def test_only_trained_items_are_neighbours(model: ContentKNN, genres: tuple[OOVConfig, Any]) -> None:
    oov = torch.from_numpy(oov_mask(genres[1][0]._dataset))
    looked_up = model.offsets.diff() > 0
    assert looked_up.sum() > 50
    assert not (looked_up & oov).any()
    assert oov[model.items].any(), "OOV items have neighbours themselves"


def test_old_items_of_the_user_s_genre_come_first(model: ContentKNN, genres: tuple[OOVConfig, Any]) -> None:
    _, (train, _, test) = genres
    held_out = test._dataset.inter_feat
    scores = model.full_sort_predict(Interaction({"user_id": held_out["user_id"]}))
    names = train._dataset.field2id_token["item_id"]
    wanted = names[held_out["item_id"].numpy()]
    best = names[scores.argmax(dim=1).numpy()]
    same = [a.rstrip("0123456789") == b.rstrip("0123456789") for a, b in zip(wanted, best, strict=True)]
    assert np.mean(same) > 0.95


def test_scores_are_itemknn_s_with_content_for_interactions() -> None:
    """RecBole's own ComputeSimilarity, given item × feature instead of user × item."""
    torch.manual_seed(0)
    content = torch.rand(31, 6)
    content[0] = 0
    trained = torch.arange(1, 31)
    offsets, items, values = similar_items(content, trained, k=5, shrink=0.5)
    ours = csr_matrix((values.numpy(), items.numpy(), offsets.numpy()), shape=(31, 31)).toarray()
    _, theirs = ComputeSimilarity(csr_matrix(content[1:].T.numpy()), topk=5, shrink=0.5).compute_similarity()
    np.testing.assert_allclose(ours[1:, 1:], theirs.toarray(), rtol=1e-4, atol=1e-6)
    assert not ours[0].any()
    assert not ours[:, 0].any()


def test_neighbours_are_trained_items_that_are_similar() -> None:
    content = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [1.0, 0.05], [0.0, 1.0]])
    offsets, items, values = similar_items(content, torch.tensor([1, 3, 5]), k=2, shrink=0.0)
    assert (offsets.diff() > 0).nonzero().flatten().tolist() == [1, 5], "3 is like nobody: all cosines are negative"
    assert items[offsets[1] : offsets[2]].tolist() == [2, 4], "not itself"
    assert (values > 0).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    content = torch.nn.functional.normalize(torch.randn(400, 8))
    content[0] = 0
    trained = torch.arange(1, 400, 3)
    at_once = similar_items(content, trained, k=10, shrink=0.0)
    monkeypatch.setattr(contentknn, "_BLOCK", 7 * len(trained))
    for one, other in zip(at_once, similar_items(content, trained, k=10, shrink=0.0), strict=True):
        torch.testing.assert_close(one, other)


def test_no_block_is_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda self, *args: sizes.append(self.numel()) or topk(self, *args))
    monkeypatch.setattr(contentknn, "_BLOCK", 50_000)
    similar_items(torch.rand(3000, 4), torch.arange(1, 3000), k=3, shrink=0.0)
    assert max(sizes) <= 50_000 < 3000 * 2999
    assert sum(sizes) == 2999 * 2999


def test_predict_equals_full_sort_predict(model: ContentKNN, monkeypatch: pytest.MonkeyPatch) -> None:
    users = torch.arange(0, N_USERS + 1).repeat_interleave(7)
    items = torch.randint(0, model.n_items, users.shape, generator=torch.Generator().manual_seed(0))
    pairs = Interaction({"user_id": users, "item_id": items})
    full = model.full_sort_predict(pairs)[torch.arange(len(users)), items]
    assert torch.equal(model.predict(pairs), full)
    monkeypatch.setattr(contentknn, "_BLOCK", 3 * model.n_items)
    assert torch.equal(model.predict(pairs), full)


def test_an_id_below_zero_is_refused(model: ContentKNN) -> None:
    with pytest.raises(IndexError, match=r"item id -1 is not from 0 to 80"):
        model.predict(Interaction({"user_id": torch.tensor([1, 2]), "item_id": torch.tensor([3, -1])}))


def test_a_user_without_history_gets_everybody_s_mean(model: ContentKNN) -> None:
    scores = model.full_sort_predict(Interaction({"user_id": torch.arange(0, N_USERS + 1)}))
    assert scores[0].any(), "the padding user has no history"
    torch.testing.assert_close(scores[0], scores[1:].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_state_is_what_predicts(model: ContentKNN, genres: tuple[OOVConfig, Any]) -> None:
    config, (train, _, _) = genres
    other = ContentKNN(config, train._dataset)
    other.similarities.zero_()
    other.load_state_dict(model.state_dict())
    users = Interaction({"user_id": torch.arange(N_USERS)})
    assert torch.equal(other.full_sort_predict(users), model.full_sort_predict(users))


def test_held_out_interactions_do_not_change_a_score(
    tmp_path: Path, model: ContentKNN, genres: tuple[OOVConfig, Any]
) -> None:
    write(tmp_path)
    for part in ("valid", "test"):
        path = tmp_path / "genres" / f"genres.{part}.inter"
        header, *rows = path.read_text().splitlines()
        users, items = zip(*(row.split("\t") for row in rows), strict=True)
        moved = [f"{user}\t{item}" for user, item in zip(users, items[7:] + items[:7], strict=True)]
        path.write_text("\n".join([header, *moved]) + "\n")
    options = {"data_path": str(tmp_path), "benchmark_filename": ["train", "valid", "test"], "show_progress": False}
    config = OOVConfig("ContentKNN", "genres", config_dict=options, argv=[])
    train = data_preparation(config, create_dataset(config))[0]._dataset
    before = genres[1][0]._dataset
    scores = ContentKNN(config, train).full_sort_predict(Interaction({"user_id": torch.arange(N_USERS)}))
    expected = model.full_sort_predict(Interaction({"user_id": torch.arange(N_USERS)}))
    items = train.token2id("item_id", before.field2id_token["item_id"][1:])
    users = train.token2id("user_id", before.field2id_token["user_id"][1:N_USERS])
    torch.testing.assert_close(scores[users][:, items], expected[1:N_USERS, 1:])


def test_recbole_finds_it_and_trains_it_for_one_epoch(genres: tuple[OOVConfig, Any], model: ContentKNN) -> None:
    config, _ = genres
    assert get_model("ContentKNN") is ContentKNN
    assert get_trainer(config["MODEL_TYPE"], "ContentKNN").__name__ == "TraditionalTrainer"
    assert config["epochs"] == 1
    loss = model.calculate_loss(Interaction({"user_id": torch.tensor([1])}))
    loss.backward()
    assert loss.item() == 0


def test_options_out_of_range() -> None:
    with pytest.raises(ConfigError, match="k: 0 is not allowed"):
        OOVConfig("ContentKNN", "ml-100k", config_dict={"k": 0}, argv=[])
    with pytest.raises(ConfigError, match="shrink: -1 is not allowed"):
        OOVConfig("ContentKNN", "ml-100k", config_dict={"shrink": -1}, argv=[])
