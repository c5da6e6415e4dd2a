"""``export``: the dot products of what is written are the model's scores, and a model without such is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cold import experiment
from recbole.data.interaction import Interaction

import recbole_oov
from recbole_oov.cli import main
from recbole_oov.errors import ConfigError
from recbole_oov.tools.embeddings import embeddings_of
from recbole_oov.tools.export import write_index, write_table

OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "embedding_size": 8,
    "topk": [2],
    "valid_metric": "NDCG@2",
    "show_progress": False,
    "state": "ERROR",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of data sets, and a DeepMusic that was trained on one of them."""
    from cold import write_tastes

    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_tastes(folder / "dataset")
        given = {**OPTIONS, "oov_split": "random", "valid_metric": "oov_ndcg@2", "content": {"from": "text", "dim": 8}}
        model_file = recbole_oov.run("DeepMusic", "tastes", config_dict=given, argv=[])["model_file"]
    return folder / "dataset", str(folder / model_file)


def scores_by_token(checkpoint: tuple[Path, str]) -> tuple[np.ndarray, list[str], list[str]]:
    _, model, _, train, _, _ = recbole_oov.load(checkpoint[1], data_path=checkpoint[0], log=False)
    dataset = train._dataset
    model.eval()
    with torch.no_grad():
        users = torch.arange(1, dataset.user_num)
        scores = model.full_sort_predict(Interaction({"user_id": users})).view(len(users), -1)[:, 1:]
    return (
        scores.numpy(),
        dataset.field2id_token["user_id"][1:].tolist(),
        dataset.field2id_token["item_id"][1:].tolist(),
    )


def test_arrays_and_index(checkpoint: tuple[Path, str], workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faiss = pytest.importorskip("faiss")
    where = [f"--checkpoint={checkpoint[1]}", f"--data_path={checkpoint[0]}"]
    assert main(["export", *where, "--output=out", "--index=faiss"]) == 0
    scores, users, items = scores_by_token(checkpoint)
    read = {
        name: np.load(f"out/{name}.npy", allow_pickle=False) for name in ("items", "users", "items.ids", "users.ids")
    }
    assert (read["items.ids"].tolist(), read["users.ids"].tolist()) == (items, users)
    np.testing.assert_allclose(read["users"] @ read["items"].T, scores, atol=1e-5)
    about = json.loads(Path("out/export.json").read_text(encoding="utf-8"))
    assert (about["items"], about["users"], about["dimensions"], about["oov_items"]) == (60, 60, 8, 12)
    assert about["largest_relative_gap_to_the_model"] < 1e-4
    found, rows = faiss.read_index("out/items.faiss").search(read["users"], 5)
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, :5], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, rows, axis=1), found, atol=1e-5)
    assert "60 items, 8 numbers each" in capsys.readouterr().out


def test_parquet(checkpoint: tuple[Path, str], workplace: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    where = [f"--checkpoint={checkpoint[1]}", f"--data_path={checkpoint[0]}"]
    assert main(["export", *where, "--output=out", "--format=parquet"]) == 0
    scores, users, items = scores_by_token(checkpoint)
    tables = {name: parquet.read_table(f"out/{name}.parquet") for name in ("items", "users")}
    assert tables["items"]["item_id"].to_pylist() == items and tables["users"]["user_id"].to_pylist() == users
    vectors = {name: np.array(table["embedding"].to_pylist(), dtype=np.float32) for name, table in tables.items()}
    np.testing.assert_allclose(vectors["users"] @ vectors["items"].T, scores, atol=1e-5)


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "SASRec", "GRU4Rec"])
def test_models_that_rank_by_a_dot_product(model: str, tiny_dataset: Path) -> None:
    sequential = model in ("SASRec", "GRU4Rec")
    options = {**OPTIONS, "hidden_size": 8, "loss_type": "CE"} if sequential else OPTIONS
    if sequential:
        options = {**options, "train_neg_sample_args": None}
        options.pop("embedding_size" if model == "SASRec" else "hidden_size")
    ready = recbole_oov.runner.prepare(model, "tiny", config_dict=options, argv=[])
    found = embeddings_of(ready.model, ready.test_data)
    assert found.gap < 1e-4 and found.n_scores > 1000
    assert found.items.shape[0] == ready.dataset.item_num
    assert (found.users is None) == sequential


