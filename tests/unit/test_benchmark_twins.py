"""Cells of parts that differ by content alone: what reads none is trained once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_oov.report import measure
from recbole_oov.report.benchmark import benchmark, read_results
from tests.unit import cold
from tests.unit.sweeps import write_spec


@pytest.fixture(scope="module")
def tastes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cold.write_tastes(tmp_path_factory.mktemp("tastes"))


def spec_of(tastes: Path, **changes: Any) -> dict[str, Any]:
    load = {"inter": ["user_id", "item_id"], "item": ["item_id", "title"]}
    common = {
        "data_path": str(tastes), "oov_split": "random", "load_col": load,
        "epochs": 1, "topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5",
    }  # fmt: skip
    models = {"BPR": {"model": "BPR", "embedding_size": 8}, "ContentKNN": {"model": "ContentKNN"}}
    parts = {
        f"{dim} wide": {"dataset": "tastes", "common": {"content": {"from": "text", "dim": dim}}} for dim in (4, 8)
    }
    return {"measure": "users", "seeds": [1, 2], "common": common, "models": models, "parts": parts, **changes}


def run(folder: Path, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[dict[str, Any]]]:
    ran: list[str] = []
    stock = measure.run_cell
    with monkeypatch.context() as patch:
        patch.setattr(measure, "run_cell", lambda cell, *rest: (ran.append(cell.label), stock(cell, *rest))[1])
        folder.mkdir(exist_ok=True)
        output = benchmark(write_spec(folder, spec), {})
    return ran, read_results(output / "results.jsonl")


def test_a_part_takes_over_what_another_has_run(tastes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = spec_of(tastes)
    first = {**both, "parts": {"4 wide": both["parts"]["4 wide"]}}
    assert len(run(tmp_path, first, monkeypatch)[0]) == 4
    ran, rows = run(tmp_path, both, monkeypatch)
    assert sorted(ran) == ["8 wide: ContentKNN"] * 2  # BPR's cells are there
    taken = [row for row in rows if "same_as" in row]
    by_key = {row["key"]: row for row in rows}
    assert [(row["part"], row["name"], row["seed"]) for row in taken] == [("8 wide", "BPR", 1), ("8 wide", "BPR", 2)]
    for row in taken:
        source = by_key[row["same_as"]]
        assert (
            source["part"] == "4 wide" and source["test_result"] == row["test_result"] and source["seed"] == row["seed"]
        )
        assert row["options"]["content"]["dim"] == 8
    table = (tmp_path / "out" / "table.md").read_text()
    assert "not run yet" not in table and table.count("| BPR | 2 |") == 8  # four groups a part
    assert run(tmp_path, both, monkeypatch)[0] == []


def test_a_sweep_from_the_start_runs_it_once(tastes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, rows = run(tmp_path, spec_of(tastes, seeds=[1]), monkeypatch)
    assert sorted(ran) == ["4 wide: BPR", "4 wide: ContentKNN", "8 wide: ContentKNN"]
    assert [(row["part"], row["name"]) for row in rows if "same_as" in row] == [("8 wide", "BPR")]


def test_a_row_whose_source_was_taken_out_is_run_again(
    tastes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking a damaged line out is what the error about it says; the row that repeats it goes with it."""
    spec = spec_of(tastes, seeds=[1], models={"BPR": {"model": "BPR", "embedding_size": 8}})
    rows = run(tmp_path, spec, monkeypatch)[1]
    path = tmp_path / "out" / "results.jsonl"
    source, twin = path.read_text(encoding="utf-8").splitlines()
    path.write_text(f"{twin}\n", encoding="utf-8")
    assert read_results(path) == []
    ran, again = run(tmp_path, spec, monkeypatch)
    assert ran == ["4 wide: BPR"] and {row["key"] for row in again} == {row["key"] for row in rows}
    assert all(row["test_result"] == rows[0]["test_result"] for row in again)
    # As files have it in which the orphan still counted: a row that repeats itself.
    path.write_text(twin + "\n" + json.dumps({**json.loads(twin), "key": rows[0]["key"]}) + "\n", encoding="utf-8")
    assert read_results(path) == []


def test_a_run_that_failed_is_tried_by_each_part(tastes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tastes, seeds=[1], models={"BPR": {"model": "BPR", "embedding_size": -1}, "Pop": {"model": "Pop"}})
    ran, rows = run(tmp_path, spec, monkeypatch)
    assert sorted(ran) == ["4 wide: BPR", "4 wide: Pop", "8 wide: BPR"]
    assert [row["part"] for row in rows if "error" in row] == ["4 wide", "8 wide"]


def test_data_of_the_same_name_elsewhere_are_other_data(
    tastes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold.write_tastes(tmp_path / "elsewhere")
    spec = spec_of(tastes, seeds=[1], models={"BPR": {"model": "BPR"}})
    spec["parts"]["8 wide"]["common"]["data_path"] = str(tmp_path / "elsewhere")
    assert sorted(run(tmp_path, spec, monkeypatch)[0]) == ["4 wide: BPR", "8 wide: BPR"]


@pytest.mark.parametrize("change", [{"learning_rate": 0.01}, {"load_col": {"inter": ["user_id", "item_id"]}}])
def test_what_differs_by_more_is_run(
    tastes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    spec = spec_of(tastes, models={"BPR": {"model": "BPR"}}, seeds=[1])
    spec["parts"]["8 wide"]["common"] |= change
    spec["parts"] = {name: spec["parts"][name] for name in ("4 wide", "8 wide")}
    first = {**spec, "parts": {"4 wide": spec["parts"]["4 wide"]}}
    run(tmp_path, first, monkeypatch)
    assert run(tmp_path, spec, monkeypatch)[0] == ["8 wide: BPR"]
