from __future__ import annotations

import copy
import importlib.util
import logging
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recbole.config import Config
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType

from recbole_oov import registry
from recbole_oov.config import OOVConfig, check_writable, install
from recbole_oov.config.keys import keys_read_by, recbole_keys
from recbole_oov.config.reading import read_config_file
from recbole_oov.config.rules import RULES, intervals
from recbole_oov.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def configure(*options: str, model: Any = "BPR", dataset: str = "ml-100k", **kwargs: Any) -> OOVConfig:
    return OOVConfig(model, dataset, argv=list(options), **kwargs)


def problems(*options: str, **kwargs: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configure(*options, **kwargs)
    return caught.value.errors


# ---- files and layers ----


def test_config_files_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("wandb_project: 'caf\xe9'".encode("latin-1"))
    assert "does not exist" in problems(config_file_list=[tmp_path / "none.yaml"])[0]
    assert "not UTF-8 text at byte 19" in problems(config_file_list=[tmp_path / "latin.yaml"])[0]
    assert "cannot be read" in problems(config_file_list=[tmp_path])[0]


def test_an_empty_config_file_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert configure(config_file_list=[tmp_path / "empty.yaml"])["epochs"] == 300


def test_merge_keys_and_anchors_work(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("clip_grad_norm: &base {max_norm: 5}\ntrain_neg_sample_args: {sample_num: 2}\n")
    config = configure(config_file_list=[tmp_path / "a.yaml"])
    assert config["clip_grad_norm"] == {"max_norm": 5}
    assert config["train_neg_sample_args"]["sample_num"] == 2


def test_the_users_layers_win_in_recboles_order(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("epochs: 1\nseed: 1\nstopping_step: 1\neval_step: 1\nworker: 1\n")
    second.write_text("seed: 2\nstopping_step: 2\neval_step: 2\n")
    given = {"stopping_step": 3, "eval_step": "3"}
    config = configure("--eval_step=4", config_file_list=[first, second], config_dict=given)
    assert [config[key] for key in ("epochs", "seed", "stopping_step", "eval_step")] == [1, 2, 3, 4]
    assert given == {"stopping_step": 3, "eval_step": "3"}


def test_config_files_can_be_named_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text("model: BPR\ndataset: ml-100k\nepochs: 7\n")
    (tmp_path / "2.yaml").write_text("seed: 8\n")
    config = OOVConfig(argv=[f"--config_files={tmp_path / '1.yaml'} {tmp_path / '2.yaml'}"])
    assert (config["model"], config["epochs"], config["seed"]) == ("BPR", 7, 8)


def test_the_plugins_model_file_wins_over_recboles_for_its_type(registered_model: type) -> None:
    config = configure(model="Shelf")
    assert config["repeatable"] is True
    assert config["metrics"] == ["NDCG"]  # RecBole's overall.yaml has five
    assert config["eval_args"]["mode"] == {"valid": "uni5", "test": "uni5"}  # sequential.yaml says full
    stock = Config("Shelf", "ml-100k", config_dict={"train_neg_sample_args": None})
    assert stock["metrics"] == ["NDCG"]
    assert stock["shelf_width"] == 12


def test_the_plugins_general_file_holds_its_own_keys_alone() -> None:
    own = set(read_config_file(registry.properties_folder() / "overall.yaml"))
    assert own
    assert not own & recbole_keys()
    assert own <= set(RULES)


def test_installing_again_changes_nothing() -> None:
    before = Config._load_internal_config_dict
    install()
    assert Config._load_internal_config_dict is before


@pytest.mark.parametrize("path", sorted((ROOT / "properties").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_parses(path: Path) -> None:
    assert isinstance(read_config_file(path), dict)


@pytest.mark.parametrize("name", [name for name in registry.model_names() if name not in registry.plugin_model_names()])
def test_recboles_models_are_configured_as_recbole_configures_them(name: str, workplace: Path) -> None:
    try:
        registry.get_model(name)
    except ConfigError as error:
        pytest.skip(str(error))
    ours = configure(model=name)
    mended: dict[str, Any] = {"train_neg_sample_args": None} if ours["loss_type"] == "CE" else {}
    if ours["MODEL_TYPE"] == ModelType.DECISIONTREE:
        mended["epochs"] = 1
    if ours["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        mended.pop("train_neg_sample_args", None)
    elif name in ("GRU4RecKG", "KSR"):
        mended["eval_args"] = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}
    stock = Config(name, "ml-100k", config_dict=mended)
    theirs = dict(stock.final_config_dict)
    # RecBole gives no path's end; ours is the folder itself.
    assert Path(theirs.pop("data_path")).resolve() == Path(ours["data_path"]).resolve()
    assert {key: ours[key] for key in theirs} == theirs
    assert set(ours.final_config_dict) - set(theirs) <= {"data_path", "token_num_threshold"}


# ---- sys.argv ----


def test_a_scripts_own_arguments_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "train", "--verbose", "--epochs=3", "--my_own=4", "--epoch=5"])
    with caplog.at_level(logging.WARNING):
        config = OOVConfig("BPR", "ml-100k")
    assert config["epochs"] == 3
    assert "train --verbose" in caplog.text
    assert "my_own is not an option" in caplog.text
    assert "did you mean epochs" in caplog.text


def test_a_scripts_wrong_value_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "--epochs=-3"])
    with pytest.raises(ConfigError, match="epochs: -3 is not allowed"):
        OOVConfig("BPR", "ml-100k")


@pytest.mark.parametrize("program", ["/usr/lib/ipykernel_launcher.py", "/venv/lib/pytest/__main__.py", "pytest"])
def test_the_arguments_of_notebooks_and_pytest_are_not_ours(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program, "--epochs=3", "-f=kernel.json"])
    assert OOVConfig("BPR", "ml-100k")["epochs"] == 300


