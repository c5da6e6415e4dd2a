"""The model card: what a model is, how it was made and how well it did, in the hub's format."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from recbole_oov.data.oov_split import oov_mask
from recbole_oov.tools.portable import is_place

_PLACES = ("data_path", "checkpoint_dir", "base_checkpoint", "dataset_save_path", "dataloaders_save_path", "resume")
_WAYS = ("gpu_id", "use_gpu", "show_progress", "worker", "state", "log_wandb", "wandb_project", "save_user_metrics")
_NO_OPTIONS = frozenset(("model", "dataset", "config_files", "MODEL_INPUT_TYPE", "eval_type", *_PLACES, *_WAYS))
"""Options that say where and how a run works, not what it computes."""
_LOADING = """`pull` fetches this folder and checks that the data at hand is the data that it belongs to.

```bash
recbole-oov pull --from=FOLDER --to=models/mine --data_path=dataset
recbole-oov recommend --checkpoint=models/mine/model.json --user=ID
```

`FOLDER` is this folder, or `hf://owner/name`."""


def model_card(
    config: Any,
    dataset: Any,
    train_data: Any,
    result: Mapping[str, float] | None,
    best_valid_score: object,
    licence: str,
    versions: Mapping[str, str],
) -> str:
    """The text of ``README.md``.

    Args:
        config: The configuration, without places.
        dataset: The data set, for its size.
        train_data: Its training part, for IV and OOV items.
        result: The test's metrics, None if it was not tested.
        best_valid_score: Value of the metric of early stopping.
        licence: The hub's name for a licence, ``unknown`` until the author chooses.
        versions: Of what wrote the checkpoint.
    """
    model, name = str(config["model"]), str(config["dataset"])
    front = yaml.safe_dump(_front_matter(model, name, result, licence), sort_keys=False, allow_unicode=True)
    about = _about(config.model_class)
    n_oov = int(oov_mask(train_data._dataset).sum())
    parts = [
        f"---\n{front}---",
        f"# {model} on {name}",
        f"A recommender trained with [RecBole](https://recbole.io) and recbole_oov.{about}",
        "## Intended use",
        "Ranking the items of the data set below for its users, and comparing recommenders. The weights belong to the "
        "ids of that data set and mean nothing with another one. Recommendations follow what was popular and who was "
        "present in the data; nobody has looked at what that does to the people concerned.\n\n"
        "The rows of the user table were learned from what users did: publish them only where the data may be.",
        "## Data",
        f"`{name}`: {dataset.user_num - 1:,} users, {dataset.item_num - 1:,} items, {dataset.inter_num:,} interactions "
        f"after filtering; {dataset.item_num - 1 - n_oov:,} items have training rows, {n_oov:,} have none. "
        f"Split: `{config['eval_args']}`. The data is not in this repository.",
        "## Metrics",
        _metrics(config, result, best_valid_score),
        "## Training",
        f"```bash\n{command(config)}\n```",
        "Versions: " + ", ".join(f"{package} {version}" for package, version in versions.items()) + ".",
        "## Loading",
        _LOADING,
        "## Licence",
        f"`{licence}`" + ("; the author has not chosen one yet: set `license` above." if licence == "unknown" else "."),
    ]
    return "\n\n".join(parts) + "\n"


def command(config: Any) -> str:
    """The command that trains the model, without places: its options, as they were given."""
    given: Mapping[str, Any] = getattr(config, "external_config_dict", {})
    options = {"model": config["model"], "dataset": config["dataset"]}
    left_out = _NO_OPTIONS | ({"eval_args"} if given.get("oov_split") else set())  # which stands for it
    options |= {key: value for key, value in given.items() if key not in left_out and value is not None}
    words = [f"--{key}={_value(value)}" for key, value in options.items()]
    return shlex.join(["python", "run_recbole_oov.py", *words])


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()


def _front_matter(model: str, name: str, result: Mapping[str, float] | None, licence: str) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": licence,
        "library_name": "recbole_oov",
        "tags": ["recommendation", "recbole", "recbole_oov", model],
    }
    if result:
        metrics = [{"type": key, "name": f"test {key}", "value": value} for key, value in result.items()]
        task = {"type": "recommendation", "name": "Recommendation"}
        front["model-index"] = [
            {"name": model, "results": [{"task": task, "dataset": {"type": name, "name": name}, "metrics": metrics}]}
        ]
    return front


def _metrics(config: Any, result: Mapping[str, float] | None, best_valid_score: object) -> str:
    lines = []
    if isinstance(best_valid_score, int | float):
        lines.append(f"Best validation {config['valid_metric']}: {best_valid_score:.4f}.")
    if result is None:
        return "\n".join([*lines, "The test was not run when this folder was written."])
    rows = [f"| {key} | {value:.4f} |" for key, value in result.items()]
    return "\n".join([*lines, "", "| test metric | value |", "|---|---|", *rows])


def _about(model_class: type) -> str:
    paper = getattr(model_class, "paper", "")
    first = (inspect.getdoc(model_class) or "").partition("\n\n")[0].replace("\n", " ").strip()
    text = f" {first}" if first and not is_place(first) else ""
    return f"{text} Paper: {paper}." if paper else text
