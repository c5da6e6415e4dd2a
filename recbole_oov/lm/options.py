"""OOVLLMRec's options: the prompts that they name, and what in them cannot work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recbole_oov.errors import ConfigError
from recbole_oov.lm.backbone_files import TINY, check_backbone
from recbole_oov.lm.identifiers import identifier_problems
from recbole_oov.lm.pretrained import pretrained_problems
from recbole_oov.lm.prompts import HISTORY, ITEM, Prompts, load_prompts
from recbole_oov.lm.token_init import KINDS

_CHOICES = {
    "rank_tokens": ("shared", "own"),
    "oov_items": ("reserved", "placed", "spread"),
    "decoding": ("exact", "beam", "softmax"),
    "token_init": KINDS,
    "eval_prompts": ("seen", "unseen"),
    "rank_by": ("sequential", "direct"),
    "history_order": ("time", "random"),
}


def option_problems(config: Mapping[str, Any]) -> list[str]:
    """What in a configuration cannot work, before any data is loaded."""
    problems = [*pretrained_problems(config), *identifier_problems(config), *_task_problems(config)]
    checks = ((check_backbone, config["backbone"]), (history_prompts, config), (task_prompts, config))
    for check, value in checks:
        try:
            check(value)
        except ConfigError as error:
            problems += error.errors
    for key, allowed in _CHOICES.items():
        if config[key] not in allowed:
            problems.append(f"{key}: {config[key]!r} is not one of {', '.join(allowed)}")
    if config["hidden_size"] % config["n_heads"]:
        problems.append(f"n_heads: {config['n_heads']} does not divide hidden_size {config['hidden_size']}")
    if config["embedding_norm"] and config["backbone"] != TINY:
        problems.append(
            f"embedding_norm: {config['backbone']} was trained on what it reads as it is; give False, or "
            f"backbone: {TINY}"
        )
    weight = config["item_softmax"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        problems.append(f"item_softmax: {weight!r} is not allowed; give a number, 0 for none")
    by_content = config["oov_items"] in ("placed", "spread")
    if by_content and not config["item_augmentation"]:
        problems.append(
            f"item_augmentation: 0 leaves oov_items: {config['oov_items']} nothing that tells a cluster's new "
            f"items apart; give 1, or oov_items: reserved"
        )
    if by_content and (config["oov_tokens"] != "clustered" or config["item_vectors"] not in (None, "walks")):
        problems.append(
            f"oov_items: {config['oov_items']} maps content to walks and needs oov_tokens: clustered and "
            f"item_vectors: walks; change these, or give oov_items: reserved"
        )
    if config["oov_items"] == "spread" and config["decoding"] == "beam":
        problems.append(
            "decoding: beam ends in one cluster, and oov_items: spread has new items in all; give oov_items: placed"
        )
    if config["decoding"] == "softmax":
        problems += _softmax_problems(config, by_content=by_content)
    if by_content and config["history_items"] == "excluded":
        problems.append(
            f"history_items: excluded leaves items out of what new ones are weighed against, which oov_items: "
            f"{config['oov_items']} does not know; give scored, or oov_items: reserved"
        )
    if config["history_items"] == "excluded" and config["rank_by"] == "direct":
        problems.append("history_items: excluded is about the history that is read, and rank_by: direct reads none")
    if not isinstance(config["n_beams"], int) or config["n_beams"] < 1:
        problems.append(f"n_beams: {config['n_beams']!r} is not allowed; give a whole number, at least 1")
    elif config["decoding"] == "beam" and config["n_beams"] < (longest := _longest_list(config)):
        problems.append(
            f"n_beams: {config['n_beams']} beams find no {longest} items, which topk asks for; give at least "
            f"{longest}, or decoding: exact"
        )
    shown = config["item_text_tokens"]
    if isinstance(shown, bool) or not isinstance(shown, int) or shown < 1:
        problems.append(f"item_text_tokens: {shown!r} is not allowed; give a whole number, at least 1")
    return problems


def _softmax_problems(config: Mapping[str, Any], *, by_content: bool) -> list[str]:
    problems = []
    if config["item_softmax"] == 0:
        problems.append("decoding: softmax scores by what item_softmax learns, which is 0; give item_softmax: 1.0")
    if by_content:
        problems.append(
            f"decoding: softmax is over trained items, and oov_items: {config['oov_items']} weighs new ones in the "
            f"tree; give decoding: exact, or oov_items: reserved"
        )
    if config["rank_by"] == "direct":
        problems.append("decoding: softmax is learned after histories, and rank_by: direct reads none; give exact")
    return problems


def _longest_list(config: Mapping[str, Any]) -> int:
    topk = config["topk"]
    return int(topk) if isinstance(topk, int) else max(topk, default=0)


def history_prompts(config: Mapping[str, Any]) -> Prompts:
    """The templates that ask for the next item, the option ``prompts``.

    Raises:
        ConfigError: They cannot be used.
    """
    prompts = load_prompts(config["prompts"])
    if prompts.answer != HISTORY:
        raise ConfigError(
            f"prompts: {config['prompts']} asks for {{{prompts.answer}}}; the next item is asked for with {{history}} "
            f"at the end, and all else by the option tasks"
        )
    _check_unseen(config, config["prompts"], prompts)
    return prompts if config["user_tokens"] else prompts.without_users()


def task_prompts(config: Mapping[str, Any]) -> dict[str, Prompts]:
    """The templates of the option ``tasks``, by the names that are given there.

    Raises:
        ConfigError: One of them cannot be used.
    """
    names = config["tasks"]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return {}  # reported by _task_problems
    tasks = {name: load_prompts(name, "tasks") for name in names}
    for name, prompts in tasks.items():
        if prompts.answer == HISTORY:
            raise ConfigError(
                f"tasks: {name} asks for the next item, which is always learned; its words are the option prompts"
            )
        _check_unseen(config, name, prompts)
    answers = [prompts.answer for prompts in tasks.values()]
    if len(set(answers)) < len(answers) or len(tasks) < len(names):
        raise ConfigError(f"tasks: two of {', '.join(tasks)} ask for the same; put their templates into one file")
    return tasks


def task_columns(config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Columns of interactions that the tasks read or ask for, by name: why, and of which type they must be."""
    asked = task_prompts(config).items()
    return {column: (f"tasks {name}", "float or token_seq") for name, task in asked for column in task.columns}


