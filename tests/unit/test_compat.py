"""Every fix of recbole_oov.compat: with it the fault is gone; without it the installed RecBole still has the fault."""

from __future__ import annotations

import collections
import contextlib
import copy
import importlib
import inspect
import logging
import os
import pickle
import re
import resource
import subprocess
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import recbole.config.configurator as configurator
import recbole.data.dataloader.abstract_dataloader as dataloaders
import recbole.data.dataset.dataset as dataset_module
import recbole.evaluator.collector as collector_module
import recbole.evaluator.evaluator as evaluator_module
import recbole.trainer.trainer as trainer_module
import recbole.utils.argument_list as argument_list
import recbole.utils.enum_type as enum_type
import scipy.sparse
import torch
import yaml
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.evaluator.collector import DataStruct
from recbole.model.general_recommender.pop import Pop
from recbole.model.sequential_recommender.ksr import KSR
from recbole.utils import ModelType, get_model, get_trainer, init_seed

from recbole_oov import compat
from recbole_oov.compat import checkpoints, mending
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.testing import two_circles, write_atomic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv[:1])  # RecBole's Config reads pytest's options otherwise


# --- one function a fix: does RecBole show the symptom? ---------------------------------------------------------------


def fails(action: Callable[[], Any], *errors: type[Exception]) -> bool:
    try:
        action()
    except errors:
        return True
    return False


def warned(action: Callable[[], Any]) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return any(issubclass(warning.category, FutureWarning) for warning in caught)


def sorting_warns() -> bool:
    rows = Interaction({"item_id": torch.tensor([3, 1, 2]), "rating": torch.tensor([1.0, 1.0, 0.0])})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows.sort(by=["rating", "item_id"])
    assert rows["item_id"].tolist() == [2, 1, 3]
    return bool(caught)


def frame_with_gaps() -> Any:
    """What Dataset._fill_nan needs of a data set, with two missing values."""
    inter = pd.DataFrame({"item_id": [1.0, None], "rating": [4.0, None]})
    types_ = {"item_id": enum_type.FeatureType.TOKEN, "rating": enum_type.FeatureType.FLOAT}
    return SimpleNamespace(
        logger=logging.getLogger("test"), feat_name_list=["inter_feat"], inter_feat=inter, field2type=types_
    )


def fresh_quick_start(tmp_path: Path, ray: str) -> types.ModuleType:
    """Import recbole.quick_start.quick_start anew, beside a package ``ray`` with the given source."""
    package = tmp_path / "ray"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(ray, encoding="utf-8")
    (package / "tune.py").write_text("real = True\n", encoding="utf-8")
    dropped = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.split(".")[0] == "ray" or name.startswith("recbole.quick_start")
    }
    sys.path.insert(0, str(tmp_path))
    try:
        return __import__("recbole.quick_start.quick_start", fromlist=["quick_start"])
    finally:
        sys.path.remove(str(tmp_path))
        sys.path_importer_cache.pop(str(tmp_path), None)
        for name in [n for n in sys.modules if n.split(".")[0] == "ray" or n.startswith("recbole.quick_start")]:
            if name not in dropped:
                sys.modules.pop(name)
        sys.modules.update(dropped)


def collected() -> Any:
    """A Collector that has collected one tensor, one int and one Counter."""
    collector = object.__new__(collector_module.Collector)
    collector.data_struct = DataStruct()
    collector.data_struct.set("rec.items", torch.tensor([[1, 2]]))
    collector.data_struct.set("data.num_items", 7)
    collector.data_struct.set("data.count_items", collections.Counter({1: 3}))
    return collector


