"""What the tests of several processes run: the same jobs in one process, and in each process of ``torchrun``."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recbole.sampler import Sampler
from recbole.trainer import Trainer

from recbole_oov.lm.sharding import is_sharded
from recbole_oov.processes import torchrun_group
from recbole_oov.runner import Experiment, prepare
from recbole_oov.sampler.pools import NegativePools

N_USERS, N_ITEMS = 61, 90
KINDS = ["amber basil", "cedar dune", "ember fjord"]

COMMON: dict[str, Any] = {
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "metric_decimal_place": 9,
    "metrics": ["Recall", "NDCG", "MRR"],
    "topk": [5],
}
GENERAL = {"learning_rate": 0.01, "embedding_size": 8, "oov_split": "random", "epochs": 2}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "OOVLLMRec": (
        "OOVLLMRec",
        {
            "train_batch_size": 50,
            "epochs": 2,
            "n_clusters": 6,
            "hidden_size": 16,
            "n_layers": 1,
            "n_heads": 2,
            "inner_size": 32,
            "dropout": 0.0,
            "prompts": "one-prompt.yaml",
            "walks_per_node": 2,
            "MAX_ITEM_LIST_LENGTH": 6,
            "valid_metric": "NDCG@5",
            "clip_grad_norm": {"max_norm": 0.5},
        },
    ),
    "sharded": (
        "OOVLLMRec",
        {
            "train_batch_size": 50,
            "epochs": 2,
            "n_clusters": 6,
            "backbone": "lm",
            "lora_dropout": 0.0,
            "shard_backbone": True,
            "prompts": "one-prompt.yaml",
            "walks_per_node": 2,
            "MAX_ITEM_LIST_LENGTH": 6,
            "valid_metric": "NDCG@5",
            "clip_grad_norm": {"max_norm": 0.5},
        },
    ),
    "USIM": (
        "USIM",
        {
            **GENERAL,
            "base_config": {"learning_rate": 0.01, "epochs": 3, "train_batch_size": 149},
            "train_batch_size": 100,
            "valid_metric": "oov_ndcg@5",
            "imagination_epochs": 1,
            "imagination_batch_size": 32,
            "imagination_candidates": 5,
        },
    ),
    "AutoSample": (
        "AutoSample",
        {
            **GENERAL,
            "train_batch_size": 100,
            "base_model": "BPR",
            "samplers": ["uniform", "dns"],
            "pool": 3,
            "search_epochs": 1,
            "search_budget": 8,
            "alpha_every": 2,
            "finalists": 2,
            "valid_metric": "ndcg@5",
        },
    ),
}


def write_data(folder: Path) -> None:
    """The data set ``kinds``, of an odd number of users, prompts of one template and a backbone, in ``folder``."""
    import language_models

    language_models.write(folder / "lm", "llama")
    draw, data = random.Random(0), folder / "dataset" / "kinds"
    data.mkdir(parents=True)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(N_USERS):
        own = [item for item in range(N_ITEMS) if item % 3 == user % 3]
        items = dict.fromkeys([*draw.sample(own, 9 + user % 4), draw.randrange(3) * 29 + user % 3])
        rows += [f"u{user}\ti{item}\t{at}" for at, item in enumerate(items)]
    (data / "kinds.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    titles = [f"i{item}\t{KINDS[item % 3]} {draw.choice('pqrs')}x" for item in range(N_ITEMS)]
    (data / "kinds.item").write_text("item_id:token\ttitle:token_seq\n" + "\n".join(titles) + "\n", encoding="utf-8")
    (folder / "one-prompt.yaml").write_text('seen: ["{user} likes {history}"]\nunseen: ["{user} took {history}"]\n')


def same_negatives(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Negatives that follow from user and place instead of from chance, whichever process draws them."""

    def of_recbole(self: Any, user_ids: Any, item_ids: Any, num: int) -> torch.Tensor:
        known = self.iv_items
        found = [known[(7 * user + 3 * item) % len(known)] for user, item in zip(user_ids, item_ids, strict=True)]
        return torch.tensor(found * num)

    def of_pools(self: NegativePools, users: torch.Tensor, size: int) -> torch.Tensor:
        n = len(self.iv_items)
        rank = (5 * users[:, None] + 11 * torch.arange(size)) % (n - self.degree[users][:, None])
        owner = users[:, None].expand(-1, size)
        above = torch.searchsorted(self._below, owner * (n + 1) + rank, right=True)
        return self.iv_items[rank + above - self._first[owner]]

    put(Sampler, "sample_by_user_ids", of_recbole)
    put(NegativePools, "uniform", of_pools)


