"""Make the reference values: RecBole 1.2.1 as it comes, on the library versions it was written for.

Run it in an environment of its own, with nothing of this project in it::

    python3.11 -m venv old
    old/bin/pip install "torch==2.5.1" "numpy==1.26.4" "scipy==1.12.0" "pandas==2.2.3" "setuptools<81" "recbole==1.2.1"
    OMP_NUM_THREADS=1 PYTHONHASHSEED=0 old/bin/python tests/slow/reference/old_stack_reference.py

It writes ``old_stack.json`` beside itself. ``tests/slow/test_recbole_models.py`` runs the same cases on the
newest stack through the plugin and compares the metrics to four decimals.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from small_data import NAME, make_small_data

COMMAND = "OMP_NUM_THREADS=1 PYTHONHASHSEED=0 python tests/slow/reference/old_stack_reference.py"
FILE = Path(__file__).with_name("old_stack.json")

COMMON: dict[str, Any] = {
    "epochs": 3,
    "seed": 2020,
    "reproducibility": True,
    "use_gpu": False,
    "gpu_id": "",
    "show_progress": False,
    "worker": 0,
    "topk": [10, 50],
}
CONTEXT = {
    "threshold": {"rating": 4},
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender", "occupation"],
        "item": ["item_id", "release_year", "class"],
    },
}
SHORT = {"MAX_ITEM_LIST_LENGTH": 10, "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}
CE = {**SHORT, "train_neg_sample_args": None}

# Dropout is off: torch has changed the stream that its masks are drawn from, between 2.5 and 2.13. Cases called
# "default …" show this and two other differences; see docs/compat.md.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # general
    "BPR": ("BPR", "ml-100k", {}),
    "LightGCN": ("LightGCN", "ml-100k", {}),
    "NGCF": ("NGCF", NAME, {"message_dropout": 0.0, "node_dropout": 0.0}),
    "NeuMF": ("NeuMF", NAME, {"dropout_prob": 0.0}),
    "NeuMF, default dropout": ("NeuMF", NAME, {}),
    "DMF": ("DMF", NAME, {}),
    "EASE": ("EASE", "ml-100k", {}),
    "ItemKNN": ("ItemKNN", "ml-100k", {"k": 1682}),
    "ItemKNN, default k": ("ItemKNN", "ml-100k", {}),
    "MultiVAE": ("MultiVAE", NAME, {"dropout_prob": 0.0, "train_neg_sample_args": None}),
    "ENMF": ("ENMF", NAME, {"dropout_prob": 0.0, "train_neg_sample_args": None}),
    "FISM": ("FISM", NAME, {}),
    "SimpleX": ("SimpleX", NAME, {"dropout_prob": 0.0}),
    # context-aware
    "LR": ("LR", "ml-100k", CONTEXT),
    "FM": ("FM", "ml-100k", CONTEXT),
    "DeepFM": ("DeepFM", NAME, {**CONTEXT, "dropout_prob": 0.0}),
    "WideDeep": ("WideDeep", NAME, {**CONTEXT, "dropout_prob": 0.0}),
    "DCNV2": ("DCNV2", NAME, {**CONTEXT, "dropout_prob": 0.0}),
    # sequential
    "GRU4Rec": ("GRU4Rec", NAME, {**CE, "dropout_prob": 0.0}),
    "SASRec": ("SASRec", NAME, {**CE, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
    "SASRec, default dropout": ("SASRec", NAME, CE),
    "NARM": ("NARM", NAME, {**CE, "dropout_probs": [0.0, 0.0]}),
    "STAMP": ("STAMP", NAME, CE),
    "FPMC": ("FPMC", NAME, SHORT),
    # knowledge-aware
    "CKE": ("CKE", NAME, {}),
    "CFKG": ("CFKG", NAME, {}),
    "KGCN": ("KGCN", NAME, {"neighbor_sample_size": 2}),
    "KTUP": ("KTUP", NAME, {"use_st_gumbel": False}),
    "KTUP, default gumbel": ("KTUP", NAME, {}),
}


def configuration(name: str, data_path: Path, checkpoint_dir: Path) -> tuple[str, str, dict[str, Any]]:
    """The model, the data set and the configuration of one case."""
    model, dataset, own = CASES[name]
    own = json.loads(json.dumps(own))  # RecBole writes into what it is given
    if dataset != "ml-100k":
        own["data_path"] = str(data_path)
    return model, dataset, {**COMMON, **own, "checkpoint_dir": str(checkpoint_dir)}


def main() -> None:
    """Run all cases, or those named on the command line, and write their test results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(CASES))
    names = parser.parse_args().names
    sys.argv = sys.argv[:1]  # RecBole reads it too
    import torch
    from recbole.quick_start import run_recbole

    if "recbole_oov" in sys.modules:
        raise SystemExit("these are the values of RecBole without the plugin; run this where it is not imported")
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_small_data(Path(scratch))
        os.chdir(folder)  # log/ and log_tensorboard/ go there
        for name in names:
            model, dataset, config = configuration(name, folder, folder / "saved")
            started = time.perf_counter()
            outcome = run_recbole(model=model, dataset=dataset, config_dict=config)
            results[name] = {
                "dataset": dataset,
                "test_result": {key: round(float(value), 4) for key, value in outcome["test_result"].items()},
            }
            print(f"{name}: {results[name]} in {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    packages = ("recbole", "torch", "numpy", "scipy", "pandas", "scikit-learn")
    report = {
        "command": " ".join([COMMAND, *([] if names == list(CASES) else names)]),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, CPU, one thread",
        "versions": {package: version(package) for package in packages},
        "cases": results,
    }
    FILE.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