def _check_unseen(config: Mapping[str, Any], name: str, prompts: Prompts) -> None:
    if config["eval_prompts"] == "unseen" and not prompts.unseen:
        raise ConfigError(f"eval_prompts: {name} has no template under the key 'unseen'; give seen")


def _task_problems(config: Mapping[str, Any]) -> list[str]:
    """What in the options of the tasks cannot work."""
    tasks, problems = config["tasks"], []
    if not isinstance(tasks, list | tuple) or not all(isinstance(name, str) for name in tasks):
        return [f"tasks: {tasks!r} is not allowed; give a list of prompt files, as in [direct, rating]"]
    if tasks and not config["user_tokens"]:
        problems.append("tasks: all of them ask by the user's tokens; give user_tokens: True, or tasks: []")
    if config["rank_by"] == "direct":
        try:
            asked = {prompts.answer for prompts in task_prompts(config).values()}
        except ConfigError:
            asked = {ITEM}  # reported where the files are read
        if ITEM not in asked:
            problems.append("rank_by: direct needs prompts that ask for {item}; give tasks: [direct]")
    for key in ("task_rows", "answer_tokens"):
        if isinstance(config[key], bool) or not isinstance(config[key], int) or config[key] < 1:
            problems.append(f"{key}: {config[key]!r} is not allowed; give a whole number, at least 1")
    weight = config["task_weight"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        problems.append(f"task_weight: {weight!r} is not allowed; give a number above 0")
    return problems
