"""The report of a sweep: its statistics, every format, and the page in a browser."""

from __future__ import annotations

import csv
import html
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from recbole_oov import cli
from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.intervals import bootstrap_interval
from recbole_oov.evaluation.significance import holm, paired_test
from recbole_oov.report.cells import Cell
from recbole_oov.report.drawings import curve_scales, points
from recbole_oov.report.html import page
from recbole_oov.report.latex import latex
from recbole_oov.report.markdown import markdown
from recbole_oov.report.plots import save_plots
from recbole_oov.report.results import append_row
from recbole_oov.report.scales import linear
from recbole_oov.report.statistics import bootstrap_intervals, compare, smaller_is_better
from recbole_oov.report.summary import Table, summarise
from recbole_oov.report.tables import write_tables
from recbole_oov.report.user_values import pack, pack_hits, pack_ranks

SPEC: dict[str, Any] = {"measure": "users", "k": 10, "reference": "middle"}
HOSTILE = "<script>alert(1)</script>|&\"'_{$%\\"
MODELS = {"low": 0.2, "middle": 0.4, "high": 0.7}


def cells(names: tuple[str, ...] = tuple(MODELS), seeds: tuple[int, ...] = (1, 2)) -> list[Cell]:
    options = {"valid_metric": "NDCG@10"}
    return [Cell(n, "BPR", "toy", {**options, "seed": s}, "toy, cold", "users") for s in seeds for n in names]


def row(cell: Cell, level: float, **changes: Any) -> dict[str, Any]:
    """Users' values around a level; of the OOV group half of it."""
    random = np.random.default_rng([cell.options["seed"], int(level * 100)])
    users = {
        group: {m: pack(share * level + 0.1 * random.random(40)) for m in ("recall@10", "ndcg@10")}
        for group, share in (("overall", 1.0), ("iv", 1.0), ("oov", 0.5), ("overall_all_users", 0.9))
    }
    return {
        "key": cell.key,
        "name": cell.name,
        "model": cell.model,
        "dataset": cell.dataset,
        "part": cell.part,
        "options": cell.options,
        "seed": cell.options["seed"],
        "targets": f"{cell.options['seed']:064x}",
        "user_tokens": "f" * 64,
        "users": users,
        "test_result": {"recall@10": level, "giniindex@10": 1 - level},
        "epochs": 10,
        "train_seconds": 100 * level,
        "valid_scores": [[1, level / 2], [2, level]],
        **changes,
    }


def rows() -> list[dict[str, Any]]:
    return [row(cell, MODELS[cell.name]) for cell in cells()]


def table(own: list[dict[str, Any]], **changes: Any) -> Table:
    return summarise({**SPEC, **changes}, cells(), own)[0]


def test_intervals_of_many_columns_are_those_of_each_alone() -> None:
    values = np.random.default_rng(0).random((50, 3))
    expected = [bootstrap_interval(column) for column in values.T]
    assert np.allclose(bootstrap_intervals(values), expected, atol=1e-12)


def test_a_metric_that_is_better_when_smaller_is_turned_round() -> None:
    assert smaller_is_better("giniindex@10") and not smaller_is_better("ndcg@10")
    low, high = np.linspace(0.1, 0.2, 30), np.linspace(0.5, 0.9, 30)
    assert compare(low, high, "giniindex@10").better and not compare(low, high, "ndcg@10").better
    assert compare(low, high, "ndcg@10").p_value == pytest.approx(2 * paired_test(high, low).p_value)


def test_the_summary_marks_places_and_corrects_over_the_whole_table() -> None:
    summary = table(rows())
    low, middle, high = summary.lines
    assert summary.main == ("overall", "ndcg@10") and summary.n_users["oov"] == 40
    assert [line.estimates["oov", "ndcg@10"].place for line in summary.lines] == [0, 2, 1]
    gini = [line.estimates["overall", "giniindex@10"] for line in summary.lines]
    assert [estimate.place for estimate in gini] == [0, 2, 1] and gini[0].low is None
    tests = [e.test for line in (low, high) for e in line.estimates.values() if e.test]
    assert len(tests) == 2 * 4 * 2 and not any(e.test for e in middle.estimates.values())
    assert [test.p_holm for test in tests] == pytest.approx(holm([test.p_value for test in tests]))
    assert all(e.test.better and e.test.significant for e in high.estimates.values() if e.test)
    assert not any(e.test.better for e in low.estimates.values() if e.test)


