"""Benchmark files on small data, for tests of sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def write_spec(folder: Path, spec: dict[str, Any]) -> str:
    """A benchmark file whose results go to ``out`` beside it."""
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"output": str(folder / "out"), **spec}, sort_keys=False), encoding="utf-8")
    return str(path)


def leave_one_out(data_path: Path, k: int) -> dict[str, Any]:
    """Options for all models of one epoch whose last two items of each user are held out."""
    return {
        "data_path": str(data_path),
        "leak_guard": "warn",  # users come back to items in the data sets of these tests
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "metrics": ["NDCG"],
        "topk": [k],
        "valid_metric": f"NDCG@{k}",
        "epochs": 1,
    }


def circles_spec(circles: Any, **changes: Any) -> dict[str, Any]:
    """BPR on a random split of ``circles``; its space does not hold the learning rate that is given."""
    common = {
        "data_path": str(circles.data_path),
        "leak_guard": "warn",
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
        "metrics": ["Recall", "NDCG"],
        "topk": [5],
        "valid_metric": "NDCG@5",
        "epochs": 2,
    }
    space = {"learning_rate": [0.002, 0.02, 0.05], "embedding_size": {"low": 4, "high": 16}}
    return {
        "dataset": "circles",
        "measure": "users",
        "seeds": [1],
        "common": common,
        "models": {"BPR": {"model": "BPR", "learning_rate": 0.01}, "Pop": {"model": "Pop", "epochs": 1}},
        "tune": {"trials": 3, "seed": 7, "spaces": {"BPR": space}},
        **changes,
    }


def tastes_spec(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two cold-start models on the same base model, on ``tastes`` in ``folder``."""
    common = {
        "data_path": str(folder),
        "oov_split": "random",
        "content": {"from": "text", "dim": 8},
        "metrics": ["Recall", "NDCG"],
        "topk": [5],
        "valid_metric": "oov_ndcg@5",
        "epochs": 3,
        "embedding_size": 16,
        "learning_rate": 0.02,
        "train_batch_size": 128,
        "base_config": {"eval_step": 1},
    }
    return {
        "dataset": "tastes",
        "measure": "users",
        "seeds": [1],
        "common": common,
        "models": {"DeepMusic": {"model": "DeepMusic"}, "DropoutNet": {"model": "DropoutNet"}},
        **changes,
    }