class Scorer(torch.nn.Module):
    """Prefers high item ids, on a device that is not the CPU as far as the loader can tell."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[tuple[bool, bool]] = []

    def predict(self, interaction: Any) -> torch.Tensor:
        self.seen.append((torch.is_grad_enabled(), self.training))
        return interaction["item_id"] * self.weight


def candidate_loader() -> Any:
    """A loader of dynamic negatives: three positives, two candidates each."""
    loader = object.__new__(dataloaders.NegSampleDataLoader)
    loader.neg_sample_args = {"dynamic": True, "candidate_num": 2}
    loader.neg_sample_num = 1
    loader.uid_field, loader.iid_field = "user_id", "item_id"
    candidates = torch.tensor([1, 5, 2, 4, 3, 9])
    loader._sampler = SimpleNamespace(sample_by_user_ids=lambda *_: candidates)
    loader.sampling_func = lambda _, negatives: negatives
    return loader


def dynamic_negatives_cost_a_graph() -> bool:
    loader, model = candidate_loader(), Scorer()
    loader.get_model(model)
    positives = Interaction({"user_id": torch.tensor([1, 2, 3]), "item_id": torch.tensor([7, 7, 7])})
    assert loader._neg_sampling(positives).tolist() == [4, 5, 9]
    return model.seen[0][0]


def popularity() -> list[int]:
    """What Pop counts of four interactions, the last of which is a sampled negative."""
    config = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "NEG_PREFIX": "neg_",
        "LABEL_FIELD": "label",
        "device": torch.device("cpu"),
    }
    model = Pop(_Fields(config), SimpleNamespace(num=lambda _: 5))
    labels = torch.tensor([1.0, 1.0, 1.0, 0.0])
    model.calculate_loss(Interaction({"item_id": torch.tensor([1, 1, 2, 3]), "label": labels}))
    return list(model.item_cnt.squeeze(1).tolist())


def ksr() -> Any:
    """KSR over five items and relations, with preloaded vectors as a data set gives them: float64."""
    config = {
        "USER_ID_FIELD": "u",
        "ITEM_ID_FIELD": "i",
        "LIST_SUFFIX": "_list",
        "NEG_PREFIX": "neg_",
        "embedding_size": 2,
        "kg_embedding_size": 2,
        "hidden_size": 2,
        "num_layers": 1,
        "dropout_prob": 0.0,
        "loss_type": "CE",
        "device": torch.device("cpu"),
    }
    return KSR(_Fields(config), SimpleNamespace(num=lambda _: 5, get_preload_weight=lambda _: np.ones((5, 2))))


class _Fields(dict):  # type: ignore[type-arg]
    """A configuration reduced to its values."""

    def __missing__(self, name: str) -> None:
        return None

    __getattr__ = dict.get


def full_loader_changes() -> bool:
    before = {key: list(value) for key, value in yaml.FullLoader.yaml_implicit_resolvers.items()}
    try:
        Config._build_yaml_loader(None)
        return before != yaml.FullLoader.yaml_implicit_resolvers
    finally:
        yaml.FullLoader.yaml_implicit_resolvers = before


def dataset_arguments_leak() -> bool:
    config = object.__new__(Config)
    config._init_parameters_category()
    config.parameters["Dataset"] += ["leaked"]
    leaked = "leaked" in argument_list.dataset_arguments
    argument_list.dataset_arguments[:] = [name for name in argument_list.dataset_arguments if name != "leaked"]
    return leaked


def lightgbm_defaults_are_missing() -> bool:
    config = object.__new__(Config)
    config._init_parameters_category()
    config.yaml_loader = config._build_yaml_loader()
    model_class = SimpleNamespace(type=ModelType.DECISIONTREE)
    config._load_internal_config_dict("LightGBM", model_class, "ml-100k")
    return "lgb_params" not in config.internal_config_dict


def aliases_missing() -> bool:
    held = {
        name: vars(np).pop(name) for name in ("float", "int", "object", "str", "complex", "unicode") if name in vars(np)
    }
    try:
        return fails(lambda: Config.compatibility_settings(None), AttributeError)
    finally:
        for name, value in held.items():
            setattr(np, name, value)


def stock_save(config: Any, tmp_path: Path) -> Path:
    """A checkpoint written by RecBole's own Trainer._save_checkpoint."""
    trainer = object.__new__(trainer_module.Trainer)
    layer = torch.nn.Linear(2, 2)
    layer.other_parameter = lambda: {"w": np.arange(3.0), "m": scipy.sparse.eye(3, format="csr")}
    trainer.config, trainer.model, trainer.cur_step = config, layer, 0
    trainer.best_valid_score = np.float64(0.5)
    trainer.optimizer = torch.optim.Adam(layer.parameters())
    path = tmp_path / "model.pth"
    trainer.saved_model_file = str(path)
    trainer._save_checkpoint(3, verbose=False)
    return path


def unreadable(path: Path) -> bool:
    return fails(lambda: torch.load(path), pickle.UnpicklingError)


def config_unreadable(config: Any, tmp_path: Path) -> bool:
    torch.save({"config": config}, tmp_path / "config.pth")
    return unreadable(tmp_path / "config.pth")


def enums_unreadable(tmp_path: Path) -> bool:
    torch.save([ModelType.GENERAL], tmp_path / "enum.pth")
    return unreadable(tmp_path / "enum.pth")


def reasons_missing(tmp_path: Path) -> bool:
    torch.save({"config": 1}, tmp_path / "old.pth", pickle_protocol=4)
    quick_start = fresh_quick_start(tmp_path, "")
    try:
        quick_start.load_data_and_model(str(tmp_path / "old.pth"))
    except pickle.UnpicklingError as error:
        return not isinstance(error, compat.CheckpointError)
    raise AssertionError("a file of protocol 4 was read")


def anomaly_detection_is_on() -> bool:
    """Import SINE's module anew: is every later backward pass of the process watched?"""
    name = "recbole.model.sequential_recommender.sine"
    kept = importlib.import_module(name)
    torch.autograd.set_detect_anomaly(False)
    del sys.modules[name]
    try:
        importlib.import_module(name)
        return torch.is_anomaly_enabled()
    finally:
        torch.autograd.set_detect_anomaly(False)
        sys.modules[name] = kept


