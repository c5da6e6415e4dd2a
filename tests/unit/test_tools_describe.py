"""``describe``: its numbers against counts by hand, its protocols against what a run's split leaves."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_oov.cli import main
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.tools.datasets import open_dataset
from recbole_oov.tools.protocols import Left, what_is_left
from recbole_oov.tools.statistics import date, describe_interactions, gini, popularity_curve, sparkline

USERS = np.array([1, 1, 1, 2, 2, 3])
ITEMS = np.array([1, 2, 2, 1, 3, 1])
TIMES = np.array([0.0, 10.0, 20.0, 5.0, 86400.0, 1.0])


def test_numbers_by_hand() -> None:
    found = describe_interactions(USERS, ITEMS, TIMES)
    assert (found.users, found.items, found.rows, found.repeated, found.rare) == (3, 3, 6, 1, 3)
    assert found.density == pytest.approx(5 / 9)
    assert (found.history[0], found.history[3], found.history[-1]) == (1, 2, 3)
    assert found.head == {"1 %": 0.5, "10 %": 0.5, "20 %": 0.5}
    assert (found.first, found.last) == ("1970-01-01T00:00:00+00:00", "1970-01-02T00:00:00+00:00")
    assert popularity_curve(ITEMS).tolist() == [3, 2, 1]
    assert describe_interactions(USERS, ITEMS, None).first is None


def test_gini_of_equals_of_one_owner_and_against_its_definition() -> None:
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)
    x = np.array([5.0, 1.0, 2.0, 9.0])
    assert gini(x) == pytest.approx(np.abs(x[:, None] - x).sum() / (2 * len(x) ** 2 * x.mean()))


def test_a_line_of_bars_falls_as_the_values_do() -> None:
    assert sparkline(np.array([1000, 30, 1]), 3) == "█▄▁"
    assert len(sparkline(np.arange(500, 0, -1))) == 40


def test_times_that_are_no_dates() -> None:
    assert date(1e300) is None


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Left]]:
    """A data set with everything awkward: short histories, equal times, items of one row; and what describe says."""
    root = tmp_path_factory.mktemp("describe")
    folder = root / "odd"
    folder.mkdir()
    draw = np.random.default_rng(3)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(30):
        for item in draw.permutation(40)[: draw.integers(3, 13)]:
            rows.append(f"u{user}\ti{item}\t{draw.integers(0, 60) + item}")
    (folder / "odd.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    _, dataset, _ = open_dataset("Pop", ["--dataset=odd", f"--data_path={root}"], {"load_col": None})
    users, items, times = (np.asarray(dataset.inter_feat[f]) for f in ("user_id", "item_id", "timestamp"))
    return root, what_is_left(users, items, times)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("--oov_split=random", {"oov_split": "random"}),
        ("--oov_split=time", {"oov_split": "time"}),
        ("--oov_split=popularity", {"oov_split": "popularity"}),
        (
            "leave one out, in time order",
            {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}},
        ),
    ],
)
def test_a_protocol_leaves_what_a_run_splits(
    protocol: str, options: dict[str, Any], left: tuple[Path, list[Left]]
) -> None:
    root, said = left
    entry = next(entry for entry in said if entry.protocol == protocol)
    _, dataset, _ = open_dataset("Pop", ["--dataset=odd", f"--data_path={root}"], {"load_col": None, **options})
    train, *parts = dataset.build()
    oov = oov_mask(train)
    asked = [oov[np.asarray(part.inter_feat["item_id"])] for part in parts]
    counts = [int(count) for of_oov in asked for count in ((~of_oov).sum(), of_oov.sum())]
    assert [entry.valid_iv, entry.valid_oov, entry.test_iv, entry.test_oov] == counts
    assert (entry.train, entry.oov_items, entry.iv_items) == (len(train), oov.sum(), (~oov[1:]).sum())
    assert entry.test_users == len(np.unique(parts[1].inter_feat["user_id"]))


def test_the_ratio_split_leaves_recbole_s_numbers_of_rows(left: tuple[Path, list[Left]]) -> None:
    root, said = left
    entry = said[-1]
    assert entry.protocol == "8:1:1 of each user, at random"
    _, dataset, _ = open_dataset("Pop", ["--dataset=odd", f"--data_path={root}"], {"load_col": None})
    train, valid, test = dataset.build()
    rows = [entry.train, entry.valid_iv + entry.valid_oov, entry.test_iv + entry.test_oov]
    assert rows == [len(train), len(valid), len(test)]


def test_without_times_the_protocols_in_time_say_what_they_need() -> None:
    users, items = np.repeat(np.arange(1, 31), 10), np.tile(np.arange(1, 31), 10)
    for entry in what_is_left(users, items, None):
        if "time" in entry.protocol:
            assert entry.train == 0 and "needs the time of each interaction" in entry.notes[0]
        else:
            assert entry.train > 0


def test_the_command_prints_and_draws(tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = (tiny_dataset / "tiny.item").read_text(encoding="utf-8").splitlines()
    items[1:16] = [f"{line.split(chr(9))[0]}\t\t1990" for line in items[1:16]]
    (tiny_dataset / "tiny.item").write_text("\n".join(items) + "\n", encoding="utf-8")
    assert main(["describe", "tiny", "--plot=plots/tiny.png"]) == 0
    said = capsys.readouterr().out
    n_rows = len((tiny_dataset / "tiny.inter").read_text(encoding="utf-8").splitlines()) - 1
    assert "users           40" in said and f"interactions    {n_rows}" in said
    assert re.search(r"item\.title +75\.0% +2\.0\n", said) and re.search(r"item\.year +100\.0% +1\.0\n", said)
    assert "--oov_split=popularity" in said and "leave one out, in time order" in said
    assert Path("plots/tiny.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not Path("log").exists() and not Path("saved").exists()


def test_the_command_as_json(tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "tiny", "--json", "--user_inter_num_interval=[10,inf)"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dataset"] == "tiny" and found["users"] < 40  # the filter of a run was applied
    assert found["coverage"]["item.title"] == {"share": 1.0, "words": 2.0}
    assert [entry["protocol"] for entry in found["protocols"]][:3] == [
        "--oov_split=random",
        "--oov_split=time",
        "--oov_split=popularity",
    ]


def test_times_are_dates_though_recbole_scales_them(capsys: pytest.CaptureFixture[str]) -> None:
    """RecBole's settings of ml-100k bring all numbers, its times too, between 0 and 1."""
    assert main(["describe", "ml-100k", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first"][:10], found["last"][:10]) == ("1997-09-20", "1998-04-22")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a data set, as in: describe ml-100k"),
        (["tinny"], "there is no data set called 'tinny'"),
        (["tiny", "--plot=tiny.bmp"], "'tiny.bmp' is not allowed; name a file .png, .svg or .pdf"),
        (["tiny", "--sed=3"], "did you mean seed?"),
        (["tiny", "--json=maybe"], "json 'maybe' is not allowed; it must be True or False"),
    ],
)
def test_what_is_refused(
    arguments: list[str], said: str, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_picture_needs_its_extra(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["describe", "tiny", "--plot=tiny.png"]) == 2
    assert 'pip install "recbole-oov[plot]"' in capsys.readouterr().err
