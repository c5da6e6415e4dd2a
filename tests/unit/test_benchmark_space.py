"""Search spaces: what they say, RecBole's files, settings put into options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from recbole_oov.errors import ConfigError
from recbole_oov.report.space import Choice, Range, merged, read_space
from recbole_oov.report.tuning import _distribution


def test_choices_and_ranges(tmp_path: Path) -> None:
    given = {
        "learning_rate": {"low": "1e-4", "high": "1e-2", "log": True},  # YAML 1.1 takes 1e-4 for text
        "n_layers": {"low": 1, "high": 4},
        "dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
        "mlp_hidden_size": [[64, 32], "[128, 64]"],
    }
    space = read_space(given, "here", tmp_path)
    assert space["learning_rate"] == Range(1e-4, 1e-2, log=True)
    assert space["n_layers"].whole and not space["dropout"].whole  # type: ignore[union-attr]
    assert space["mlp_hidden_size"] == Choice(([64, 32], [128, 64]))
    assert space["n_layers"].holds(4) and not space["n_layers"].holds(5) and not space["n_layers"].holds(2.5)


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (Range(0.001, 0.01, step=0.003), [0.001, 0.004, 0.007, 0.01], [0.002, 0.0, 0.013]),
        (Range(0.0, 0.5, step=0.1), [0.1 + 0.2, 0.3, 0.5], [0.25]),
        (Range(16, 130, step=16), [16, 48, 128], [50, 130, 32.0, True, None]),
    ],
)
def test_a_range_with_steps_holds_what_optuna_takes(dimension: Range, inside: list[Any], outside: list[Any]) -> None:
    assert all(dimension.holds(value) for value in inside) and not any(map(dimension.holds, outside))
    optuna = pytest.importorskip("optuna")
    for value in inside:
        of = _distribution(optuna, dimension)
        optuna.trial.create_trial(params={"option": value}, distributions={"option": of}, value=0.0)


def test_recboles_files_are_read_without_evaluating_them(tmp_path: Path) -> None:
    (tmp_path / "hyper.test").write_text(
        "learning_rate loguniform -8,0\n"
        "embedding_size choice [64,96, 128]\n"
        "mlp_hidden_size choice ['[64,64,64]','[128,128]']\n"
        "dropout_prob uniform 0,0.5\n"
        "n_layers quniform 1,4,1\n"
        "\n",
        encoding="utf-8",
    )
    space = read_space("hyper.test", "here", tmp_path)
    assert space == {
        "learning_rate": Range(math.exp(-8), 1.0, log=True),
        "embedding_size": Choice((64, 96, 128)),
        "mlp_hidden_size": Choice(([64, 64, 64], [128, 128])),
        "dropout_prob": Range(0.0, 0.5),
        "n_layers": Range(1, 4, step=1),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rate normal 0,1", "line 1: there is no kind 'normal'; known are choice"),
        ("learning_rate uniform 0", "uniform takes 2 numbers"),
        ("learning_rate choice __import__('os').getcwd()", "is no list of choices"),
        ("learning_rate choice", "is not of the form: option kind values"),
        ("a choice [1]\na choice [2]", "line 2: a is there twice"),
        ("", "is no search space"),
    ],
)
def test_lines_that_say_nothing_are_refused(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "hyper.test").write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_space("hyper.test", "here", tmp_path)


def test_all_problems_of_a_space_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space({"a": [], "b": {"low": 1}, "c": {"low": "x", "high": 2}}, "here", tmp_path)
    assert len(caught.value.errors) == 3 and caught.value.errors[2].startswith("here.c: low is 'x'")


def test_settings_with_dots_change_one_value() -> None:
    options = {"base_config": {"eval_step": 5, "learning_rate": 0.1}, "dim": 8}
    settings = {"base_config.learning_rate": 0.2, "dim": 16, "sampler.pool": 4}
    result = merged(options, settings, {"sampler": {"name": "dns", "pool": 16}})
    assert result == {
        "base_config": {"eval_step": 5, "learning_rate": 0.2},
        "dim": 16,
        "sampler": {"name": "dns", "pool": 4},
    }
    assert options["base_config"] == {"eval_step": 5, "learning_rate": 0.1}, "the options are left alone"
