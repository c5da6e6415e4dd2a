"""Whole runs, from the command line and from Python, on small data."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recbole_oov
from recbole_oov.cli import COMMANDS, main
from recbole_oov.testing import two_circles, write_atomic

ROOT = Path(__file__).parents[2]

SMALL = {
    "walks_per_node": 3,
    "walk_length": 10,
    "walk_epochs": 1,
    "walk_dim": 16,
    "n_clusters": 3,
    "hidden_size": 16,
    "inner_size": 32,
    "tokenizer_vocab_size": 200,
    "epochs": 2,
}


def options(data_path: Path, **more: Any) -> list[str]:
    return [f"--{key}={value}" for key, value in {"dataset": "circles", "data_path": data_path, **more}.items()]


def run_command(argv: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that must succeed; what it printed, without colours."""
    # RecBole sets its log up only where nobody did, and pytest did.
    logging.getLogger().handlers.clear()
    assert main(argv) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(capfd.readouterr()))


def test_the_main_command_ends_with_results_and_a_checkpoint(
    data_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = run_command(["--model=OOVLLMRec", *options(data_path, **SMALL)], capfd)
    assert re.search(r"best valid\s*: OrderedDict", output) and re.search(r"test result\s*: OrderedDict", output)
    assert "Train     0" in output and "Evaluate" in output, "progress is shown"
    assert "np.float64" not in output
    assert [path.name for path in Path("saved").iterdir() if re.fullmatch(r"OOVLLMRec-.*\.json", path.name)]
    assert list(Path("log/OOVLLMRec").glob("*.log")) and list(Path("log_tensorboard").iterdir())


@pytest.mark.parametrize("model", ["BPR", "SASRec", "Pop", "ClusterPop", "SequentialRules"])
def test_other_models_run_by_the_same_command(data_path: Path, model: str) -> None:
    walks = {"walks_per_node": 2, "n_clusters": 3} if model == "ClusterPop" else {}
    positions = {"train_positions": "all"} if model == "SASRec" else {}
    assert main([f"--model={model}", *options(data_path, epochs=1, show_progress=False, **walks, **positions)]) == 0


def test_config_files_name_the_model_and_flags_win(data_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("model: BPR\nepochs: 7\nembedding_size: 8\n", encoding="utf-8")
    Path("b.yaml").write_text("epochs: 3\n", encoding="utf-8")
    argv = ["--config_files=a.yaml b.yaml", *options(data_path, epochs=1, show_progress=False)]
    output = run_command(argv, capfd)
    assert "epochs = 1" in output and "embedding_size = 8" in output and "epoch 1 training" not in output


def test_a_checkpoint_reloads_to_bit_identical_scores(data_path: Path) -> None:
    result = recbole_oov.run(
        model="OOVLLMRec", dataset="circles", config_dict={"data_path": str(data_path), **SMALL}, argv=[]
    )
    assert result is not None
    scores = []
    for _ in range(2):
        config, model, dataset, train, valid, test = recbole_oov.load(result["model_file"])
        with torch.no_grad():
            scores.append(model.eval().full_sort_predict(test._dataset.inter_feat))
    assert torch.equal(*scores)
    trainer = recbole_oov.runner.trainer_class(config)(config, model)
    again = trainer.evaluate(test, load_best_model=False)
    assert again == result["test_result"]


def test_recbole_s_own_functions_know_the_plugin_after_the_import(data_path: Path) -> None:
    from recbole.quick_start import load_data_and_model, objective_function, run_recbole

    config_dict = {"data_path": str(data_path), "show_progress": False, **SMALL}
    result = run_recbole(model="OOVLLMRec", dataset="circles", config_dict=dict(config_dict))
    assert set(result["test_result"]) >= {"ndcg@10", "recall@5"}
    (checkpoint,) = Path("saved").glob("OOVLLMRec-*.pth")
    _, model, *_ = load_data_and_model(str(checkpoint))
    assert type(model).__name__ == "OOVLLMRec"
    objective = objective_function({"model": "OOVLLMRec", "dataset": "circles", **config_dict}, saved=False)
    assert objective["model"] == "OOVLLMRec" and np.isfinite(objective["best_valid_score"])


def test_masking_the_history_leaves_it_out(data_path: Path) -> None:
    config = {"data_path": str(data_path), "epochs": 1, "show_progress": False, "train_positions": "all"}
    results = [
        recbole_oov.run(model="SASRec", dataset="circles", config_dict={**config, "mask_history": mask}, argv=[])
        for mask in (False, True)
    ]
    assert results[0] and results[1]
    # Half of the circle is history: without it, what is to be predicted can only move up.
    assert results[1]["test_result"]["mrr@10"] > results[0]["test_result"]["mrr@10"]


def run_script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


def test_two_processes_without_a_gpu(data_path: Path) -> None:
    code = "import sys; from recbole_oov.cli import main\nif __name__ == '__main__': sys.exit(main(sys.argv[1:]))"
    script = Path("two.py")
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), "--model=BPR", *options(data_path, epochs=1, nproc=2, port=29641)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test result" in done.stdout + done.stderr
    assert len(list(Path("saved").glob("BPR-*.json"))) == 1


def test_two_processes_score_every_user_once_and_as_one_process_does(data_path: Path) -> None:
    write_atomic(data_path, "odd", two_circles(n_users=61, length=12))
    code = """
import json, sys
import recbole_oov
if __name__ == "__main__":
    options = {"data_path": sys.argv[2], "oov_split": "random", "topk": [2], "valid_metric": "Recall@2", "epochs": 1}
    options |= {"show_progress": False, "use_gpu": False, "metric_decimal_place": 9}
    result = recbole_oov.run("Pop", "odd", config_dict=options, argv=[], nproc=int(sys.argv[1]), port="29643")
    print("RESULT", json.dumps([result["test_result"], result["test_groups"]]))
"""
    Path("odd.py").write_text(code, encoding="utf-8")
    found = []
    for n in (1, 2):
        done = subprocess.run(
            [sys.executable, "odd.py", str(n), str(data_path)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout.rpartition("RESULT ")[2].splitlines()[0]))
    (alone, groups), (together, groups_together) = found
    assert groups_together == groups
    assert together == pytest.approx(alone, abs=1e-9)


def test_the_example_of_an_own_model_runs() -> None:
    text = (ROOT / "docs/add-a-model.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    assert len(code.strip().splitlines()) < 40
    Path("my_model.py").write_text(
        code.replace('"epochs": 3', '"epochs": 1, "train_batch_size": 65536'), encoding="utf-8"
    )
    done = run_script("import runpy; runpy.run_path('my_model.py', run_name='__main__')")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test result" in done.stdout + done.stderr


def test_help_version_models_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["--version"]) == main(["models"]) == 0
    assert "OOVLLMRec  (recbole_oov)" in capsys.readouterr().out
    assert main(["trane"]) == 2
    assert "there is no command 'trane'" in capsys.readouterr().err
    assert main(["models", "--x"]) == 2
    assert "models: '--x' is not an option; it has none" in capsys.readouterr().err


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("bench",)])
def test_each_command_has_a_help_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert {line.split()[1].strip("[]") for line in said.splitlines() if line.startswith("  run_recbole_oov.py ")} == (
        {"push", "pull"} if command in ("push", "pull") else {command}
    )


def test_a_reader_who_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} {ROOT / 'run_recbole_oov.py'} models | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