# ---- keys ----


def test_keys_are_found_in_source() -> None:
    source = (
        'a = config["one"]\nb = self.config["two"]\nc = config.get("three")\nif "four" in config: pass\n'
        'd = config.five\nhasattr(config, "six")\ne = config.final_config_dict["seven"]\nf = config.method(1)\n'
    )
    assert keys_read_by(source) >= {"one", "two", "three", "four", "five", "six", "seven"}
    assert "method" not in keys_read_by(source)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--epoch=3", "epoch is not an option; did you mean epochs?"),
        ("--Learning_Rate=0.1", "Learning_Rate is not an option; did you mean learning_rate"),
        ("--checkpoint_dirr=x", "did you mean checkpoint_dir"),
        ("--max_item_list_length=3", "did you mean MAX_ITEM_LIST_LENGTH"),
        ("--train_position=all", "did you mean train_positions"),
        ("--lr=0.1", "lr is not an option; RecBole calls it learning_rate"),
        ("--device=cpu", "RecBole calls it use_gpu"),
        ("--n_layers=3", "n_layers is not an option of BPR (its own are embedding_size); it is one of "),
        ("--zzzzqqqq=3", "zzzzqqqq is not an option; no option comes near it"),
    ],
)
def test_an_unknown_option_is_refused_with_a_hint(option: str, said: str) -> None:
    assert said in problems(option)[0]


def test_an_unknown_option_in_a_dictionary_or_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("epoch: 3\n")
    assert "epoch is not" in problems(config_file_list=[tmp_path / "a.yaml"])[0]
    assert "epoch is not" in problems(config_dict={"epoch": 3})[0]
    assert "n_layers is not an option of BPR" in problems(config_dict={"n_layers": 3})[0]


def test_a_file_may_serve_several_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.yaml").write_text("n_layers: 3\nembedding_size: 32\n")
    with caplog.at_level(logging.WARNING):
        assert configure(config_file_list=[tmp_path / "a.yaml"])["embedding_size"] == 32
    assert "n_layers is not an option of BPR" in caplog.text


def test_what_recbole_reads_is_known() -> None:
    known = recbole_keys()
    for name in ("epochs", "additional_feat_suffix", "benchmark_filename", "numerical_features", "transform", "worker"):
        assert name in known


