"""What docs/ says can be typed is typed here, on small data; commands of hours are checked for what they would run."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import recbole_oov
from recbole_oov.cli import COMMANDS, HELP, main
from recbole_oov.config import OOVConfig, parse_command_line
from recbole_oov.report.benchmark import cells_of
from recbole_oov.report.spec import read_spec
from recbole_oov.testing import write_atomic
from recbole_oov.testing.tastes import two_tastes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOOLS = {"from-csv", "describe", "encode", "recommend", "export", "push", "pull", "doctor"}
PROGRAM = re.compile(r"^(?:recbole-oov|python run_recbole_oov\.py)\s+")


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), flags=re.MULTILINE | re.DOTALL)


def lines(name: str) -> list[str]:
    """Every command line of a page, in order."""
    return [line for block in blocks(name, "bash") for line in block.splitlines() if line.strip()]


def words(line: str) -> list[str]:
    """The arguments of a command of ours as a shell would give them, ``$(…)`` included."""
    arguments = PROGRAM.sub("", line)
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {arguments}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def type_in(line: str, *added: str) -> None:
    """Run a line of a page: our command in this process, any other one in a shell."""
    if PROGRAM.match(line):
        assert main([*words(line), *added]) == 0, line
    else:
        line = re.sub(r"^python ", f"{sys.executable} ", line)
        subprocess.run(["bash", "-c", line], check=True, capture_output=True)


def save(name: str, language: str, **changes: str) -> None:
    """Save a page's block that opens with a comment naming its file."""
    for block in blocks(name, language):
        file = re.match(r"# (\S+)\n", block)
        if file:
            for old, new in changes.items():
                assert old in block or file[1] != "shop.yaml", old
                block = block.replace(old, new)
            Path(file[1]).write_text(block, encoding="utf-8")


def test_own_data_from_csv_to_a_recommendation(capsys: pytest.CaptureFixture[str]) -> None:
    save("own-data.md", "python")
    script = Path("make_shop.py").read_text(encoding="utf-8")
    assert "N_CUSTOMERS = 400" in script
    Path("make_shop.py").write_text(script.replace("N_CUSTOMERS = 400", "N_CUSTOMERS = 80"), encoding="utf-8")
    save("own-data.md", "yaml", **{"epochs: 30": "epochs: 10", "seeds: [2020, 2021]": "seeds: [2020]"})
    said = {}
    for line in lines("own-data.md"):
        fast = ["--epochs=10", "--show_progress=False"] if "--model=DeepMusic" in line else []
        type_in(line if not fast else line.replace(" --epochs=30", ""), *fast)
        said[line] = capsys.readouterr().out
    describe = next(text for line, text in said.items() if "describe" in line)
    assert re.search(r"users +80\n", describe) and re.search(r"item\.title +100\.0% +3\.0\n", describe)
    rows = [json.loads(row) for row in Path("results/shop/results.jsonl").read_text(encoding="utf-8").splitlines()]
    oov = {row["name"]: row["test_result"]["oov_recall@10"] for row in rows}
    assert oov["ContentKNN"] > 1.5 * oov["BPR"]  # content tells what a customer likes
    new_item, for_user = [text for line, text in said.items() if " recommend " in line]
    assert new_item.count("new-1") == 5 and for_user.count("c1 ") == 5


def test_the_table_of_own_data_is_one_of_the_benchmark() -> None:
    assert re.search(r"\| ContentKNN \| 2 \| 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\] \|", text_of("own-data.md"))
    assert "OOV_TABLE" not in text_of("own-data.md")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, CSV files of it, and a checkpoint."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        histories, titles = two_tastes()
        write_atomic(folder / "dataset", "tastes", histories, titles)
        bought = [f"{user},{item},{at}" for user, items in histories.items() for at, item in enumerate(items)]
        Path("orders.csv").write_text("\n".join(["customer,product,bought", *bought]), encoding="utf-8")
        products = [f"{item},{title},all" for item, title in titles.items()]
        Path("products.csv").write_text("\n".join(["sku,title,kind", *products]), encoding="utf-8")
        options: dict[str, Any] = {"epochs": 1, "topk": [2], "valid_metric": "oov_ndcg@2", "oov_split": "random"}
        run = recbole_oov.run("DeepMusic", "tastes", config_dict={**options, "show_progress": False}, argv=[])
    (folder / "name").write_text(run["model_file"], encoding="utf-8")
    return folder