def processes_need_a_gpu(tmp_path: Path) -> bool:
    """Wrap a model on the CPU as RecBole's trainer does in a process group."""
    group = {"init_method": f"file://{tmp_path / 'group'}", "rank": 0, "world_size": 1}
    torch.distributed.init_process_group("gloo", **group)
    try:
        return fails(lambda: trainer_module.DistributedDataParallel(torch.nn.Linear(2, 1), device_ids=[0]), ValueError)
    finally:
        torch.distributed.destroy_process_group()


def metrics_are_numpy_numbers() -> bool:
    stand_in = SimpleNamespace(
        metrics=["recall"],
        metric_class={"recall": SimpleNamespace(calculate_metric=lambda _: {"recall@1": np.float64(0.5)})},
    )
    result = evaluator_module.Evaluator.evaluate(stand_in, None)
    assert result == {"recall@1": 0.5}
    return "float64" in repr(result)


def groups_are_missing(folder: Path) -> bool:
    from recbole.quick_start import run_recbole

    options = {
        "data_path": str(folder),
        "eval_args": {"split": {"OOV": {"ratio": 0.3}}, "order": "RO", "group_by": None, "mode": "full"},
        "epochs": 1,
        "topk": [2],
        "valid_metric": "MRR@2",
        "show_progress": False,
        "gpu_id": "",
        "checkpoint_dir": str(folder / "saved"),
    }
    write_atomic(folder, "circles", two_circles(length=12))
    result = run_recbole(model="BPR", dataset="circles", config_dict=options, saved=False)
    return "oov_recall@2" not in result["test_result"]


def teacher_is_run(folder: Path) -> bool:
    kd_dagfm = importlib.import_module("recbole.model.context_aware_recommender.kd_dagfm")
    teacher: Callable[[str], Any] = vars(kd_dagfm).get("eval", eval)  # what the module calls eval
    assert teacher is eval or teacher("CrossNet") is kd_dagfm.CrossNet
    with contextlib.suppress(ConfigError):
        teacher(f"__import__('pathlib').Path({str(folder / 'ran')!r}).touch()")
    return (folder / "ran").exists()


def item_vectors_are_unpickled(folder: Path) -> bool:
    ldiffrec = importlib.import_module("recbole.model.general_recommender.ldiffrec")
    np.save(folder / "plain.npy", np.eye(2))
    assert ldiffrec.np.load(folder / "plain.npy", allow_pickle=True).tolist() == np.eye(2).tolist()
    np.save(folder / "item_emb.npy", np.array([Evil(folder / "ran")], dtype=object))
    with contextlib.suppress(DataError):
        ldiffrec.np.load(folder / "item_emb.npy", allow_pickle=True)
    return (folder / "ran").exists()


def folder_made_in_between_is_an_error(folder: Path) -> bool:
    from recbole.utils import ensure_dir

    ensure_dir(str(folder / "new" / "one"))
    assert (folder / "new" / "one").is_dir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.path.exists", lambda path: False)  # as it was a moment before
        return fails(lambda: ensure_dir(str(folder)), FileExistsError)