CLICKS = {"threshold": {"rating": 3}, "metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("EASE", {}),
        ("NeuMF", {"mf_embedding_size": 8}),
        ("FM", CLICKS),
        ("FPMC", {}),
        ("Caser", {"train_neg_sample_args": None}),
    ],
)
def test_models_that_do_not_are_refused(model: str, options: dict[str, Any], tiny_dataset: Path) -> None:
    quiet = {key: OPTIONS[key] for key in ("show_progress", "state")}
    ready = recbole_oov.runner.prepare(model, "tiny", config_dict={**quiet, **options}, argv=[])
    with pytest.raises(ConfigError, match=rf"export: {model} .*embedding.*; choose BPR, LightGCN"):
        embeddings_of(ready.model, ready.test_data)


def test_nothing_of_an_earlier_export_stays(
    checkpoint: tuple[Path, str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another model's users, or an index of its items, would be searched with these embeddings."""
    pytest.importorskip("pyarrow")
    where = [f"--checkpoint={checkpoint[1]}", f"--data_path={checkpoint[0]}", "--output=out"]
    assert main(["export", *where]) == 0
    for name in ("items.faiss", "notes.txt"):
        Path("out", name).touch()
    assert main(["export", *where, "--format=parquet"]) == 0
    left = sorted(path.name for path in Path("out").iterdir())
    assert left == ["export.json", "items.parquet", "notes.txt", "users.parquet"]
    said = capsys.readouterr().out
    assert "items.faiss, items.ids.npy, items.npy, users.ids.npy, users.npy of an earlier export removed" in said


def test_users_of_my_own_are_left_alone(checkpoint: tuple[Path, str], workplace: Path) -> None:
    Path("out").mkdir()
    Path("out/users.parquet").touch()
    assert main(["export", f"--checkpoint={checkpoint[1]}", f"--data_path={checkpoint[0]}", "--output=out"]) == 0
    assert Path("out/users.parquet").is_file()


def test_no_more_pairs_are_scored_at_once_than_there_are_items(tiny_dataset: Path) -> None:
    ready = recbole_oov.runner.prepare("BPR", "tiny", config_dict=OPTIONS, argv=[])
    plain, sizes = ready.model.predict, []

    def predict(rows: Interaction) -> torch.Tensor:
        sizes.append(len(rows))
        scores: torch.Tensor = plain(rows)
        return scores

    ready.model.predict = predict
    found = embeddings_of(ready.model, ready.test_data)
    assert sizes[-40:] == [60] * 40 and max(sizes) <= 64 and found.n_scores == 40 * 60


def test_a_bias_is_noticed(tmp_path: Path, workplace: Path) -> None:
    """A model that looks as BPR does and adds something to the dot product must not be exported."""
    from cold import write_tastes

    write_tastes(tmp_path)
    ready = experiment("BPR", tmp_path, oov_split=None, content=None, valid_metric="NDCG@5")
    plain = ready.model.predict
    ready.model.predict = lambda rows: plain(rows) + 0.01 * rows["item_id"]
    with pytest.raises(ConfigError, match="export: BPR does not score by the dot product"):
        embeddings_of(ready.model, ready.test_data)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--checkpoint=… is needed"),
        (["--checkpoint=saved/none.json", "--output=out"], "saved/none.json: there is no such checkpoint"),
        (["--checkpoint=x.json", "--output=out", "--format=csv"], "'csv' is not allowed; it must be npy or parquet"),
        (["--checkpoint=x.json", "--output=out", "--index=annoy"], "'annoy' is not allowed"),
        (["--checkpoint=x.json", "--outptu=out"], "did you mean --output?"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *arguments]) == 2
    assert said in capsys.readouterr().err and not Path("out").exists()


@pytest.mark.parametrize(
    ("option", "package", "extra"),
    [("--format=parquet", "pyarrow", "parquet"), ("--index=faiss", "faiss-cpu", "faiss")],
)
def test_an_extra_is_named(
    option: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", "--checkpoint=x.json", "--output=out", option]) == 2
    said = capsys.readouterr().err
    assert f"needs the package {package}" in said and f'pip install "recbole-oov[{extra}]"' in said


@pytest.mark.parametrize("kind", ["npy", "parquet", "faiss"])
def test_cut_off_while_writing_there_is_the_old_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"npy": "numpy", "parquet": "pyarrow", "faiss": "faiss"}[kind])
    ids, vectors = np.array(["a", "b"]), np.eye(2, dtype=np.float32)

    def write(scale: float) -> None:
        if kind == "faiss":
            write_index(tmp_path / "items.faiss", vectors * np.float32(scale))
        else:
            write_table(tmp_path, "items", "item_id", ids, vectors * np.float32(scale), kind)

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write(1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="No space"):
        write(2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
