"""Fixes for faults of RecBole 1.2.1's own, which no choice of library versions avoids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import yaml

from recbole_oov.compat.mending import Overlay, Put, fix
from recbole_oov.errors import ConfigError, DataError


@fix(
    "recbole.evaluator.collector",
    symptom="AttributeError: 'int' object has no attribute 'cpu' (or 'Counter'); ItemCoverage, GiniIndex, "
    "AveragePopularity, TailPercentage",
    since="RecBole (issue #2194)",
)
def collector_counts(collector: Any, put: Put) -> None:
    """``get_data_struct`` calls ``.cpu()`` on all it collected, and counts of items and users are not tensors.

    They are kept aside while it runs.
    """
    stock = collector.Collector.get_data_struct

    @wraps(stock)
    def get_data_struct(self: Any) -> Any:
        held = {k: v for k, v in self.data_struct._data_dict.items() if not isinstance(v, torch.Tensor)}
        for key in held:
            del self.data_struct[key]
        struct = stock(self)
        for key, value in held.items():
            self.data_struct.set(key, value)
            struct.set(key, value)
        return struct

    put(collector.Collector, "get_data_struct", get_data_struct)


@fix(
    "recbole.utils.utils",
    symptom="FileExistsError: File exists: './log/LightGCN', where two runs of a model begin at the same moment",
    since="RecBole",
)
def folders_made_twice(utils: Any, put: Put) -> None:
    """``ensure_dir`` looks whether a folder is there and then makes it; another process may have made it in between."""

    def makedirs(path: Any) -> None:
        os.makedirs(path, exist_ok=True)

    put(utils, "os", Overlay(os, makedirs=makedirs))


@fix(
    "recbole.data.dataset.dataset",
    symptom="ValueError: Default process group has not been initialized, after a dataset was downloaded",
    since="RecBole",
)
def download_barrier(dataset: Any, put: Put) -> None:
    """A download ends in ``torch.distributed.barrier()`` even where there is only one process.

    RecBole's data set module waits for the others only where there are others.
    """

    def barrier(*args: Any, **kwargs: Any) -> Any:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.barrier(*args, **kwargs)
        return None

    put(dataset, "torch", Overlay(dataset.torch, distributed=Overlay(torch.distributed, barrier=barrier)))


@fix(
    "recbole.config.configurator",
    symptom="a key of one data set's YAML counts as a data set argument in every later Config of the process",
    since="RecBole",
)
def dataset_arguments(configurator: Any, put: Put) -> None:
    """``self.parameters["Dataset"] += …`` extends a list of the module ``recbole.utils.argument_list``.

    Each Config gets lists of its own.
    """
    stock = configurator.Config._init_parameters_category

    @wraps(stock)
    def _init_parameters_category(self: Any) -> None:
        stock(self)
        self.parameters = {category: list(names) for category, names in self.parameters.items()}

    put(configurator.Config, "_init_parameters_category", _init_parameters_category)


class RecBoleLoader(yaml.FullLoader):
    """YAML as RecBole reads it; see :func:`yaml_loader`."""


@fix(
    "recbole.config.configurator",
    symptom="yaml.FullLoader, everybody's, reads `1e-3` differently once a Config was made, and grows with each",
    since="RecBole",
)
def yaml_loader(configurator: Any, put: Put) -> None:
    """``_build_yaml_loader`` adds its resolver of floats to ``yaml.FullLoader`` itself, again for every Config.

    It is built once, on a subclass.
    """
    stock = configurator.Config._build_yaml_loader
    put(configurator, "yaml", Overlay(configurator.yaml, FullLoader=RecBoleLoader))
    if "yaml_implicit_resolvers" not in vars(RecBoleLoader):
        stock(None)  # it does not use self; adds the resolver to what its module calls yaml.FullLoader
    put(configurator.Config, "_build_yaml_loader", lambda self: RecBoleLoader)


@fix(
    "recbole.config.configurator",
    symptom="AttributeError: 'NoneType' object has no attribute 'keys', with LightGBM and XGBoost",
    since="RecBole, where file names are case sensitive",
)
def properties_case(configurator: Any, put: Put) -> None:
    """The defaults of ``LightGBM`` and ``XGBoost`` are in ``lightgbm.yaml`` and ``xgboost.yaml``, never found on Linux.

    Where there is no file of the model's exact name, the one that differs in case alone is taken.
    """
    stock = configurator.Config._load_internal_config_dict
    folder = Path(configurator.__file__).resolve().parent.parent / "properties" / "model"
    names = {path.stem for path in folder.glob("*.yaml")}
    by_lower_case = {name.lower(): name for name in names}

    @wraps(stock)
    def _load_internal_config_dict(self: Any, model: str, model_class: Any, dataset: str) -> None:
        stock(self, model if model in names else by_lower_case.get(model.lower(), model), model_class, dataset)

    put(configurator.Config, "_load_internal_config_dict", _load_internal_config_dict)


class _CandidateScorer:
    """The model as the loader of dynamic negatives sees it; see :func:`dynamic_negatives`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._was_training = model.training

    @property
    def device(self) -> Any:
        return self._model.device

    def eval(self) -> None:
        self._was_training = self._model.training
        self._model.eval()

    def train(self) -> None:
        self._model.train(self._was_training)

    def predict(self, interaction: Any) -> torch.Tensor:
        with torch.no_grad():
            scores: torch.Tensor = self._model.predict(interaction)
        return scores.cpu()


