"""Tables of groups of test users: the groups are those of a count of training by hand, and together they are all."""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sweeps import leave_one_out, write_spec

from recbole_oov import cli
from recbole_oov.report.strata import KINDS
from recbole_oov.testing.data import write_atomic

Histories = dict[str, list[str]]


def histories() -> Histories:
    """Users who mostly follow one circle of 12 items, so that some steps are frequent and others are seen once."""
    draw = random.Random(3)
    found: Histories = {}
    for user in range(70):
        at, own = draw.randrange(12), []
        for _ in range(4 + user % 3):
            own.append(f"i{at}")
            at = (at + 1) % 12 if draw.random() < 0.4 else draw.randrange(12)
        found[f"u{user}"] = own
    found["u70"] = ["i1", "i2", "i3", "new"]
    return found


def by_transition(given: Histories) -> dict[str, int]:
    steps = Counter(step for own in given.values() for step in pairwise(own[:-2]))
    return {user: steps[own[-2], own[-1]] for user, own in given.items()}


def by_popularity(given: Histories) -> dict[str, int]:
    counts = Counter(item for own in given.values() for item in own[:-2])
    return {user: counts[own[-1]] for user, own in given.items()}


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    common = {**leave_one_out(folder, 3), "MAX_ITEM_LIST_LENGTH": 3}
    models = {"Pop": {"model": "Pop"}, "a|b": {"model": "SASRec", "train_positions": "all"}}
    return {"dataset": "steps", "seeds": [1, 2], "k": 3, "common": common, "models": models, **changes}


@pytest.fixture(name="swept", scope="module")
def _swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a benchmark that has run, ``sweep.yaml``."""
    folder = tmp_path_factory.mktemp("swept")
    write_atomic(folder / "data", "steps", histories())
    assert cli.main(["benchmark", write_spec(folder, spec(folder / "data"))]) == 0
    return folder


@pytest.mark.parametrize(("by", "count"), [("transition", by_transition), ("popularity", by_popularity)])
def test_groups_are_those_of_a_count_by_hand_and_together_the_whole(
    swept: Path, by: str, count: Callable[[Histories], dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(swept / "sweep.yaml"), f"--by={by}"]) == 0
    rows = list(csv.DictReader((swept / "out" / f"by-{by}.csv").open(encoding="utf-8")))
    kind = KINDS[by]
    expected = Counter(
        kind.names[max(at for at, begin in enumerate(kind.begins) if number >= begin)]
        for number in count(histories()).values()
    )
    assert {row["group"]: int(row["users"]) for row in rows} == expected
    assert len(expected) >= 3, "a count that tells nothing apart tests nothing"
    whole: dict[tuple[str, str, str], float] = defaultdict(float)
    for row in rows:
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"]) and row["seeds"] == "2"
        whole[row["model"], row["history"], row["metric"]] += float(row["mean"]) * int(row["users"]) / 71
    table = {
        (row["model"], row["group"], row["metric"]): float(row["mean"])
        for row in csv.DictReader((swept / "out" / "table.csv").open(encoding="utf-8"))
    }
    assert len(whole) == 12 and whole == pytest.approx(table)
    text = (swept / "out" / f"by-{by}.md").read_text(encoding="utf-8")
    assert f"NDCG@3 by {kind.says}." in text and r"| a\|b | 2 | masked | 0." in text
    assert f"by-{by}.md and .csv" in capsys.readouterr().out.replace("\n", "")


def test_what_cannot_be_told_apart_is_refused(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(swept / "sweep.yaml")

    def refused(*argv: str) -> str:
        assert cli.main(["report", *argv]) == 2
        return capsys.readouterr().err

    assert "by='age' is none of transition, popularity" in refused(file, "--by=age")
    assert "by=['age'] is none of" in refused(file, "--by=['age']")
    assert "by needs a benchmark file" in refused(str(swept / "out"), "--by=transition")
    other = {user: [*own[:-1], "i5"] for user, own in histories().items()}
    write_atomic(tmp_path / "other", "steps", other)
    said = refused(file, "--by=transition", f"--data_path={tmp_path / 'other'}")
    assert "the data of steps are not those that Pop, seed 1, was tested on" in said and "--data_path" in said
    changed = write_spec(tmp_path, spec(swept / "data", models={"Pop": {"model": "Pop"}}, output=str(swept / "out")))
    assert "no row of steps is a sequential model" in refused(changed, "--by=transition")
    changed = write_spec(tmp_path, spec(swept / "data", seeds=[9], output=str(swept / "out")))
    assert "none of the cells that are asked for is finished" in refused(changed, "--by=transition")
    whole = spec(swept / "data", measure="users", models={"Pop": {"model": "Pop"}}, seeds=[1])
    changed = write_spec(tmp_path, {**whole, "output": str(tmp_path / "users")})
    assert cli.main(["benchmark", changed]) == 0
    assert "steps has no ranks of its users" in refused(changed, "--by=transition")
