"""What cold-start models share: the base model and its checkpoint, the stages, and what is never looked at."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cold import FAMILY, GENERATIVE, SMALL, experiment, oov_auc, trained, write_tastes
from recbole.data.interaction import Interaction

import recbole_oov
from recbole_oov.checkpoints import CheckpointError
from recbole_oov.compat import load_checkpoint
from recbole_oov.config.keys import recbole_properties, yaml_keys
from recbole_oov.data.item_loader import ItemLoader
from recbole_oov.data.item_users import ItemUsers
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.errors import ConfigError
from recbole_oov.model.base_embeddings import base_embeddings
from recbole_oov.registry import properties_folder
from recbole_oov.trainer.cold_start import ColdStartTrainer


@pytest.fixture(scope="module")
def tastes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tastes(tmp_path_factory.mktemp("data"))


@pytest.fixture
def here(workplace: Path) -> Path:
    """An empty folder to work in."""
    return workplace


# ---- what is learned ----


@pytest.mark.parametrize("name", FAMILY)
def test_new_items_reach_the_users_of_their_taste(name: str, tastes: Path, here: Path) -> None:
    assert oov_auc(trained(name, tastes)) > 0.9


def test_untrained_models_know_no_tastes(tastes: Path, here: Path) -> None:
    assert abs(oov_auc(experiment("DeepMusic", tastes)) - 0.5) < 0.25


@pytest.fixture(scope="module")
def bpr(tastes: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """BPR alone, with the options of the base model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("bpr"))
        base = trained("BPR", tastes, saved=True, valid_metric="iv_ndcg@5", eval_step=5)
        expected = base.trainer.evaluate(base.test_data, load_best_model=True)
        return base, expected


@pytest.mark.parametrize("name", GENERATIVE)
def test_the_ranking_of_iv_items_is_the_base_model_s(name: str, tastes: Path, here: Path, bpr: Any) -> None:
    base, expected = bpr
    ready = trained(name, tastes, saved=True)
    found = ready.trainer.evaluate(ready.test_data, load_best_model=True)
    iv = [key for key in found if key.startswith("iv_")]
    assert len(iv) == 2
    assert {key: found[key] for key in iv} == {key: expected[key] for key in iv}
    assert found["oov_ndcg@5"] > expected["oov_ndcg@5"]
    kept = ready.model.iv_items
    assert torch.equal(ready.model.base_items[kept], base.model.item_embedding.weight[kept])
    assert torch.equal(ready.model.base_users, base.model.user_embedding.weight)


# ---- what is never looked at ----