SYMPTOMS: dict[str, Callable[[Any, Path], bool]] = {
    "numpy_aliases": lambda config, tmp_path: aliases_missing(),
    "sorted_interactions": lambda config, tmp_path: sorting_warns(),
    "dok_update": lambda config, tmp_path: not hasattr(scipy.sparse.dok_matrix, "_update"),
    "grad_scaler": lambda config, tmp_path: warned(lambda: trainer_module.amp.GradScaler(enabled=False)),
    "chained_fillna": lambda config, tmp_path: warned(lambda: dataset_module.Dataset._fill_nan(frame_with_gaps())),
    "optional_ray": lambda config, tmp_path: fails(
        partial(fresh_quick_start, tmp_path, "raise AttributeError('no np.bool8')"), AttributeError
    ),
    "collector_counts": lambda config, tmp_path: fails(collected().get_data_struct, AttributeError),
    "folders_made_twice": lambda config, tmp_path: folder_made_in_between_is_an_error(tmp_path),
    "download_barrier": lambda config, tmp_path: fails(
        lambda: dataset_module.Dataset._download(SimpleNamespace(config={"local_rank": 1})), ValueError
    ),
    "dataset_arguments": lambda config, tmp_path: dataset_arguments_leak(),
    "yaml_loader": lambda config, tmp_path: full_loader_changes(),
    "properties_case": lambda config, tmp_path: lightgbm_defaults_are_missing(),
    "dynamic_negatives": lambda config, tmp_path: dynamic_negatives_cost_a_graph(),
    "anomaly_detection": lambda config, tmp_path: anomaly_detection_is_on(),
    "cpu_processes": lambda config, tmp_path: processes_need_a_gpu(tmp_path),
    "plain_metrics": lambda config, tmp_path: metrics_are_numpy_numbers(),
    "pop_counts": lambda config, tmp_path: popularity() != [0, 2, 1, 0, 0],
    "ksr_relations": lambda config, tmp_path: ksr().relation_Matrix.dtype != torch.get_default_dtype(),
    "oov_groups": lambda config, tmp_path: groups_are_missing(tmp_path),
    "teacher_names": lambda config, tmp_path: teacher_is_run(tmp_path),
    "plain_item_vectors": lambda config, tmp_path: item_vectors_are_unpickled(tmp_path),
    "checkpoint_enums": lambda config, tmp_path: enums_unreadable(tmp_path),
    "checkpoint_config": config_unreadable,
    "checkpoint_files": lambda config, tmp_path: unreadable(stock_save(config, tmp_path)),
    "checkpoint_reasons": lambda config, tmp_path: reasons_missing(tmp_path),
}


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 40 users and 30 items, where a user likes the items of their own half."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "toy").mkdir()
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    rows += [f"u{u}\ti{i}\t{i}" for u in range(40) for i in range(30) if i % 2 == u % 2 and (i * 7 + u) % 5]
    (folder / "toy" / "toy.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def make_config(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    monkeypatch.chdir(tmp_path)

    def make(model: str = "BPR", **values: Any) -> Any:
        base = {"data_path": str(data_folder), "epochs": 1, "checkpoint_dir": str(tmp_path / "saved"), "gpu_id": ""}
        return Config(model=model, dataset="toy", config_dict={**base, **values})

    return make


@pytest.fixture
def config(make_config: Callable[..., Any]) -> Any:
    return make_config()


def test_there_is_a_symptom_for_every_fix() -> None:
    assert set(SYMPTOMS) == {fix.name for fix in compat.fixes()}


@pytest.mark.parametrize("name", sorted(SYMPTOMS))
def test_without_the_fix_the_fault_is_there_and_with_it_gone(name: str, config: Any, tmp_path: Path) -> None:
    with_it, without_it, again = (tmp_path / folder for folder in ("with", "without", "again"))
    for folder in (with_it, without_it, again):
        folder.mkdir()
    assert not SYMPTOMS[name](config, with_it)
    allowed = torch.serialization.get_safe_globals()
    if name == "checkpoint_enums":  # its whole effect is a list inside torch
        torch.serialization.clear_safe_globals()
    try:
        with mending.left_out(name):
            assert SYMPTOMS[name](config, without_it)
    finally:
        torch.serialization.add_safe_globals(allowed)
    assert not SYMPTOMS[name](config, again)


# --- the table --------------------------------------------------------------------------------------------------------


def test_apply_twice_changes_nothing() -> None:
    before, log = Config.compatibility_settings, len(mending._undo_log)
    compat.apply()
    assert Config.compatibility_settings is before
    assert len(mending._undo_log) == log
    assert sum(isinstance(finder, mending._Mender) for finder in sys.meta_path) == 1


def test_a_fix_that_does_not_exist_cannot_be_skipped() -> None:
    with pytest.raises(ValueError, match="no fix called numpy_alias;"):
        compat.apply(skip=["numpy_alias"])


def test_a_skipped_fix_is_left_out() -> None:
    with mending.left_out("dok_update"):
        compat.apply(skip=["dok_update"])
        assert not hasattr(scipy.sparse.dok_matrix, "_update")
    assert hasattr(scipy.sparse.dok_matrix, "_update")


@pytest.mark.parametrize("fix", compat.fixes(), ids=lambda fix: fix.name)
def test_every_fix_says_what_it_cures_and_is_in_the_documentation(fix: compat.Fix) -> None:
    assert fix.symptom
    assert fix.since
    assert len(fix.why) > 60
    row = next((r for r in (ROOT / "docs" / "compat.md").read_text("utf-8").splitlines() if f"`{fix.name}`" in r), "")
    assert row.startswith("|")
    assert fix.since in row
    assert ("**changes numbers**" in row) == fix.changes_numbers


def test_pandas_3_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pd, "__version__", "3.1.1")
    with pytest.raises(ImportError, match=r"pandas 3\.1\.1 .* pip install 'pandas>=2\.2,<3'"):
        compat.apply()


def test_a_module_is_mended_when_it_is_imported_and_looks_untouched_afterwards() -> None:
    name = "recbole.model.general_recommender.pop"
    held = sys.modules.pop(name)
    try:
        fresh = __import__(name, fromlist=["Pop"])
        assert fresh is not held
        assert fresh.Pop.calculate_loss.__module__ == "recbole_oov.compat.faults"
        assert type(fresh.__loader__).__module__ == type(held.__loader__).__module__
        assert "class Pop" in inspect.getsource(fresh)
    finally:
        sys.modules[name] = held


