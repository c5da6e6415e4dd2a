"""A process that has imported everything and forks a child for each run, which it may kill at a given moment.

Reads tasks from standard input and answers on standard output, a line of JSON each. Run by ``Nursery``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Nursery:
    """The process, seen from a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, folder: Path, options: dict[str, Any], kill_after: float | None = None) -> dict[str, Any] | None:
        """One run in ``folder``; what it ended with, or None where it was killed ``kill_after`` seconds from now."""
        assert self._process.stdin is not None and self._process.stdout is not None
        folder.mkdir(parents=True, exist_ok=True)
        task = {"folder": str(folder), "options": options, "kill_after": kill_after}
        print(json.dumps(task), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]  # type: ignore[no-any-return]

    def survive(self, folder: Path, options: dict[str, Any], kills: int, seed: int) -> list[dict[str, Any]]:
        """Kill runs at random moments and resume each until it is done, until so many kills have been made.

        Returns:
            What the runs ended with: one that was never killed first, then those that were.
        """
        self.run(folder / "warm", options)
        begin = time.monotonic()
        results = [self.run(folder / "never killed", options)]
        longest, draw = time.monotonic() - begin, random.Random(seed)
        while kills > 0:
            where = folder / f"run {len(results)}"
            while (result := self.run(where, options, draw.uniform(0.1, 1.0) * longest if kills > 0 else None)) is None:
                kills -= 1
            results.append(result)
        return results  # type: ignore[return-value]


@contextmanager
def nursery(*models: str) -> Iterator[Nursery]:
    """A nursery in which the given models are imported."""
    process = subprocess.Popen(
        [sys.executable, __file__, *models],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
    )
    try:
        yield Nursery(process)
    finally:
        process.communicate("")


def train(options: dict[str, Any]) -> dict[str, Any]:
    """A whole run: training, the test with the best model. What it ends with, to the last bit."""
    from recbole_oov.runner import prepare

    experiment = prepare(config_dict={"show_progress": False, "resume": True, **options}, argv=[])
    trainer = experiment.trainer
    best_score, best_result = trainer.fit(experiment.train_data, experiment.valid_data)
    weights = hashlib.sha256()
    for name, value in sorted(experiment.model.state_dict().items()):
        weights.update(name.encode() + value.numpy().tobytes())
    test = trainer.evaluate(experiment.test_data, load_best_model=True)
    trainer.forget_progress()
    manifest = json.loads(Path(trainer.saved_model_file).read_bytes())
    return {
        "weights": weights.hexdigest(),
        "best_model": [file["sha256"] for file in manifest["files"]],
        "best": [best_score, best_result],
        "test": test,
        "losses": {str(epoch): loss for epoch, loss in trainer.train_loss_dict.items()},
        "started_at": trainer.start_epoch,
    }


def _child(task: dict[str, Any], answer: int) -> None:
    os.chdir(task["folder"])
    os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(2, 1)
    try:
        result = {"result": train(task["options"])}
    except BaseException as error:  # the parent reports it
        result = {"error": f"{type(error).__name__}: {error}"}
    os.write(answer, json.dumps(result).encode())
    os._exit(0)


def _serve() -> None:
    for line in sys.stdin:
        task = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _child(task, writing)
        os.close(writing)
        end = time.monotonic() + (task["kill_after"] or 600)
        while time.monotonic() < end and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        print(answer.decode() or json.dumps({"result": None}), flush=True)


if __name__ == "__main__":
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401
    from recbole.utils import get_model

    import recbole_oov.runner  # noqa: F401
    from recbole_oov.trainer import all_positions, evaluation, pool_sampling, resume  # noqa: F401

    for name in sys.argv[1:]:
        get_model(name)
    if "OOVLLMRec" in sys.argv:
        from transformers import LlamaModel  # noqa: F401
    _serve()
