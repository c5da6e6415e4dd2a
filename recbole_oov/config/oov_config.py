"""``OOVConfig``: RecBole's ``Config`` with the plugin's defaults, read safely and checked whole.

The layers, weakest first: RecBole's files (overall, model, dataset, model type), the plugin's files (overall,
model, dataset), the user's files, dictionary, command line. Each is a level of RecBole's own; the plugin's files
come after RecBole's, so that a plugin model's YAML wins over what RecBole says for its type (``sequential.yaml``).
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import ModelType

from recbole_oov import compat, processes, registry
from recbole_oov.config import checks, content, sampling
from recbole_oov.config.keys import KnownKeys
from recbole_oov.config.places import BUNDLED, dataset_folder, dataset_problems
from recbole_oov.config.reading import (
    parse_values,
    read_command_line,
    read_config_file,
    read_config_files,
    shown,
    split_options,
)
from recbole_oov.config.rules import gpu_text, rule_for
from recbole_oov.errors import ConfigError

_NOT_A_COMMAND = ("ipykernel_launcher", "colab_kernel_launcher", "pytest", "py.test")
"""Programs whose arguments are not meant for us."""

_CHECKED_APART = {"model", "dataset", "config_files", "local_rank", "offset"}
_CHECKED_APART |= {"eval_args", "metrics", "train_neg_sample_args", "clip_grad_norm"}
_LONGEST_NAME = 240
"""Bytes of a data set's name, with room for ``.inter`` in a file system's 255."""
_LOADED_BY_DEFAULT = {"inter": ["user_id", "item_id"]}
"""``load_col`` in RecBole's ``sample.yaml``: what it loads of a data set that it does not know."""


def install() -> None:
    """Give RecBole's own ``Config`` the plugin's YAML defaults, for ``run_recbole``. Safe to call again."""
    compat.allow_in_checkpoints(OOVConfig)
    stock = Config._load_internal_config_dict
    if getattr(stock, "adds_plugin_defaults", False):
        return

    @functools.wraps(stock)
    def load(self: Any, model: str, model_class: type, dataset: str) -> None:
        stock(self, model, model_class, dataset)
        for path in registry.properties_files(model, dataset):
            self.internal_config_dict.update(read_config_file(path))

    load.adds_plugin_defaults = True  # type: ignore[attr-defined]
    Config._load_internal_config_dict = load