# --- libraries --------------------------------------------------------------------------------------------------------


def test_numpy_aliases_mean_what_recbole_means() -> None:
    own = np.bool, np.long
    Config.compatibility_settings(None)
    assert (np.bool, np.long) == own
    for name, kind in {"float": np.float64, "int": np.int_, "object": np.object_, "str": np.str_}.items():
        assert getattr(np, name) is kind
    assert np.dtype(np.bool) == np.dtype(bool)
    assert np.dtype(getattr(np, "complex")) == np.dtype(complex)  # noqa: B009 (the linter would put the builtin there)


def test_a_dok_matrix_is_filled() -> None:
    matrix = scipy.sparse.dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 1): 1, (1, 2): 1})
    assert matrix.tocoo().toarray().tolist() == [[0, 1, 0], [0, 0, 1]]


def test_only_the_trainer_sees_the_new_gradient_scaler() -> None:
    assert isinstance(trainer_module.amp.GradScaler(enabled=False), torch.amp.GradScaler)
    assert trainer_module.amp.autocast(enabled=False).device == "cuda"
    assert "recbole" not in torch.cuda.amp.GradScaler.__module__


def test_missing_values_are_filled() -> None:
    data = frame_with_gaps()
    dataset_module.Dataset._fill_nan(data)
    assert data.inter_feat.to_numpy().tolist() == [[1.0, 4.0], [0.0, 4.0]]


def test_a_ray_that_works_is_used(tmp_path: Path) -> None:
    quick_start = fresh_quick_start(tmp_path, "")
    assert quick_start.tune.real


def test_without_ray_the_stand_in_reports_nothing_and_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_start = fresh_quick_start(tmp_path, "import a_module_that_is_not_there")
    assert quick_start.tune.report(recall=0.1) is None
    assert not hasattr(quick_start.tune, "real")
    assert sys.modules.get("ray") is not quick_start.tune
    assert "ray.tune" not in sys.modules


# --- RecBole's own faults ---------------------------------------------------------------------------------------------


def test_counts_reach_the_metrics_as_they_are_and_stay_for_the_next_evaluation() -> None:
    collector = collected()
    for _ in range(2):
        collector.data_struct.set("rec.items", torch.tensor([[1, 2]]))
        struct = collector.get_data_struct()
        assert struct.get("data.num_items") == 7
        assert struct.get("data.count_items") == {1: 3}
        assert struct.get("rec.items").tolist() == [[1, 2]]
        assert "rec.items" not in collector.data_struct


