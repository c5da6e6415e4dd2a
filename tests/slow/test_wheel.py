"""A built wheel, in an environment of its own, works from any folder: nothing of the checkout is needed."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["setup.cfg", "pyproject.toml", "README.md", "LICENSE", "recbole_oov", "properties"]


def shell(*command: str | Path, cwd: Path) -> str:
    """Run a command without the checkout on its path; its output, or a failed test that shows it."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, text=True, capture_output=True, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(map(str, command))} exited with {done.returncode}:\n{output[-8000:]}"
    return output


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that no build folder is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    try:
        recent = int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        recent = False
    # With a recent setuptools at hand the build needs no network.
    options = ["--no-build-isolation"] if recent else []
    shell(sys.executable, "-m", "pip", "wheel", "--no-deps", *options, "-w", folder, source, cwd=folder)
    (built,) = folder.glob("recbole_oov-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a second environment: the wheel, and this environment's libraries behind it."""
    folder = tmp_path_factory.mktemp("second") / "venv"
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", binaries / "python"]
    shell(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # Only now, so that pip did not take this environment's own recbole_oov for an older installation. A folder
    # named in a .pth file comes after the environment's own, and its .pth files (editable installs) are not read.
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(shell(binaries / "python", "-c", query, cwd=folder).strip())
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    return binaries


def test_wheel_holds_the_package_and_its_properties_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "recbole_oov").rglob("*.py")}
    expected |= {f"recbole_oov/{path.relative_to(ROOT)}" for path in (ROOT / "properties").rglob("*.yaml")}
    expected |= {"recbole_oov/py.typed"}
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_package_and_properties_are_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = "import recbole_oov, recbole_oov.registry as r; print(recbole_oov.__file__); print(r.properties_folder())"
    package, properties = (Path(line) for line in shell(installed / "python", "-c", code, cwd=tmp_path).split()[-2:])
    environment = installed.parent.resolve()
    assert package.resolve().is_relative_to(environment)
    assert properties.resolve().is_relative_to(environment)
    assert (properties / "model" / "OOVLLMRec.yaml").is_file()


def test_console_script_runs_a_model_of_recbole_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    output = shell(installed / "recbole-oov", "--model=BPR", "--epochs=1", "--show_progress=False", cwd=tmp_path)
    assert "test result" in output
    assert list((tmp_path / "saved").glob("BPR-*.json"))


def test_console_script_runs_a_model_of_the_plugin_from_any_folder(installed: Path, tiny_dataset: Path) -> None:
    folder = tiny_dataset.parents[1]
    small = ["--epochs=1", "--n_clusters=3", "--walk_epochs=1", "--hidden_size=16", "--inner_size=32"]
    output = shell(
        installed / "recbole-oov", "--model=OOVLLMRec", "--dataset=tiny", *small, "--show_progress=False", cwd=folder
    )
    assert "test result" in output
    assert list((folder / "saved").glob("OOVLLMRec-*.json"))
