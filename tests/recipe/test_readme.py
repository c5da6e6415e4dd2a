"""What the README and the shipped YAML files say can be typed and works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from recbole_oov.cli import main
from recbole_oov.registry import properties_folder

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
YAMLS = sorted(properties_folder().rglob("*.yaml"))
FAST = ["--dataset=circles", "--epochs=1", "--show_progress=False", "--MAX_ITEM_LIST_LENGTH=12"]
WALKS = ["--walks_per_node=2", "--walk_length=10", "--walk_epochs=1", "--n_clusters=3"]

SEARCH = ["--samplers=[uniform, dns]", "--pool=4", "--search_epochs=1", "--search_budget=16", "--leak_guard=warn"]


def commands(text: str) -> list[str]:
    """Every command line of the program in a text, without the comment marks of YAML."""
    found = re.findall(r"(?:^|[`#&]\s*)python run_recbole_oov\.py([^`\n]*)", text, flags=re.MULTILINE)
    return sorted({command.strip() for command in found})


ALL = sorted({*commands(README), *(c for path in YAMLS for c in commands(path.read_text(encoding="utf-8")))})
# `bench` and `benchmark` take minutes: tests/unit/test_bench.py and test_benchmark.py run them on less.
RUNS = [command for command in ALL if not command.startswith(("bench", "models")) and "FOLDER" not in command]


def test_the_commands_are_found() -> None:
    assert len(RUNS) >= 6
    assert "--model=OOVLLMRec" in ALL and "models" in ALL
    assert any(command.startswith("benchmark properties/benchmark/") for command in ALL)


def keeps_items_out(command: str) -> bool:
    """Whether the model's own defaults are the OOV protocol's."""
    model = re.search(r"--model=(\w+)", command)
    path = properties_folder() / "model" / f"{model[1] if model else ''}.yaml"
    return path.is_file() and "oov_split" in yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", RUNS)
def test_a_command_runs(command: str, data_path: Path) -> None:
    given = [argument for argument in shlex.split(command) if not argument.startswith("--dataset=")]
    walks = WALKS if "OOVLLMRec" in command or "--model=ClusterPop" in command else []
    keys = {argument.split("=")[0] for argument in given}
    walks = SEARCH if "AutoSample" in command else walks
    added = [argument for argument in [*FAST, *walks] if argument.split("=")[0] not in keys]
    if not walks or "AutoSample" in command:
        added.remove("--MAX_ITEM_LIST_LENGTH=12")
    if "ClusterPop" in command:
        added.remove("--epochs=1")
    if "--oov_split" in command:
        added += ["--topk=2", "--valid_metric=MRR@2"]  # the small data set keeps five items out
    if keeps_items_out(command):
        added += ["--topk=2", "--valid_metric=oov_ndcg@2", "--eval_step=1"]
    if "USIM" in command:
        added += ["--imagination_epochs=1", "--imagination_steps=2"]
    given = [argument.replace("--n_clusters=64", "--n_clusters=4") for argument in given]
    assert main([*given, *added, f"--data_path={data_path}"]) == 0


def test_the_python_of_the_readme_runs(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    recommending = [block for block in blocks if "recommend(" in block]
    training = [block for block in blocks if "ml-100k" in block]
    assert len(recommending) == 1 and len(training) == 2 and len(blocks) == 3
    small = {"data_path": str(data_path), "epochs": 1, "MAX_ITEM_LIST_LENGTH": 12, "n_clusters": 3, "walks_per_node": 2}
    for block in training:
        added = block.replace('"ml-100k"', '"circles"').replace('config_dict={"epochs": 5}', f"config_dict={small!r}")
        if "config_dict" not in block:
            added = added.replace('dataset="circles"', f'dataset="circles", config_dict={small!r}')
        assert added.count("circles") == 1 and str(data_path) in added
        exec(compile(added, "README.md", "exec"), {})
    saved = sorted(path for path in Path("saved").glob("OOVLLMRec-*.json") if "progress" not in path.name)
    block = recommending[0].replace("saved/OOVLLMRec-….json", str(saved[0]))
    capsys.readouterr()
    exec(compile(block.replace('["50", "172", "181"]', '["i1", "i2", "i3"]'), "README.md", "exec"), {})
    assert len(re.findall(r"\bi\d+\b", capsys.readouterr().out)) >= 5


def test_the_readme_s_error_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(r"```console\n\$ python run_recbole_oov\.py (.*)\n((?:.*\n)*?)```", README)
    assert block is not None
    assert main(shlex.split(block[1])) == 2
    assert capsys.readouterr().err == block[2]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(properties_folder())))
def test_a_shipped_file_opens_with_its_command_and_explains_its_keys(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    head = text[: re.search(r"^[^#\n]", text, flags=re.MULTILINE).start()]  # type: ignore[union-attr]
    assert "python run_recbole_oov.py" in head
    if path.parent.name in ("benchmark", "prompts"):
        return
    for key in content:
        line = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
        assert "#" in line, f"{path.name}: {key} has no explanation"


def test_links_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"]:
        if not path.is_file():
            continue
        for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (path.parent / link).exists(), f"{path.name}: {link}"
