"""``doctor``: what it calls broken is broken, and what setup.cfg says is what it compares with."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from recbole_oov.cli import main
from recbole_oov.tools import doctor, requirements
from recbole_oov.tools.doctor import combinations, extras, folders, import_problem, packages

ROOT = Path(__file__).parents[2]
CLEAN = {"numpy": "2.4.6", "scipy": "1.17.1", "pandas": "2.3.3", "torch": "2.13.0+cpu", "transformers": "5.23.0"}
CLEAN |= {"tensorboard": "2.21.0", "peft": "0.21.2", "setuptools": "80.0", "hyperopt": "0.2.7"}


def test_this_installation_is_in_order(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("Nothing is broken.\n")
    for section in ("packages", "known-bad combinations", "extras", "presets", "machine", "folders"):
        assert f"\n{section}\n" in f"\n{said}"
    assert "encoder minilm" in said and "threads" in said and "backbone tiny" in said
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    ("versions", "named", "state"),
    [
        ({"pandas": "3.0.1"}, "pandas 3.0.1", "broken"),
        ({"numpy": "2.0.0"}, "numpy 2.0.0", "broken"),
        ({"scipy": "1.13.0"}, "scipy 1.13.0", "broken"),
        ({"tensorboard": "2.17.1"}, "tensorboard 2.17.1 with numpy 2.4.6", "broken"),
        ({"peft": "0.17.0"}, "peft 0.17.0 with transformers 5.23.0", "broken"),
        ({"torchvision": "0.28.0+cu130"}, "torch 2.13.0+cpu with torchvision 0.28.0+cu130", "broken"),
        ({"setuptools": "82.0"}, "hyperopt 0.2.7 with setuptools 82.0", "note"),
        ({"ray": "2.6.3"}, "ray 2.6.3 with numpy 2.4.6", "note"),
    ],
)
def test_combinations_that_are_known_to_be_bad(versions: dict[str, str], named: str, state: str) -> None:
    (found,) = combinations({**CLEAN, **versions})
    assert (found.name, found.state) == (named, state) and found.remedy


def test_combinations_that_are_not() -> None:
    assert [finding.state for finding in combinations({**CLEAN, "torchvision": "0.28.0+cpu"})] == ["ok"]
    assert [finding.state for finding in combinations({"tensorboard": "2.17.1"})] == ["ok"]  # numpy decides, too


def test_packages_that_are_missing_old_or_do_not_import() -> None:
    declared = {"": [Requirement(text) for text in ("recbole==1.2.1", "numpy>=99", "no-such-package>=2", "tqdm>=4")]}
    found = {finding.name: finding for finding in packages(declared, {"numpy": "2.4.6", "tqdm": "4.70.1"})}
    assert (found["numpy"].state, found["numpy"].detail) == ("broken", "2.4.6, which is not >=99")
    assert found["recbole"].remedy == "pip install --no-deps recbole==1.2.1"
    assert (found["no-such-package"].detail, found["no-such-package"].remedy) == (
        "not installed",
        "pip install 'no-such-package>=2'",
    )
    assert found["tqdm"].state == "ok"
    assert import_problem("no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"


def test_what_is_broken_ends_with_an_error(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = requirements.installed
    monkeypatch.setattr(requirements, "installed", lambda *names: {**installed(*names), "pandas": "3.0.0"})
    assert main(["doctor", "--json"]) == 2
    said = capsys.readouterr()
    findings = json.loads(said.out)
    assert {finding["name"] for finding in findings if finding["state"] == "broken"} == {"pandas", "pandas 3.0.0"}
    assert said.err == "error: doctor: 2 broken: pandas, pandas 3.0.0\n"


def test_folders_that_cannot_be_written(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "saved").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("RECBOLE_OOV_CACHE", str(workplace / "saved" / "cache"))
    results, cache = folders()
    assert results.state == cache.state == "broken"
    assert "saved is a file" in results.detail and cache.remedy == "set RECBOLE_OOV_CACHE=FOLDER"


def test_an_extra_that_is_not_there_says_how_to_get_it() -> None:
    found = {finding.name: finding for finding in extras(requirements.declared(), {})}
    assert found["faiss"].state == "missing" and "without faiss-cpu" in found["faiss"].detail
    assert found["faiss"].remedy == 'pip install "recbole-oov[faiss]"'


def test_the_metadata_of_an_installation_says_what_setup_cfg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from_setup = requirements.declared()
    lines = [str(requirement) for requirement in from_setup[""]]
    extra_lines = [f'{r} ; extra == "{e}"' for e, listed in from_setup.items() if e for r in listed]
    found = requirements.by_extra([Requirement(line) for line in [*lines, *extra_lines]], [e for e in from_setup if e])
    assert {e: [r.name for r in listed] for e, listed in found.items()} == {
        e: [r.name for r in listed] for e, listed in from_setup.items()
    }
    assert "recbole" in [requirement.name for requirement in found[""]]


def test_every_extra_has_a_purpose() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    assert set(parser["options.extras_require"]) - {"test"} == set(requirements.PURPOSES)
    assert set(requirements.declared()) == {"", *parser["options.extras_require"]}


def test_an_option_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--jsno"]) == 2
    assert "did you mean --json?" in capsys.readouterr().err
    assert doctor.doctor.__doc__ and "--json" in doctor.doctor.__doc__
