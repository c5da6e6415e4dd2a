"""The benchmark command: every cell once, also after a kill, on the same held-out items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_oov.errors import ConfigError
from recbole_oov.registry import properties_folder
from recbole_oov.report import benchmark as module
from recbole_oov.report.benchmark import benchmark, cells_of, read_results, read_spec


def spec_file(tmp_path: Path, circles: Any, **changes: Any) -> str:
    spec = {
        "dataset": "circles",
        "output": str(tmp_path / "out"),
        "seeds": [1, 2],
        "k": 5,
        "common": {
            "data_path": str(circles.data_path),
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "metrics": ["NDCG"],
            "topk": [5],
            "valid_metric": "NDCG@5",
            "epochs": 1,
        },
        "models": {"Pop": {"model": "Pop"}, "attention": {"model": "SASRec", "train_positions": "all"}},
        **changes,
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return str(path)


def test_a_killed_sweep_runs_only_what_is_missing(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = spec_file(tmp_path, circles)
    output = benchmark(file, {})
    rows = read_results(output / "results.jsonl")
    assert [(row["name"], row["seed"]) for row in rows] == [("Pop", 1), ("attention", 1), ("Pop", 2), ("attention", 2)]
    assert all(len(row["ranks"]) == len(row["ranks_masked"]) == 60 for row in rows)
    assert all(
        m <= u for row in rows for m, u in zip(row["ranks_masked"], row["ranks"], strict=True) if row["name"] != "Pop"
    )
    table = (output / "table.md").read_text(encoding="utf-8")
    assert "| attention | 2 | masked |" in table

    # A kill in the middle of writing the last row.
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (output / "results.jsonl").write_text("".join(lines[:-1]) + lines[-1][:50] + "\n", encoding="utf-8")
    ran: list[str] = []
    stock = module.run_cell
    monkeypatch.setattr(module, "run_cell", lambda cell, *rest: (ran.append(cell.name), stock(cell, *rest))[1])
    benchmark(file, {})
    assert ran == ["attention"]
    again = read_results(output / "results.jsonl")
    assert again[-1]["ranks"] == rows[-1]["ranks"], "the same cell gives the same result"
    assert (output / "table.md").read_text(encoding="utf-8").split("| epochs")[0] == table.split("| epochs")[0]


def test_a_failed_cell_is_a_row_that_says_why_and_is_tried_again(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models = {"broken": {"model": "SASRec", "n_heads": 3, "train_positions": "all"}, "Pop": {"model": "Pop"}}
    file = spec_file(tmp_path, circles, seeds=[1], models=models)
    output = benchmark(file, {})
    rows = read_results(output / "results.jsonl")
    assert "ValueError" in rows[0]["error"] and "heads" in rows[0]["error"]
    assert rows[1]["name"] == "Pop" and "error" not in rows[1]
    benchmark(file, {})
    assert [row["name"] for row in read_results(output / "results.jsonl")] == ["broken", "Pop", "broken"]


def test_rows_of_another_split_are_not_put_into_one_table(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = spec_file(tmp_path, circles, seeds=[1], models={"Pop": {"model": "Pop"}})
    path = benchmark(file, {}) / "results.jsonl"
    row = json.loads(path.read_text(encoding="utf-8"))
    file = spec_file(tmp_path, circles, seeds=[1, 2], models={"Pop": {"model": "Pop"}})
    row |= {"key": [cell.key for cell in cells_of(read_spec(file, {}))][1], "targets": "others"}
    with path.open("a", encoding="utf-8") as results:
        results.write(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="not tested on the same held-out items"):
        benchmark(file, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: [", "is not YAML"),
        ("dataset: x", "needs the keys dataset, models and seeds"),
        ("{dataset: x, models: {}, seeds: [], sedes: 1}", "unknown key 'sedes'"),
        ("{dataset: x, models: {A: {}}, seeds: []}", r"models\.A needs the key 'model'"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_spec(str(path), {})
    with pytest.raises(ConfigError, match="there is no file"):
        read_spec(str(tmp_path / "none.yaml"), {})


@pytest.mark.parametrize("path", sorted((properties_folder() / "benchmark").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_cell_of_a_shipped_benchmark_has_a_configuration_that_works(path: Path) -> None:
    from recbole_oov.config import OOVConfig

    spec = read_spec(str(path), {})
    assert f"benchmark properties/benchmark/{path.name}" in path.read_text(encoding="utf-8").split("dataset:")[0]
    seen = set()
    for cell in cells_of({**spec, "seeds": spec["seeds"][:1]}):
        OOVConfig(cell.model, cell.dataset, config_dict=cell.options, argv=[])
        seen.add(cell.key)
    assert len(seen) == len(spec["models"])