def test_what_failed_or_has_not_run_is_said() -> None:
    own = rows()
    failed = {key: own[0][key] for key in ("key", "name", "model", "dataset", "part", "options")}
    own[0] = {**failed, "error": "DataError: no\nmemory"}
    summary = table(own[:-1])
    assert summary.lines[0].problem == "seed 1 failed: DataError: no memory" and summary.lines[0].seeds_text == "1 of 2"
    assert summary.lines[2].problem == "not run yet: seed 2" and not summary.complete
    assert summary.notes == ["Tested on the seeds that both have: low (1 shared), high (1 shared)."]
    for text in (markdown([summary]), latex([summary]), html.unescape(page([summary], "t"))):
        assert "seed 1 failed: DataError: no memory" in text and "not run yet: seed 2" in text
    assert "1 of 2 seeds" in page([summary], "t")
    # A later attempt that worked takes the failure's place, a later failure does not take a result's.
    assert table([own[0], *rows(), own[0]]).complete
    # Of two failures the newest says why.
    assert table([*own, {**own[0], "error": "OSError: full"}]).lines[0].problem == "seed 1 failed: OSError: full"


@pytest.mark.parametrize(
    "before",
    [{"model": "LightGCN"}, {"dataset": "another", "targets": "others"}, {"ranks": pack_ranks(*np.ones((2, 9), int))}],
    ids=["model", "data set", "measure"],
)
def test_rows_of_what_the_file_had_before_are_left_out(before: dict[str, Any]) -> None:
    """Under the same name, part and options, with seeds that the file has no more."""
    old = [{**row(cell, 0.9, **before), "key": f"old {n}"} for n, cell in enumerate(cells(("high",), (3, 4)))]
    if "ranks" in before:
        old = [{key: value for key, value in own.items() if key not in ("users", "user_tokens")} for own in old]
    assert table([*old, *rows()]).lines[2].seeds == [1, 2]
    same = [{**row(cell, 0.9), "key": f"old {n}"} for n, cell in enumerate(cells(("high",), (3, 4)))]
    assert table([*same, *rows()]).lines[2].seeds == [1, 2, 3, 4], "seeds of a command line"


def test_two_that_tie_for_the_first_leave_nobody_second() -> None:
    level = {"low": 0.2, "middle": 0.7, "high": 0.7}
    own = [row(cell, level[cell.name]) for cell in cells()]
    assert [line.estimates["oov", "ndcg@10"].place for line in table(own).lines] == [0, 1, 1]


def test_as_many_hits_of_other_users_are_a_tie() -> None:
    """The mean over seeds and users is one number, which comes out of other sums."""
    three = cells(("one", "two"), (1, 2, 3))
    own, random = [], np.random.default_rng(0)
    for cell in sorted(three, key=lambda cell: cell.name):
        hits = np.zeros((40, 1), dtype=bool)
        hits[random.permutation(40)[:13]] = True
        kept = {key: value for key, value in row(cell, 0.5).items() if key not in ("users", "test_result")}
        own.append({**kept, "hits": {"metrics": ["recall@1"], "overall": pack_hits(hits, np.ones(40))}})
    (summary,) = summarise({**SPEC, "reference": ""}, three, own)
    one, two = (line.estimates["overall", "recall@1"] for line in summary.lines)
    assert one.value == pytest.approx(13 / 40, abs=1e-15) and two.value == pytest.approx(13 / 40, abs=1e-15)
    assert (one.place, two.place) == (0, 0), "neither is better than the other"


def test_a_shared_base_model_is_part_of_what_a_row_costs() -> None:
    own = [{**made, "base_seconds": 30.0} if made["name"] == "high" else made for made in rows()]
    summary = table(own)
    assert summary.lines[2].cost("train s") == pytest.approx(70 + 30) and summary.lines[0].cost("train s") == 20
    assert [point.name for point in points(summary, ("oov", "ndcg@10"))] == ["low", "middle", "high"]
    assert "NDCG@10, OOV items, against its cost" in page([summary], "t")


