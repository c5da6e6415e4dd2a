"""The bench: no ratio without agreement, sides in turn, every suite in miniature, the command and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recbole_oov.bench import command
from recbole_oov.bench.growth import EVAL_MEMORY, Curve, all_curves, growth, slope, users_at_once
from recbole_oov.bench.harness import Contest, Side, compete, numbers_differ, tensors_differ
from recbole_oov.bench.memory import peak_memory
from recbole_oov.bench.quality import PATIENCE, best, quality, reached, trained
from recbole_oov.bench.recbole_side import data_folder, experiment
from recbole_oov.bench.suites import SUITES, Setting, Suite
from recbole_oov.cli import main
from recbole_oov.errors import ConfigError, DataError

TINY = Setting(tiny=True)


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting the garbage of a whole test session before each measurement takes longer than the tests."""
    monkeypatch.setattr("recbole_oov.bench.harness.gc.collect", lambda: 0)


def contest(ours: Callable[[], float], theirs: Callable[[], float], **others: bool) -> Contest:
    def differences(a: float, b: float) -> list[str]:
        return numbers_differ({"answer": a}, {"answer": b}, within=0)

    return Contest(Side("a", ours), Side("b", theirs), differences, **others)


def work(n: int) -> float:
    return float(torch.ones(n).sum())


def test_sides_that_agree_get_a_ratio_for_each_repetition() -> None:
    outcome = compete(contest(lambda: work(50_000), lambda: work(50_000)), repeats=3)
    assert outcome.agrees and len(outcome.ratios["time"]) == 3 and outcome.median("time") == outcome.median("processor")
    assert len(outcome.ours.wall_seconds) == 3


def test_sides_that_differ_get_none() -> None:
    outcome = compete(contest(lambda: 1.0, lambda: 2.0), repeats=3)
    assert not outcome.agrees and outcome.ratios == {} and outcome.median("time") is None
    assert "answer: 1 and 2" in outcome.differences[0] and outcome.ours.wall_seconds == []


def test_a_difference_in_the_last_repetition_counts() -> None:
    answers = iter([1.0, 1.0, 2.0])
    outcome = compete(contest(lambda: next(answers), lambda: 1.0, at_end=True), repeats=2)
    assert not outcome.agrees and outcome.ratios == {}


def test_who_begins_alternates() -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], float]:
        return lambda: float(bool(order.append(name)))

    compete(contest(side("a"), side("b"), at_end=True), repeats=4)
    assert order == list("baabbaabba")


def test_answers_are_compared() -> None:
    assert numbers_differ({"a": 1.0}, {"a": 1.0, "b": 2.0}, within=1) == ["b is there on one side only"]
    assert numbers_differ({"a": float("nan")}, {"a": 1.0}, within=1) != []
    x = torch.ones(3)
    assert tensors_differ([x], [x + 0.1], within=0.2) == []
    assert "up to 0.1 apart" in tensors_differ([x], [x + 0.1], within=0.01)[0]
    assert tensors_differ([x], [x[:2]], within=1) == ["values: shapes differ"]
    assert tensors_differ([x * torch.nan], [x], within=1) != []


def test_the_peak_of_memory_is_that_of_the_block() -> None:
    with peak_memory() as peak:
        torch.ones(1 << 24).add(1)  # 64 MiB, twice
    if peak.bytes is None:
        pytest.skip("this system does not tell")
    assert 120 <= peak.bytes >> 20 <= 200


@pytest.mark.parametrize("name", [name for name in SUITES if name != "startup" and not name.endswith("-ml-1m")])
def test_a_suite_agrees_with_its_other_side(name: str, workplace: Path) -> None:
    contest = SUITES[name].build(TINY)
    ours, theirs = contest.ours.run(), contest.theirs.run()
    assert contest.differences(ours, theirs) == []
    assert contest.note


def test_a_wrong_answer_of_a_suite_is_seen(workplace: Path) -> None:
    contest = SUITES["targets-sasrec"].build(TINY)
    theirs = contest.theirs.run()
    assert contest.differences([theirs[0] + 1, *theirs[1:]], theirs) != []
    scoring = SUITES["exact-scoring"].build(TINY)
    (values, items, scores), beams = scoring.ours.run(), scoring.theirs.run()
    assert len(scoring.differences((values + 0.1, items, scores + 0.1), beams)) == 3


def test_ml_1m_is_looked_for(tmp_path: Path) -> None:
    assert data_folder("no-such-data", tmp_path) is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.inter").write_text("user_id:token\titem_id:token\n", encoding="utf-8")
    assert data_folder("mine", tmp_path) == tmp_path
    assert data_folder("ml-100k", None) is not None