@fix(
    "recbole.data.dataloader.abstract_dataloader",
    symptom="RuntimeError: indices should be either on cpu or on the same device as the indexed tensor (cpu), with "
    "`train_neg_sample_args: {dynamic: True}` on a GPU",
    since="torch 1.13",
)
def dynamic_negatives(loaders: Any, put: Put) -> None:
    """Candidates are drawn on the CPU and chosen by scores, whose indices are on the model's device.

    The loader gets the scores on the CPU. They are computed without autograd, which stock does for nothing,
    and the model goes back to the mode it was in, where stock forces training mode.
    """
    stock = loaders.NegSampleDataLoader.get_model

    @wraps(stock)
    def get_model(self: Any, model: Any) -> None:
        stock(self, _CandidateScorer(model))

    put(loaders.NegSampleDataLoader, "get_model", get_model)


@fix(
    "recbole.model.general_recommender.pop",
    symptom="Pop recommends the wrong items: Recall@10 .0838 on ml-100k where popularity gives .1275",
    since="RecBole (issue #2198)",
    changes_numbers=True,
)
def pop_counts(pop: Any, put: Put) -> None:
    """``item_cnt[item] += 1`` counts an item once per batch, and counts sampled negatives as if they were bought.

    Every interaction counts, and negatives do not.
    """
    stock_init = pop.Pop.__init__

    @wraps(stock_init)
    def __init__(self: Any, config: Any, dataset: Any) -> None:
        stock_init(self, config, dataset)
        self.LABEL = config["LABEL_FIELD"]

    def calculate_loss(self: Any, interaction: Any) -> torch.Tensor:
        items = interaction[self.ITEM_ID]
        if self.LABEL in interaction:
            items = items[interaction[self.LABEL] > 0]
        self.item_cnt += torch.bincount(items, minlength=self.n_items).unsqueeze(1)
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return torch.nn.Parameter(torch.zeros(1)).to(self.device)

    put(pop.Pop, "__init__", __init__)
    put(pop.Pop, "calculate_loss", calculate_loss)


@fix(
    "recbole.trainer.trainer",
    symptom="ValueError: DistributedDataParallel device_ids and output_device arguments only work with single-device "
    "modules …, with several processes and no GPU",
    since="RecBole",
)
def cpu_processes(trainer: Any, put: Put) -> None:
    """A process group is always given GPU numbers, also for a model that is on the CPU.

    There is no number to give there.
    """
    stock = trainer.DistributedDataParallel

    @wraps(stock, updated=())
    def distributed_data_parallel(module: Any, device_ids: Any = None, **kwargs: Any) -> Any:
        on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
        return stock(module, device_ids=None if on_cpu else device_ids, **kwargs)

    put(trainer, "DistributedDataParallel", distributed_data_parallel)