def test_curves_of_two_validation_metrics_have_two_axes_and_one_evaluation_is_a_dot() -> None:
    own = rows()
    for made in own:
        if made["name"] == "low":
            made["options"] = {**made["options"], "valid_metric": "oov_NDCG@10"}
            made["valid_scores"] = [[0, 90.0]]
    tables = summarise(SPEC, [Cell(r["name"], "BPR", "toy", r["options"], "toy, cold", "users") for r in own], own)
    scales = curve_scales(tables[0].lines)
    assert list(scales) == ["oov_NDCG@10", "NDCG@10"] and scales["NDCG@10"][1].high < 1 < scales["oov_NDCG@10"][1].low
    text = page(tables, "t")
    assert text.count('class="dot"') == 2 and text.count('class="curve"') == 4


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.16, 0.249], [3.0, 3.0], [-5.0, 1e6], [1e-9, 2e-9]])
def test_an_axis_has_two_marks_at_least(values: list[float]) -> None:
    for n_ticks in (3, 4, 5):
        scale = linear(values, 0, 100, n_ticks=n_ticks)
        assert len(scale.ticks) >= 2 and all(scale.low <= tick <= scale.high for tick in scale.ticks)


def test_the_runs_say_their_configuration_and_how_it_was_chosen() -> None:
    tuned = {"trials": 3, "chosen": 2, "settings": {"learning_rate": 0.01}}
    text = page([table([{**made, "config": "c0ffee" * 10, "tuned": tuned} for made in rows()])], "t")
    assert "<code>c0ffeec0ffee</code>" in text and "high: trial 2 of 3, learning_rate: 0.01" in text


def test_only_the_same_held_out_rows_are_compared() -> None:
    with pytest.raises(ConfigError, match=r"high \(seed 2, targets others\).* not tested on the same held-out items"):
        table([*rows()[:-1], {**rows()[-1], "targets": "others"}])
    with pytest.raises(ConfigError, match="not tested on the same users"):
        table([*rows()[:-1], {**rows()[-1], "user_tokens": "others"}])
    with pytest.raises(ConfigError, match="reference 'none' is none of the models; there are low, middle, high"):
        table(rows(), reference="none")


def test_sequential_rows_beside_others_on_other_rows_are_reported_without_tests() -> None:
    """Whether RecBole holds out the same rows for both depends on the data; what was trained is not without a table."""
    both = [replace(cell, model="SASRec") if cell.name == "high" else cell for cell in cells()]
    own = [row(cell, MODELS[cell.name], **({"targets": "others"} if cell.name == "high" else {})) for cell in both]
    summary = summarise(SPEC, both, own)[0]
    assert summary.notes == [
        "No tests and no marks: high, a sequential model, and low were not tested on the same held-out rows, so their "
        "numbers do not compare."
    ]
    estimates = [estimate for line in summary.lines for estimate in line.estimates.values()]
    assert len(estimates) == 27 and not any(estimate.test or estimate.place for estimate in estimates)
    assert summary.notes[0] in markdown([summary]) and "against middle" not in markdown([summary])
    same = summarise(SPEC, both, [row(cell, MODELS[cell.name]) for cell in both])[0]
    assert not same.notes and same.lines[2].estimates["oov", "ndcg@10"].test


def test_groups_of_other_users_get_no_test_and_no_interval() -> None:
    own = rows()
    own[-1]["users"]["oov"] = {m: pack(np.full(7, 0.5)) for m in ("recall@10", "ndcg@10")}
    summary = table(own)
    estimate = summary.lines[2].estimates["oov", "ndcg@10"]
    assert estimate.low is None and estimate.test is None and 0.3 < estimate.value < 0.6
    assert "the users differ from seed to seed" in summary.notes[0]
    assert "No paired test, since the users are not those of the reference: high in oov" in summary.notes[1]


