"""What the command line says to bad input: the thing, the remedy, exit status 2, before training; nothing is lost."""

# ruff: noqa: E501, SIM223 (a case a line, and some need two changes)

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import recbole.trainer
from bad_inputs import ALL, CASES, REPAIRS, SASREC, Case, Change, Repair, beside, cell, content, rows, swap, table

import recbole_oov
from recbole_oov.checkpoints import files
from recbole_oov.cli import main
from recbole_oov.config import places
from recbole_oov.errors import RecBoleOOVError

Refused = Callable[..., str]
SHORT = ["--dataset=tiny", "--epochs=1", "--train_batch_size=64", "--show_progress=False"]
DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-input.md"


def command(*argv: str) -> list[str]:
    """A command with the options of :data:`SHORT` where it has none of its own."""
    given = {option.partition("=")[0] for option in argv}
    return [option for option in SHORT if option.partition("=")[0] not in given] + list(argv)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def n_interactions(log: str) -> int:
    """The rows in RecBole's data set, by its log."""
    (found,) = re.findall(r"The number of inters.*?: (\d+)\s*$", log, re.MULTILINE)
    return int(found)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole looks at the processor's load for a second at the end of a run."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda *args, **more: 0.0)


@pytest.fixture
def refused(
    tiny_dataset: Path, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Run a command that must be refused, and check what it says and that it left no file and changed none."""

    def train(*args: Any, **more: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(recbole.trainer.Trainer, "fit", train)
    (workplace / "saved").mkdir()
    (workplace / "saved" / "BPR-earlier.json").write_text("an earlier checkpoint")

    def run(argv: list[str], *words: str, logged: bool = False) -> str:
        before = contents(workplace)
        status = main(command(*argv))
        printed = capsys.readouterr()
        said = printed.err[printed.err.index("error: ") :] if "error: " in printed.err else printed.err
        assert status == 2, printed.err
        assert "Traceback" not in printed.err + printed.out
        assert logged or printed.err.startswith("error: ")
        at = 0
        for word in words:
            at = said.find(word, at)
            assert at >= 0, (word, said)
        after = contents(workplace)
        assert {path: after.get(path) for path in before} == before
        new = [path.relative_to(workplace).parts[0] for path in after if path not in before]
        assert set(new) <= ({"log"} if logged else set())
        return said

    return run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what.replace(" ", "-"))
def test_bad_input_is_refused(case: Case, refused: Refused, tiny_dataset: Path) -> None:
    if case.change is not None:
        case.change(tiny_dataset)
    refused(list(case.argv), *case.said, logged=case.logged)


@pytest.mark.parametrize("repair", REPAIRS, ids=lambda repair: repair.what.replace(" ", "-"))
def test_what_recbole_repairs_is_counted(repair: Repair, tiny_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    if repair.change is not None:
        repair.change(tiny_dataset)
    with caplog.at_level(logging.INFO):
        assert main(command(*repair.argv)) == 0
    log = caplog.text
    assert repair.said in log
    used = re.search(r"(\d+) of (\d+) rows are used; left out are (\d+)", log)
    if used is not None:
        assert n_interactions(log) == int(used[1])
        assert sum(map(int, re.findall(r"(?:are|;) (\d+) (?:that|outside|whose)", log))) == int(used[2]) - int(used[1])


def test_the_documentation_lists_these_cases() -> None:
    assert len(CASES) == len({case.what for case in CASES}) >= 80
    assert table() in DOCUMENT.read_text(), "write the output of python tests/unit/bad_inputs.py into docs/bad-input.md"


# ---- odd, but as good as any other ----

_BOM = b"\xef\xbb\xbf"


def _linked(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"), target_is_directory=True)


def _read_only(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


ODD: dict[str, tuple[list[str], Change]] = {
    "CRLF": ([SASREC], content(lambda b: b.replace(b"\n", b"\r\n"))),
    "CR": ([], content(lambda b: b.replace(b"\n", b"\r"))),
    "no end of the last line": ([SASREC], content(lambda b: b.rstrip(b"\n"))),
    "blank lines": ([], content(lambda b: b.replace(b"\n", b"\n\n", 9) + b"\n \n\n")),
    "byte order mark": (["--encoding=utf-8-sig"], content(lambda b: _BOM + b)),
    "UTF-16": (["--encoding=utf-16"], content(lambda b: b.decode().encode("utf-16"))),
    "quotes in titles": ([ALL], lambda f: (cell(5, 1, '12" of "x"', "tiny.item")(f), cell(6, 1, '"a ""b"""', "tiny.item")(f)) and None),
    "ids of any script": ([], swap("\ti9\t", "\tкафе ☕ 東京\t", count=-1)),
    "ids with line ends of Unicode": ([], swap("\ti9\t", "\ta\u2028b\x85c\x0bd\x1ce\t", count=-1)),
    "ids as numbers": ([], content(lambda b: re.sub(rb"\ti(\d)", rb"\t0\1", b).replace(b"\nu", b"\n"))),
    "an id called inf": ([], swap("\ti9\t", "\tinf\t", count=-1)),
    "an id called 0": ([], swap("\ti9\t", "\t0\t", count=-1)),
    "ids that differ in zeros": ([], lambda f: (cell(5, 1, "7")(f), cell(6, 1, "007")(f)) and None),
    "columns with odd names": (["--load_col={inter: '*', item: '*'}"], lambda f: (swap("rating:", "class:")(f), swap("year:", "the year *:", "tiny.item")(f)) and None),
    "empty fields of items": ([ALL], rows(lambda ls: [line.split("\t")[0] + "\t\t" for line in ls], "tiny.item")),
    "numbers with exponents": ([ALL], rows(lambda ls: [line.replace("\t1000", "\t+1.000") + "e+6" if "\t1000" in line else line for line in ls])),
    "one user": ([SASREC], rows(lambda ls: [line for line in ls if line.startswith("u1\t")])),
    "a linked folder": ([], _linked),
    "a folder to read only": ([ALL], _read_only),
    "another separator": (["--field_separator=|"], lambda f: [content(lambda b: b.replace(b"\t", b"|"), n)(f) for n in ("tiny.inter", "tiny.item")] and None),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_input_works(name: str, tiny_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    argv, change = ODD[name]
    change(tiny_dataset)
    n_rows = len((tiny_dataset / "tiny.inter").read_text().splitlines()) - 1 if name == "one user" else 429
    with caplog.at_level(logging.INFO):
        assert main(command(*argv)) == 0
    assert n_interactions(caplog.text) == n_rows


# ---- several at once, commands, and what cannot be a line of the table ----


def test_a_config_file_may_use_aliases(tiny_dataset: Path) -> None:
    text = "MLP: &x [8, 8]\ntopk: *x\n".replace("MLP", "metrics").replace("[8, 8]", "[Recall, MRR]", 1)
    beside("good.yaml", text.replace("topk: *x", "topk: &k [5, 10]\neval_args: {<<: {order: RO}, mode: full}"))(
        tiny_dataset
    )
    assert main(command("--config_files=good.yaml", "--valid_metric=MRR@5")) == 0


def test_everything_wrong_at_once(refused: Refused) -> None:
    said = refused(["--model=SASRecc", "--dataset=tinny", "--epochs=0", "--learning_rat=1", "--config_files=none.yaml"])
    assert said.startswith("error: 5 problems in the configuration:\n  - ")
    for word in ("SASRec", "tiny", "epochs: 0", "learning_rate", "none.yaml"):
        assert word in said


def test_python_on_the_command_line_is_not_run(refused: Refused, workplace: Path) -> None:
    refused(["--epochs=__import__('pathlib').Path('made').touch() or 1"], "epochs: \"__import__('pathlib')")
    assert not (workplace / "made").exists()


def test_an_unknown_command(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "there is no command 'trian'" in capsys.readouterr().err


def test_a_working_directory_that_cannot_be_written(refused: Refused, workplace: Path) -> None:
    (workplace / "log").write_text("")
    refused([], "cannot write to log, because", "is a file; start in another folder")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_a_folder_without_permission_or_space(refused: Refused, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def no(*args: Any, **more: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(places.tempfile, "NamedTemporaryFile", no)
    refused([], "checkpoint_dir: cannot write to saved", os.strerror(number), "choose another folder")


@pytest.mark.parametrize("name", ["tiny.inter", "own.yaml"])
def test_a_file_without_permission_to_read(
    refused: Refused, workplace: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "own.yaml").write_text("seed: 1\n")
    real = Path.open

    def guarded(self: Path, *args: Any, **more: Any) -> Any:
        if self.name == name and not hasattr(self, "mine"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self, *args, **more)

    reader = contents(workplace)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", guarded)
        patch.setattr("test_bad_input.contents", lambda folder: reader)
        refused(["--config_files=own.yaml"], name, "cannot be read", "Permission denied")


# ---- checkpoints ----


class _CutOffError(BaseException):
    """What ends a run in the middle, as a signal would."""


@pytest.fixture
def unfinished(tiny_dataset: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a run that was cut off in its third epoch; its best model lies beside it."""
    trained = recbole.trainer.Trainer._train_epoch

    def train(self: Any, data: Any, epoch: int, *args: Any, **more: Any) -> Any:
        if epoch == 2:
            raise _CutOffError
        return trained(self, data, epoch, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(recbole.trainer.Trainer, "_train_epoch", train)
        with pytest.raises(_CutOffError):
            main(command("--epochs=3"))
    (path,) = (workplace / "saved").glob("*.progress.json")
    return path


def refuses(argv: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Run a command that must be refused, without looking at ``log/``; ``saved/`` stays as it is."""
    before = contents(Path("saved"))
    capsys.readouterr()
    assert main(command(*argv)) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said, said
    assert contents(Path("saved")) == before


def test_a_run_cannot_go_on_with_the_state_of_another(
    unfinished: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = f"--resume={unfinished}"
    refuses([resume, "--model=Pop", "--epochs=3"], capsys, "resume: ", "model is")
    refuses(
        [resume, "--epochs=3", "--learning_rate=0.5"], capsys, "resume: learning_rate is 0.5 and was 0.001 in the run"
    )
    refuses([resume, "--epochs=1"], capsys, "has done 2 epochs already, and epochs is 1; give more epochs")
    cell(9, 1, "i60")(tiny_dataset)
    refuses(
        [resume, "--epochs=3"],
        capsys,
        "resume: the data set 'tiny' is not the one of the run",
        "Bring the old files back",
    )


def test_a_damaged_state_is_refused(unfinished: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = unfinished.read_bytes()
    model = unfinished.with_name(unfinished.name.replace(".progress", ""))
    for at in (3, 200, len(whole) // 2, len(whole) - 2):
        unfinished.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        refuses([f"--resume={unfinished}", "--epochs=3"], capsys, unfinished.name, "damaged")
    unfinished.write_bytes(whole)
    for tensors in (workplace / "saved").glob("*.safetensors"):
        good = tensors.read_bytes()
        tensors.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        refuses([f"--resume={unfinished}", "--epochs=3"], capsys, tensors.name, "use another")
        with pytest.raises(RecBoleOOVError, match="damaged|SHA-256"):
            recbole_oov.load(model if ".progress." not in tensors.name else unfinished)
        tensors.write_bytes(good)
    assert main(command(f"--resume={unfinished}", "--epochs=3")) == 0
    assert recbole_oov.load(model)[0]["model"] == "BPR"


@pytest.mark.parametrize("what", ["missing", "text", "folder"])
def test_no_checkpoint_to_load(tiny_dataset: Path, workplace: Path, what: str) -> None:
    path = workplace / "model.json"
    if what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("hello")
    with pytest.raises(RecBoleOOVError, match=r"model\.json"):
        recbole_oov.load(path)


def test_a_disk_that_fills_up_during_training_loses_nothing(
    tiny_dataset: Path, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command()) == 0

    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_write", full)
    refuses(["--seed=3"], capsys, "could not be written (No space left on device)", "make room there")
    (earlier,) = (workplace / "saved").glob("*.json")
    assert recbole_oov.load(earlier)[0]["model"] == "BPR"
