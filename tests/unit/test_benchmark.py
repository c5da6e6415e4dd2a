"""The benchmark command: every cell once, also after a kill, on the same held-out items."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sweeps import leave_one_out

from recbole_oov import cli
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.registry import properties_folder
from recbole_oov.report import measure, tuning
from recbole_oov.report.benchmark import benchmark, cells_of, read_results, read_spec
from recbole_oov.report.carve import DEFAULT_CARVE, carve_validation
from recbole_oov.report.cells import as_given
from recbole_oov.report.results import append_row
from recbole_oov.report.space import Listed
from recbole_oov.report.user_values import (
    metrics_of_row,
    pack,
    pack_hits,
    pack_ranks,
    ranks_of_row,
    unpack,
    unpack_hits,
    users_of_row,
    values_of_row,
)
from recbole_oov.runner import prepare
from recbole_oov.trainer.resume import ResumeMixin


def spec_file(tmp_path: Path, circles: Any, **changes: Any) -> str:
    spec = {
        "dataset": "circles",
        "output": str(tmp_path / "out"),
        "seeds": [1, 2],
        "k": 5,
        "common": leave_one_out(circles.data_path, 5),
        "models": {"Pop": {"model": "Pop"}, "attention": {"model": "SASRec", "train_positions": "all"}},
        **changes,
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return str(path)


def test_a_cell_that_was_cut_off_goes_on_where_it_was(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attention = {"model": "SASRec", "train_positions": "all", "epochs": 5, "stopping_step": 9}
    rows, stock = {}, ResumeMixin._train_epoch
    for name, begun_as in (("whole", [0, 1, 2, 3, 4]), ("cut", [0, 1, 2, 3, 3, 4])):
        (tmp_path / name).mkdir()
        file, begun = spec_file(tmp_path / name, circles, seeds=[1], models={"attention": attention}), list[int]()

        def epoch(
            self: Any, data: Any, index: int, *args: Any, begun: Any = begun, cut: bool = name == "cut", **more: Any
        ) -> Any:
            loss = stock(self, data, index, *args, **more)
            begun.append(index)
            if cut and begun == [0, 1, 2, 3]:
                raise KeyboardInterrupt
            return loss

        with monkeypatch.context() as patch:
            patch.setattr(ResumeMixin, "_train_epoch", epoch)
            if name == "cut":
                with pytest.raises(KeyboardInterrupt):
                    benchmark(file, {})
            output = benchmark(file, {})
        assert begun == begun_as
        rows[name] = read_results(output / "results.jsonl")[0]
        assert not list((output / "saved").glob("*/*"))
    for key in ("ranks", "valid_scores", "best_valid", "epochs", "epochs_to_best", "key", "config"):
        assert rows["cut"][key] == rows["whole"][key], key
    assert rows["cut"]["seconds"] > rows["cut"]["train_seconds"] > 0
    assert rows["cut"]["train_seconds"] > rows["cut"]["seconds_to_best"] - 0.1


def test_a_killed_sweep_runs_only_what_is_missing(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = spec_file(tmp_path, circles)
    output = benchmark(file, {})
    rows = read_results(output / "results.jsonl")
    assert [(row["name"], row["seed"]) for row in rows] == [("Pop", 1), ("attention", 1), ("Pop", 2), ("attention", 2)]
    for row in rows:
        unmasked, masked = ranks_of_row(row, masked=False), ranks_of_row(row, masked=True)
        assert len(unmasked) == len(masked) == 60
        assert row["name"] == "Pop" or (masked <= unmasked).all()
    table = (output / "table.md").read_text(encoding="utf-8")
    assert "| attention | 2 | masked |" in table

    # A kill in the middle of writing the last row.
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (output / "results.jsonl").write_text("".join(lines[:-1]) + lines[-1][:50] + "\n", encoding="utf-8")
    ran: list[str] = []
    stock = measure.run_cell
    monkeypatch.setattr(measure, "run_cell", lambda cell, *rest: (ran.append(cell.name), stock(cell, *rest))[1])
    benchmark(file, {})
    assert ran == ["attention"]
    again = read_results(output / "results.jsonl")
    assert again[-1]["ranks"] == rows[-1]["ranks"], "the same cell gives the same result"
    assert (output / "table.md").read_text(encoding="utf-8").split("| epochs")[0] == table.split("| epochs")[0]


def test_where_the_data_lie_decides_no_cell_and_two_folders_of_one_name_are_refused(
    tmp_path: Path, circles: Any
) -> None:
    spec = read_spec(spec_file(tmp_path, circles), {})
    common = {**spec["common"], "data_path": "elsewhere"}
    assert [cell.key for cell in cells_of(spec)] == [cell.key for cell in cells_of({**spec, "common": common})]
    part = {"dataset": "circles"}
    parts = {"here": {**part, "common": {"data_path": "here"}}, "there": {**part, "common": {"data_path": "there"}}}
    with pytest.raises(ConfigError, match=r"here: Pop and there: Pop are one cell but for data_path \(here, there\)"):
        cells_of({**spec, "parts": parts})
    assert len(cells_of({**spec, "parts": {**parts, "there": parts["here"]}})) == 2 * len(cells_of(spec))


def test_a_failed_cell_is_a_row_that_says_why_and_is_tried_again(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    models = {"broken": {"model": "SASRec", "n_heads": 3, "train_positions": "all"}, "Pop": {"model": "Pop"}}
    file = spec_file(tmp_path, circles, seeds=[1], models=models)
    output = benchmark(file, {})
    rows = read_results(output / "results.jsonl")
    assert "Error: " in rows[0]["error"] and "heads" in rows[0]["error"]
    assert rows[1]["name"] == "Pop" and "error" not in rows[1]
    benchmark(file, {})
    assert [row["name"] for row in read_results(output / "results.jsonl")] == ["broken", "Pop", "broken"]
    assert cli.main(["benchmark", file]) == 1
    said = capsys.readouterr().err
    assert "error: 1 failed, which the same command tries again:\n" in said and "broken, seed 1: " in said
    fine = spec_file(tmp_path, circles, seeds=[1], models={"Pop": models["Pop"]})
    append_row(output / "results.jsonl", {**rows[0], "key": rows[1]["key"], "name": "Pop", "model": "Pop"})
    assert cli.main(["benchmark", fine]) == 0


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


MODELS = "models: {A: {model: BPR}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: [", "is not YAML"),
        ("dataset: x", "needs the keys dataset, models and seeds"),
        ("{models: {}, seeds: []}", "or parts instead of dataset"),
        ("{models: {}, seeds: [], parts: {a: {}}}", r"parts\.a needs a dataset"),
        ("{models: {}, seeds: [], parts: {a: {dataset: x, seedz: 1}}}", r"parts\.a needs a dataset, and may have"),
        ("{models: {}, seeds: [], parts: {a: {dataset: x}}, only: b}", "only: there is no part 'b'; there are a"),
        ("{models: {}, seeds: [], dataset: x, measure: speed}", "measure is 'speed'; it must be ranks or users"),
        ("{dataset: x, models: {}, seeds: [], sedes: 1}", "unknown key 'sedes'"),
        ("{dataset: x, models: {A: {}}, seeds: []}", r"models\.A needs the key 'model'"),
        ("[" * 5000, "is not YAML"),
        (f"{{{MODELS}, seeds: 3, dataset: x}}", r"seeds is 3; it must be a list of whole numbers"),
        (f"{{{MODELS}, seeds: [1, 1], dataset: x}}", r"seeds is \[1, 1\], in which a seed is there twice"),
        (f"{{{MODELS}, seeds: [1], dataset: 5}}", "dataset is 5; it must be the name of a data set, in quotes"),
        (f"{{{MODELS}, seeds: [1], dataset: x, output: [a]}}", r"output is \['a'\]; it must be a folder"),
        (f"{{{MODELS}, seeds: [1], dataset: x, common: 3}}", "common is 3; it must be a mapping"),
        (f"{{{MODELS}, seeds: [1], dataset: x, k: 0}}", "k is 0; it must be a whole number from 1 on"),
        (f"{{{MODELS}, seeds: [1], dataset: x, only: 5}}", "only is 5; name parts"),
        (f"{{{MODELS}, seeds: [1], dataset: x, only: a}}", "the file has no parts: leave it out"),
        (f"{{{MODELS}, seeds: [1], dataset: x, reference: C}}", "reference is 'C'; it must be one of the rows: A"),
        ("{models: 5, seeds: [1], dataset: x}", "models is 5; it must be a mapping of rows"),
        (f"{{{MODELS}, seeds: [1], parts: 3}}", "parts is 3; it must be a mapping"),
        (f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, models: [B]}}}}}}", "there is no row 'B' in models"),
        (f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, common: 3}}}}}}", r"parts\.a\.common is 3"),
        (
            f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, options: {{B: {{}}}}}}}}}}",
            r"parts\.a\.options: there is no row 'B'",
        ),
        (
            f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, options: {{A: 5}}}}}}}}",
            r"parts\.a\.options\.A is 5; it must",
        ),
        (
            f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, carve: True}}}}}}",
            r"parts\.a\.carve is True; it must be a map",
        ),
        (
            f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, carve: {{share: 0.1}}}}}}}}",
            r"parts\.a\.carve is about a published split, .* give measure: users",
        ),
        (
            f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, carve: {{shar: 0.1}}}}}}}}",
            r"carve is \{'shar': 0.1\}; it must",
        ),
        (
            f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, carve: {{share: 2}}}}}}}}",
            r"parts\.a\.carve\.share is 2; it",
        ),
        (
            f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, carve: {{seed: no}}}}}}}}",
            r"carve\.seed is False; it must",
        ),
        ("{models: {64: {model: BPR}}, seeds: [1], dataset: x}", "models: the name 64 is not text; put it in quotes"),
        (f"{{{MODELS}, seeds: [1], parts: {{2014: {{dataset: x}}}}}}", "parts: the name 2014 is not text"),
        (
            f"{{{MODELS}, seeds: [1], parts: {{a: {{dataset: x, models: {{yes: {{model: A}}}}}}}}}}",
            "the name True is not",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_spec(str(path), {})
    with pytest.raises(ConfigError, match=r"there is no file .*; those that ship with the project are backbones.yaml"):
        read_spec(str(tmp_path / "none.yaml"), {})


def test_a_part_may_have_options_for_a_row_that_it_leaves_out(tmp_path: Path) -> None:
    """As where parts share an anchor; the row may also be one of another part."""
    path = tmp_path / "spec.yaml"
    options = "options: {A: {n_layers: 1}, B: {n_layers: 2}, C: {n_layers: 3}}"
    parts = (
        f"{{a: {{dataset: x, models: [B], {options}}}, c: {{dataset: x, models: {{C: {{model: BPR}}}}, {options}}}}}"
    )
    path.write_text(
        f"{{models: {{A: {{model: BPR}}, B: {{model: BPR}}}}, seeds: [1], parts: {parts}}}", encoding="utf-8"
    )
    assert [(cell.name, cell.options["n_layers"]) for cell in cells_of(read_spec(str(path), {}))] == [
        ("B", 2),
        ("C", 3),
    ]


@pytest.mark.parametrize("name", ["quick.yaml", "properties/benchmark/quick.yaml"])
def test_shipped_files_are_found_from_any_folder(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = read_spec(name, {})
    assert spec["output"] == "results/quick" and spec["command"].endswith(f"benchmark {name}")
    own = tmp_path / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(f"{{{MODELS}, seeds: [1], dataset: x}}", encoding="utf-8")
    assert read_spec(name, {})["seeds"] == [1], "a file of one's own comes first"


def test_what_no_row_takes_is_refused_before_anything_runs(tmp_path: Path, circles: Any) -> None:
    file = spec_file(tmp_path, circles)
    with pytest.raises(ConfigError, match="lerning_rate is not an option; did you mean learning_rate"):
        benchmark(file, {"lerning_rate": 0.1})
    with pytest.raises(ConfigError, match=r"benchmark: --job is not an option; did you mean --jobs\?"):
        benchmark(file, {"job": 2})
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_an_error_in_words(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    file = spec_file(tmp_path, circles, seeds=[1], models={"Pop": {"model": "Pop"}})
    with pytest.raises(DataError, match="file/out: cannot be written .Not a directory.; make room"):
        benchmark(file, {"output": str(tmp_path / "file" / "out")})

    def full(path: Path, row: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbole_oov.report.jobs.append_row", full)
    with pytest.raises(DataError, match="cannot be written .No space left on device.; .* finished cells are kept"):
        benchmark(file, {})


def test_lines_that_are_no_rows_are_left_out_and_damaged_values_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'5\n[]\n{"a": 1}\n\xff\xfe\n{"key": "k"}\n' + b"[" * 5000 + b"\n")
    assert read_results(path) == [{"key": "k"}]
    with pytest.raises(DataError, match=r"values that are damaged .*take its line out of results.jsonl"):
        unpack(pack(np.ones(5))[:-8])
    hits = pack_hits(np.ones((50, 3), dtype=bool), np.arange(50))
    for text in (hits[:-8], "", "AAAA", hits[:8] + "////" + hits[12:]):
        with pytest.raises(DataError, match="values that are damaged"):
            unpack_hits(text)


def test_rows_with_line_breaks_of_unicode_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows = [{"key": str(number), "name": f"a{mark}b"} for number, mark in enumerate("\u2028\u2029\x85\x0c\x1e")]
    for row in rows:
        append_row(path, row)
    assert read_results(path) == rows


def users_spec(tmp_path: Path, circles: Any, **changes: Any) -> str:
    """Two parts that share models, on a random split."""
    random = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    common = {
        "data_path": str(circles.data_path),
        "leak_guard": "warn",
        "eval_args": random,
        "metrics": ["Recall", "NDCG"],
        "topk": [5],
        "valid_metric": "NDCG@5",
        "epochs": 2,
    }
    spec = {
        "output": str(tmp_path / "out"),
        "measure": "users",
        "reference": "searched",
        "seeds": [1, 2],
        "common": common,
        "models": {
            "uniform": {"model": "$base", "sampler": "uniform"},
            "searched": {
                "model": "AutoSample",
                "base_model": "$base",
                "samplers": ["uniform", {"name": "dns", "pool": 4}],
                "search_epochs": 1,
                "search_budget": 16,
            },
        },
        "parts": {
            "circles, BPR": {"dataset": "circles", "base": "BPR", "options": {"uniform": {"learning_rate": 0.01}}},
            "circles, LightGCN": {"dataset": "circles", "base": "LightGCN", "seeds": [1], "common": {"n_layers": 1}},
        },
        **changes,
    }
    path = tmp_path / "users.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return str(path)


def test_parts_share_models_and_keep_the_metrics_of_every_user(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = users_spec(tmp_path, circles)
    cells = list(cells_of(read_spec(file, {})))
    assert [(cell.part[9:], cell.name, cell.options["seed"]) for cell in cells] == [
        ("BPR", "uniform", 1),
        ("BPR", "searched", 1),
        ("LightGCN", "uniform", 1),
        ("LightGCN", "searched", 1),
        ("BPR", "uniform", 2),
        ("BPR", "searched", 2),
    ]
    assert cells[0].options["learning_rate"] == 0.01 and "learning_rate" not in cells[2].options
    assert cells[3].options["base_model"] == "LightGCN" and cells[3].options["n_layers"] == 1

    # Two processes, each with seeds or parts of its own, and what is left.
    output = benchmark(file, {"seeds": [2], "only": ["circles, BPR"]})
    benchmark(file, {"seeds": [1], "only": ["circles, LightGCN"]})
    assert len(read_results(output / "results.jsonl")) == 4
    benchmark(file, {})
    rows = read_results(output / "results.jsonl")
    assert len(rows) == 6 and not [row for row in rows if "error" in row]
    for row in rows:
        assert set(metrics_of_row(row)) >= {"overall"} and "users" not in row
        for metric in metrics_of_row(row)["overall"]:
            assert values_of_row(row, metric).mean() == pytest.approx(row["test_result"][metric], abs=1e-4)
        assert row["epochs"] == 2 and 1 <= row["epochs_to_best"] <= 2
        scores = dict(row["valid_scores"])
        assert sorted(scores) == [0, 1] and max(scores.values()) == pytest.approx(row["best_valid"], abs=1e-6)
        assert row["started"].endswith("+00:00") and row["command"].startswith("python run_recbole_oov.py benchmark ")
        assert str(tmp_path) not in row["command"]
        assert ("search" in row) == (row["name"] == "searched")
    assert rows[1]["search"]["chosen"] in ("uniform", "dns") and rows[1]["search"]["cpu_seconds"] > 0
    assert len({row["targets"] for row in rows if row["part"] == "circles, BPR" and row["seed"] == 1}) == 1
    table = (output / "table.md").read_text(encoding="utf-8")
    assert "## circles, BPR" in table and "| uniform | 2 |" in table and "| searched | 1 |" in table
    assert "p (ndcg@5) against searched" in table


def test_a_published_split_is_trained_once_more_on_all_its_rows(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "given" / "split"
    source.mkdir(parents=True)
    pairs = sorted({(user, item) for user, history in circles.histories.items() for item in history})
    head = "user_id:token\titem_id:token"
    for part, rows in (("train", pairs[::4] + pairs[1::4] + pairs[2::4]), ("test", pairs[3::4])):
        lines = [head, *(f"{user}\t{item}" for user, item in rows)]
        (source / f"split.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    read = yaml.safe_load(Path(users_spec(tmp_path, circles)).read_text(encoding="utf-8"))
    part = {"dataset": "split", "base": "BPR", "seeds": [1], "carve": {"share": 0.2, "seed": 1}}
    common = {**read["common"], "data_path": str(source.parent)}
    del common["eval_args"], common["leak_guard"]
    output = benchmark(users_spec(tmp_path, circles, parts={"split": part}, common=common), {})
    rows = read_results(output / "results.jsonl")
    assert [row.get("error") for row in rows] == [None, None]
    for row in rows:
        assert set(row["before_refit"]) == set(row["test_result"]) and row["epochs_to_best"] >= 1
    assert len({row["targets"] for row in rows}) == 1
    assert all(row["carve"] == {"share": 0.2, "seed": 1} for row in rows)
    assert cli.main(["report", str(output), "--reference=uniform"]) == 0  # from the rows alone
    assert "unfinished" not in (output / "table.md").read_text(encoding="utf-8")
    # Another share is another training: nothing that is there will do.
    other = {**part, "carve": {"share": 0.3, "seed": 1}}
    benchmark(users_spec(tmp_path, circles, parts={"split": other}, common=common), {})
    again = read_results(output / "results.jsonl")
    assert again[: len(rows)] == rows and len(again) == 2 * len(rows)


def test_defaults_of_carve_identify_a_cell_as_if_given(tmp_path: Path, circles: Any) -> None:
    def keys(carve: dict[str, Any] | None) -> set[str]:
        part = {"dataset": "split", "base": "BPR", "seeds": [1], "carve": carve}
        return {cell.key for cell in as_given(read_spec(users_spec(tmp_path, circles, parts={"split": part}), {}))}

    assert keys({}) == keys({"seed": 2020}) == keys({"share": 0.1}) == keys({"share": 0.1, "seed": 2020})
    assert not keys({}) & keys(None) and not keys({}) & keys({"seed": 2021})


def test_validation_is_carved_out_of_a_published_split(tmp_path: Path) -> None:
    source = tmp_path / "given" / "split"
    source.mkdir(parents=True)
    rows = [f"u{u}\ti{i}" for u in range(20) for i in range(12) if (u + i) % 3]
    (source / "split.train.inter").write_text(
        "\n".join(["user_id:token\titem_id:token", *rows]) + "\n", encoding="utf-8"
    )
    (source / "split.test.inter").write_text("user_id:token\titem_id:token\nu0\ti0\n", encoding="utf-8")
    folder = carve_validation(source, tmp_path / "out", share=0.25, seed=1)
    parts = {
        part: (folder / f"split.{part}.inter").read_text(encoding="utf-8").splitlines()[1:]
        for part in ("train", "valid", "test")
    }
    assert sorted(parts["train"] + parts["valid"]) == sorted(rows) and parts["test"] == ["u0\ti0"]
    assert 0.15 < len(parts["valid"]) / len(rows) < 0.35
    for column in (0, 1):
        assert {row.split("\t")[column] for row in parts["train"]} == {row.split("\t")[column] for row in rows}
    again = carve_validation(source, tmp_path / "again", share=0.25, seed=1)
    assert (again / "split.valid.inter").read_bytes() == (folder / "split.valid.inter").read_bytes()
    everything = carve_validation(source, tmp_path / "all", share=1.0, seed=1) / "split.train.inter"
    kept = [row.split("\t") for row in everything.read_text(encoding="utf-8").splitlines()[1:]]
    assert {user for user, _ in kept} == {f"u{u}" for u in range(20)} and {item for _, item in kept} >= {"i0", "i11"}
    with pytest.raises(DataError, match=r"none\.train\.inter is missing"):
        carve_validation(tmp_path / "none", tmp_path / "out", **DEFAULT_CARVE)


def published_split(folder: Path, rows: list[str]) -> Path:
    source = folder / "split"
    source.mkdir(parents=True)
    for part in ("train", "test"):
        text = "\n".join(["user_id:token\titem_id:token\treview:token_seq", *rows]) + "\n"
        (source / f"split.{part}.inter").write_text(text, encoding="utf-8")
    return source


def test_another_share_seed_or_source_is_carved_anew(tmp_path: Path) -> None:
    rows = [f"u{n % 10}\ti{n % 7}\tgood" for n in range(140)]
    source, other = published_split(tmp_path / "a", rows), published_split(tmp_path / "b", rows)
    carve = {"source": source, "target": tmp_path / "out", "share": 0.2, "seed": 1}
    first = carve_validation(**carve)  # type: ignore[arg-type]
    assert carve_validation(**carve) == first and first.name == "split"  # type: ignore[arg-type]
    changed = [carve_validation(**{**carve, **one}) for one in ({"share": 0.5}, {"seed": 2}, {"source": other})]  # type: ignore[arg-type]
    assert len({first, *changed}) == 4
    sizes = [len((folder / "split.valid.inter").read_bytes().splitlines()) for folder in (first, changed[0])]
    assert sizes[1] > 1.5 * sizes[0]


def test_a_kill_leaves_no_split_that_is_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = published_split(tmp_path, [f"u{n % 10}\ti{n % 7}\tgood" for n in range(140)])
    stock = Path.write_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda path, content: stock(path, content[:50]) and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            carve_validation(source, tmp_path / "out", **DEFAULT_CARVE)
    folder = carve_validation(source, tmp_path / "out", **DEFAULT_CARVE)
    assert (folder / "split.test.inter").read_bytes() == (source / "split.test.inter").read_bytes()


def test_a_review_with_a_line_break_of_unicode_is_carved_whole(tmp_path: Path) -> None:
    rows = [f"u{n % 5}\ti{n % 7}\tnice\x85film\u2028{n}" for n in range(140)]
    folder = carve_validation(published_split(tmp_path, rows), tmp_path / "out", share=0.2, seed=2020)
    parts = [
        (folder / f"split.{part}.inter").read_text(encoding="utf-8").split("\n")[1:-1] for part in ("train", "valid")
    ]
    assert sorted(parts[0] + parts[1]) == sorted(rows) and parts[1]


@pytest.mark.parametrize("form", ["hits", "users"])
def test_what_a_row_keeps_of_users_is_what_was_measured(
    form: str, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "users":  # as with metrics that someone registered
        monkeypatch.setattr("recbole_oov.report.user_values.METRICS_OF_HITS", frozenset())
    options = {
        "metrics": ["Recall", "NDCG", "MAP", "MRR", "Hit", "Precision", "ItemCoverage"],
        "topk": [2, 5],
        "valid_metric": "NDCG@5",
        "oov_split": "random",
        "data_checks": "warn",
        "show_progress": False,
        "state": "ERROR",
    }
    ready = prepare("BPR", "tiny", config_dict=options, argv=[])
    ready.trainer.evaluate(ready.test_data, load_best_model=False)
    last = ready.trainer.last_evaluation
    orders = {group: np.argsort(-users) for group, users in last.users.items()}
    kept = json.loads(json.dumps(users_of_row(last, orders)))
    assert list(kept) == [form]
    for group, names in metrics_of_row(kept).items():
        assert len(names) == 12 and len(last.users[group])
        for name in names:
            of_users = last.per_user[group][name][orders[group]]
            np.testing.assert_allclose(values_of_row(kept, name, group), of_users, atol=1e-7)


SEQUENTIAL = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}


def test_a_user_with_several_targets_counts_once(tiny_dataset: Path) -> None:
    """A sequential model is tested target by target; intervals and tests are over users."""
    options = {"metrics": ["Recall", "NDCG"], "topk": [5], "valid_metric": "NDCG@5", "oov_split": "random"}
    quiet = {"data_checks": "warn", "show_progress": False, "state": "ERROR"}
    ready = prepare("SASRec", "tiny", config_dict={**options, **quiet, **SEQUENTIAL}, argv=[])
    ready.trainer.evaluate(ready.test_data, load_best_model=False)
    last, kept = ready.trainer.last_evaluation, measure._users(ready)
    assert len(last.users["overall_all_users"]) > len(set(last.users["overall_all_users"].tolist()))
    for group, cases in last.users.items():
        tokens = ready.dataset.id2token("user_id", cases)
        for name, values in last.per_user[group].items():
            means = [values[tokens == token].mean() for token in sorted(set(tokens))]
            np.testing.assert_allclose(values_of_row(kept, name, group), means, atol=1e-7)
    users = "\n".join(sorted(set(ready.dataset.id2token("user_id", last.users["overall"]))))
    assert kept["user_tokens"] == hashlib.sha256(users.encode()).hexdigest()


def test_sequential_rows_beside_others_are_refused_where_they_cannot_be_compared(tiny_dataset: Path) -> None:
    common = {"metrics": ["NDCG"], "topk": [5], "valid_metric": "NDCG@5", "epochs": 1, "data_checks": "warn"}
    models = {"attention": {"model": "SASRec", **SEQUENTIAL}, "BPR": {"model": "BPR"}}
    spec = {"dataset": "tiny", "measure": "users", "seeds": [1], "common": {**common, "oov_split": "random"}}
    path = Path("spec.yaml")
    path.write_text(yaml.safe_dump({**spec, "models": models}), encoding="utf-8")
    with pytest.raises(
        ConfigError, match="benchmark: attention is sequential, BPR is not; with the split OOV they are"
    ):
        benchmark(str(path), {"output": "out"})
    assert not Path("out").exists()
    apart = {name: {"dataset": "tiny", "models": {name: entry}} for name, entry in models.items()}
    path.write_text(yaml.safe_dump({**spec, "models": models, "parts": apart}, sort_keys=False), encoding="utf-8")
    rows = read_results(benchmark(str(path), {"output": "out"}) / "results.jsonl")
    assert [next(iter({"users", "hits"} & set(row))) for row in rows] == ["users", "hits"]
    assert re.findall("^## (.*)", Path("out/table.md").read_text(encoding="utf-8"), re.M) == ["attention", "BPR"]


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 50))
def test_hits_survive_packing(seed: int, n_users: int, k: int) -> None:
    draw = np.random.default_rng(seed)
    hits, n_positives = draw.random((n_users, k)) < 0.1, draw.integers(0, 65_536, n_users)
    found = unpack_hits(pack_hits(hits, n_positives))
    assert np.array_equal(found[0], hits) and np.array_equal(found[1], n_positives)


@given(st.lists(st.tuples(st.integers(0, 2**30), st.integers(-3, 300)), max_size=60))
def test_packed_ranks_come_back(pairs: list[tuple[int, int]]) -> None:
    unmasked = np.array([rank for rank, _ in pairs], dtype=np.int64)
    masked = unmasked - np.array([ahead for _, ahead in pairs], dtype=np.int64)
    row = {"ranks": pack_ranks(unmasked, masked)}
    assert np.array_equal(ranks_of_row(row, masked=False), unmasked)
    assert np.array_equal(ranks_of_row(row, masked=True), masked)
    old = {"ranks": unmasked.tolist(), "ranks_masked": masked.tolist()}
    assert np.array_equal(ranks_of_row(old, masked=True), masked)


def test_damaged_ranks_are_said() -> None:
    for text in ("", "A", "AAAA", pack_ranks(np.arange(50), np.arange(50))[:40]):
        with pytest.raises(DataError, match="take its line out of results.jsonl"):
            ranks_of_row({"ranks": text}, masked=False)


def test_user_values_survive_packing() -> None:
    values = np.random.default_rng(0).random(1000)
    assert np.allclose(unpack(pack(values)), values, atol=1e-7)


@pytest.mark.parametrize("path", sorted((properties_folder() / "benchmark").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_cell_of_a_shipped_benchmark_has_a_configuration_that_works(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole_oov.config import OOVConfig, oov_config

    monkeypatch.setattr(oov_config, "dataset_problems", lambda *args: [])  # only ml-100k is at hand everywhere
    monkeypatch.setattr("recbole_oov.lm.options.check_backbone", lambda name: None)  # nor are pretrained weights,
    monkeypatch.setattr("recbole_oov.config.content.encoder_problem", lambda name: None)  # nor an encoder
    spec = read_spec(str(path), {})
    assert f"benchmark properties/benchmark/{path.name}" in path.read_text(encoding="utf-8").split("models:")[0]
    cells = list(cells_of(spec))
    # One of each kind: a configuration takes a while, and parts differ by numbers only.
    first = {(cell.name, cell.model, cell.options.get("base_model")): cell for cell in reversed(cells)}
    for cell in first.values():
        OOVConfig(cell.model, cell.dataset, config_dict=cell.options, argv=[])
    assert len({cell.key for cell in cells}) == len(cells)
    tuning.check_searches([search for search in tuning.searches_of(spec) if isinstance(search.space, Listed)])