def test_a_registered_models_own_options_are_known(registered_model: type) -> None:
    assert configure("--shelf_width=3", model="Shelf")["shelf_width"] == 3  # in its YAML
    assert configure("--shelf_depth=3", model=registered_model)["shelf_depth"] == 3  # read in its source
    assert "shelf_width" in problems("--shelf_widht=3", model="Shelf")[0]
    assert problems("--shelf_width=wide", model="Shelf") == ["shelf_width: 'wide' is not allowed; it must be a number"]


def test_a_models_own_checks_are_heard(registered_model: Any) -> None:
    assert problems("--shelf_width=99", model="Shelf") == ["shelf_width: 99 does not fit through the door"]


# ---- values of options ----


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--epochs=0", "epochs: 0 is not allowed; it must be a whole number of at least 1"),
        ("--epochs=1.5", "epochs: 1.5 is not allowed"),
        ("--epochs=True", "epochs: True is not allowed"),
        ("--epochs=None", "epochs: None is not allowed"),
        ("--train_batch_size=many", "train_batch_size: 'many' is not allowed; it must be a whole number"),
        ("--learning_rate=-0.1", "learning_rate: -0.1 is not allowed; it must be a number above 0"),
        ("--learning_rate=.inf", "learning_rate: inf is not allowed"),
        ("--learning_rate=.nan", "learning_rate: nan is not allowed"),
        ("--learner=adamm", "learner: 'adamm' is not allowed; it must be one of adam, adamw"),
        ("--weight_decay=-1", "weight_decay: -1 is not allowed; it must be a number of at least 0"),
        ("--eval_step=-1", "eval_step: -1"),
        ("--stopping_step=x", "stopping_step: 'x'"),
        ("--seed=-1", "seed: -1 is not allowed; it must be a whole number of at least 0 and at most 4294967295"),
        ("--gpu_id=first", "gpu_id: 'first'"),
        ("--use_gpu=1", "use_gpu: 1 is not allowed; it must be True or False"),
        ("--shuffle=maybe", "shuffle: 'maybe'"),
        ("--show_progress=yes", "show_progress: 'yes'"),
        ("--topk=[10,0]", "topk: [10, 0] is not allowed"),
        ("--topk=[10,20", "topk: '[10,20' is not allowed"),
        ("--metric_decimal_place=-1", "metric_decimal_place"),
        ("--MAX_ITEM_LIST_LENGTH=0", "MAX_ITEM_LIST_LENGTH: 0"),
        ("--user_inter_num_interval=5", "user_inter_num_interval: 5 is not allowed; it must be None, or an interval"),
        ("--item_inter_num_interval=[9,3]", "item_inter_num_interval: '[9, 3]'"),
        ("--val_interval={rating: x}", "val_interval"),
        ("--threshold={rating: 4, age: 3}", "threshold: {'rating': 4, 'age': 3} is not allowed"),
        ("--load_col=[user_id]", "load_col: ['user_id'] is not allowed; it must be None, or a mapping {file suffix"),
        ("--rm_dup_inter=middle", "rm_dup_inter: 'middle'"),
        (
            "--benchmark_filename=[a,b]",
            "benchmark_filename: ['a', 'b'] is not allowed; it must be None, or a list of 3",
        ),
        ("--embedding_size=64.5", "embedding_size: 64.5 is not allowed; it must be a whole number of at least 1"),
        ("--clip_grad_norm=5", "clip_grad_norm: 5 is not allowed; it must be None or a mapping with the keys max_norm"),
        ("--clip_grad_norm={norm_type: 2}", "clip_grad_norm: max_norm is missing"),
        ("--clip_grad_norm={max_norm: -1}", "clip_grad_norm max_norm: -1"),
        ("--train_neg_sample_args={num: 1}", "train_neg_sample_args: 'num' is not one of its keys"),
        ("--train_neg_sample_args={distribution: normal}", "train_neg_sample_args distribution: 'normal'"),
        ("--train_neg_sample_args={sample_num: 0}", "train_neg_sample_args sample_num: 0"),
        ("--train_neg_sample_args={dynamic: True}", "dynamic is True but candidate_num is 0"),
        ("--train_neg_sample_args=3", "train_neg_sample_args: 3 is not allowed"),
        ("--metrics=[Recal]", "metrics: there is no metric called 'Recal'; there are auc"),
        ("--metrics=[]", "metrics: [] is not allowed"),
        ("--metrics=3", "metrics: 3 is not allowed"),
        ("--metrics=[Recall,AUC]", "metrics: ['Recall'] rank items and ['AUC'] compare values"),
        ("--valid_metric=MRR@20", "valid_metric: 'MRR@20' is not computed in this run; with these metrics and topk it"),
        ("--valid_metric=MRR", "valid_metric: 'MRR' is not computed"),
        ("--valid_metric=oov_mrr@10", "valid_metric: 'oov_mrr@10' is not computed"),
        ("--eval_args=full", "eval_args: 'full' is not allowed"),
        ("--eval_args={splits: 3}", "eval_args: 'splits' is not one of its keys, which are split, order"),
        ("--eval_args={split: 3}", "eval_args split: 3 is not allowed"),
        ("--eval_args={split: {XS: 3}}", "one of the keys RS, LS, TS, OOV"),
        ("--eval_args={split: {RS: [1, 1]}}", "eval_args split RS: [1, 1] is not allowed; it must be three numbers"),
        ("--eval_args={split: {RS: [1, -1, 1]}}", "none negative"),
        ("--eval_args={split: {RS: [0, 1, 1]}}", "the first above 0"),
        (
            "--eval_args={split: {LS: all}}",
            "eval_args split LS: 'all' is not allowed; it must be one of valid_and_test",
        ),
        ("--eval_args={order: AO}", "eval_args order: 'AO'"),
        ("--eval_args={group_by: item}", "eval_args group_by: 'item'"),
        ("--eval_args={mode: uni}", "eval_args mode: 'uni' is not allowed"),
        ("--eval_args={mode: uni0}", "eval_args mode: 'uni0' is not allowed"),
        ("--eval_args={mode: {valid: full, tset: full}}", "eval_args mode: 'tset' is not one of its keys"),
        ("--train_positions=some", "train_positions: 'some' is not allowed; it must be one of last, all"),
        ("--window_stride=0", "window_stride: 0"),
        ("--mask_history=2", "mask_history: 2"),
        ("--data_checks=off", "data_checks: 'off' is not allowed; it must be one of error, warn"),
        ("--normalize_field=[rating] --normalize_all=True", "normalize_field and normalize_all exclude each other"),
        ("--unload_col={inter: [rating]}", "load_col and unload_col both name columns of .inter"),
        ("--USER_ID_FIELD=None", "USER_ID_FIELD and ITEM_ID_FIELD must both be set"),
        ("--port=99999 --nproc=0", "port: 99999 is not allowed; it must be a port number"),
    ],
)
def test_a_value_out_of_bounds_is_refused(option: str, said: str) -> None:
    options = option.split(" --")
    found = problems(options[0], *(f"--{other}" for other in options[1:]))
    assert said in found[0], found