def test_unknown_suites_are_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "pool-uniform", "nonsense"]) == 2
    said = capsys.readouterr().err
    assert "no suite 'pool-uniform'; did you mean pools-uniform?" in said
    assert "'nonsense'; there are head-memory" in said


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--repeats=0", "repeats: 0"),
        ("--repeats=many", "repeats: 'many'"),
        ("--repeat=3", "did you mean --repeats"),
        ("--plot=ratios.doc", "ratios.doc"),
        ("--growth", "takes no suites"),
    ],
)
def test_options_that_cannot_work_are_refused(argument: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "pools-uniform", argument]) == 2
    assert said in capsys.readouterr().err


def test_the_command_writes_what_a_reader_needs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    fine = Suite("fine", "sums", "sums", {"time": 0.0, "memory": 1e9}, "x:y")
    wrong = Suite("wrong", "sums", "other sums", {"time": 1.0}, "x:y")
    missing = Suite("missing", "sums", "sums", {"time": 1.0}, "x:y", "ml-0m")
    made = {"fine": contest(lambda: work(10_000), lambda: work(10_000)), "wrong": contest(lambda: 1.0, lambda: 2.0)}
    monkeypatch.setattr(command, "SUITES", {suite.name: suite for suite in (fine, wrong, missing)})
    monkeypatch.setattr(Suite, "build", lambda self, setting: made[self.name])
    assert main(["bench", "--repeats=2", "--output=out", "--plot=out/ratios.svg", "--json"]) == 0
    printed = capsys.readouterr()
    record = json.loads(Path("out/bench.json").read_text(encoding="utf-8"))
    assert json.loads(printed.out) == record
    assert record["repeats"] == 2 and record["command"].startswith("python run_recbole_oov.py bench --repeats=2")
    assert record["hardware"]["threads"] == torch.get_num_threads() and record["versions"]["torch"] and record["commit"]
    rows = {row["suite"]: row for row in record["suites"]}
    assert rows["fine"]["met"]["time"] is True and rows["fine"]["met"]["memory"] in (False, None)
    assert len(rows["fine"]["ours"]["processor_seconds"]) == 2
    assert rows["wrong"]["ratios"] == {} and rows["wrong"]["met"] == {"time": None}
    assert "needs ml-0m" in rows["missing"]["skipped"] and "--data_path" in rows["missing"]["skipped"]
    assert "no ratio, the answers differ: answer: 1 and 2" in printed.err
    assert Path("out/ratios.svg").stat().st_size > 1000
    assert sorted(path.name for path in Path("out").iterdir()) == ["bench.json", "ratios.svg"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be written"):
        command.save(tmp_path / "file" / "bench.json", {})


def test_growth_finds_the_exponent() -> None:
    sizes = (1, 10, 100)
    assert slope(sizes, [3.0 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    said: list[str] = []
    curve = Curve("sums", "numbers", (10, 100), lambda n: lambda: torch.ones(n).sum(), "nothing")
    (row,) = growth(said.append, [curve], repeats=1)
    assert len(row["seconds"]) == len(row["peak_mib"]) == 2 and "sums, over numbers 10 to 100" in said[0]
    for curve in all_curves():
        if curve.what != "what pools are made of":
            curve.job(curve.sizes[0])()


def test_evaluation_takes_as_many_users_as_the_budget_has_room_for() -> None:
    for n_items in (1_000, 100_000, 1_000_000):
        n = users_at_once(n_items, 10**9)
        assert 4 * n_items * n <= EVAL_MEMORY << 20 < 4 * n_items * (n + 1)
    assert users_at_once(10**8, 64) == 1


def test_time_to_quality_is_when_the_goal_is_first_reached() -> None:
    assert reached([(1.0, 0.1), (2.0, 0.3), (3.0, 0.2)], 0.2) == 2.0
    assert reached([(1.0, 0.1)], 0.2) is None


def test_time_to_quality_stops_where_nothing_gets_better(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = experiment(TINY, "BPR", "ml-100k", sampler="uniform")
    assert len(trained(mine, mine.trainer, 2)) == 2
    values = iter([0.1, 0.3, *[0.2] * 20])
    monkeypatch.setattr("recbole_oov.bench.quality._validated", lambda _: next(values))
    curve = trained(mine, mine.trainer, 30)
    assert len(curve) == 2 + PATIENCE and best(curve) == 0.3


def test_quality_needs_implicit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install implicit"):
        quality(TINY, print)


def test_quality_knows_three_models() -> None:
    pytest.importorskip("implicit")
    with pytest.raises(ConfigError, match="'Pop' is none of BPR"):
        quality(TINY, print, ["Pop"])


def test_all_suites_are_chosen_without_a_name() -> None:
    assert command.chosen([]) == list(SUITES.values())
    with pytest.raises(ConfigError):
        command.chosen(["none"])


def test_a_record_does_not_say_where_folders_lie() -> None:
    said = command.circumstances(
        ["groups-ml-1m", "--output=/home/me/out", "--plot=/home/me/out/ratios.svg", "--repeats=5"]
    )["command"]
    assert said.endswith("bench groups-ml-1m --output=FOLDER --plot=FOLDER/ratios.svg --repeats=5")
