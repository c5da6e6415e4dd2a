"""``push`` and ``pull``: what comes back scores as what was sent, tells no places, and fits the data or is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cold import write_tastes
from recbole.data.interaction import Interaction

import recbole_oov
from recbole_oov.cli import main
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.tools import hub
from recbole_oov.tools.portable import is_place

OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "embedding_size": 8,
    "topk": [2],
    "valid_metric": "oov_ndcg@2",
    "oov_split": "random",
    "show_progress": False,
    "state": "ERROR",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder, and a DeepMusic that was trained in it, on content out of a file. Tests copy it."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_tastes(folder / "dataset")
        vectors = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
        np.savez("vectors.npz", ids=np.array([f"i{i}" for i in range(60)]), vectors=vectors)
        given = {**OPTIONS, "content": {"from": "file", "path": str(folder / "vectors.npz")}}
        result = recbole_oov.run("DeepMusic", "tastes", config_dict=given, argv=["--checkpoint_dir=runs"])
        name = "runs/deep.json"
        hub.store.save(hub.load_checkpoint(Path(result["model_file"])), folder / name)
    return folder, name


@pytest.fixture
def checkpoint(made: tuple[Path, str], workplace: Path) -> str:
    """Data and checkpoint in the working directory."""
    shutil.copytree(made[0] / "dataset", workplace / "dataset")
    return str(made[0] / made[1])


def scores(checkpoint: str | Path, data_path: str = "dataset") -> torch.Tensor:
    _, model, _, _, _, _ = recbole_oov.load(checkpoint, data_path=data_path, log=False)
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model.full_sort_predict(Interaction({"user_id": torch.arange(1, model.n_users)}))
    return found


def test_there_and_back(checkpoint: str, made: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    expected = scores(checkpoint)
    assert main(["push", f"--checkpoint={checkpoint}", "--to=shared/deep", "--data_path=dataset", "--license=mit"]) == 0
    assert "nothing was sent anywhere" in capsys.readouterr().out
    names = sorted(path.name for path in Path("shared/deep").iterdir())
    assert [name for name in names if "safetensors" not in name] == [
        "README.md",
        "model.json",
        "recbole_oov.json",
        "vectors.npz",
    ]
    for path in Path("shared/deep").iterdir():  # nobody learns where it was made
        assert str(made[0]).encode() not in path.read_bytes(), path
    shutil.move(str(made[0] / "vectors.npz"), str(made[0] / "away.npz"))  # another machine has no such file
    try:
        assert main(["pull", "--from=shared/deep", "--to=models/deep", "--data_path=dataset"]) == 0
        assert torch.equal(scores("models/deep/model.json"), expected)
        shutil.rmtree("shared")
        assert torch.equal(scores("models/deep/model.json"), expected)
    finally:
        shutil.move(str(made[0] / "away.npz"), str(made[0] / "vectors.npz"))
    assert not list(Path("models").glob(".*")) and not Path("log").exists()


def test_the_card(checkpoint: str) -> None:
    hub.publish(checkpoint, "shared", "dataset", licence="cc-by-4.0")
    card = Path("shared/README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    parsed = yaml.safe_load(front)
    assert (parsed["license"], parsed["library_name"]) == ("cc-by-4.0", "recbole_oov")
    about = json.loads(Path("shared/recbole_oov.json").read_text(encoding="utf-8"))
    published = {m["type"]: m["value"] for m in parsed["model-index"][0]["results"][0]["metrics"]}
    assert published == about["test_result"] and "oov_ndcg@10" not in published and "oov_ndcg@2" in published
    assert "60 users, 60 items, 840 interactions" in text and "48 items have training rows, 12 have none" in text
    command = next(line for line in text.splitlines() if line.startswith("python run_recbole_oov.py --model"))
    assert "--model=DeepMusic --dataset=tastes" in command and "vectors.npz" in command
    assert "--oov_split=random" in command and "eval_args" not in command and "checkpoint_dir" not in command


def test_without_a_test_the_card_says_so(checkpoint: str) -> None:
    hub.publish(checkpoint, "shared", "dataset", evaluate=False)
    card = Path("shared/README.md").read_text(encoding="utf-8")
    assert "The test was not run" in card and "model-index" not in card and "license: unknown" in card


def test_other_data_are_refused_and_nothing_is_written(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    hub.publish(checkpoint, "shared", "dataset", evaluate=False)
    path = Path("dataset/tastes/tastes.inter")
    path.write_text(path.read_text(encoding="utf-8").replace("u7\t", "u700\t"), encoding="utf-8")
    assert main(["pull", "--from=shared", "--to=models/deep"]) == 2
    assert "has other users or items, or another split" in capsys.readouterr().err
    assert list(Path("models").iterdir()) == []
    assert main(["pull", "--from=shared", "--to=models/deep", "--data_path=nowhere"]) == 2
    assert "data_path" in capsys.readouterr().err


def test_cut_off_while_writing_there_is_no_folder(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "model_card", broken)
    with pytest.raises(DataError, match="push: shared cannot be written .No space left on device."):
        hub.publish(checkpoint, "shared", "dataset", evaluate=False)
    assert [path.name for path in Path().iterdir()] == ["dataset"]


def test_a_folder_that_holds_something_is_left_alone(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("x", encoding="utf-8")
    assert main(["push", f"--checkpoint={checkpoint}", "--to=thesis"]) == 2
    assert "to 'thesis' is not empty; name a new or an empty folder" in capsys.readouterr().err
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["push", "--to=x"], "--checkpoint=… is needed"),
        (["push", "--checkpoint=none.json", "--to=x"], "none.json: there is no such checkpoint"),
        (["push", "--checkpoint=a.json", "--to=x", "--private=yes"], "private 'yes' is not allowed"),
        (["push", "--checkpoint=a.json", "--to=hf://name"], "names no repository; write hf://owner/name"),
        (["pull", "--from=dataset", "--to=x"], "from 'dataset' is no folder that push wrote"),
        (["pull", "--form=dataset", "--to=x"], "did you mean --from?"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err and list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("{", "cannot be read"),
        ('{"format": "something", "version": 1}', "is not of version 1"),
        ('{"format": "recbole_oov model folder", "version": 1, "content_file": "../x"}', "does not lie in the folder"),
    ],
)
def test_a_damaged_folder_is_refused(about: str, said: str, workplace: Path) -> None:
    Path("shared").mkdir()
    Path("shared/model.json").write_text("{}", encoding="utf-8")
    Path("shared/recbole_oov.json").write_text(about, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        hub.fetch("shared", "models")


class Evil:
    """A pickle of it is a program that makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("given", [True, False])