@pytest.mark.parametrize(
    ("model", "option", "said"),
    [
        (
            "SASRec",
            "--hidden_dropout_prob=1.0",
            "hidden_dropout_prob: 1.0 is not allowed; it must be a number of at least 0 and below 1",
        ),
        ("SASRec", "--hidden_act=gelo", "hidden_act: 'gelo' is not allowed; it must be one of gelu, relu"),
        ("SASRec", "--loss_type=BCE", "loss_type: 'BCE' is not allowed; SASRec can learn with CE or BPR"),
        ("SASRec", "--repeatable=False", "repeatable: SASRec is sequential"),
        ("SASRec", "--eval_args={order: RO}", "eval_args order: SASRec learns sequences"),
        ("SASRec", "--TIME_FIELD=None", "TIME_FIELD: SASRec learns sequences and needs"),
        ("SASRec", "--train_neg_sample_args={sample_num: 2}", "SASRec learns with loss_type CE, against all items"),
        ("SASRec", "--embedding_size=32", "embedding_size is not an option of SASRec"),
        ("NARM", "--dropout_probs=[0.1, 1.5]", "dropout_probs: [0.1, 1.5] is not allowed; it must be a list"),
        ("NeuMF", "--mlp_hidden_size=64", "mlp_hidden_size: 64 is not allowed; it must be a list"),
        ("NeuMF", "--mf_train=0", "mf_train: 0 is not allowed; it must be True or False"),
        ("FM", "--eval_args={mode: full}", "compare values, for which eval_args mode full will not do"),
        ("DMF", "--inter_matrix_type=1", "inter_matrix_type: 1 is not allowed; it must be text"),
    ],
)
def test_a_models_options_are_checked(model: str, option: str, said: str) -> None:
    assert any(said in problem for problem in problems(option, model=model))