@pytest.mark.parametrize("metric", ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage"])
def test_metrics_of_counts_can_be_computed(metric: str, make_config: Callable[..., Any]) -> None:
    config = make_config(metrics=["Recall", metric], valid_metric="Recall@10")
    train, valid, _ = data_preparation(config, create_dataset(config))
    model = get_model("BPR")(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, model)
    trainer.eval_collector.data_collect(train)
    value = trainer.evaluate(valid, load_best_model=False)[f"{metric.lower()}@10"]
    assert value >= 0
    if metric == "AveragePopularity":
        assert value > 1  # the mean count of an item is 8: the counter's keys are found


def test_other_code_still_hears_of_a_missing_process_group() -> None:
    with pytest.raises(ValueError, match="process group"):
        torch.distributed.barrier()


def test_numbers_are_read_as_recbole_reads_them_by_its_own_loader_alone() -> None:
    loader = Config._build_yaml_loader(None)
    assert Config._build_yaml_loader(None) is loader
    assert yaml.load("a: 1e-3", Loader=loader) == {"a": 0.001}  # noqa: S506
    assert yaml.load("a: 1e-3", Loader=yaml.FullLoader) == {"a": "1e-3"}  # noqa: S506


def test_the_exact_name_of_a_properties_file_comes_first(config: Any) -> None:
    assert config["embedding_size"] == 64  # BPR.yaml
    assert config["reg_weight"] is None


def test_candidates_are_scored_without_a_graph_and_the_mode_is_kept() -> None:
    loader, model = candidate_loader(), Scorer()
    loader.get_model(model)
    positives = Interaction({"user_id": torch.tensor([1, 2, 3]), "item_id": torch.tensor([7, 7, 7])})
    for training in (True, False):
        model.train(training)
        loader._neg_sampling(positives)
        assert model.training is training
    assert model.seen == [(False, False)] * 2


def test_scores_of_another_device_come_to_the_cpu() -> None:
    on_the_cpu = torch.ones(6)
    model = SimpleNamespace(training=True, predict=lambda _: SimpleNamespace(cpu=lambda: on_the_cpu))
    loader = candidate_loader()
    loader.get_model(model)
    assert loader.model.predict(None) is on_the_cpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_dynamic_negatives_on_a_gpu() -> None:
    loader, model = candidate_loader(), Scorer().cuda()
    model.device = torch.device("cuda")
    loader.get_model(model)
    positives = Interaction({"user_id": torch.tensor([1, 2, 3]), "item_id": torch.tensor([7, 7, 7])})
    assert loader._neg_sampling(positives).tolist() == [4, 5, 9]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def trained(config: Any) -> tuple[Any, Any, tuple[Any, Any, Any]]:
    init_seed(config["seed"], config["reproducibility"])
    data = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, data[0].dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(data[0], data[1], verbose=False)
    return trainer, model, data


@pytest.mark.parametrize("name", ["BPR", "EASE", "ItemKNN", "SLIMElastic", "DMF", "LightGCN"])
def test_what_a_model_saves_plain_torch_load_reads(name: str, make_config: Callable[..., Any]) -> None:
    trainer, model, (_, _, test) = trained(make_config(name))
    file = Path(trainer.saved_model_file)
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    state = torch.load(file)
    assert state["config"].final_config_dict == trainer.config.final_config_dict
    assert state["config"].model_class is type(model)
    assert type(state["best_valid_score"]) is float
    before = trainer.evaluate(test, load_best_model=False)
    for parameter in model.parameters():
        parameter.data.zero_()
    for other in getattr(model, "other_parameter_name", []):
        assert type(getattr(model, other)) is type(state["other_parameter"][other])
        setattr(model, other, None)
    assert trainer.evaluate(test) == before


def test_training_resumes(make_config: Callable[..., Any]) -> None:
    trainer, _, (train, valid, _) = trained(make_config(epochs=2))
    config = make_config(epochs=3)
    again = get_trainer(config["MODEL_TYPE"], "BPR")(config, get_model("BPR")(config, train.dataset))
    again.resume_checkpoint(trainer.saved_model_file)
    assert again.start_epoch in (1, 2)
    assert again.optimizer.state_dict()["state"]
    again.fit(train, valid, verbose=False)


def test_a_fresh_process_reads_and_evaluates_and_imports_nothing_it_does_not_need(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    trainer, _, (_, _, test) = trained(make_config("EASE", metrics=["Recall", "MAP"], valid_metric="Recall@10"))
    expected = {name: float(value) for name, value in trainer.evaluate(test).items()}
    code = f"""
import sys
import recbole_oov
early = [m for m in ("recbole.quick_start", "ray", "hyperopt", "plotly", "thop") if m in sys.modules]
assert not early, early
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
config, model, _, _, _, test = load_data_and_model({trainer.saved_model_file!r})
trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
result = trainer.evaluate(test, load_best_model=False)
print("result", {{name: float(value) for name, value in result.items()}})
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert f"result {expected}" in done.stdout, done.stdout + done.stderr


def test_pretraining_and_tree_models_save_in_the_same_way(make_config: Callable[..., Any], tmp_path: Path) -> None:
    trainer, _, _ = trained(make_config())
    path = str(tmp_path / "pretrained.pth")
    trainer_module.PretrainTrainer.save_pretrained_model(trainer, 3, path)
    assert torch.load(path)["epoch"] == 3
    trainer.temp_best_file = "trees.txt"
    trainer_module.DecisionTreeTrainer._save_checkpoint(trainer, 4)
    assert torch.load(path)["state_dict"] == "trees.txt"


def test_only_the_first_process_saves(make_config: Callable[..., Any]) -> None:
    trainer, _, _ = trained(make_config())
    file = Path(trainer.saved_model_file)
    file.unlink()
    trainer.config["single_spec"], trainer.config["local_rank"] = False, 1
    trainer._save_checkpoint(0)
    assert not file.exists()


def test_saving_into_a_buffer_is_torchs_own() -> None:
    import io

    buffer = io.BytesIO()
    trainer_module.torch.save({"a": torch.ones(2)}, buffer)
    buffer.seek(0)
    assert torch.load(buffer)["a"].tolist() == [1, 1]


class Evil:
    """What a checkpoint of somebody else's may hold."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_checkpoint_is_refused_and_not_run(make_config: Callable[..., Any], tmp_path: Path) -> None:
    trainer, _, (_, _, test) = trained(make_config())
    marker, file = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "config": Evil(marker)}, file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file)
    with pytest.raises(compat.CheckpointError, match=r"evil\.pth: .*system.* could run code, so it is refused"):
        compat.load_checkpoint(file)
    with pytest.raises(compat.CheckpointError):
        trainer.evaluate(test, model_file=str(file))
    with pytest.raises(compat.CheckpointError):
        trainer.resume_checkpoint(file)
    assert not marker.exists()


