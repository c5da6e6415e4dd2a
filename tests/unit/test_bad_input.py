"""What the command line says to bad input: the thing, the remedy, exit status 2; and it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_oov.cli import main

Refused = Callable[..., str]
SHORT = ["--dataset=tiny", "--epochs=1", "--train_batch_size=64", "--show_progress=False"]


@pytest.fixture
def refused(tiny_dataset: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused, and check what it says and that it left no file."""

    def run(argv: list[str], *words: str) -> str:
        before = sorted(workplace.rglob("*"))
        status = main([option for option in SHORT if option.partition("=")[0] not in str(argv)] + argv)
        printed = capsys.readouterr()
        assert status == 2, printed.err
        assert printed.err.startswith("error: ")
        assert "Traceback" not in printed.err + printed.out
        for word in words:
            assert word in printed.err, printed.err
        assert sorted(workplace.rglob("*")) == before
        return printed.err

    return run


@pytest.fixture
def inter(tiny_dataset: Path) -> Path:
    return tiny_dataset / "tiny.inter"


def test_a_missing_data_set(refused: Refused) -> None:
    refused(
        ["--dataset=qqqqqqqq"],
        "there is no data set called 'qqqqqqqq'",
        "dataset/qqqqqqqq",
        "has tiny",
        "set data_path",
    )


def test_a_misspelt_data_set(refused: Refused) -> None:
    refused(["--dataset=tinny"], "there is no data set called 'tinny'", "did you mean tiny?")
    refused(["--dataset=ml-100"], "did you mean ml-100k")


def test_a_missing_file(refused: Refused, inter: Path) -> None:
    inter.unlink()
    refused([], "dataset/tiny has tiny.item, but not tiny.inter")


def test_a_file_without_a_needed_column(refused: Refused, inter: Path) -> None:
    inter.write_text(inter.read_text().replace("item_id:token", "item:token", 1))
    refused([], "tiny.inter: the column 'item_id' (ITEM_ID_FIELD) is not there; its columns are user_id, item, rating")


def test_a_file_without_times_for_a_sequential_model(refused: Refused, inter: Path) -> None:
    inter.write_text(inter.read_text().replace("timestamp:float", "when:float", 1))
    refused(["--model=SASRec"], "tiny.inter: the column 'timestamp' (TIME_FIELD, which sequential models need) is not")


def test_a_column_that_load_col_names(refused: Refused) -> None:
    refused(["--load_col={inter: [user_id, item_id, score]}"], "load_col names the column 'score', which is not there")


def test_an_empty_file(refused: Refused, inter: Path) -> None:
    inter.write_text("")
    refused([], "tiny.inter: the file is empty", "its first line must be a header")


def test_a_file_with_a_header_alone(refused: Refused, inter: Path) -> None:
    inter.write_text(inter.read_text().splitlines()[0] + "\n")
    refused([], "tiny.inter: there is a header but no row")


def test_a_truncated_file(refused: Refused, inter: Path) -> None:
    text = inter.read_text().rstrip("\n")
    inter.write_text(text[: text.rindex("\t")])
    line = text.count("\n") + 1
    refused([], f"tiny.inter, line {line}: 3 cells where the header has 4 columns: the line is cut short")


def test_text_in_a_column_of_numbers(refused: Refused, inter: Path) -> None:
    inter.write_text(inter.read_text().replace("\t1000", "\tnoon", 1))
    refused(
        ["--model=SASRec"], "tiny.inter, line 2: column timestamp is of type float, but holds 'noon", "write a number"
    )


def test_a_file_that_is_no_text(refused: Refused, inter: Path) -> None:
    inter.write_bytes(inter.read_bytes() + b"\xff\xfe\n")
    refused([], "is not UTF-8: 0xff at byte 1 of the line", "save the file as UTF-8")


def test_a_user_with_one_interaction(refused: Refused, inter: Path) -> None:
    inter.write_text(inter.read_text() + "loner\ti1\t3\t1000000\n")
    said = refused(["--model=SASRec"], "1 of 41 users have fewer than 3 interactions (user_id loner)")
    assert 'user_inter_num_interval: "[3,inf)"' in said


def test_data_tripled(refused: Refused, inter: Path) -> None:
    first, rows = inter.read_text().split("\n", 1)
    inter.write_text(f"{first}\n{rows}{rows}{rows}")
    refused(["--eval_args={order: TO}"], "rows repeat an earlier one", "set rm_dup_inter: first", "--data_checks=warn")


def test_no_data_left(refused: Refused) -> None:
    refused(["--user_inter_num_interval=[500,inf)"], "no row is left after filtering; loosen val_interval")


def test_an_unknown_model(refused: Refused) -> None:
    refused(["--model=SASRecc"], "there is no model called 'SASRecc'", "SASRec")
    refused(["--model=OOVLMRec"], "there is no model called 'OOVLMRec'", "OOVLLMRec")


def test_a_misspelt_option(refused: Refused) -> None:
    refused(["--learning_rat=0.1"], "learning_rat is not an option; did you mean learning_rate?")
    refused(["--model=OOVLLMRec", "--n_cluster=8"], "n_cluster is not an option; did you mean n_clusters")
    refused(["--model=SASRec", "--embedding_size=8"], "embedding_size is not an option of SASRec")


def test_an_option_without_value(refused: Refused) -> None:
    refused(["--use_gpu"], "--use_gpu has no value; write --use_gpu=value")
    refused(["--seed", "3"], "--seed has no value", "'3' is not an option; options are written --key=value")
    refused(["--seed=3", "--seed=4"], "--seed is given twice")


def test_a_value_of_the_wrong_type(refused: Refused) -> None:
    refused(["--epochs=ten"], "epochs: 'ten' is not allowed; it must be a whole number of at least 1")
    refused(["--topk=ten"], "topk: 'ten' is not allowed")
    refused(["--embedding_size=wide"], "embedding_size: 'wide' is not allowed")


def test_a_negative_learning_rate(refused: Refused) -> None:
    refused(["--learning_rate=-0.01"], "learning_rate: -0.01 is not allowed; it must be a number above 0")


def test_python_on_the_command_line_is_text(refused: Refused, workplace: Path) -> None:
    refused(["--epochs=__import__('pathlib').Path('made').touch() or 1"], "epochs: \"__import__('pathlib')")
    assert not (workplace / "made").exists()


def test_a_bad_config_file(refused: Refused, workplace: Path) -> None:
    (workplace / "bad.yaml").write_text("epochs: [1\n")
    refused(["--config_files=bad.yaml"], "config file bad.yaml, line 2, column 1, is not valid YAML")
    refused(["--config_files=none.yaml"], "config file none.yaml does not exist")


def test_a_folder_that_cannot_be_written(refused: Refused, workplace: Path) -> None:
    (workplace / "file").write_text("")
    refused(["--checkpoint_dir=file/saved"], "checkpoint_dir: cannot write to file/saved", "choose another folder")


def test_a_working_directory_that_cannot_be_written(refused: Refused, workplace: Path) -> None:
    (workplace / "log").write_text("")
    refused([], "cannot write to log, because", "is a file; start in another folder")


def test_everything_wrong_at_once(refused: Refused) -> None:
    said = refused(["--model=SASRecc", "--dataset=tinny", "--epochs=0", "--learning_rat=1", "--config_files=none.yaml"])
    assert said.startswith("error: 5 problems in the configuration:\n  - ")
    for word in ("SASRec", "tiny", "epochs: 0", "learning_rate", "none.yaml"):
        assert word in said


def test_an_unknown_command(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "there is no command 'trian'" in capsys.readouterr().err