@pytest.mark.parametrize(
    "option",
    [
        "--topk=5 --valid_metric=mrr@5",
        "--topk=[5,10] --metrics=NDCG --valid_metric=ndcg@10",
        "--eval_args={split: {OOV: {ratio: 0.2}}} --valid_metric=oov_recall@10",
        "--eval_args={split: {TS: [8, 1, 1]}, order: TO}",
        "--eval_args={mode: {valid: uni100, test: full}}",
        "--user_inter_num_interval=[5,inf)",
        "--user_inter_num_interval=[5,10];(20,30)",
        "--item_inter_num_interval=[5,10]",
        "--val_interval={rating: '[3,inf)', class: [a, b]}",
        "--clip_grad_norm={max_norm: 5, norm_type: 2}",
        "--train_neg_sample_args={distribution: popularity, sample_num: 2, alpha: 0.5}",
        "--train_neg_sample_args={dynamic: True, candidate_num: 5}",
        "--train_neg_sample_args=None",
        "--gpu_id=[0,1]",
        "--gpu_id=",
        "--gpu_id=MIG-5e4e6b3a-1d0e",
        "--learner=AdamW",
        "--load_col={inter: '*'}",
        "--threshold=None",
        "--numerical_features=[rating]",
        "--normalize_field=[rating]",
        "--nproc=2 --ip=localhost --port=5678 --world_size=-1 --group_offset=0",
    ],
)
def test_what_recbole_takes_is_taken(option: str) -> None:
    options = option.split(" --")
    configure(options[0], *(f"--{other}" for other in options[1:]))


def test_intervals_are_read_as_recbole_reads_them() -> None:
    assert intervals("[5,inf)") == [(True, 5, float("inf"), False)]
    assert intervals("(0, 1]; [3,4)") == [(False, 0, 1, True), (True, 3, 4, False)]
    for wrong in ("", "5", "[5,4]", "[a,b]", "[1,2,3]", "1,2"):
        assert intervals(wrong) is None


def test_all_problems_are_reported_at_once(workplace: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        OOVConfig(
            config_file_list=["none.yaml"],
            argv=["--model=SASRce", "--dataset=ml-100", "--epoch=1", "--learning_rate=-1", "--use_gpu", "--topk=0"],
        )
    text = str(caught.value)
    for words in (
        "none.yaml",
        "did you mean SASRec",
        "ml-100k",
        "epochs",
        "learning_rate: -1",
        "--use_gpu has no value",
    ):
        assert words in text
    assert text.startswith(f"{len(caught.value.errors)} problems in the configuration:\n  - ")
    assert not list(workplace.iterdir())


def test_a_missing_model_and_dataset_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        OOVConfig(argv=[])
    assert [error.split(":")[0] for error in caught.value.errors] == ["model", "dataset"]


# ---- what RecBole's defaults lack ----


@pytest.mark.parametrize("name", ["LightGBM", "XGBoost"])
def test_decision_trees_find_their_defaults_and_train_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("lightgbm", "xgboost"):
        if importlib.util.find_spec(library) is None:
            stand_in = types.ModuleType(library)
            stand_in.Booster = type("Booster", (), {})  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, library, stand_in)
    before = set(sys.modules)
    config = configure(model=name)
    assert config["epochs"] == 1
    assert config["lgb_params" if name == "LightGBM" else "xgb_params"]["max_depth"] is not None
    assert config["token_num_threshold"] == 10_000
    assert configure("--epochs=2", model=name)["epochs"] == 2
    for module in set(sys.modules) - before:
        if module.startswith("recbole.model.exlib_recommender"):  # imported with the stand-ins
            del sys.modules[module]