@fix(
    "recbole.model.sequential_recommender.sine",
    symptom="every training step costs 1.4 to 2.5 times as much once any sequential model was looked up",
    since="RecBole",
)
def anomaly_detection(sine: Any, put: Put) -> Iterator[None]:
    """The module of ``SINE`` switches autograd's anomaly detection on when it is imported, for the whole process.

    It is a debugging tool that checks every gradient for NaN and keeps a traceback of every operation; all
    sequential models are imported together. It stays as it was; RecBole's trainer checks the loss for NaN itself.
    """
    before = torch.is_anomaly_enabled()
    yield
    torch.autograd.set_detect_anomaly(before)


@fix(
    "recbole.model.sequential_recommender.ksr",
    symptom="RuntimeError: expected m1 and m2 to have the same dtype, but got: float != double, with KSR",
    since="RecBole",
)
def ksr_relations(ksr: Any, put: Put) -> None:
    """KSR keeps its relations' vectors as the data set loads them, in double precision; its weights are single.

    The vectors are converted to the precision of the weights.
    """
    stock_init = ksr.KSR.__init__

    @wraps(stock_init)
    def __init__(self: Any, config: Any, dataset: Any) -> None:
        stock_init(self, config, dataset)
        self.relation_Matrix = self.relation_Matrix.to(torch.get_default_dtype())

    put(ksr.KSR, "__init__", __init__)


@fix(
    "recbole.model.context_aware_recommender.kd_dagfm",
    symptom="the option `teacher` of KD_DAGFM is run as Python code, also out of a checkpoint of somebody else's",
    since="RecBole",
)
def teacher_names(kd_dagfm: Any, put: Put) -> None:
    """``eval(config["teacher"])`` finds the teacher's class, and runs any other expression as well.

    In that module ``eval`` knows the names of the networks that it has, and nothing else.
    """
    names = ("CrossNet", "CIN")

    def network(name: str) -> Any:
        if name not in names:
            raise ConfigError(f"teacher: {name!r} is not allowed; it must be {' or '.join(names)}")
        return getattr(kd_dagfm, name)

    put(kd_dagfm, "eval", network)


@fix(
    "recbole.model.general_recommender.ldiffrec",
    symptom="`item_emb.npy` beside the data set is unpickled by LDiffRec, which runs code that is in it",
    since="RecBole",
)
def plain_item_vectors(ldiffrec: Any, put: Put) -> None:
    """``np.load(…, allow_pickle=True)`` reads the items' vectors, whoever wrote them, from where a checkpoint says.

    They are numbers, which need no pickle; a file of anything else is refused.
    """
    stock = ldiffrec.np.load

    def load(path: Any, **_: Any) -> Any:
        try:
            return stock(path, allow_pickle=False)
        except ValueError as error:
            raise DataError(
                f"{path}: this is no array of numbers ({error}); save the vectors with numpy.save"
            ) from error

    put(ldiffrec, "np", Overlay(ldiffrec.np, load=load))


@fix(
    "recbole.quick_start.quick_start",
    symptom="`run_recbole` under `eval_args: {split: {OOV: …}}` reports one number for IV and OOV items together",
    since="RecBole",
)
def oov_groups(quick_start: Any, put: Put) -> None:
    """``run_recbole`` and ``objective_function`` use RecBole's trainer, whose collector knows no groups of items.

    Under the OOV protocol, and only there, the trainer is the one that ``recbole_oov.run`` uses.
    """
    stock = quick_start.get_trainer

    def get_trainer(model_type: Any, model_name: str) -> Any:
        def trainer(config: Any, model: Any) -> Any:
            from recbole_oov.data.oov_split import oov_options

            if oov_options(config) is None:
                return stock(model_type, model_name)(config, model)
            from recbole_oov.runner import trainer_class

            return trainer_class(config)(config, model)

        return trainer

    put(quick_start, "get_trainer", get_trainer)