def test_the_everyday_commands(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    shutil.copytree(shop, tmp_path, dirs_exist_ok=True)
    named = {"saved/NAME.json": (shop / "name").read_text(encoding="utf-8"), "ml-100k": "tastes"}
    typed = lines("tools.md")
    for line in typed:
        for old, new in named.items():
            line = line.replace(old, new)
        type_in(line)
        printed = capsys.readouterr().out
        if line.endswith("--user=u1 --k=5"):
            assert printed.count("u1 ") == 5
        if line.endswith("--json"):
            assert len(json.loads(printed)["recommendations"]) == 5
    (script,) = blocks("tools.md", "python")
    exec(compile(script.replace("saved/NAME.json", named["saved/NAME.json"]), "tools.md", "exec"), {})
    assert capsys.readouterr().out.count("new 1") == 5
    assert {words(line)[0] for line in typed if PROGRAM.match(line)} == TOOLS
    assert Path("tastes.png").stat().st_size > 10_000
    assert Path("vectors/items.faiss").is_file() and Path("models/mine/model.json").is_file()


def test_every_command_is_described_and_in_the_help() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    for command in COMMANDS:
        assert f"`{command}`" in pages or f"run_recbole_oov.py {command} " in pages, command
        assert f"run_recbole_oov.py {command}" in HELP or command == "run", command


def test_nothing_is_sent_by_default(data_path: Path) -> None:
    assert "Nothing is sent anywhere by default" in text_of("tools.md")
    config = OOVConfig("BPR", "circles", config_dict={"data_path": str(data_path)}, argv=[])
    assert config["log_wandb"] is False


def test_add_a_sampler(data_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = (block for block in blocks("add-a-sampler.md", "python") if block.startswith("# my_sampler.py"))
    small = script.replace('dataset="ml-100k"', 'dataset="circles"').replace('"epochs": 3', '"epochs": 1')
    assert small.count("circles") == 1 and '"epochs": 1' in small
    Path("my_sampler.py").write_text(
        small.replace('"epochs": 1', f'"epochs": 1, "data_path": {str(data_path)!r}'), encoding="utf-8"
    )
    monkeypatch.setattr(sys, "argv", ["my_sampler.py"])
    runpy.run_path("my_sampler.py", run_name="__main__")
    assert capsys.readouterr().out.count("recall@10") == 3
    # The block after it: a row in a copy of the benchmark file, started from where the sampler is known.
    (start,) = (block for block in blocks("add-a-sampler.md", "python") if "benchmark(" in block)
    spec = yaml.safe_load((ROOT / "properties" / "benchmark" / "negative-sampling.yaml").read_text(encoding="utf-8"))
    rows = {
        "uniform": spec["models"]["uniform"],
        "ranked": {"model": "$base", "sampler": {"name": "ranked", "rank": 3}},
    }
    common = {**spec["common"], "epochs": 1, "data_path": str(data_path), "leak_guard": "warn", "topk": [5]}
    common["valid_metric"] = "NDCG@5"
    part = {"dataset": "circles", "base": "BPR", "seeds": [1]}
    mine = {**spec, "models": rows, "reference": "uniform", "common": common, "parts": {"mine": part}, "output": "out"}
    Path("mine.yaml").write_text(yaml.safe_dump(mine), encoding="utf-8")
    exec(compile(start, "block", "exec"), {})
    found = [json.loads(line) for line in Path("out/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["name"]: "error" in row for row in found} == {"uniform": False, "ranked": False}


REPRODUCE = lines("reproduce.md")


@pytest.mark.parametrize("line", REPRODUCE)
def test_a_sweep_would_run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, file, *options = words(line)
    given = parse_command_line(options)
    reference = given.pop("reference", None)
    spec = read_spec(file, given)
    cells = cells_of({**spec, "output": "nowhere"})
    assert command in ("benchmark", "report") and len(cells) >= 6
    if command == "report":
        assert (Path(given["output"]) / "results.jsonl").is_file()
        assert reference is None or reference in spec["models"]


@pytest.mark.parametrize("page", sorted((DOCS / "results").glob("*.md")), ids=lambda page: page.name)
def test_a_page_of_results_says_how_it_was_made(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    typed = re.findall(r"^(python run_recbole_oov\.py [^\n…]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert typed, f"{page.name} gives no command"
    for line in typed:
        command, *options = words(line)
        if command in ("benchmark", "report"):
            assert Path(options[0]).exists(), line
            options = options[1:]
        elif not command.startswith("--"):
            assert command in COMMANDS, line
            continue
        else:
            options = [command, *options]
        parse_command_line(options)


def test_every_table_is_there_with_its_cells_and_its_time() -> None:
    text = text_of("reproduce.md")
    published = re.findall(r"^\| \[results/([\w-]+)\.md\].*\| (\d+) \| (\d+) min \|", text, re.MULTILINE)
    assert len(published) >= 3
    for name, cells, minutes in published:
        path = DOCS / "results" / name / "results.jsonl"
        rows = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == int(cells)
        rows = [row for row in rows if "same_as" not in row]  # another part's run
        bases = {row["base"]: row["base_seconds"] for row in rows if "base" in row}
        assert round((sum(row["seconds"] for row in rows) + sum(bases.values())) / 60) == int(minutes)


def test_every_benchmark_file_is_named() -> None:
    for path in (ROOT / "properties" / "benchmark").glob("*.yaml"):
        assert f"properties/benchmark/{path.name}" in text_of("reproduce.md"), path.name


REPORTS = [line for line in REPRODUCE if words(line)[0] == "report"]


@pytest.mark.parametrize("line", REPORTS)
def test_the_published_tables_are_made_from_the_published_cells(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, plots apart, which another matplotlib draws otherwise."""
    output = Path(re.search(r"--output=(\S+)", line)[1])  # type: ignore[index]
    made = Path.cwd() / output.name
    made.mkdir()
    for path in (ROOT / output).glob("*.jsonl"):  # the cells, and where settings were searched for, the trials
        shutil.copyfile(path, made / path.name)
    monkeypatch.setattr("recbole_oov.report.tables.save_plots", lambda tables, folder: "no plots")
    monkeypatch.chdir(ROOT)
    assert main(words(line.replace(str(output), str(made)))) == 0
    for name in ("table.md", "table.tex", "table.csv", "report.html"):
        assert (made / name).read_bytes() == (ROOT / output / name).read_bytes(), f"stale; write it again: {line}"


def test_the_rows_of_the_samplers_are_the_published_ones() -> None:
    """Intervals to the digit, p to two digits, the side that is better; parts by their headings."""
    published = (DOCS / "results" / "negative-sampling" / "table.md").read_text(encoding="utf-8")
    parts = {}
    for part, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n)+)", published, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:1] == "|"]
        at = next((place for place, name in enumerate(lines[0]) if name.startswith("p (")), 0)
        parts[part] = {cells[0]: (cells[2], cells[3], cells[at]) for cells in lines[2:]}
    compared = 0
    for heading, body in re.findall(
        r"^## (.+?) \(.*\)\n((?:(?!## ).*\n)+)", text_of("results/negative-sampling.md"), re.M
    ):
        rows = re.findall(r"^\| ([^|]+) \| \d \| (0[^|]+) \| (0[^|]+) \|.*\| (.*)\|$", body, re.MULTILINE)
        for shown, recall, ndcg, p in rows:
            name = re.sub(r" \(.*| of all.*|\*", "", shown)
            wanted = parts[heading.replace(",", "")][name]
            assert (recall, ndcg) == wanted[:2], (heading, shown)
            side = {"+": "+", "−": "-"}.get(p[:1], "")
            assert side == (wanted[2][:1] if wanted[2][:1] in "+-" else ""), (heading, shown)
            if p.strip():
                said, value = float(p.lstrip("+− ")), float(wanted[2].lstrip("+-"))
                assert said == pytest.approx(value, rel=0.05, abs=0.005 if value > 0.01 else 0), (heading, shown)
            compared += 1
    assert compared >= 42


def test_the_readme_s_tables_are_the_published_ones() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| model \| all items \|.*\n(?:\|.*\n)+", readme, re.MULTILINE)
    for table, name, n in zip(tables, ("cold-start", "quick"), (10, 9), strict=True):
        published = (DOCS / "results" / name / "table.md").read_text(encoding="utf-8")
        numbers = re.findall(r"0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", table.replace("*", ""))
        assert len(numbers) == n and all(number in published for number in numbers)
    (table,) = re.findall(r"^\| model \| Recall@10 \|.*\n(?:\|.*\n)+", readme, re.MULTILINE)
    published = (
        (DOCS / "results" / "llmrec" / "table.md").read_text(encoding="utf-8").partition("## ml-100k ablation")[0]
    )
    numbers = re.findall(r"0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", table)
    assert len(numbers) == 27 and all(number in published for number in numbers)
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", readme)
    assert pictures and all((ROOT / picture).stat().st_size > 1_000 for picture in pictures)