def test_every_format_escapes_names(tmp_path: Path) -> None:
    own = [{**row(cell, 0.4), "hardware": HOSTILE} for cell in cells((HOSTILE, "=1+1"))]
    tables = write_tables({**SPEC, "reference": HOSTILE}, cells((HOSTILE, "=1+1")), own, tmp_path, Console(quiet=True))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text and html.escape(HOSTILE) in text
    assert r"\textless{}script\textgreater{}alert(1)" in (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert r"\<script\>" in (tmp_path / "table.md").read_text(encoding="utf-8")
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert {line["model"] for line in read} == {HOSTILE, "'=1+1"}
    assert float(read[0]["mean"]) == pytest.approx(tables[0].lines[0].estimates["overall", "recall@10"].value, rel=1e-8)


def test_markdown_has_a_table_a_group_and_latex_balances() -> None:
    summary = table(rows())
    text = markdown([summary])
    assert re.findall(r"^### (\w+)", text, re.M) == ["overall", "iv", "oov", "overall_all_users"]
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) <= 2 and "p (ndcg@10) against middle" in text
    tex = latex([summary])
    assert tex.count("{") == tex.count("}") and tex.count(r"\begin{") == tex.count(r"\end{")
    body = [line for line in tex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len({line.count("&") for line in body}) == 1
    assert r"\cmidrule(lr)" in tex and r"\textbf{" in tex and "$^{+}$" in tex


def test_a_name_in_latex_is_no_argument_of_the_row_before() -> None:
    """After a row's end a star or a bracket would be one."""
    names = ("*ours", "[tuned]", "BPR [a]*")
    tex = latex(summarise({**SPEC, "reference": ""}, cells(names), [row(cell, 0.4) for cell in cells(names)]))
    assert re.findall(r"^    (\S.*?) & 2 &", tex, re.M) == ["{}*ours", "{}[tuned]", "BPR [a]*"]


class Balanced(HTMLParser):
    """Every element that opens is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing() -> None:
    text = page([table(rows())], "toy")
    parser = Balanced()
    parser.feed(text.partition("\n")[2])
    assert not parser.open
    assert not re.findall(r'(?:src|href)="(?!#|data:,)', text) and "url(" not in text and "@import" not in text
    assert text.count('class="curve"') == 6 and "OOV items" in text and "IV items" in text
    without = [{key: value for key, value in own.items() if key != "valid_scores"} for own in rows()]
    assert 'class="curve"' not in page([table(without)], "toy")


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium: set CHROMIUM to the browser's path, or install it")
    return found


FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync")


def browse(folder: Path, address: str, *flags: str) -> str:
    command = [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=1000", *flags]
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=90, check=True)
    return done.stdout


def first_column(dom: str) -> list[str]:
    body = re.search(r'id="table-0">.*?<tbody>(.*?)</tbody>', dom, re.S)
    assert body is not None
    return re.findall(r'<th scope="row" data-value="([^"]*)"', body.group(1))


def test_a_browser_sorts_the_tables_and_runs_no_other_script(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    names = ("<img src=x onerror=\"document.title='hit'\">", "middle", "high")
    own = [row(cell, level) for cell, level in zip(cells(names, (1,)), (0.2, 0.4, 0.7), strict=True)]
    path.write_text(page(summarise(SPEC, cells(names, (1,)), own), "toy"), encoding="utf-8")
    given = [html.escape(name, quote=True) for name in names]
    for hash_, expected in (("", [0, 1, 2]), ("#sort=table-0:3", [2, 1, 0]), ("#sort=table-0:3:ascending", [0, 1, 2])):
        dom = browse(tmp_path, f"{path.as_uri()}{hash_}", "--dump-dom")
        found = [html.escape(html.unescape(name), quote=True) for name in first_column(dom)]
        assert found == [given[at] for at in expected]
        assert (
            bool(re.search("<th [^>]*aria-sort=", dom)) == bool(hash_) and "<title>toy: benchmark report</title>" in dom
        )
    picture = tmp_path / "page.png"
    browse(tmp_path, path.as_uri(), f"--screenshot={picture}", "--window-size=390,1400")
    assert picture.stat().st_size > 10_000


def test_a_folder_of_rows_that_keep_hits_is_reported(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for own in rows():
        hits = {"metrics": ["recall@3"], "overall": pack_hits(random.random((40, 3)) < 0.4, np.full(40, 3))}
        append_row(
            tmp_path / "results.jsonl", {key: value for key, value in own.items() if key != "users"} | {"hits": hits}
        )
    assert cli.main(["report", str(tmp_path), "--reference=low"]) == 0
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "Recall@3" in text and re.search(r"\| high \| 2 \| 0\.[34]", text)


def test_the_report_command_needs_only_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "is not there or empty; run the benchmark first" in capsys.readouterr().err
    for own in rows()[:-1]:
        append_row(tmp_path / "results.jsonl", own)
    assert cli.main(["report", str(tmp_path), "--sorted=1"]) == 2
    assert "sorted is no option for a folder" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path), "--reference=low"]) == 0
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert {"report.html", "table.md", "table.tex", "table.csv"} < written
    assert {f"plots/toy-cold-{what}.{kind}" for what in ("cost", "curves", "intervals") for kind in ("svg", "png")} < (
        written
    )
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "against low" in text and "| high | 1 of 2 |" in text and "not run yet: seed 2" in text


def test_plots_without_matplotlib_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "recbole-oov[plot]"' in save_plots([table(rows())], tmp_path / "plots")
    assert not (tmp_path / "plots").exists()