class OOVConfig(Config):
    """RecBole's configuration, checked whole.

    A model's class may check its own options: a static method ``config_problems(values) -> list[str]`` is called with
    all options once these are otherwise in order, before any data is loaded.

    Args:
        model: A model's name or class; where None, ``model`` of the dictionary, files or command line.
        dataset: A data set's name; where None, ``dataset`` of those.
        config_file_list: YAML files, the later ones stronger; where None, ``config_files`` of the command line.
        config_dict: Options by name. Strings are parsed as on the command line; the dictionary is not changed.
        argv: The arguments ``--key=value`` of a command line, without the program's name. Where given, each must be
            an option that somebody reads. Where None, ``sys.argv`` is read as RecBole does; a script's arguments may
            be its own there, so what is no option is left alone with a warning, and so are the arguments of pytest
            and of notebooks.

    Raises:
        ConfigError: With all the problems found. No data has been loaded by then.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        *,
        argv: Sequence[str] | None = None,
    ) -> None:
        self._problems: list[str] = []
        self._strict = argv is not None
        self._command_line = self._read_command_line(argv)
        if config_file_list is None:
            config_file_list = self._command_line.get("config_files")
        super().__init__(model, dataset, config_file_list, config_dict)
        for name in ("_problems", "_strict", "_command_line"):
            delattr(self, name)

    # ---- reading ----

    def _read_command_line(self, argv: Sequence[str] | None) -> dict[str, Any]:
        if argv is None:
            if any(program in sys.argv[0] for program in _NOT_A_COMMAND):
                return {}
            argv, rest = split_options(sys.argv[1:])
            if rest:
                getLogger(__name__).warning("left alone, not of the form --key=value: %s", " ".join(rest))
        values, problems = read_command_line(argv)
        self._problems += problems
        return values

    def _load_config_files(self, file_list: Sequence[str | Path] | str | None) -> dict[str, Any]:
        paths = str(file_list or "").split() if not isinstance(file_list, list | tuple) else file_list
        values, problems = read_config_files(paths)
        self._problems += problems
        return values

    def _load_variable_config_dict(self, config_dict: Mapping[str, Any] | None) -> dict[str, Any]:
        values, problems = parse_values(copy.deepcopy(dict(config_dict or {})))
        self._problems += problems
        return values

    def _load_cmd_line(self) -> dict[str, Any]:
        return self._command_line

    def _get_model_and_dataset(self, model: str | type | None, dataset: str | None) -> tuple[str, type | None, str]:
        given = self.external_config_dict
        model = model if model is not None else given.get("model")
        dataset = dataset if dataset is not None else given.get("dataset")
        if model is None:
            self._problems.append("model: none is given; name one, as in --model=BPR")
        if dataset is None:
            self._problems.append(f"dataset: none is given; name one, as in --dataset={BUNDLED}")
        elif not str(dataset).strip() or "\0" in str(dataset) or len(os.fsencode(str(dataset))) > _LONGEST_NAME:
            self._problems.append(f"dataset: {shown(dataset)} cannot name a folder; give the name of a data set")
            dataset = None
        if isinstance(model, type):
            return model.__name__, model, str(dataset or "")
        try:
            model_class = registry.get_model(str(model)) if model is not None else None
        except ConfigError as error:
            self._problems += error.errors
            model_class = None
        return str(model or ""), model_class, str(dataset or "")

    # ---- layers ----

    def _load_internal_config_dict(self, model: str, model_class: type | None, dataset: str) -> None:
        # Without a known model the rest is still checked, with the defaults of a model without peculiarities.
        super()._load_internal_config_dict(model, model_class or GeneralRecommender, dataset)
        defaults = self.internal_config_dict
        if defaults["MODEL_TYPE"] == ModelType.DECISIONTREE:
            defaults["epochs"] = 1  # one epoch is a whole training; RecBole's 300 would repeat it
            defaults.setdefault("token_num_threshold", defaults.get("token_num_threhold"))  # misspelt in its YAML files
        if getattr(model_class, "needs_base_model", False):
            base_model = self.external_config_dict.get("base_model", defaults.get("base_model"))
            own = set(KnownKeys.of(model, None, {}).of_model)
            inner = sampling.base_model_defaults(base_model, dataset)
            defaults.update({key: value for key, value in inner.items() if key not in own})

    def _get_final_config_dict(self) -> dict[str, Any]:
        self._check_keys()
        final: dict[str, Any] = super()._get_final_config_dict()
        self._mend_defaults(final)
        self._check_values(final)
        if self.dataset:
            folder = self._dataset_folder(final)
            self._problems += self._dataset_problems(folder, final)
        if self._problems:
            raise ConfigError(self._problems)
        return final

    def _mend_defaults(self, final: dict[str, Any]) -> None:
        """Fill in what every user would have to set because RecBole refuses to run its own defaults."""
        user, sequential = self.external_config_dict, final["MODEL_TYPE"] == ModelType.SEQUENTIAL
        if sequential and final.get("loss_type") == "CE" and "train_neg_sample_args" not in user:
            final["train_neg_sample_args"] = None
        if "normalize_field" in user and "normalize_all" not in user:
            final["normalize_all"] = None
        if isinstance(final.get("gpu_id"), list | tuple | int):
            final["gpu_id"] = gpu_text(final["gpu_id"])
        for key in ("user_inter_num_interval", "item_inter_num_interval"):
            if isinstance(final.get(key), list | tuple):  # [5, 10] without quotes is an interval all the same
                final[key] = str(list(final[key]))
        self._mend_eval_args(final, sequential=sequential)
        self._mend_load_col(final, sequential=sequential)
        self._load_item_text(final)
        self._load_interaction_columns(final)

    def _mend_eval_args(self, final: dict[str, Any], *, sequential: bool) -> None:
        self._take_oov_split(final)
        given = self.external_config_dict.get("eval_args")
        if isinstance(given, Mapping) and checks.oov_by_time(given):
            # One moment for everybody, before which training lies; RecBole would split at random, user by user.
            in_time = {"order": "TO", "group_by": None, **given}
            self.external_config_dict["eval_args"] = in_time
            final["eval_args"] = {**final["eval_args"], **in_time}
        args, of_type = self.external_config_dict.get("eval_args", {}), self.internal_config_dict["eval_args"]
        if sequential and of_type.get("order") != "TO":  # GRU4RecKG and KSR get the general models' random split
            of_type = {**of_type, "split": {"LS": "valid_and_test"}, "order": "TO"}
        if isinstance(args, Mapping):
            # A part of eval_args replaces the whole, and RecBole then fills in what suits general models alone.
            lacks_order = sequential and "order" not in args
            lacks_mode = of_type.get("mode") == "labeled" and "mode" not in args
            if lacks_order or lacks_mode:
                final["eval_args"] = {**of_type, **args}

    def _take_oov_split(self, final: dict[str, Any]) -> None:
        """``oov_split``, the short form, becomes the split of ``eval_args``."""
        short, given = final.get("oov_split"), self.external_config_dict.get("eval_args", {})
        if not isinstance(short, str):
            return  # none, or the table of rules reports it
        chosen = not isinstance(given, Mapping) or "split" in given or "benchmark_filename" in self.external_config_dict
        if chosen and "oov_split" not in self.external_config_dict:
            final["oov_split"] = None  # a model's default, which gives way
            return
        if not isinstance(given, Mapping) or "split" in given:
            self._problems.append(f"oov_split: {shown(short)} and eval_args split are both given; keep one of them")
            return
        way = short.strip().lower()
        split = {"OOV": {"by": way} if way in ("random", "time", "popularity") else {"files": short}}
        self.external_config_dict["eval_args"] = {**given, "split": split}
        final["eval_args"] = {**final["eval_args"], **self.external_config_dict["eval_args"]}

    def _mend_load_col(self, final: dict[str, Any], *, sequential: bool) -> None:
        """Of a data set that RecBole does not know it loads the ids alone: add the columns that the run asks for."""
        if "load_col" in self.external_config_dict or final.get("load_col") != _LOADED_BY_DEFAULT:
            return
        args, threshold = final.get("eval_args"), final.get("threshold")
        by_time = sequential or (isinstance(args, Mapping) and (args.get("order") == "TO" or checks.oov_by_time(args)))
        columns = [final.get("USER_ID_FIELD"), final.get("ITEM_ID_FIELD")]
        columns += [final.get("TIME_FIELD")] if by_time else []
        columns += list(threshold) if isinstance(threshold, Mapping) else []
        final["load_col"] = {"inter": [column for column in dict.fromkeys(columns) if isinstance(column, str)]}

    def _load_item_text(self, final: dict[str, Any]) -> None:
        """Load the item columns that content is made of, whatever the data set's or model's own YAML file loads."""
        if "load_col" in self.external_config_dict or not content.reads_item_text(final, self.model_class):
            return
        before, final["load_col"] = final.get("load_col"), content.with_item_columns(final)
        alone = isinstance(before, Mapping) and not {"item", "user"} & set(before)
        if alone and "filter_inter_by_user_or_item" not in self.external_config_dict:
            # RecBole would now drop the interactions of items that .item lacks, without a word, and the model would
            # run on other data than a model without content.
            final["filter_inter_by_user_or_item"] = False

    def _load_interaction_columns(self, final: dict[str, Any]) -> None:
        """Load the columns of interactions that the model's options ask for, unless the user says what is loaded."""
        asks, load = getattr(self.model_class, "interaction_columns", None), final.get("load_col")
        if asks is None or "load_col" in self.external_config_dict or not isinstance(load, Mapping):
            return
        if not isinstance(load.get("inter"), list):
            return  # all of them, or none
        try:
            wanted = asks(final)
        except ConfigError:
            return  # reported by the model's own checks
        final["load_col"] = {**load, "inter": list(dict.fromkeys([*load["inter"], *wanted]))}

    # ---- checks ----

    def _check_keys(self) -> None:
        known = KnownKeys.of(self.model, self.model_class, self.internal_config_dict)
        for key in self.external_config_dict:
            problem = known.problem(key)
            if problem is None:
                continue
            from_file = key not in self.variable_config_dict and key not in self.cmd_config_dict
            not_ours = key not in self.variable_config_dict and key not in self.file_config_dict and not self._strict
            if not_ours or (from_file and known.is_of_another_model(key)):
                # A script's own argument, or a file that serves several models.
                getLogger(__name__).warning("ignored: %s", problem)
            else:
                self._problems.append(problem)

    def _check_values(self, final: dict[str, Any]) -> None:
        for key in self.external_config_dict:
            if key in _CHECKED_APART:
                continue
            value = final[key]
            problem = rule_for(key, self.internal_config_dict.get(key)).problem(key, value)
            if problem:
                self._problems.append(problem)
        self._problems += checks.eval_args(final) + checks.metrics(final) + checks.negative_sampling(final)
        self._problems += checks.oov_protocol(final) + sampling.sampler(final, self.model_class)
        self._problems += content.content(final) + content.not_loaded(final, self.model_class)
        self._problems += checks.together(final) + checks.user_metrics(final)
        if self.model_class is not None:
            self._problems += checks.model_needs(final, self.external_config_dict, self.model, self.model_class)
            self._problems += checks.rules_mixture(final, self.model, self.model_class)
            self._problems += checks.excluded_history(final, self.model, self.model_class)
            own_checks = getattr(self.model_class, "config_problems", None)
            if own_checks is not None and not self._problems:
                self._problems += own_checks(final)

    def _dataset_folder(self, final: Mapping[str, Any]) -> Path:
        given = "data_path" in self.external_config_dict
        return dataset_folder(self.dataset, str(final["data_path"]), path_given=given)

    def _dataset_problems(self, folder: Path, final: Mapping[str, Any]) -> list[str]:
        try:
            return dataset_problems(self.dataset, folder, final.get("benchmark_filename"))
        except (OSError, ValueError) as error:
            return [f"dataset: {shown(self.dataset)} cannot name a folder: {error}"]

    # ---- what RecBole makes of it ----

    def _set_default_parameters(self) -> None:
        folder = self._dataset_folder(self.final_config_dict)
        super()._set_default_parameters()
        self.final_config_dict["data_path"] = str(folder)

    def _init_device(self) -> None:
        """RecBole's choice of device, but ``use_gpu: False`` holds, and processes without CUDA talk through gloo."""
        final = self.final_config_dict
        if "local_rank" in final:
            self._join_the_others()
        elif final["use_gpu"]:
            super()._init_device()
        else:
            final.update(device=torch.device("cpu"), single_spec=True, local_rank=0)

    def _join_the_others(self) -> None:
        """One of several processes: on GPUs each takes the one of its number among those that ``gpu_id`` names."""
        final = self.final_config_dict
        final["single_spec"], final["device"] = False, torch.device("cpu")
        all_gpus = processes.torchrun_group() is not None and "gpu_id" not in self.external_config_dict
        if final["use_gpu"] and not all_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(final["gpu_id"])  # before CUDA is asked for the first time
        if final["use_gpu"] and torch.cuda.is_available():
            n = torch.cuda.device_count() if all_gpus else len(str(final["gpu_id"]).split(","))
            if n < final["nproc"]:
                raise ConfigError(
                    f"gpu_id: {n} {'there' if all_gpus else 'named'} for nproc: {final['nproc']}; name one for each, "
                    f"as in 0,1, start fewer processes, or give use_gpu: False"
                )
            final["device"] = torch.device("cuda", final["local_rank"])
            torch.cuda.set_device(final["local_rank"])
        processes.quiet(final)
        processes.join_group(final, "gloo" if final["device"].type == "cpu" else "nccl")
