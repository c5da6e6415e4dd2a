"""Evaluation through a trainer: RecBole's numbers, in whatever batches; groups; scores that are no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer

from recbole_oov import runner
from recbole_oov.config import OOVConfig
from recbole_oov.errors import ConfigError, DataError, RecBoleOOVError
from recbole_oov.evaluation.groups import prefixed
from recbole_oov.evaluation.per_user import read_per_user

OPTIONS = {
    "show_progress": False,
    "state": "ERROR",
    "topk": [3, 10],
    "metrics": ["Recall", "NDCG", "MRR", "MAP", "Precision", "Hit", "ItemCoverage", "GiniIndex"],
    "valid_metric": "MRR@10",
    "metric_decimal_place": 10,
    "data_checks": "warn",
}
OOV = {"eval_args": {"split": {"OOV": {"ratio": 0.4}}, "order": "RO", "group_by": None, "mode": "full"}}


@pytest.fixture(autouse=True)
def _data(tiny_dataset: Path) -> None:
    """Every test runs on ``tiny``."""


def prepared(model: str, **options: Any) -> runner.Experiment:
    return runner.prepare(model, "tiny", config_dict={**OPTIONS, **options}, argv=[])


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("BPR", {}),
        ("LightGCN", {}),
        ("NeuMF", {}),  # scores pair by pair
        ("MultiVAE", {}),
        ("SASRec", {}),
        ("BPR", {"eval_args": {"mode": "uni20"}}),
        ("BPR", {"eval_args": {"mode": "pop10"}}),
        ("BPR", {"eval_args": {"split": {"TS": [0.7, 0.1, 0.2]}, "order": "TO", "mode": "full"}}),
    ],
)
def test_without_ties_the_metrics_are_recboles(model: str, options: dict[str, Any]) -> None:
    experiment = prepared(model, **options)
    stock = Trainer(experiment.config, experiment.model)
    stock.eval_collector.data_collect(experiment.train_data)
    for data in (experiment.valid_data, experiment.test_data):
        np.random.seed(0)  # noqa: NPY002 (RecBole samples with it)
        ours = experiment.trainer.evaluate(data, load_best_model=False)
        np.random.seed(0)  # noqa: NPY002
        theirs = stock.evaluate(data, load_best_model=False)
        assert ours.keys() == theirs.keys()
        assert list(ours.values()) == pytest.approx(list(theirs.values()), abs=1e-9)


def test_a_labelled_run_has_groups_too() -> None:
    experiment = prepared(
        "BPR",
        **{**OOV, "eval_args": {**OOV["eval_args"], "mode": "labeled"}},
        metrics=["AUC", "LogLoss"],
        valid_metric="AUC",
        threshold={"rating": 3},
        load_col={"inter": ["user_id", "item_id", "rating"]},
    )
    result = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    names = [f"{group}{metric}" for group in ("", "iv_", "oov_", "overall_all_users_") for metric in ("auc", "logloss")]
    assert sorted(result) == sorted(names)
    assert result["auc"] == result["overall_all_users_auc"]


@pytest.mark.parametrize("oov", [False, True])
def test_the_size_of_batches_changes_nothing(oov: bool) -> None:
    split = OOV if oov else {}
    experiment = prepared("BPR", **split)
    whole = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    per_user = experiment.trainer.last_evaluation.per_user
    small = prepared("BPR", eval_batch_size=1, **split)
    small.model.load_state_dict(experiment.model.state_dict())
    assert len(small.trainer._in_memory(small.test_data)) == len(small.test_data) > 30
    assert len(experiment.trainer._in_memory(experiment.test_data)) == 1
    one_by_one = small.trainer.evaluate(small.test_data, load_best_model=False)
    assert whole == pytest.approx(one_by_one, abs=1e-9)
    for group, values in small.trainer.last_evaluation.per_user.items():
        for name, own in values.items():
            np.testing.assert_allclose(own, per_user[group][name], atol=1e-12)


def test_groups_masks_and_users() -> None:
    experiment = prepared("BPR", **OOV)
    train, valid, test = (
        data._dataset for data in (experiment.train_data, experiment.valid_data, experiment.test_data)
    )
    mask = train.oov_split.mask
    result = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    evaluation = experiment.trainer.last_evaluation
    assert evaluation.result == result

    scores = experiment.model.full_sort_predict({"user_id": torch.arange(train.user_num)})
    scores = scores.view(train.user_num, -1).detach().double().numpy()
    seen: dict[int, set[int]] = {u: set() for u in range(train.user_num)}
    wanted: dict[int, set[int]] = {u: set() for u in range(train.user_num)}
    for part, into in ((train, seen), (valid, seen), (test, wanted)):
        for user, item in zip(part.inter_feat["user_id"].tolist(), part.inter_feat["item_id"].tolist(), strict=True):
            into[user].add(item)
    items = np.arange(1, train.item_num)
    candidates = {"overall": items, "iv": items[~mask[1:]], "oov": items[mask[1:]], "overall_all_users": items}
    has = {
        group: {u for u in wanted if wanted[u] & set(candidates[group].tolist())} for group in ("iv", "oov", "overall")
    }
    users = {"iv": has["iv"], "oov": has["oov"], "overall": has["iv"] & has["oov"], "overall_all_users": has["overall"]}
    for group, own in candidates.items():
        assert sorted(evaluation.users[group].tolist()) == sorted(users[group])
        recalls = []
        for user in sorted(users[group]):
            ranked = [i for i in own[np.argsort(-scores[user][own])].tolist() if i not in seen[user] - wanted[user]]
            targets = wanted[user] & set(own.tolist())
            recalls.append(len(targets & set(ranked[:10])) / len(targets))
        name = "recall@10" if group == "overall" else f"{group}_recall@10"
        assert result[name] == pytest.approx(np.mean(recalls), abs=1e-9)
        np.testing.assert_allclose(np.sort(evaluation.per_user[group]["recall@10"]), np.sort(recalls))
    assert evaluation.counts()["oov"]["items"] == mask.sum()


def test_early_stopping_can_watch_a_group() -> None:
    experiment = prepared("BPR", **OOV, epochs=2, valid_metric="OOV_Recall@10", learning_rate=0.01)
    score, result = experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    assert score == result["oov_recall@10"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mode", ["full", "uni20", "labeled"])
def test_a_score_that_is_no_number_raises_in_its_batch(bad: float, mode: str) -> None:
    labelled = {
        "metrics": ["AUC"],
        "valid_metric": "AUC",
        "threshold": {"rating": 3},
        "load_col": {"inter": ["user_id", "item_id", "rating"]},
    }
    experiment = prepared("BPR", eval_args={"mode": mode}, **(labelled if mode == "labeled" else {}))
    evaluate = experiment.trainer.evaluate
    evaluate(experiment.test_data, load_best_model=False)
    user = int(experiment.test_data._dataset.inter_feat["user_id"][-1])
    with torch.no_grad():
        experiment.model.user_embedding.weight[user] = bad
    said = rf"BPR scored some items NaN or infinite, for .* rows of batch \d+ in test \(internal user_id \[{user}\b"
    with pytest.raises(RecBoleOOVError, match=said):
        evaluate(experiment.test_data, load_best_model=False)


def test_evaluating_without_training_data_says_what_is_missing() -> None:
    experiment = prepared("BPR", **OOV)
    trainer = runner.trainer_class(experiment.config)(experiment.config, experiment.model)
    with pytest.raises(ConfigError, match=r"call trainer.remember\(train_data, valid_data\) first"):
        trainer.evaluate(experiment.test_data, load_best_model=False)


def test_refused_before_training() -> None:
    with pytest.raises(DataError, match=r"topk: 55 is more than the \d+ items that are left to rank in validation for"):
        prepared("BPR", topk=[55], valid_metric="MRR@55")
    with pytest.raises(DataError, match=r"topk: 30 is more than the \d+ OOV items that are left .* or raise ratio"):
        prepared("BPR", **OOV, topk=[30], valid_metric="MRR@30")
    with pytest.raises(DataError, match="topk: 70 is more than the 60 items that are left to rank in validation"):
        prepared("SASRec", topk=[70], valid_metric="MRR@70")
    with pytest.raises(ConfigError, match="valid_metric: 'oov_auc' is not computed"):
        OOVConfig("BPR", "tiny", config_dict={**OPTIONS, **OOV, "valid_metric": "oov_auc"}, argv=[])
    with pytest.raises(ConfigError, match="valid_metric: 'oov_recall@10' is not computed"):
        OOVConfig("BPR", "tiny", config_dict={**OPTIONS, "valid_metric": "oov_recall@10"}, argv=[])


def test_a_group_without_a_user_is_refused(tiny_dataset: Path) -> None:
    # Half of the users have only even items, the others only odd ones; all even items are rarer, so OOV by popularity.
    rows = [f"a{u}\ti{2 * i}\t5\t{i}" for u in range(4) for i in range(10)]
    rows += [f"b{u}\ti{2 * i + 1}\t5\t{i}" for u in range(8) for i in range(10)]
    rows += [f"a{u}\ti{2 * u + 1}\t5\t1" for u in range(4)]  # one training row each
    header = (tiny_dataset / "tiny.inter").read_text().splitlines()[0]
    (tiny_dataset / "tiny.inter").write_text("\n".join([header, *rows]) + "\n")
    (tiny_dataset / "tiny.item").unlink()
    split = {"split": {"OOV": {"by": "popularity", "ratio": 0.5}}, "order": "RO", "group_by": "user", "mode": "full"}
    with pytest.raises(DataError, match="no user has both an IV and an OOV item to be found"):
        prepared("BPR", eval_args=split, topk=[3], valid_metric="MRR@3")


def test_the_log_has_a_table_of_the_groups(caplog: pytest.LogCaptureFixture) -> None:
    options = {**OPTIONS, **OOV, "epochs": 1, "metrics": ["Recall"], "valid_metric": "Recall@10", "state": "INFO"}
    with caplog.at_level("INFO"):
        result = runner.run("BPR", "tiny", config_dict=options, argv=[])
    assert result is not None
    table = caplog.text.partition("test result by group")[2]
    lines = [line.split() for line in table.splitlines()[1:7]]
    assert lines[0] == ["group", "users", "items", "targets", "recall@3", "recall@10"]
    for line in lines[2:6]:
        counts = result["test_groups"][line[0]]
        assert line[1:4] == [str(counts[what]) for what in ("users", "items", "targets")]
        name = "recall@10" if line[0] == "overall" else f"{line[0]}_recall@10"
        assert line[5] == f"{result['test_result'][name]:.4f}"


def test_the_values_of_each_user_are_saved() -> None:
    options = {**OPTIONS, **OOV, "epochs": 1, "metrics": ["Recall", "NDCG"], "valid_metric": "Recall@10"}
    result = runner.run("BPR", "tiny", config_dict={**options, "save_user_metrics": True}, argv=[])
    assert result is not None
    table = read_per_user(Path(result["model_file"]).with_suffix(".users.parquet"))
    for (group, metric), values in table.groupby(["group", "metric"])["value"]:
        assert values.mean() == pytest.approx(result["test_result"][prefixed(group, metric)], abs=1e-9)
        assert len(values) == result["test_groups"][group]["users"]


def test_an_evaluation_that_was_broken_off_leaves_nothing_behind() -> None:
    experiment = prepared("BPR", eval_batch_size=1)
    evaluate = experiment.trainer.evaluate
    whole = evaluate(experiment.test_data, load_best_model=False)
    user = int(experiment.test_data._dataset.inter_feat["user_id"][-1])
    weight = experiment.model.user_embedding.weight.data
    kept = weight[user].clone()
    weight[user] = float("nan")
    with pytest.raises(RecBoleOOVError):
        evaluate(experiment.test_data, load_best_model=False)
    weight[user] = kept
    assert evaluate(experiment.test_data, load_best_model=False) == whole


def test_a_saved_data_set_is_split_as_this_run_says() -> None:
    saving = {"save_dataset": True, "checkpoint_dir": "saved"}
    plain = prepared("BPR", **saving)
    assert not hasattr(plain.train_data._dataset, "oov_split")
    first, other = (
        prepared("BPR", eval_args={**OOV["eval_args"], "split": {"OOV": {"ratio": 0.4, "seed": seed}}}, **saving)
        for seed in (1, 2)
    )
    masks = [experiment.train_data._dataset.oov_split.mask for experiment in (first, other)]
    assert (masks[0] != masks[1]).any()
    assert not hasattr(prepared("BPR", **saving).train_data._dataset, "oov_split")


def test_popularity_in_training_changes_no_sampled_evaluation() -> None:
    args = {"eval_args": {"mode": "uni10"}, "train_neg_sample_args": {"distribution": "popularity"}}
    experiment = prepared("BPR", **args)
    assert experiment.train_data._sampler.distribution == "popularity"
    for data in (experiment.valid_data, experiment.test_data):
        assert data._sampler.distribution == "uniform"
        assert not hasattr(data._sampler, "iv_items")


def test_more_places_than_sampled_items_or_than_a_masked_history_leaves() -> None:
    with pytest.raises(DataError, match="topk: 10 is more than the 6 items that validation ranks for a user"):
        prepared("BPR", eval_args={"mode": "uni5"})
    with pytest.raises(DataError, match=r"topk: 55 is more than the \d+ items that are left to rank in validation for"):
        prepared("SASRec", mask_history=True, topk=[55], valid_metric="MRR@55")


def test_an_auc_of_one_label_is_refused() -> None:
    with pytest.raises(DataError, match="an AUC needs both labels among them"):
        prepared(
            "BPR",
            eval_args={"mode": "labeled"},
            metrics=["AUC"],
            valid_metric="AUC",
            threshold={"rating": 0},
            load_col={"inter": ["user_id", "item_id", "rating"]},
        )


def test_the_guard_runs_without_the_runner_too() -> None:
    experiment = prepared("BPR", **OOV)
    loader = experiment.train_data
    mask = loader._dataset.oov_split.mask
    loader._dataset.inter_feat.interaction["item_id"][0] = int(np.flatnonzero(mask)[0])
    trainer = runner.trainer_class(experiment.config)(experiment.config, experiment.model)
    with pytest.raises(DataError, match="OOV item in training rows"):
        trainer.fit(loader, experiment.valid_data, saved=False)


def test_the_short_form_needs_the_plugin_s_configuration() -> None:
    config = Config("BPR", "tiny", config_dict={"oov_split": "random", "gpu_id": ""})
    with pytest.raises(ConfigError, match="oov_split: 'random' is the short form"):
        data_preparation(config, create_dataset(config))


def test_cases_of_a_sequential_model_become_one_value_a_user() -> None:
    args = {"split": {"OOV": {"ratio": 0.4}}, "order": "TO", "mode": "full"}
    experiment = prepared("SASRec", eval_args=args)
    experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    evaluation = experiment.trainer.last_evaluation
    users, values = evaluation.by_user()
    for group, own in users.items():
        assert len(own) == len(set(own.tolist())) == evaluation.counts()[group]["users"]
        for user, value in zip(own, values[group]["recall@10"], strict=True):
            cases = evaluation.per_user[group]["recall@10"][evaluation.users[group] == user]
            assert value == pytest.approx(cases.mean())
    assert len(evaluation.users["oov"]) > len(users["oov"])
