"""The suite of starting: from a new process to the end of the first training step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from recbole_oov.bench.harness import Contest, Side
from recbole_oov.bench.recbole_side import data_folder
from recbole_oov.bench.suites import Setting
from recbole_oov.errors import DataError

_STOP = """
import os, sys, torch
step, backward, losses = torch.optim.Adam.step, torch.Tensor.backward, []
def watched(self, *args, **kwargs):
    losses.append(float(self.detach()))
    return backward(self, *args, **kwargs)
def last(self, *args, **kwargs):
    step(self, *args, **kwargs)
    print(losses[-1], flush=True)
    os._exit(0)
torch.Tensor.backward, torch.optim.Adam.step = watched, last
sys.argv = ["run", "--model=BPR", "--dataset=ml-100k", "--state=ERROR", "--show_progress=False"]
sys.argv.append("--data_path=" + {place!r})
"""
_OURS = """
from recbole_oov.cli import main
main(sys.argv[1:])
"""
_THEIRS = """
import types
import numpy as np
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_
sys.modules["ray"], sys.modules["ray.tune"] = types.ModuleType("ray"), types.ModuleType("ray.tune")
sys.modules["ray"].tune = sys.modules["ray.tune"]
from recbole.quick_start import run_recbole
run_recbole()
"""
"""RecBole's quick start does not import as it is: it needs names that numpy 2 took away, and a ``ray`` that needs a
package of setuptools before 82. An empty ``ray`` in its place makes RecBole faster than it is."""


def first_batch(setting: Setting) -> Contest:
    """BPR on ml-100k with default options; the first batch's loss is compared."""
    place = data_folder("ml-100k", setting.data_path)
    if place is None:
        raise DataError("bench: the data set ml-100k was not found")
    return Contest(
        Side("recbole_oov", lambda: _first_loss(_STOP.format(place=str(place)) + _OURS)),
        Side("RecBole's quick start", lambda: _first_loss(_STOP.format(place=str(place)) + _THEIRS)),
        lambda a, b: [] if abs(a - b) <= 1e-4 else [f"loss of the first batch: {a:.6f} and {b:.6f}"],
        note="new process, BPR on ml-100k; RecBole mended by three names of numpy and an empty ray",
    )


def _first_loss(script: str) -> float:
    """What a new process says that runs a script, in a folder of its own.

    Raises:
        RuntimeError: It failed; with its last lines.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode or not done.stdout.strip():
        raise RuntimeError(f"startup: {done.stderr.strip()[-2000:]}")
    return float(done.stdout.split()[-1])
