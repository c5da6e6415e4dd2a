"""Equal tuning: the same budget for all, the test part sealed, nothing repeated after a kill."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from cold import write_tastes
from sweeps import circles_spec, tastes_spec, write_spec

from recbole_oov import runner
from recbole_oov.errors import ConfigError
from recbole_oov.report import measure, tuning
from recbole_oov.report.benchmark import benchmark, cells_of, read_results, read_spec
from recbole_oov.report.sealed import SealedTestError, sealed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_costs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    costs = ("seconds", "cpu_seconds", "traceback")
    return [{key: value for key, value in row.items() if key not in costs} for row in rows]


@pytest.fixture(scope="module")
def tuned(circles: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tuned sweep."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        benchmark(write_spec(folder, circles_spec(circles)), {})
    return folder


def test_the_best_trial_in_validation_is_what_the_cells_run_with(tuned: Path) -> None:
    trials = read_results(tuned / "out/trials.jsonl")
    assert [trial["trial"] for trial in trials] == [0, 1, 2] and {trial["name"] for trial in trials} == {"BPR"}
    assert trials[0]["settings"] == {} and all(
        set(t["settings"]) == {"learning_rate", "embedding_size"} for t in trials[1:]
    )
    assert [trial.get("error") for trial in trials] == [None] * 3 and "test_result" not in str(trials)
    best = max(trials, key=lambda trial: trial["valid_score"])
    cells = {row["name"]: row for row in read_results(tuned / "out/results.jsonl")}
    assert cells["BPR"]["tuned"]["chosen"] == best["trial"] and cells["BPR"]["tuned"]["trials"] == 3
    assert cells["BPR"]["options"] == {**cells["BPR"]["options"], "seed": 1, **best["settings"]}
    assert cells["Pop"]["tuned"] == {"trials": 0, "why": "no space"}
    assert {cell.key for cell in cells_of(read_spec(str(tuned / "sweep.yaml"), {}))} == {
        r["key"] for r in cells.values()
    }


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(
    tuned: Path, here: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_results(tuned / "out/trials.jsonl")
    (here / "out").mkdir()
    lines = (tuned / "out/trials.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    # Killed while the second trial's line was being written.
    (here / "out/trials.jsonl").write_text(lines[0] + lines[1][:40], encoding="utf-8")
    ran: list[dict[str, Any]] = []
    stock = tuning.run_trial
    monkeypatch.setattr(tuning, "run_trial", lambda cell, *rest: (ran.append(cell.options), stock(cell, *rest))[1])
    monkeypatch.setattr(measure, "run_cell", lambda *args: {"error": "not here"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recbole_oov.report.benchmark.write_report", lambda *args: None)
        benchmark(write_spec(here, circles_spec(circles)), {})
        benchmark(write_spec(here, circles_spec(circles)), {})
    assert len(ran) == 2, "the first trial is not repeated, and none is after the last"
    assert without_costs(read_results(here / "out/trials.jsonl")) == without_costs(whole)


def test_reading_the_test_part_during_a_search_raises(circles: Any, here: Path) -> None:
    options = {**circles_spec(circles)["common"], "show_progress": False, "state": "ERROR"}
    ready = runner.prepare("BPR", "circles", config_dict=options, argv=[])
    test, rows = ready.test_data, ready.test_data._dataset
    sealed(ready)
    for read in (
        lambda: ready.trainer.evaluate(ready.test_data, load_best_model=False),
        lambda: list(test),
        lambda: test.sampler,
        lambda: rows.inter_feat,
        lambda: copy.copy(rows),
        lambda: ready.dataset.inter_feat,
        lambda: len(test),
        lambda: setattr(rows, "inter_feat", None),
    ):
        with pytest.raises(SealedTestError, match="sealed while settings are searched for"):
            read()
    ready.trainer.fit(ready.train_data, ready.valid_data, saved=False)  # needs nothing of it


def test_the_search_itself_runs_on_sealed_data(here: Path, circles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_spec(write_spec(here, circles_spec(circles)), {})
    (search,) = tuning.searches_of(spec)
    stock = runner.prepare

    def peeping(*args: Any, **kwargs: Any) -> Any:
        ready = stock(*args, **kwargs)
        fit, test = ready.trainer.fit, ready.test_data
        ready.trainer.fit = lambda *a, **k: (fit(*a, **k), ready.trainer.evaluate(test, load_best_model=False))[0]
        return ready

    monkeypatch.setattr(runner, "prepare", peeping)
    with pytest.raises(SealedTestError):
        tuning.run_trial(search.cell, here / "saved")


def test_a_trial_that_fails_counts_and_says_why(here: Path, circles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(cell: Any, checkpoints: Path) -> dict[str, Any]:
        if cell.options["learning_rate"] != 0.01:
            raise MemoryError("too large")
        return {"valid_score": 0.3, "bigger_is_better": True, "valid_metric": "ndcg@5", "epochs": 1}

    monkeypatch.setattr(tuning, "run_trial", failing)
    spec = read_spec(write_spec(here, circles_spec(circles)), {})
    (here / "out").mkdir()
    (search,) = tuning.searches_of(spec)
    tuning.run_search(search, spec, lambda row: None)
    trials = read_results(here / "out/trials.jsonl")
    assert [trial.get("error") for trial in trials] == [None, "MemoryError: too large", "MemoryError: too large"]
    cell = cells_of(spec)[0]
    assert cell.tuned is not None
    assert (cell.tuned["trials"], cell.tuned["failed"], cell.tuned["chosen"]) == (3, 2, 0)


def score_by_rate(cell: Any, checkpoints: Path) -> dict[str, Any]:
    """A trial without training: the larger the rate, the better."""
    score = cell.options.get("learning_rate", 0.001)
    return {"valid_score": score, "bigger_is_better": True, "valid_metric": "ndcg@5", "epochs": 1}


def test_every_row_gets_the_same_number_of_trials_and_a_small_space_is_not_trained_twice(
    here: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(tuning, "run_trial", lambda cell, *rest: (ran.append(cell.name), score_by_rate(cell, *rest))[1])
    spaces = {
        "BPR": {"learning_rate": [0.01, 0.02]},
        "wide": {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}},
    }
    models = {"BPR": {"model": "BPR", "learning_rate": 0.01}, "wide": {"model": "BPR"}}
    spec = read_spec(write_spec(here, circles_spec(circles, models=models, tune={"trials": 6, "spaces": spaces})), {})
    (here / "out").mkdir()
    for search in tuning.searches_of(spec):
        tuning.run_search(search, spec, lambda row: None)
    trials = read_results(here / "out/trials.jsonl")
    assert [sum(trial["name"] == name for trial in trials) for name in ("BPR", "wide")] == [6, 6]
    assert (ran.count("BPR"), ran.count("wide")) == (2, 6), "a setting that was tried before keeps its score"
    assert all(trial["valid_score"] in (0.01, 0.02) for trial in trials if "same_as" in trial)
    best = {cell.name: cell.options["learning_rate"] for cell in cells_of(spec)}
    assert best["BPR"] == 0.02 and best["wide"] == max(t["valid_score"] for t in trials if t["name"] == "wide")


def test_listed_settings_are_tried_as_they_stand_and_a_changed_list_keeps_what_is_still_in_it(
    here: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    ran: list[float] = []

    def counted(cell: Any, checkpoints: Path) -> dict[str, Any]:
        ran.append(cell.options["learning_rate"])
        return score_by_rate(cell, checkpoints)

    monkeypatch.setattr(tuning, "run_trial", counted)
    rates = {"first": [0.03, 0.02], "changed": [0.05, 0.03, 0.04]}
    for listed in rates.values():
        settings = [{"learning_rate": rate, "embedding_size": 8} for rate in listed]
        tune = {"trials": len(settings) + 1, "spaces": {"BPR": settings}}
        spec = read_spec(write_spec(here, circles_spec(circles, tune=tune)), {})
        (here / "out").mkdir(exist_ok=True)
        (search,) = tuning.searches_of(spec)
        tuning.check_searches([search])
        assert not tuning.is_finished(search, spec)
        tuning.run_search(search, spec, lambda row: None)
        assert tuning.is_finished(search, spec)
        (cell,) = [cell for cell in cells_of(spec) if cell.name == "BPR"]
        assert cell.tuned is not None
        assert (cell.tuned["trials"], cell.tuned["chosen"]) == (len(listed) + 1, listed.index(max(listed)) + 1)
        assert (cell.options["learning_rate"], cell.options["embedding_size"]) == (max(listed), 8)
    assert ran == [0.01, 0.03, 0.02, 0.05, 0.04], "as given, as listed, and of the changed list what is new"
    assert len({trial["key"] for trial in read_results(here / "out/trials.jsonl")}) == 5


def test_settings_may_come_from_another_part(here: Path, circles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "run_trial", score_by_rate)
    parts = {
        "small": {"dataset": "circles"},
        "large": {"dataset": "circles", "tuned_from": "small", "common": {"epochs": 4}},
        "untuned": {"dataset": "circles", "tune": False},
    }
    spec = circles_spec(circles, parts=parts)
    del spec["dataset"]
    spec = read_spec(write_spec(here, spec), {"only": ["large"]})
    (here / "out").mkdir()
    (search,) = tuning.searches_of(spec)
    assert search.cell.part == "small", "what another part needs is searched for, wanted or not"
    tuning.run_search(search, spec, lambda row: None)
    cells = {cell.part: cell for cell in cells_of({**spec, "only": None}) if cell.name == "BPR"}
    assert cells["large"].options["learning_rate"] == cells["small"].options["learning_rate"]
    assert cells["small"].options["learning_rate"] in (0.02, 0.05), "the two rates above what is given"
    assert cells["large"].options["epochs"] == 4 and cells["untuned"].options["learning_rate"] == 0.01
    assert cells["large"].tuned is not None and cells["large"].tuned["part"] == "small"
    assert cells["untuned"].tuned is None


def test_only_rows_of_the_wanted_part_are_searched_for(here: Path, circles: Any) -> None:
    models = {"BPR": {"model": "BPR"}, "dear": {"model": "BPR", "embedding_size": 32}}
    parts = {
        "small": {"dataset": "circles"},
        "large": {"dataset": "circles", "tuned_from": "small", "models": ["BPR"]},
    }
    tune = {"trials": 3, "spaces": {name: {"learning_rate": [0.02, 0.05]} for name in models}}
    spec = circles_spec(circles, parts=parts, models=models, tune=tune)
    del spec["dataset"]
    file = write_spec(here, spec)
    searched = {
        only: [(search.cell.part, search.cell.name) for search in tuning.searches_of(read_spec(file, {"only": [only]}))]
        for only in parts
    }
    assert searched == {"small": [("small", "BPR"), ("small", "dear")], "large": [("small", "BPR")]}


def test_a_setting_of_the_base_model_leaves_its_other_options(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tuning, "run_trial", lambda cell, _: score_by_rate(_with(cell, cell.options.get("base_config", {})), _)
    )
    space = {"base_config.learning_rate": [0.03, 0.04]}
    spec = tastes_spec(write_tastes(here), tune={"trials": 3, "spaces": {"DeepMusic": space}})
    del spec["common"]["base_config"]
    spec["models"] = {"DeepMusic": {"model": "DeepMusic"}}
    spec = read_spec(write_spec(here, spec), {})
    (here / "out").mkdir()
    (search,) = tuning.searches_of(spec)
    tuning.check_searches([search])
    tuning.run_search(search, spec, lambda row: None)
    (cell,) = cells_of(spec)
    assert cell.options["base_config"] == {"eval_step": 5, "learning_rate": 0.04}, "as properties/model has it"


def _with(cell: Any, options: dict[str, Any]) -> Any:
    from dataclasses import replace

    return replace(cell, options={"learning_rate": 0.0, **options})


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"trials": 0}, "trials is 0; it must be a whole number, at least 1"),
        ({"trials": True}, "trials is True"),
        ({"spaces": {}}, "it needs trials, a number, and spaces"),
        ({"seed": -1}, "seed is -1"),
        ({"sampler": "grid"}, "sampler is 'grid'; it must be tpe or random"),
        ({"tries": 3}, "unknown key 'tries'; known are sampler, seed, spaces, trials"),
        ({"spaces": {"BPRR": {"learning_rate": [0.1]}}}, "there is no row or model 'BPRR'"),
        ({"spaces": {"BPR": {}}}, r"spaces\.BPR: {} is no search space"),
        ({"spaces": {"BPR": {"learning_rate": []}}}, "nothing to choose from"),
        ({"spaces": {"BPR": {"learning_rate": 0.1}}}, "give a list of choices, or"),
        ({"spaces": {"BPR": {"epochs": [1, 2]}}}, "epochs is the same for every model of a part"),
        ({"spaces": {"BPR": {"seed": [1, 2]}}}, "seed is no setting of a model"),
        ({"spaces": {"BPR": {"learning_rate": {"low": 1, "high": 0.1}}}}, "low 1 is not below high 0.1"),
        (
            {"spaces": {"BPR": {"learning_rate": {"low": 0, "high": 1, "log": True}}}},
            "with log: True it must be above 0",
        ),
        ({"spaces": {"BPR": "none.test"}}, "there is no file 'none.test'"),
        ({"spaces": {"BPR": [{"learning_rate": 0.1}]}}, r"BPR: 1 settings are listed, and trials is 3, .* 2 more"),
        ({"spaces": {"BPR": [{"learning_rate": 0.1}, {}]}}, "setting 2 is {}; it must name options"),
        ({"spaces": {"BPR": [{"learning_rate": 0.1}, 0.2]}}, "setting 2 is 0.2; it must name options"),
        ({"spaces": {"BPR": [{"learning_rate": 0.1}, {"learning_rate": "1e-1"}]}}, "setting 2 is there twice"),
        ({"spaces": {"BPR": [{"epochs": 2}, {"seed": 1}]}}, "setting 1: epochs is the same for every model"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tune: dict[str, Any], message: str, here: Path, circles: Any) -> None:
    spec = circles_spec(circles)
    spec["tune"] |= tune
    with pytest.raises(ConfigError, match=message):
        read_spec(write_spec(here, spec), {})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": {"dataset": "circles", "tuned_from": "b"}}, "tuned_from is 'b'; name a part that is tuned itself"),
        (
            {"a": {"dataset": "circles", "tuned_from": "b", "tune": {}}, "b": {"dataset": "circles"}},
            "exclude each other",
        ),
        ({"a": {"dataset": "circles", "tune": {"trials": 0}}}, r"parts\.a\.tune: trials is 0"),
    ],
)
def test_parts_that_cannot_be_tuned_are_refused(parts: Any, message: str, here: Path, circles: Any) -> None:
    spec = circles_spec(circles, parts=parts)
    del spec["dataset"]
    with pytest.raises(ConfigError, match=message):
        read_spec(write_spec(here, spec), {})


@pytest.mark.parametrize(
    ("space", "models", "message"),
    [
        ({"learning_rat": [0.1]}, {}, "learning_rat is not an option; did you mean learning_rate"),
        ({"learning_rate": ["fast"]}, {}, "learning_rate"),
        ([{"learning_rat": 0.1}], {}, "learning_rat is not an option; did you mean learning_rate"),
        ([{"learning_rate": "fast"}], {}, "learning_rate"),
        ({"learning_rate": [0.1]}, {"other": {"model": "BPR", "stopping_step": 3}}, "stops by the same rule"),
    ],
)
def test_what_the_models_do_not_take_is_refused_before_anything_runs(
    space: Any, models: Any, message: str, here: Path, circles: Any
) -> None:
    spec = circles_spec(
        circles, models={"BPR": {"model": "BPR"}, **models}, tune={"trials": 2, "spaces": {"BPR": space}}
    )
    with pytest.raises(ConfigError, match=message):
        benchmark(write_spec(here, spec), {})
    assert not (here / "out/trials.jsonl").exists() and not (here / "out/results.jsonl").exists()


def test_without_optuna_the_error_names_the_extra(here: Path, circles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"recbole-oov\[tune\]"):
        benchmark(write_spec(here, circles_spec(circles)), {})
    assert read_spec(str(here / "sweep.yaml"), {"tune": False})["tune"] is False
    assert not list(tuning.searches_of(read_spec(str(here / "sweep.yaml"), {"tune": False})))


# ---- a base model for several rows ----


def test_a_shared_base_model_gives_the_same_results(here: Path) -> None:
    rows = {}
    tastes = write_tastes(here)
    for share in (False, True):
        folder = here / str(share)
        folder.mkdir()
        output = benchmark(write_spec(folder, tastes_spec(tastes, share_base=share)), {})
        rows[share] = read_results(output / "results.jsonl")
    for apart, together in zip(rows[False], rows[True], strict=True):
        assert "error" not in together
        for key in ("key", "name", "best_valid", "test_result", "hits", "epochs", "options"):
            assert apart[key] == together[key], key
        assert "base" not in apart and together["base_seconds"] > 0 and together["base_epochs"] == 3
    assert len({row["base"] for row in rows[True]}) == 1 and len(list((here / "True/out/base").iterdir())) == 1
    notes = here / "True/out/base" / rows[True][0]["base"] / "shared.json"
    assert json.loads(notes.read_text(encoding="utf-8"))["base_epochs"] == 3