@pytest.mark.parametrize("given", [True, False])
def test_saved_data_that_a_checkpoint_names_are_not_unpickled(
    given: bool, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    trainer, _, _ = trained(make_config())
    state = compat.load_checkpoint(trainer.saved_model_file)
    files = {"dataset_save_path": "toy-Dataset.pth", "dataloaders_save_path": "toy-for-BPR-dataloader.pth"}
    for key, name in files.items():
        (tmp_path / name).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
        state["config"][key] = str(tmp_path / name) if given else None
    state["config"]["checkpoint_dir"] = str(tmp_path)
    compat.save_checkpoint(state, tmp_path / "shared.pth")
    quick_start = importlib.import_module("recbole.quick_start")
    assert quick_start.load_data_and_model(str(tmp_path / "shared.pth"))[0]["model"] == "BPR"
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_stock_recbole_is_read_and_nothing_of_it_run(
    config: Any, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    trainer, model, (_, _, test) = trained(make_config())
    before = trainer.evaluate(test)
    with mending.left_out("checkpoint_files"), mending.left_out("checkpoint_config"):
        trainer.saved_model_file = str(tmp_path / "model.pth")
        trainer._save_checkpoint(0, verbose=False)
    assert unreadable(tmp_path / "model.pth"), "plain torch.load"
    for parameter in model.parameters():
        parameter.data.zero_()
    assert trainer.evaluate(test) == before
    assert (
        compat.load_checkpoint(tmp_path / "model.pth")["config"].final_config_dict == trainer.config.final_config_dict
    )


def test_nothing_that_is_allowed_does_more_than_keep_data(config: Any) -> None:
    ours = {
        f.__qualname__ for f in torch.serialization.get_safe_globals() if f.__module__.startswith("recbole_oov.compat")
    }
    assert ours == {"restore_array", "restore_sparse"}
    names = {"restore_array", "restore_sparse", "OOVConfig", "Config"}
    names |= {name for name, value in vars(enum_type).items() if inspect.isclass(value)}
    recboles = {f.__qualname__ for f in torch.serialization.get_safe_globals() if f.__module__.startswith("recbole")}
    assert recboles <= names


def test_a_flipped_byte_never_changes_a_weight_silently(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    weights = torch.arange(500, dtype=torch.float32)
    compat.save_checkpoint({"state_dict": {"w": weights}, "epoch": 1}, file)
    good = file.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.choice(len(good), 150, replace=False):
        file.write_bytes(good[:place] + bytes([good[place] ^ (1 << int(generator.integers(8)))]) + good[place + 1 :])
        try:
            state = compat.load_checkpoint(file)
        except Exception:
            refused += 1
        else:
            assert torch.equal(state["state_dict"]["w"], weights)
            assert state["epoch"] == 1
    assert refused > 100


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    compat.save_checkpoint({"w": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(compat.CheckpointError, match=r"model\.pth"):
        compat.load_checkpoint(file)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    compat.save_checkpoint({"epoch": 1}, file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises((OSError, RuntimeError)):
            compat.save_checkpoint({"epoch": 2, "w": torch.ones(1_000_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert compat.load_checkpoint(file) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_crash_while_saving_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.pth"
    compat.save_checkpoint({"epoch": 1}, file)

    def half(_: Any, target: Any, **__: Any) -> None:
        target.write(b"PK half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        compat.save_checkpoint({"epoch": 2}, file)
    assert torch.load(file) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "best.pth"
    link.symlink_to(tmp_path / "disk" / "model.pth")
    compat.save_checkpoint({"epoch": 1}, link)
    assert link.is_symlink()
    assert torch.load(tmp_path / "disk" / "model.pth") == {"epoch": 1}


ARRAYS = {
    "float": np.linspace(0, 1, 6).reshape(2, 3),
    "float32": np.ones(3, dtype=np.float32),
    "bool": np.array([True, False]),
    "int": np.arange(5, dtype=np.int32),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">f8"),
    "reversed": np.arange(4)[::-1],
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "matrix": np.asmatrix(np.eye(2)),
    "text": np.array(["a", "bc"]),
    "objects": np.array([1, "a", None], dtype=object),
}
ARRAYS["read only"] = np.arange(3.0)
ARRAYS["read only"].flags.writeable = False


@pytest.mark.parametrize("name", sorted(ARRAYS))
@pytest.mark.filterwarnings("error::UserWarning")
def test_arrays_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    array = ARRAYS[name]
    compat.save_checkpoint({"other_parameter": {"a": array}}, tmp_path / "a.pth")
    back = torch.load(tmp_path / "a.pth")["other_parameter"]["a"]
    assert type(back) is type(array)
    assert back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array, strict=name != "big endian")


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
def test_sparse_matrices_come_back_as_they_were(form: str, kind: str, tmp_path: Path) -> None:
    dense = np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, 0], [0, 3, 4]], dtype=np.float32)
    matrix = getattr(scipy.sparse, f"{form}_{kind}")(dense)
    compat.save_checkpoint({"m": matrix}, tmp_path / "m.pth")
    back = torch.load(tmp_path / "m.pth")["m"]
    assert type(back) is type(matrix)
    assert back.dtype == np.float32
    assert back.shape == (4, 3)
    np.testing.assert_array_equal(back.toarray(), dense)


def test_the_order_inside_a_compressed_matrix_is_kept(tmp_path: Path) -> None:
    """A sum over a row in another order is another sum in the last bits."""
    matrix = scipy.sparse.csr_matrix(([1.0, 2.0], [2, 0], [0, 2]), shape=(1, 3))
    compat.save_checkpoint({"m": matrix}, tmp_path / "m.pth")
    assert torch.load(tmp_path / "m.pth")["m"].indices.tolist() == [2, 0]


def test_indices_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="ind"):
        checkpoints.restore_sparse("csr_matrix", (1, 3), np.ones(1), np.array([7]), np.array([0, 1]))
    with pytest.raises(ValueError, match="ind"):
        checkpoints.restore_sparse("coo_matrix", (1, 3), np.ones(1), np.array([0]), np.array([7]))
    with pytest.raises(compat.CheckpointError, match="os"):
        checkpoints.restore_sparse("os_system", (1, 3), np.ones(1), np.array([0]), np.array([7]))


def test_values_become_plain_where_nothing_is_lost(make_config: Callable[..., Any], tmp_path: Path) -> None:
    config = make_config()
    values = {
        "number": np.float64(0.5),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "name": np.str_("abc"),
        "path": tmp_path,
        "sizes": (np.int64(3), 4),
        "kinds": frozenset({"a", "b"}),
        "range": range(3),
        "nested": {"deep": [{np.int64(7): np.float32(0.25)}]},
        "default": collections.defaultdict(list, {"a": [1]}),
        "ordered": collections.OrderedDict(a=1),
        "counter": collections.Counter("aab"),
        "type": ModelType.CONTEXT,
        "none": None,
        "large": 2**70,
        "bytes": b"\xff\x00",
    }
    for key, value in values.items():
        config[key] = value
    compat.save_checkpoint({"config": config}, tmp_path / "c.pth")
    back = torch.load(tmp_path / "c.pth")["config"]
    expected = {**values, "path": str(tmp_path), "kinds": {"a", "b"}, "range": [0, 1, 2]}
    for key, value in expected.items():
        assert back[key] == value, key
    assert type(back["number"]) is float
    assert type(back["default"]) is dict
    assert [type(key) for key in back["nested"]["deep"][0]] == [int]


def test_the_metadata_of_a_state_dict_survives(tmp_path: Path) -> None:
    weights = torch.nn.BatchNorm1d(2).state_dict()
    compat.save_checkpoint({"state_dict": weights}, tmp_path / "m.pth")
    assert torch.load(tmp_path / "m.pth")["state_dict"]._metadata == weights._metadata


class Plain:
    """A class of a user's own."""


def test_an_object_that_will_be_refused_is_announced_when_it_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "m.pth"
    with caplog.at_level("WARNING"):
        compat.save_checkpoint({"thing": Plain()}, file)
    assert re.search(r"m\.pth holds objects of \S*test_compat\.Plain", caplog.text)
    with pytest.raises(compat.CheckpointError, match=r"refers to \S*test_compat\.Plain.*allow_in_checkpoints"):
        compat.load_checkpoint(file)
    allowed = torch.serialization.get_safe_globals()
    try:
        compat.allow_in_checkpoints(Plain)
        assert isinstance(compat.load_checkpoint(file)["thing"], Plain)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def test_layers_are_not_saved_twice(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.embed = torch.nn.Embedding(3, 2)
    other = {"embed": model.embed, "apart": torch.nn.Embedding(3, 2), "w": torch.ones(1)}
    state = {"state_dict": model.state_dict(), "other_parameter": other}
    assert set(checkpoints._without_layers(state)["other_parameter"]) == {"apart", "w"}
    assert set(other) == {"embed", "apart", "w"}


def test_a_copied_config_keeps_a_class_that_no_name_leads_to(make_config: Callable[..., Any]) -> None:
    class Mine(get_model("BPR")):  # type: ignore[misc]
        pass

    config = make_config(Mine)
    assert copy.copy(config).model_class is Mine
    deep = copy.deepcopy(config)
    assert deep.model_class is Mine
    assert deep.final_config_dict == config.final_config_dict
    assert deep.final_config_dict is not config.final_config_dict
    back = pickle.loads(pickle.dumps(config))  # noqa: S301
    assert back["model"] == "Mine"
    assert not hasattr(back, "model_class")
    assert back.yaml_loader is config.yaml_loader
    assert configurator.Config is type(back)


def test_checkpoints_are_zip_files_with_check_sums(tmp_path: Path) -> None:
    compat.save_checkpoint({"w": torch.ones(10)}, tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        assert archive.testzip() is None
        assert any(info.CRC for info in archive.infolist())