@pytest.mark.parametrize("name", FAMILY)
def test_nothing_of_an_oov_item_but_its_content_is_used(name: str, tastes: Path, here: Path) -> None:
    ready = experiment(name, tastes)
    model, batch = ready.model, next(iter(ready.train_data))
    found = []
    for poisoned in (False, True):
        users, items = (
            torch.randn(table.shape, generator=torch.Generator().manual_seed(seed))
            for seed, table in enumerate((model.base_users, model.base_items))
        )
        if poisoned:
            items[model.oov] = torch.nan
            items[0] = torch.nan
        model.take_base(users, items)
        model.train()
        torch.manual_seed(0)
        loss = model.calculate_loss(batch)
        model.eval()
        scores = model.full_sort_predict(Interaction({"user_id": torch.arange(model.n_users)}))
        found.append((sum(loss) if isinstance(loss, tuple) else loss, scores.view(model.n_users, -1)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[1][1].isfinite().all()


def test_the_oov_mask_is_of_training_rows(tastes: Path, here: Path) -> None:
    ready = experiment("DeepMusic", tastes)
    train = ready.train_data._dataset
    assert ready.model.oov.tolist() == oov_mask(train).tolist()
    assert not ready.model.oov[0]
    assert sorted(set(train.inter_feat["item_id"].tolist())) == ready.model.iv_items.tolist()
    assert 0 < int(ready.model.oov.sum()) < 20


# ---- the base model ----


@pytest.mark.parametrize("base_model", ["LightGCN", "NGCF"])
def test_graph_models_hand_over_propagated_embeddings(base_model: str, tastes: Path, here: Path) -> None:
    ready = experiment("DeepMusic", tastes, base_model=base_model, epochs=15)
    seen: list[Any] = []
    take = ready.model.take_base
    ready.model.take_base = lambda *tables: (seen.append(tables), take(*tables))  # type: ignore[method-assign]
    built: list[Any] = []
    original = recbole_oov.trainer.cold_start.base_embeddings

    def watch(model: Any) -> Any:
        built.append(model)
        return original(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recbole_oov.trainer.cold_start, "base_embeddings", watch)
        ready.trainer.fit(ready.train_data, None, saved=False, verbose=False)
    users, items = built[-1].forward()
    assert torch.equal(seen[-1][0], users)
    assert torch.equal(ready.model.base_items[ready.model.iv_items], items[ready.model.iv_items])
    assert not torch.equal(items, built[-1].item_embedding.weight[:, : items.shape[1]])
    assert oov_auc(ready) > 0.9


def test_base_embeddings_are_what_the_model_scores_with(tastes: Path, here: Path) -> None:
    model = experiment("BPR", tastes, valid_metric="ndcg@5").model
    users, items = base_embeddings(model)
    assert torch.equal(items, model.item_embedding.weight)
    items.zero_()
    assert model.item_embedding.weight.any(), "a copy"


@pytest.mark.parametrize(
    ("base_model", "problem"),
    [
        ("NeuMF", "base_model: NeuMF has no embeddings to start from: neither a forward"),
        ("SGL", "base_model: SGL does not score by the dot product"),
        ("MultiVAE", "base_model: MultiVAE learns from whole histories"),
        ("DropoutNet", "base_model: DropoutNet has a base model itself"),
        ("SASRec", "base_model: SASRec is no general recommender"),
        ("LightGCM", "there is no model called 'LightGCM'; did you mean LightGCN"),
    ],
)
def test_base_models_that_will_not_do(base_model: str, problem: str, tastes: Path, here: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        experiment("DeepMusic", tastes, base_model=base_model, embedding_size=None)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"base_config": {"learning_rat": 0.1}}, "base_config: 'learning_rat' is not an option of BPR"),
        ({"base_config": {"epochs": 0}}, "base_config epochs: 0 is not allowed"),
        ({"base_config": {"eval_args": {}}}, "base_config: 'eval_args' is not an option of BPR"),
        ({"base_config": {"sampler": "nobody"}}, "nobody"),
        ({"base_config": 3}, "base_config: 3 is not allowed"),
        ({"sampler": "dns"}, "base_config: {sampler: …}"),
        ({"base_checkpoint": "nowhere.json"}, "there is no file 'nowhere.json'"),
        ({"train_neg_sample_args": {"distribution": "none"}}, "leaves BPR without negatives"),
        ({"generator_sizes": [0]}, r"generator_sizes: \[0\] is not allowed"),
        ({"content": {"from": "text", "fields": ["plot"]}}, "plot"),
    ],
)
def test_options_that_will_not_do(options: dict[str, Any], problem: str, tastes: Path, here: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        experiment("DeepMusic", tastes, **options)


def test_the_base_model_has_options_of_its_own(tastes: Path, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {"learning_rate": 0.02, "epochs": 3, "train_batch_size": 700, "sampler": "dns"}
    ready = experiment("DeepMusic", tastes, base_config=given, epochs=2)
    with caplog.at_level(logging.INFO):
        ready.trainer.fit(ready.train_data, ready.valid_data, saved=False)
    assert [(stage.name, stage.model, stage.epochs) for stage in ready.trainer.stages] == [
        ("base", "BPR", 3),
        ("generator", "DeepMusic", 2),
    ]
    assert "[Sampler]: dns" in caplog.text
    for stage in ready.trainer.stages:
        assert {"ndcg@5", "iv_ndcg@5", "oov_ndcg@5"} <= set(stage.valid_result)
        assert stage.seconds > 0 and stage.peak_memory >= 0
    assert ready.config["learning_rate"] == SMALL["learning_rate"], "the run's own options stay"
    assert ready.config["model"] == "DeepMusic"


def test_no_option_of_the_family_is_one_of_a_base_model() -> None:
    taken = set().union(
        *(yaml_keys(path) for name in ("BPR", "LightGCN", "NGCF") if (path := recbole_properties(name)))
    )
    for name in FAMILY:
        own = yaml.safe_load((properties_folder() / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert not taken & set(own), name


# ---- its checkpoint ----


def test_a_checkpoint_gives_what_training_would_give(tastes: Path, here: Path) -> None:
    first = trained("MetaEmb", tastes, saved=True, epochs=5, base_config={"epochs": 5})
    (checkpoint,) = here.glob("saved/BPR-*.json")
    second = trained("MetaEmb", tastes, saved=True, epochs=5, base_checkpoint=str(checkpoint))
    assert [stage.epochs for stage in second.trainer.stages] == [0, 5]
    assert first.trainer.stages[0].valid_result == second.trainer.stages[0].valid_result
    own = first.model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in second.model.state_dict().items())


@pytest.fixture(scope="module")
def checkpoint(tastes: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BPR of the data set."""
    folder = tmp_path_factory.mktemp("base")
    options = {"valid_metric": "iv_ndcg@5", "epochs": 1, "checkpoint_dir": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ready = trained("BPR", tastes, saved=True, **options)
    return str(ready.trainer.saved_model_file)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"base_model": "LightGCN"}, "is of model 'BPR', this run of 'LightGCN'; give base_model: BPR"),
        ({"embedding_size": 8}, r"user_embedding.weight \(61, 16\), not \(61, 8\)"),
        ({"oov_split": "popularity"}, "is of eval_args split"),
        ({"oov_split": None, "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}, "valid_metric": "ndcg@5"}, "split"),
        ({"user_inter_num_interval": "[3,inf)"}, "is of user_inter_num_interval"),
    ],
)
def test_checkpoints_of_something_else_are_refused(
    options: dict[str, Any], problem: str, tastes: Path, here: Path, checkpoint: str
) -> None:
    ready = experiment("DeepMusic", tastes, base_checkpoint=checkpoint, **options)
    with pytest.raises(ConfigError, match=f"base_checkpoint: .*{problem}"):
        ready.trainer.fit(ready.train_data, None, saved=False, verbose=False)


def test_a_checkpoint_of_another_data_set_is_refused(tastes: Path, here: Path, checkpoint: str) -> None:
    (here / "dataset" / "others").mkdir(parents=True)
    for suffix in ("inter", "item"):
        text = (tastes / "tastes" / f"tastes.{suffix}").read_text(encoding="utf-8")
        (here / "dataset" / "others" / f"others.{suffix}").write_text(text, encoding="utf-8")
    options = {**SMALL, "base_checkpoint": checkpoint}
    with pytest.raises(ConfigError, match="is of dataset 'tastes', this run of 'others'"):
        recbole_oov.run("DeepMusic", "others", config_dict=options, argv=[])


def test_a_file_that_is_no_checkpoint_is_refused(tastes: Path, here: Path) -> None:
    (here / "notes.json").write_text("{}", encoding="utf-8")
    ready = experiment("DeepMusic", tastes, base_checkpoint="notes.json")
    with pytest.raises((ConfigError, CheckpointError), match="notes.json"):
        ready.trainer.fit(ready.train_data, None, saved=False, verbose=False)


def test_a_run_that_was_cut_off_does_not_train_the_base_model_again(
    tastes: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SMALL, "data_path": str(tastes), "epochs": 6}
    del options["item_batch_size"]
    whole = recbole_oov.run("ALDI", "tastes", config_dict=options, argv=[])
    assert whole is not None
    valid_epoch = ColdStartTrainer._valid_epoch

    def cut_off(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(self.train_loss_dict) == 3:
            raise KeyboardInterrupt
        return valid_epoch(self, *args, **kwargs)

    monkeypatch.setattr(ColdStartTrainer, "_valid_epoch", cut_off)
    with pytest.raises(KeyboardInterrupt):
        recbole_oov.run("ALDI", "tastes", config_dict=options, argv=[])
    monkeypatch.setattr(ColdStartTrainer, "_valid_epoch", valid_epoch)
    monkeypatch.setattr(ColdStartTrainer, "train_base", None)  # would not be callable
    resumed = recbole_oov.run("ALDI", "tastes", config_dict={**options, "resume": True}, argv=[])
    assert resumed is not None
    assert resumed["test_result"] == whole["test_result"]
    states = [load_checkpoint(result["model_file"], "cpu")["state_dict"] for result in (whole, resumed)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


# ---- loaders and users ----


def test_an_item_loader_has_each_item_once_in_another_order_each_time() -> None:
    loader = ItemLoader(torch.arange(5, 18), item_field="item_id", batch_size=4, seed=0)
    epochs = [[batch["item_id"].tolist() for batch in loader] for _ in range(2)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 4, 1]
    assert len(loader) == 4
    assert [sorted(item for batch in batches for item in batch) for batches in epochs] == [list(range(5, 18))] * 2
    assert epochs[0] != epochs[1]


def test_users_of_an_item(tastes: Path, here: Path) -> None:
    train = experiment("BPR", tastes, valid_metric="ndcg@5").train_data._dataset
    users = ItemUsers(train)
    rows = list(zip(train.inter_feat["user_id"].tolist(), train.inter_feat["item_id"].tolist(), strict=True))
    item = rows[0][1]
    own = {user for user, other in rows if other == item}
    torch.manual_seed(0)
    drawn = users.positives(torch.tensor([item]), 500)
    assert set(drawn.flatten().tolist()) == own
    assert int(users.counts[item]) == len(own)
    free = users.negatives(torch.tensor([item] * 4), 500)
    shared = users.has(free, torch.tensor([[item]])).double().mean()
    assert shared < 2 * (len(own) / len(users.known_users)) ** 2, "drawn twice"
    assert users.has(torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])).all()
    assert not users.has(torch.tensor([0]), torch.tensor([item])).any()
    oov = int(oov_mask(train).nonzero()[0][0])
    with pytest.raises(IndexError, match=f"item {oov} has no training user"):
        users.positives(torch.tensor([oov]), 1)