def test_no_pickle_that_a_checkpoint_names_is_read(given: bool, checkpoint: str) -> None:
    """RecBole unpickles saved data: at the paths of the configuration, and without them in its checkpoint_dir."""
    hub.publish(checkpoint, "shared", "dataset", evaluate=False)
    state = hub.load_checkpoint(Path("shared/model.json"))
    names = {
        "dataset_save_path": "tastes-DeepMusicDataset.pth",
        "dataloaders_save_path": "tastes-for-DeepMusic-dataloader.pth",
    }
    for key, name in names.items():
        state["config"][key] = f"shared/{name}" if given else None
    state["config"]["checkpoint_dir"] = "shared"
    hub.store.save(state, Path("shared/model.json"))
    for name in (*names.values(), "tastes-Dataset.pth"):
        Path("shared", name).write_bytes(pickle.dumps(Evil()))
    shutil.copy("shared/vectors.npz", ".")
    recbole_oov.load("shared/model.json", data_path="dataset", log=False)
    pulled = hub.load_checkpoint(hub.fetch("shared", "models/deep", "dataset"))["config"]
    assert not Path("ran").exists()
    assert [pulled[key] for key in names] == [None, None] and pulled["checkpoint_dir"] == "saved"


class Hub(ModuleType):
    """Takes the place of huggingface_hub: keeps what is sent."""

    def __init__(self, folder: Path, error: Exception | None = None, *, private: bool = True) -> None:
        super().__init__("huggingface_hub")
        self.folder, self.error, self.calls = folder, error, []  # type: ignore[var-annotated]
        self.private = private

    def HfApi(self) -> SimpleNamespace:
        return SimpleNamespace(create_repo=self.create, repo_info=self.info, upload_folder=self.take)

    def info(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(id=name, private=self.private)

    def create(self, name: str, **options: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append((name, options))

    def take(self, repo_id: str, folder_path: str) -> None:
        shutil.copytree(folder_path, self.folder)
        self.calls.append((repo_id, {}))

    def snapshot_download(self, name: str) -> str:
        if self.error:
            raise self.error
        self.calls.append((name, {}))
        return str(self.folder)


def test_a_repository_of_the_hub_is_private_and_named(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Hub(Path("sent"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    arguments = [f"--checkpoint={checkpoint}", "--to=hf://me/deep", "--data_path=dataset", "--evaluate=False"]
    assert main(["push", *arguments]) == 0
    assert fake.calls == [("me/deep", {"private": True, "exist_ok": True}), ("me/deep", {})]
    assert main(["pull", "--from=hf://me/deep", "--to=models/deep"]) == 0
    assert fake.calls[2:] == [("me/deep", {})]
    assert torch.equal(scores("models/deep/model.json"), scores(checkpoint))


def test_a_public_repository_gets_nothing_unless_that_is_asked_for(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """create_repo(private=True, exist_ok=True) leaves a repository that is there as it is."""
    Path("made").mkdir()
    fake = Hub(Path("sent"), private=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    with pytest.raises(ConfigError, match=r"me/deep is there already and is public; nothing was sent.*--private=False"):
        hub.upload(Path("made"), "me/deep")
    assert not Path("sent").exists()
    hub.upload(Path("made"), "me/deep", private=False)
    assert Path("sent").is_dir()


def test_a_hub_that_does_not_answer(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(Path("sent"), OSError("no route to host\nand more")))
    with pytest.raises(DataError, match=r"could not be pushed \(no route to host\); log in with: hf auth login"):
        hub.upload(Path(), "me/deep")
    with pytest.raises(DataError, match=r"could not be downloaded \(no route to host\)"):
        hub.fetch("hf://me/deep", "models")


def test_places() -> None:
    assert all(map(is_place, ["/home/me/x", "~/x", "C:\\me\\x", "\\\\server\\x"]))
    assert not any(map(is_place, ["dataset/x", "x.npz", "/", "a ~ b", "owner/name"]))
    with pytest.raises(ConfigError, match="names no repository"):
        hub.repository_of("hf://a/b/c")
