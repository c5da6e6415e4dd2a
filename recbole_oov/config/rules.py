"""What each option may be: a table for RecBole's and the plugin's general options, the default's kind for others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_oov.config.reading import shown


@dataclass(frozen=True)
class Rule:
    """One check of one value: ``allowed`` says in words what ``accepts`` lets through."""

    allowed: str
    accepts: Callable[[Any], bool]

    def __or__(self, other: Rule) -> Rule:
        return Rule(f"{self.allowed}, or {other.allowed}", lambda value: self.accepts(value) or other.accepts(value))

    def problem(self, key: str, value: object) -> str | None:
        """What is wrong with ``value`` for ``key``, or None."""
        return None if self.accepts(value) else f"{key}: {shown(value)} is not allowed; it must be {self.allowed}"


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number; ``True`` and ``False`` are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def whole(low: int, high: float = math.inf) -> Rule:
    """A whole number of at least ``low``, that 64 bits can hold."""
    end = "" if high == math.inf else f" and at most {high}"
    high = min(high, 2**63 - 1)
    return Rule(
        f"a whole number of at least {low}{end}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def number(low: float = -math.inf, *, above: bool = False, below: float = math.inf) -> Rule:
    """A finite number from ``low`` (or above it) and, where ``below`` is given, under that."""
    words = "a number" if low == -math.inf else f"a number above {low:g}" if above else f"a number of at least {low:g}"
    words += "" if below == math.inf else f" and below {below:g}"
    return Rule(words, lambda v: is_number(v) and (v > low if above else v >= low) and v < below)


def one_of(*names: str) -> Rule:
    """One of several words, in any case."""
    return Rule(
        f"one of {', '.join(names)}",
        lambda value: isinstance(value, str) and value.lower() in {name.lower() for name in names},
    )


def list_of(item: Rule, length: int | None = None) -> Rule:
    """A list whose elements all obey ``item``."""
    words = "a list, each element " if length is None else f"a list of {length}, each "
    return Rule(
        words + item.allowed,
        lambda value: (
            isinstance(value, list | tuple)
            and (length is None or len(value) == length)
            and all(map(item.accepts, value))
        ),
    )


def dict_of(item: Rule, what: str) -> Rule:
    """A mapping from names to values that obey ``item``; ``what`` describes it, as in ``{field: number}``."""
    return Rule(
        f"a mapping {what}",
        lambda value: (
            isinstance(value, Mapping)
            and all(isinstance(key, str) for key in value)
            and all(map(item.accepts, value.values()))
        ),
    )


FLAG = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("text", lambda value: isinstance(value, str))
NAME = Rule("a name", lambda value: isinstance(value, str) and bool(value.strip()))
NONE = Rule("None", lambda value: value is None)
ANY = Rule("anything", lambda value: True)
NAMES = list_of(NAME)
_COLUMNS = "{file suffix: [columns]}, as in {inter: [user_id, item_id]}"

_POINT = r"\s*[-+]?(?:inf|\d+\.?\d*|\.\d+)\s*"
_INTERVAL = re.compile(rf"\s*[\[(]({_POINT}),({_POINT})[\])]\s*")


def intervals(value: object) -> list[tuple[bool, float, float, bool]] | None:
    """RecBole's notation ``[5,10);(20,inf)`` as (closed below, low, high, closed above); None where it is not that."""
    found = []
    for part in str(value).split(";"):
        match = _INTERVAL.fullmatch(part)
        if match is None or float(match[1]) > float(match[2]):
            return None
        found.append(("[" in part, float(match[1]), float(match[2]), "]" in part))
    return found


INTERVAL = Rule(
    "an interval such as '[5,inf)' or '(0,10]', several of them joined by ;",
    lambda value: isinstance(value, str | list | tuple) and intervals(value) is not None,
)
_GPU = re.compile(r"(?:\d+(?:\s*,\s*\d+)*|(?:GPU|MIG)-[\w/-]+)?")
GPU_ID = Rule(
    "a GPU's number, several joined by commas as in 0,1, or empty for none",
    lambda value: not isinstance(value, bool) and _GPU.fullmatch(gpu_text(value)) is not None,
)


def gpu_text(value: object) -> str:
    """RecBole's ``gpu_id`` as ``CUDA_VISIBLE_DEVICES`` wants it: ``[0, 1]`` and ``(0,1)`` become ``0,1``."""
    return re.sub(r"[\[\]()'\" ]", "", str(value))


LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
TRANSFORMS = ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined")

_SAMPLER = NAME | Rule("a mapping, as in {name: dns, pool: 32}", lambda value: isinstance(value, Mapping))
_EACH_WHOLE = list_of(whole(1))
_SOME_OF_WHOLE = Rule(_EACH_WHOLE.allowed, lambda value: _EACH_WHOLE.accepts(value) and len(value) > 0)

RULES: dict[str, Rule] = {
    # the command
    "nproc": whole(1),
    "world_size": whole(1) | Rule("-1 for nproc", lambda value: value == -1),
    "ip": NAME,
    "port": Rule("a port number", lambda v: isinstance(v, int | str) and str(v).isdecimal() and 0 < int(v) < 65536),
    "group_offset": whole(0),
    # environment
    "gpu_id": GPU_ID,
    "worker": whole(0, 1024),
    "use_gpu": FLAG,
    "seed": whole(0, 2**32 - 1),
    "state": one_of("INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL"),
    "encoding": NAME,
    "reproducibility": FLAG,
    "data_path": NAME,
    "checkpoint_dir": NAME,
    "show_progress": FLAG,
    "save_dataset": FLAG,
    "dataset_save_path": NONE | NAME,
    "save_dataloaders": FLAG,
    "dataloaders_save_path": NONE | NAME,
    "log_wandb": FLAG,
    "wandb_project": NAME,
    "shuffle": FLAG,
    # training
    "epochs": whole(1),
    "train_batch_size": whole(1),
    "learner": one_of(*LEARNERS),
    "learning_rate": number(0, above=True),
    "eval_step": whole(0),
    "stopping_step": whole(0),
    "weight_decay": number(0),
    "loss_decimal_place": whole(0),
    "require_pow": FLAG,
    "enable_amp": FLAG,
    "enable_scaler": FLAG,
    "transform": NONE | one_of(*TRANSFORMS),
    # evaluation
    "repeatable": FLAG,
    "topk": whole(1) | _SOME_OF_WHOLE,
    "valid_metric": NAME,
    "valid_metric_bigger": FLAG,
    "eval_batch_size": whole(1),
    "metric_decimal_place": whole(0),
    # data
    "field_separator": Rule("a character", lambda value: isinstance(value, str) and len(value) > 0),
    "seq_separator": Rule("a character", lambda value: isinstance(value, str) and len(value) > 0),
    "USER_ID_FIELD": NONE | NAME,
    "ITEM_ID_FIELD": NONE | NAME,
    "RATING_FIELD": NONE | NAME,
    "TIME_FIELD": NONE | NAME,
    "LABEL_FIELD": NONE | NAME,
    "NEG_PREFIX": NAME,
    "ITEM_LIST_LENGTH_FIELD": NAME,
    "LIST_SUFFIX": NAME,
    "POSITION_FIELD": NAME,
    "MAX_ITEM_LIST_LENGTH": whole(1),
    "seq_len": NONE | dict_of(whole(1), "{field: length}"),
    "threshold": NONE
    | Rule(
        "a mapping of one field to one number, as in {rating: 4}",
        lambda value: isinstance(value, Mapping) and len(value) == 1 and all(map(is_number, value.values())),
    ),
    "numerical_features": NAMES,
    "load_col": NONE | dict_of(Rule("'*'", lambda value: value == "*") | NAMES, _COLUMNS),
    "unload_col": NONE | dict_of(NAMES, _COLUMNS),
    "unused_col": NONE | dict_of(NAMES, _COLUMNS),
    "additional_feat_suffix": NONE | NAME | NAMES,
    "rm_dup_inter": NONE | Rule("first or last", lambda value: value in ("first", "last")),
    "val_interval": NONE | dict_of(INTERVAL | list_of(ANY), "{field: interval}, as in {rating: '[3,inf)'}"),
    "filter_inter_by_user_or_item": FLAG,
    "alias_of_user_id": NONE | NAMES,
    "alias_of_item_id": NONE | NAMES,
    "alias_of_entity_id": NONE | NAMES,
    "alias_of_relation_id": NONE | NAMES,
    "preload_weight": NONE | dict_of(NAME, "{id field: field of its vector}"),
    "normalize_field": NONE | NAMES,
    "normalize_all": NONE | FLAG,
    "discretization": NONE | dict_of(Rule("settings", lambda value: isinstance(value, Mapping)), "{field: settings}"),
    "kg_reverse_r": FLAG,
    "benchmark_filename": NONE | list_of(NAME, length=3),
    # models
    "hidden_act": one_of("gelu", "relu", "swish", "tanh", "sigmoid"),
    # the plugin
    "process_timeout": whole(1),
    "train_positions": one_of("last", "all"),
    "window_stride": NONE | whole(1),
    "group_lengths": FLAG,
    "ema_decay": number(0, below=1),
    "resume": FLAG | Rule("a checkpoint's path", lambda v: isinstance(v, str) and v.endswith(".json")),
    "resume_step": whole(0),
    "mask_history": FLAG,
    "history_items": one_of("scored", "excluded"),
    "rules_weight": number(0, below=1),
    "rules_gap": whole(1),
    "rules_decay": Rule("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1),
    "data_checks": one_of("error", "warn"),
    "sampler": NONE | _SAMPLER,
    "pool": NONE | whole(1),
    "first": _SAMPLER,
    "search_budget": NONE | number(0, above=True),
    "search_epochs": whole(1),
    "search_width": whole(1),
    "finalists": whole(1),
    "rewind_epoch": whole(1),
    "alpha_learning_rate": number(0, above=True),
    "alpha_every": whole(1),
    "final_temperature": number(0, above=True),
    "prune_below": number(0),
    "prune_patience": whole(1),
    "steering_negatives": whole(1),
    "steering_pool": whole(1),
    "oov_split": NONE | NAME,
    "leak_guard": one_of("error", "warn", "off"),
    "eval_memory": whole(1),
    "content": NONE | Rule("a mapping, as in {from: text, encoder: tfidf}", lambda value: isinstance(value, Mapping)),
    "variant": NAME | Rule("a mapping of them, as in {positives: code}", lambda value: isinstance(value, Mapping)),
    "save_user_metrics": FLAG | Rule("the path of a .parquet file", lambda v: str(v).endswith(".parquet")),
}

_OF_INTERVALS = re.compile(r"\w+_num_interval")
_OF_DROPOUT = re.compile(r"(?:.*_)?drop(?:out)?(?:_.*)?")
_OF_SIZES = re.compile(r"(?:.*_)?(?:size|dim|dimension|heads)")
_OF_COUNTS = re.compile(r"n_.*|num_.*|.*_num|.*_(?:layers?|epochs?|steps?|length)")


def rule_for(key: str, default: object) -> Rule:
    """The rule of an option: the table's, or one that its name and its default value imply."""
    if key in RULES:
        return RULES[key]
    if _OF_INTERVALS.fullmatch(key):
        return NONE | INTERVAL
    if isinstance(default, bool):
        return FLAG
    if is_number(default):
        return _rule_of_number(key, default)
    if isinstance(default, list | tuple):
        return _rule_of_list(key, default)
    if isinstance(default, Mapping):
        return Rule("a mapping {name: value}", lambda value: isinstance(value, Mapping))
    if isinstance(default, str) and default.lower() != "none":
        return TEXT
    return ANY


def _rule_of_number(key: str, default: object) -> Rule:
    if _OF_DROPOUT.fullmatch(key):
        return number(0, below=1)
    if isinstance(default, int) and _OF_SIZES.fullmatch(key):
        return whole(1)
    if isinstance(default, int) and default >= 0 and _OF_COUNTS.fullmatch(key):
        return whole(0)
    return number()


def _rule_of_list(key: str, default: list[Any] | tuple[Any, ...]) -> Rule:
    if not default or not all(map(is_number, default)):
        return Rule("a list", lambda value: isinstance(value, list | tuple))
    return list_of(_rule_of_number(key.removesuffix("_list").removesuffix("s"), default[0]))


def inner_keys(key: str, value: Mapping[Any, Any], known: Iterable[str]) -> list[str]:
    """Problems with the names inside an option that is a mapping, such as ``eval_args``."""
    known = list(known)
    wrong = [name for name in value if name not in known]
    return [f"{key}: {shown(name)} is not one of its keys, which are {', '.join(known)}" for name in wrong]