def run(job: str, group: dict[str, Any], put: Callable[[Any, str, Any], None] = setattr) -> dict[str, Any]:
    """Train in the working directory, test, and say what came out."""
    losses: dict[str, list[float]] = {}
    made = experiment(job, group)
    with torch.random.fork_rng():
        draw = float(torch.rand(()))
    log = Trainer._add_train_loss_to_tensorboard

    def noted(self: Any, epoch: int, loss: Any, *args: Any) -> None:
        losses.setdefault(type(self.model).__name__, []).append(sum(loss) if isinstance(loss, tuple) else loss)
        log(self, epoch, loss, *args)

    put(Trainer, "_add_train_loss_to_tensorboard", noted)
    made.trainer.fit(made.train_data, made.valid_data, saved=True, show_progress=False)
    test = dict(made.trainer.evaluate(made.test_data, load_best_model=True))
    put(Trainer, "_add_train_loss_to_tensorboard", log)
    made.trainer.forget_progress()
    return {
        "draw": draw,
        "losses": losses,
        "valid": dict(made.trainer.best_valid_result),
        "test": test,
        "users": {name: sorted(users.tolist()) for name, users in made.trainer.last_evaluation.users.items()},
        "weights": {name: float(v.double().abs().sum()) for name, v in made.model.state_dict().items()},
        "stages": {stage.name: stage.valid_result for stage in getattr(made.trainer, "stages", [])},
        "search": getattr(getattr(made.trainer, "search_report", None), "trajectory", []),
        "kept": kept_of_frozen(made.model),
        "rows": len(made.train_data._dataset),
        "file": made.trainer.saved_model_file,
    }


def kept_of_frozen(model: Any) -> float:
    """Which part of a frozen backbone's layers this process keeps; 1 where there are none."""
    frozen = [weights for weights in model.parameters() if not weights.requires_grad and is_sharded(weights)]
    whole = sum(weights.numel() for weights in frozen)
    return sum(weights.to_local().numel() for weights in frozen) / whole if frozen else 1.0


def experiment(job: str, group: dict[str, Any]) -> Experiment:
    """A job, ready to be trained."""
    model, options = JOBS[job]
    return prepare(model, "kinds", config_dict={**COMMON, **options, "data_path": "dataset", **group}, argv=[])


class Cut(Exception):
    """The run ends here."""


def resumed(group: dict[str, Any]) -> list[dict[str, float]]:
    """Weights after three epochs with dropout, of a run and of one that is cut off and continued."""
    found = []
    options = {**group, "epochs": 3, "dropout": 0.2, "valid_metric": "MRR@5"}

    def weights(made: Experiment) -> dict[str, float]:
        return {name: float(v.double().abs().sum()) for name, v in made.model.state_dict().items()}

    def cut(epoch: int, score: float) -> None:
        if epoch == 1:
            raise Cut

    made = experiment("OOVLLMRec", options)
    made.trainer.fit(made.train_data, made.valid_data)
    found.append(weights(made))
    made.trainer.forget_progress()
    made = experiment("OOVLLMRec", options)
    try:
        made.trainer.fit(made.train_data, made.valid_data, callback_fn=cut)
    except Cut:
        made = experiment("OOVLLMRec", {**options, "resume": True})
    assert made.trainer.continue_from is not None
    made.trainer.fit(made.train_data, made.valid_data)
    found.append(weights(made))
    made.trainer.forget_progress()
    return found


def die(group: dict[str, Any]) -> None:
    """Train until the last process is killed, in the middle of an epoch."""
    made = experiment("OOVLLMRec", {**group, "epochs": 1000})
    stock, steps = made.trainer.optimizer.step, []

    def step(*args: Any, **kwargs: Any) -> Any:
        steps.append(0)
        if len(steps) == 5 and group["local_rank"] == 1:
            Path("died").write_text(str(time.time()), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        return stock(*args, **kwargs)

    made.trainer.optimizer.step = step
    made.trainer.fit(made.train_data, made.valid_data, saved=False, show_progress=False)


def main() -> None:
    """In a process of ``torchrun``: all jobs, each result as ``JOB-RANK.json``; then the end."""
    torch.set_num_threads(1)
    same_negatives()
    group = torchrun_group()
    assert group is not None
    for job in sys.argv[1:]:
        result = run(job, group)
        Path(f"{job}-{group['local_rank']}.json").write_text(json.dumps(result), encoding="utf-8")
    Path(f"resumed-{group['local_rank']}.json").write_text(json.dumps(resumed(group)), encoding="utf-8")
    die(group)


if __name__ == "__main__":
    main()