def test_sequential_models_with_ce_need_no_sampling_option() -> None:
    assert configure(model="SASRec")["train_neg_sample_args"]["distribution"] == "none"
    bpr = configure("--loss_type=BPR", model="SASRec")
    assert bpr["train_neg_sample_args"]["distribution"] == "uniform"
    assert bpr["MODEL_INPUT_TYPE"] == InputType.PAIRWISE


def test_a_part_of_eval_args_keeps_the_model_types_rest() -> None:
    args = configure("--eval_args={mode: uni100}", model="SASRec")["eval_args"]
    assert (args["split"], args["order"]) == ({"LS": "valid_and_test"}, "TO")
    assert args["mode"] == {"valid": "uni100", "test": "uni100"}
    assert configure("--eval_args={split: {RS: [1, 1, 1]}}", model="FM")["eval_args"]["mode"]["test"] == "labeled"
    assert configure("--eval_args={mode: uni5}")["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}


@pytest.mark.parametrize(
    ("model", "options", "columns"),
    [
        ("BPR", [], ["user_id", "item_id"]),
        ("SASRec", [], ["user_id", "item_id", "timestamp"]),
        ("BPR", ["--eval_args={order: TO}"], ["user_id", "item_id", "timestamp"]),
        ("BPR", ["--threshold={rating: 3}"], ["user_id", "item_id", "rating"]),
        ("BPR", ["--USER_ID_FIELD=person"], ["person", "item_id"]),
        ("BPR", ["--load_col={inter: [user_id, item_id, year]}"], ["user_id", "item_id", "year"]),
    ],
)
def test_the_columns_that_a_run_asks_for_are_loaded(
    tiny_dataset: Path, model: str, options: list[str], columns: list[str]
) -> None:
    assert configure(*options, model=model, dataset="tiny")["load_col"] == {"inter": columns}


# ---- data sets ----


def test_the_bundled_data_set_is_found_from_anywhere(workplace: Path) -> None:
    assert (Path(configure()["data_path"]) / "ml-100k.inter").is_file()
    own = workplace / "mine" / "ml-100k"
    own.mkdir(parents=True)
    (own / "ml-100k.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    assert Path(configure("--data_path=mine")["data_path"]) == Path("mine/ml-100k")
    assert (Path(configure("--data_path=elsewhere")["data_path"]) / "ml-100k.kg").is_file()


def test_a_missing_data_set_is_explained(tiny_dataset: Path) -> None:
    assert configure(dataset="tiny")["data_path"] == str(Path("dataset/tiny"))
    found = problems(dataset="tinny")[0]
    assert f"looked for the folder {tiny_dataset.parent / 'tinny'}" in found
    assert "dataset has tiny" in found
    assert "did you mean tiny?" in found
    assert "did you mean ml-1m" in problems(dataset="ml1m")[0]
    assert "--data_path=dataset --dataset=tiny" in problems("--data_path=dataset", dataset="dataset/tiny")[0]
    assert "data_path 'nowhere' is not a folder" in problems("--data_path=nowhere", dataset="qqqqqqqq")[0]
    assert "cannot name a folder" in problems(dataset="x" * 3000)[0]


def test_a_data_set_that_recbole_can_download_is_accepted(workplace: Path) -> None:
    assert configure(dataset="ml-1m")["dataset"] == "ml-1m"


def test_a_folder_without_interactions_is_explained(tiny_dataset: Path) -> None:
    (tiny_dataset / "tiny.inter").rename(tiny_dataset / "tiny.inters")
    found = problems(dataset="tiny")
    assert "has tiny.inters, tiny.item, but not tiny.inter" in found[0]
    assert len(problems("--benchmark_filename=[train,valid,test]", dataset="tiny")) == 3


# ---- devices ----


def test_use_gpu_false_means_cpu_whatever_gpu_id_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = configure("--use_gpu=False", "--gpu_id=0")
    assert config["device"] == torch.device("cpu")
    assert config["single_spec"] is True
    assert config["local_rank"] == 0
    assert configure("--gpu_id=0")["device"] == torch.device("cuda")
    assert configure("--gpu_id=[0, 1]")["gpu_id"] == "0,1"


def test_several_processes_without_cuda_talk_through_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **kwargs: asked.update(kwargs))
    group = {"nproc": 2, "world_size": 4, "ip": "localhost", "port": "5678", "offset": 2, "local_rank": 1}
    config = configure(config_dict=group)
    assert config["device"] == torch.device("cpu")
    assert config["single_spec"] is False
    assert config["show_progress"] is False
    assert asked.pop("timeout").total_seconds() == config["process_timeout"] == 600
    assert asked == {"backend": "gloo", "rank": 3, "world_size": 4, "init_method": "tcp://localhost:5678"}


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    group = {"nproc": 2, "world_size": 2, "ip": "localhost", "port": "5678", "offset": 0, "local_rank": 0}
    assert "gpu_id: 1 named for nproc: 2" in problems(config_dict=group)[0]


# ---- keeping and printing ----


def test_a_config_survives_pickling_and_checkpoints(tmp_path: Path) -> None:
    config = configure("--epochs=3", model="SASRec")
    for again in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):  # noqa: S301
        assert type(again) is OOVConfig
        assert again.final_config_dict == config.final_config_dict
        assert again.model_class is config.model_class
    torch.save({"config": config}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["config"]["epochs"] == 3


def test_a_config_prints_as_recboles_does(workplace: Path) -> None:
    def lines(config: Any) -> list[str]:
        return sorted(line for line in str(config).splitlines() if "data_path" not in line)

    assert lines(configure()) == lines(Config("BPR", "ml-100k"))


def test_pyyamls_loaders_are_left_alone() -> None:
    configure()
    assert yaml.load("a: None", Loader=yaml.SafeLoader) == {"a": "None"}
    assert yaml.load("a: 2020-01-01", Loader=yaml.SafeLoader)["a"].year == 2020


# ---- where results go ----


def test_writable_places_pass_and_stay_as_they_are(workplace: Path) -> None:
    check_writable(configure("--checkpoint_dir=a/b/c"))
    assert not list(workplace.iterdir())


def test_a_place_under_a_file_is_refused(workplace: Path) -> None:
    (workplace / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"checkpoint_dir: cannot write to file/sub.*{workplace / 'file'} is a file"):
        check_writable(configure("--checkpoint_dir=file/sub/x"))
    assert [path.name for path in workplace.iterdir()] == ["file"]


def test_a_place_without_permission_is_refused(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_oov.config.places.os.access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"checkpoint_dir: cannot write to saved .*no permission") as caught:
        check_writable(configure())
    assert any("log" in error for error in caught.value.errors)


def test_a_place_that_takes_no_file_is_refused(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbole_oov.config.places.tempfile.NamedTemporaryFile", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        check_writable({"checkpoint_dir": "saved"})


# ---- a model of a third party ----


class Shelf(GeneralRecommender):  # type: ignore[misc]
    """A model as another package would register it."""

    type = ModelType.SEQUENTIAL
    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.depth = config["shelf_depth"]

    @staticmethod
    def config_problems(values: Any) -> list[str]:
        return ["shelf_width: 99 does not fit through the door"] if values["shelf_width"] == 99 else []


@pytest.fixture
def registered_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    path = tmp_path / "Shelf.yaml"
    path.write_text("shelf_width: 12\nmetrics: [NDCG]\nvalid_metric: NDCG@10\n"
                    "eval_args: {split: {LS: valid_and_test}, order: TO, mode: uni5}\n")  # fmt: skip
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry.register(Shelf, properties=path)
    return Shelf


def test_a_model_without_source_may_read_anything() -> None:
    module = types.ModuleType("made_up")
    made = type("MadeUp", (GeneralRecommender,), {"__module__": "made_up", "input_type": InputType.PAIRWISE})
    sys.modules["made_up"] = module
    try:
        config = configure("--zzzz=3", "--n_layers=2", model=made)
        assert config["zzzz"] == 3
        assert "did you mean epochs" in problems("--epoch=3", model=made)[0]
    finally:
        del sys.modules["made_up"]
