"""Checks of options that hold mappings, and of options that must fit each other. Each returns its problems as text."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, InputType, ModelType

from recbole_oov.config.reading import shown
from recbole_oov.config.rules import FLAG, Rule, inner_keys, is_number, number, one_of, whole

Values = Mapping[str, Any]

SPLITS = ("RS", "LS", "TS", "OOV")
LEAVE_OUT = ("valid_and_test", "valid_only", "test_only")
GROUPS = ("iv", "oov", "overall_all_users")
"""Prefixes of the metrics of one group under ``split: {OOV: …}``, as in ``valid_metric: oov_recall@20``."""

_MODE = re.compile(r"full|labeled|(?:uni|pop)[1-9][0-9]*")
_DISTRIBUTION = one_of("uniform", "popularity", "none") | Rule("None", lambda value: value is None)
_NONE_WORD = Rule("none", lambda value: value == "none")
_SAMPLING = {
    "distribution": _DISTRIBUTION,
    "sample_num": whole(1) | _NONE_WORD,
    "alpha": number() | _NONE_WORD,
    "dynamic": FLAG,
    "candidate_num": whole(0),
}
_CLIPPING = {
    "max_norm": number(0, above=True),
    "norm_type": number(0, above=True) | Rule("inf", lambda value: value in ("inf", float("inf"))),
    "error_if_nonfinite": FLAG,
    "foreach": FLAG,
}


def metrics(values: Values) -> list[str]:
    """``metrics``, ``topk`` and ``valid_metric``: known, of one kind, and the last one computed."""
    names = values.get("metrics")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        return [f"metrics: {shown(names)} is not allowed; it must be a list of names, as in ['Recall', 'NDCG']"]
    unknown = [name for name in names if name.lower() not in metric_types]
    if unknown:
        known = ", ".join(sorted(metric_types))
        return [f"metrics: there is no metric called {shown(name)}; there are {known}" for name in unknown]
    kinds = {metric_types[name.lower()] for name in names}
    if len(kinds) > 1:
        ranking = [name for name in names if metric_types[name.lower()] == EvaluatorType.RANKING]
        others = [name for name in names if name not in ranking]
        return [f"metrics: {ranking} rank items and {others} compare values; one run computes either, not both"]
    problems = _valid_metric(values, [name.lower() for name in names], ranking=EvaluatorType.RANKING in kinds)
    mode = _modes(values)
    if EvaluatorType.VALUE in kinds and "full" in mode:
        problems.append(f"metrics: {names} compare values, for which eval_args mode full will not do; use mode labeled")
    return problems


def _valid_metric(values: Values, names: list[str], *, ranking: bool) -> list[str]:
    text, topk = values.get("valid_metric"), values.get("topk")
    if not isinstance(text, str):
        return []  # the table of rules reports it
    ks = [topk] if isinstance(topk, int) else topk if isinstance(topk, list | tuple) else []
    allowed = [f"{name}@{k}" for name in names for k in ks] if ranking else names
    bare = text.lower()
    if "OOV" in _split(values):
        bare = re.sub(f"^(?:{'|'.join(sorted(GROUPS, reverse=True))})_", "", bare)
    if bare in allowed or (ranking and not ks):
        return []
    return [
        f"valid_metric: {shown(text)} is not computed in this run; with these metrics and topk it can be "
        + ", ".join(allowed)
    ]


def _split(values: Values) -> Mapping[Any, Any]:
    eval_args = values.get("eval_args")
    split = eval_args.get("split") if isinstance(eval_args, Mapping) else None
    return split if isinstance(split, Mapping) else {}


def _modes(values: Values) -> list[Any]:
    eval_args = values.get("eval_args")
    mode = eval_args.get("mode", "full") if isinstance(eval_args, Mapping) else "full"
    return list(mode.values()) if isinstance(mode, Mapping) else [mode]


def eval_args(values: Values) -> list[str]:
    """``eval_args``: its keys ``split``, ``order``, ``group_by`` and ``mode``, and what each holds."""
    args = values.get("eval_args")
    if not isinstance(args, Mapping):
        return [f"eval_args: {shown(args)} is not allowed; it must be a mapping of split, order, group_by and mode"]
    problems = inner_keys("eval_args", args, ["split", "order", "group_by", "mode"])
    if "split" in args:
        problems += _check_split(args["split"])
    if args.get("order", "RO") not in ("RO", "TO"):
        problems.append(
            f"eval_args order: {shown(args['order'])} is not allowed; it must be RO, random, or TO, by time"
        )
    if args.get("group_by") not in (None, "user", "none", "None"):
        problems.append(f"eval_args group_by: {shown(args['group_by'])} is not allowed; it must be user or None")
    mode = args.get("mode", "full")
    if isinstance(mode, Mapping):
        problems += inner_keys("eval_args mode", mode, ["valid", "test"])
    for one in _modes(values):
        if not isinstance(one, str) or not _MODE.fullmatch(one):
            problems.append(
                f"eval_args mode: {shown(one)} is not allowed; it must be full, labeled, or uni or pop with the number "
                f"of sampled items, as in uni100"
            )
    return problems


def _check_split(split: object) -> list[str]:
    if not isinstance(split, Mapping) or len(split) != 1 or next(iter(split)) not in SPLITS:
        return [
            f"eval_args split: {shown(split)} is not allowed; it must be a mapping with one of the keys "
            f"{', '.join(SPLITS)}, as in {{'RS': [0.8, 0.1, 0.1]}} or {{'LS': 'valid_and_test'}}"
        ]
    kind, value = next(iter(split.items()))
    if kind == "OOV":
        return _check_oov_split(value)
    if kind == "LS" and value not in LEAVE_OUT:
        return [f"eval_args split LS: {shown(value)} is not allowed; it must be one of {', '.join(LEAVE_OUT)}"]
    if kind in ("RS", "TS"):
        fits = isinstance(value, list | tuple) and len(value) == 3 and all(is_number(x) and x >= 0 for x in value)
        if not fits or value[0] <= 0:
            return [
                f"eval_args split {kind}: {shown(value)} is not allowed; it must be three numbers, for training, "
                f"validation and test, none negative and the first above 0, as in [0.8, 0.1, 0.1]"
            ]
    return []


_SHARE = Rule("a number above 0 and below 1", lambda value: is_number(value) and 0 < value < 1)
_RATIOS = Rule(
    "three numbers above 0, for training, validation and test, as in [0.8, 0.1, 0.1]",
    lambda value: isinstance(value, list | tuple) and len(value) == 3 and all(is_number(x) and x > 0 for x in value),
)
_OOV_SPLIT = {
    "ratio": _SHARE,
    "valid": _SHARE,
    "by": one_of("random", "time", "popularity"),
    "seed": whole(0),
    "iv": _RATIOS,
    "files": Rule("the folder of a published split", lambda value: isinstance(value, str) and bool(value.strip())),
}


def _check_oov_split(value: object) -> list[str]:
    key = "eval_args split OOV"
    if not isinstance(value, Mapping):
        return [
            f"{key}: {shown(value)} is not allowed; it must be a mapping with the keys {', '.join(_OOV_SPLIT)}, as in "
            f"{{ratio: 0.2, by: random}}"
        ]
    problems = _mapping(key, value, _OOV_SPLIT)
    if "files" in value and len(value) > 1:
        problems.append(f"{key}: files takes the split as it is; leave out {', '.join(sorted(set(value) - {'files'}))}")
    return problems


def oov_by_time(args: Mapping[Any, Any]) -> bool:
    """Whether ``eval_args`` ask for OOV items by time."""
    split = args.get("split")
    options = split.get("OOV") if isinstance(split, Mapping) else None
    return isinstance(options, Mapping) and options.get("by") == "time"


def oov_protocol(values: Values) -> list[str]:
    """What the OOV protocol needs of other options: full ranking, times, no ready-made split."""
    if "OOV" not in _split(values):
        return []
    problems = []
    for mode in _modes(values):
        if isinstance(mode, str) and mode not in ("full", "labeled"):
            problems.append(f"eval_args mode: {shown(mode)} ranks sampled items; the OOV protocol ranks all: use full")
    if values.get("benchmark_filename") is not None:
        problems.append("benchmark_filename: the data set comes split already; leave it out, or the split OOV")
    if oov_by_time(values["eval_args"]) and values["eval_args"].get("order") == "RO":
        problems.append(
            "eval_args order: RO splits interactions at random, and by: time is to have training in the past; "
            "use TO, or leave order out"
        )
    if oov_by_time(values["eval_args"]) and values.get("TIME_FIELD") is None:
        problems.append("TIME_FIELD: eval_args split OOV by: time needs the name of the column with the time")
    return problems


def negative_sampling(values: Values) -> list[str]:
    """``train_neg_sample_args`` and ``clip_grad_norm``: what is inside."""
    problems = []
    args = values.get("train_neg_sample_args")
    if args is not None and args != "None":
        problems += _mapping("train_neg_sample_args", args, _SAMPLING)
        if isinstance(args, Mapping) and args.get("dynamic") is True and not args.get("candidate_num"):
            problems.append(
                "train_neg_sample_args: dynamic is True but candidate_num is 0; set candidate_num to the number of "
                "candidates to choose from"
            )
    clip = values.get("clip_grad_norm")
    if clip is not None:
        problems += _mapping("clip_grad_norm", clip, _CLIPPING)
        if isinstance(clip, Mapping) and "max_norm" not in clip:
            problems.append("clip_grad_norm: max_norm is missing; write {'max_norm': 5}")
    return problems


def _mapping(key: str, value: object, rules: Mapping[str, Rule]) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{key}: {shown(value)} is not allowed; it must be None or a mapping with the keys {', '.join(rules)}"]
    problems = [rules[name].problem(f"{key} {name}", inner) for name, inner in value.items() if name in rules]
    return inner_keys(key, value, rules) + [problem for problem in problems if problem]


def model_needs(values: Values, user_set: Values, model: str, model_class: type) -> list[str]:
    """What RecBole demands of a model by its type: order, time, repetition; and of one without input type, a loss."""
    problems = []
    if model_class.type == ModelType.SEQUENTIAL:  # type: ignore[attr-defined]
        args = values.get("eval_args")
        order = args.get("order") if isinstance(args, Mapping) else "TO"
        if order == "RO":
            problems.append(f"eval_args order: {model} learns sequences, and RO would shuffle them; use order TO")
        if values.get("repeatable") is False:
            problems.append(f"repeatable: {model} is sequential, for which RecBole knows only repeatable: True")
        if values.get("TIME_FIELD") is None:
            problems.append(f"TIME_FIELD: {model} learns sequences and needs the name of the column with the time")
    if hasattr(model_class, "input_type"):
        if not isinstance(model_class.input_type, InputType):
            problems.append(f"model: {model}.input_type is {shown(model_class.input_type)}; it must be an InputType")
        return problems
    loss = values.get("loss_type")
    if loss not in ("CE", "BPR"):
        problems.append(f"loss_type: {shown(loss)} is not allowed; {model} can learn with CE or BPR")
    elif loss == "CE" and user_set.get("train_neg_sample_args") not in (None, "None"):
        problems.append(
            f"train_neg_sample_args: {model} learns with loss_type CE, against all items, and draws no negatives; "
            f"leave train_neg_sample_args out, or set loss_type: BPR"
        )
    return problems


def rules_mixture(values: Values, model: str, model_class: type) -> list[str]:
    """``rules_weight``: whether the model has a history to look up, and probabilities of all items to mix."""
    weight = values.get("rules_weight")
    if not is_number(weight) or not weight:
        return []  # the table of rules reports what is no number
    if model_class.type != ModelType.SEQUENTIAL:  # type: ignore[attr-defined]
        return [f"rules_weight: {model} is no sequential model, whose histories rules follow; leave rules_weight out"]
    if values.get("loss_type") != "CE" and not getattr(model_class, "gives_log_probabilities", False):
        hint = "" if values.get("loss_type") is None else "set loss_type: CE where it can learn with it, or "
        return [
            f"rules_weight: {model} gives no probabilities of items to mix with rules; {hint}leave rules_weight out"
        ]
    problems = []
    if values.get("decoding") == "beam":
        problems.append("rules_weight: beam search finds some items by the model alone; set decoding: exact")
    if values.get("rank_by") == "direct":
        problems.append("rules_weight: with rank_by: direct no history is read; set rank_by: sequential")
    if values.get("oov_items") not in (None, "reserved"):
        problems.append(
            f"rules_weight: no rule names an item without training interactions, so that beside rules those of "
            f"oov_items: {values['oov_items']} would count for too little; leave one of them out"
        )
    return problems


def excluded_history(values: Values, model: str, model_class: type) -> list[str]:
    """``history_items: excluded``: whether the model can learn without the history's items as wrong answers."""
    if values.get("history_items") != "excluded" or hasattr(model_class, "excludes_history"):
        return []
    if model_class.type != ModelType.SEQUENTIAL:  # type: ignore[attr-defined]
        return [f"history_items: {model} is no sequential model and reads no history; leave history_items out"]
    if values.get("loss_type") != "CE":
        hint = "" if values.get("loss_type") is None else "set loss_type: CE, or "
        return [
            f"history_items: {model} has no softmax over items to leave some out of; {hint}give scored, with "
            f"mask_history: True"
        ]
    if values.get("train_positions") != "all":
        return [
            f"history_items: {model} learns from RecBole's rows, in which items of the history are wrong answers; set "
            f"train_positions: all if it is a causal network, or history_items: scored with mask_history: True"
        ]
    return []


def user_metrics(values: Values) -> list[str]:
    """``save_user_metrics``: whether Parquet can be written."""
    if values.get("save_user_metrics") in (None, False) or importlib.util.find_spec("pyarrow") is not None:
        return []
    return ['save_user_metrics: needs the package pyarrow, which is not installed; pip install "recbole-oov[parquet]"']


def together(values: Values) -> list[str]:
    """Options that exclude or require each other."""
    problems = []
    load, unload = values.get("load_col"), values.get("unload_col")
    if isinstance(load, Mapping) and isinstance(unload, Mapping):
        both = [suffix for suffix in unload if suffix in load and load[suffix] != "*"]
        problems += [f"load_col and unload_col both name columns of .{suffix}; keep one of them" for suffix in both]
    if values.get("normalize_field") and values.get("normalize_all"):
        problems.append("normalize_field and normalize_all exclude each other; set normalize_all: None")
    if (values.get("USER_ID_FIELD") is None) != (values.get("ITEM_ID_FIELD") is None):
        problems.append("USER_ID_FIELD and ITEM_ID_FIELD must both be set, or neither")
    return problems
