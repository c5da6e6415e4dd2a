"""The leak guard finds each planted leak, names it with a count and examples, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.sampler import Sampler
from recbole.utils import get_model
from scipy.sparse import coo_matrix

from recbole_oov.config import OOVConfig
from recbole_oov.data.leaks import Leak, check_leaks, find_leaks
from recbole_oov.errors import DataError


class Parts:
    """The loaders of a run on ``tiny`` and its model, for a test to tamper with."""

    def __init__(self, model: str, **options: Any) -> None:
        base = {"show_progress": False, "topk": [5], "valid_metric": "MRR@5"}
        self.config = OOVConfig(model, "tiny", config_dict={**base, **options}, argv=[])
        loaders = data_preparation(self.config, create_dataset(self.config))
        self.train, self.valid, self.test = (copy.deepcopy(loader) for loader in loaders)
        self.model = get_model(model)(self.config, self.train._dataset)

    def leaks(self) -> list[Leak]:
        return find_leaks(self.config, self.train, self.valid, self.test, self.model)

    def only_leak(self, name: str) -> Leak:
        found = self.leaks()
        assert [leak.name for leak in found] == [name], found
        return found[0]

    def rows(self, part: str) -> Any:
        return getattr(self, part)._dataset.inter_feat

    def add_row(self, part: str, user: int, item: int) -> None:
        rows = self.rows(part)
        new = {"user_id": user, "item_id": item}
        for name in rows.columns:
            extra = rows[name][:1] if name not in new else torch.tensor([new[name]])
            rows.interaction[name] = torch.cat([rows[name], extra])
        rows.length += 1


OOV = {"eval_args": {"split": {"OOV": {"ratio": 0.3}}, "order": "RO", "mode": "full"}}
BY_TIME = {
    "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": None, "mode": "full"},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}


@pytest.fixture(autouse=True)
def _data(tiny_dataset: Path) -> None:
    """Every test runs on ``tiny``."""


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NGCF", "ItemKNN", "EASE", "MultiVAE", "SASRec", "CKE"])
def test_nothing_is_found_where_nothing_leaks(model: str, tiny_dataset: Path) -> None:
    if model == "CKE":
        triples = "".join(f"e{i}\tr\te{i % 60 + 1}\n" for i in range(1, 61))
        (tiny_dataset / "tiny.kg").write_text(f"head_id:token\trelation_id:token\ttail_id:token\n{triples}")
        links = "".join(f"i{i}\te{i}\n" for i in range(1, 61))
        (tiny_dataset / "tiny.link").write_text(f"item_id:token\tentity_id:token\n{links}")
    options = {"eval_args": {"split": {"OOV": {"ratio": 0.3}}, "order": "TO" if model == "SASRec" else "RO"}}
    assert Parts(model, **options).leaks() == []
    assert Parts(model).leaks() == []


def test_an_oov_item_in_a_training_row() -> None:
    parts = Parts("BPR", **OOV)
    user, item = (int(parts.rows("test")[name][-1]) for name in ("user_id", "item_id"))
    assert parts.train._dataset.oov_split.mask[item]
    parts.add_row("train", user, item)
    names = {leak.name: leak for leak in parts.leaks()}
    dataset = parts.train._dataset
    leak = names["OOV item in training rows"]
    assert leak.count == 1
    tokens = dataset.id2token("user_id", user), dataset.id2token("item_id", item)
    assert str(leak) == (
        f"OOV item in training rows: 1 training rows have an OOV item ((user_id {tokens[0]}, item_id {tokens[1]})); "
        f"remove them, or do not evaluate the item as OOV"
    )


def test_an_oov_item_in_a_training_sequence() -> None:
    parts = Parts("SASRec", eval_args={"split": {"OOV": {"ratio": 0.3}}, "order": "TO"})
    item = int(np.flatnonzero(parts.train._dataset.oov_split.mask)[0])
    held = parts.test._dataset.oov_split.mask
    item = next(int(i) for i in parts.rows("test")["item_id"] if held[int(i)])
    parts.rows("train")["item_id_list"][3, 0] = item
    assert parts.only_leak("OOV item in training sequences").count == 1


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_an_oov_item_among_the_negatives(distribution: str) -> None:
    parts = Parts("BPR", **OOV)
    datasets = [data._dataset for data in (parts.train, parts.valid, parts.test)]
    parts.train._sampler = Sampler(["train", "valid", "test"], datasets, distribution).set_phase("train")
    names = [leak.name for leak in parts.leaks()]
    assert names == ["OOV item in the negative sampler"] + ["popularity"] * (distribution == "popularity")
    assert parts.leaks()[0].count == datasets[0].oov_split.mask.sum()


def test_popularity_that_counts_the_test() -> None:
    parts = Parts("BPR")
    datasets = [data._dataset for data in (parts.train, parts.valid, parts.test)]
    parts.train._sampler = Sampler(["train", "valid", "test"], datasets, "popularity").set_phase("train")
    leak = parts.only_leak("popularity")
    held_out = np.unique(np.concatenate([parts.rows(part)["item_id"].numpy() for part in ("valid", "test")]))
    assert leak.count == len(held_out)
    assert "the negative sampler's popularity" in str(leak)
    # The plugin's own popularity sampler, which every run gets, counts training rows alone.
    assert Parts("BPR", train_neg_sample_args={"distribution": "popularity"}).leaks() == []


def test_a_graph_with_a_test_edge() -> None:
    parts = Parts("LightGCN")
    users, items = (parts.rows("test")[name].numpy()[:4] for name in ("user_id", "item_id"))
    whole = parts.model.interaction_matrix
    parts.model.interaction_matrix = coo_matrix(
        (np.ones(whole.nnz + 4), (np.r_[whole.row, users], np.r_[whole.col, items])), shape=whole.shape
    )
    leak = parts.only_leak("graph")
    assert leak.count == 4
    assert "edges of LightGCN.interaction_matrix are not in training" in str(leak)
    parts.model.interaction_matrix = whole
    n = parts.model.n_users + parts.model.n_items
    edges = torch.stack([torch.from_numpy(users), torch.from_numpy(items) + parts.model.n_users])
    parts.model.norm_adj_matrix = torch.sparse_coo_tensor(edges, torch.ones(4), (n, n))
    assert parts.only_leak("graph").count == 4


def test_the_same_pair_in_two_parts() -> None:
    parts = Parts("BPR")
    user, item = (int(parts.rows("test")[name][0]) for name in ("user_id", "item_id"))
    parts.add_row("valid", user, item)
    leak = parts.only_leak("duplicates")
    assert (leak.count, leak.remedy) == (1, "set rm_dup_inter: first")
    assert "pairs are in both validation and test" in str(leak)


@pytest.mark.parametrize("group_by", [None, "user"])
def test_a_held_out_row_from_the_past(group_by: str | None) -> None:
    options = copy.deepcopy(BY_TIME)
    options["eval_args"]["group_by"] = group_by
    parts = Parts("BPR", **options)
    assert parts.leaks() == []
    parts.rows("test")["timestamp"][2] = -5.0
    leak = parts.only_leak("time")
    assert leak.count == 1
    assert "test rows are dated before the training rows that they should follow" in str(leak)


def test_an_id_in_the_text(tiny_dataset: Path) -> None:
    path = tiny_dataset / "tiny.item"
    header, *lines = path.read_text().splitlines()
    columns = {"load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "title"]}}
    told = [line.split("\t") for line in lines]
    for own in ("no. {}", "({})"):
        rows = (f"{i}\t{title} {own.format(i)}\t{year}" for i, title, year in told)
        path.write_text("\n".join([header, *rows]) + "\n")
        assert Parts("BPR", **columns).leaks() == []  # it reads no text
        parts = Parts("BPR", **columns)
        parts.model.needs_text = True
        leak = parts.only_leak("id in text")
        assert leak.count == 60
        assert leak.examples[0].startswith("item_id i")
    path.write_text("\n".join([header, *(f"{i}\t{title} x{i}\t{year}" for i, title, year in told)]) + "\n")
    assert Parts("BPR", **columns).leaks() == []  # a part of a longer word is no id
    some = [
        f"{i}\t{title} no. {i}\t{year}" if n < 2 else f"{i}\t{title}\t{year}" for n, (i, title, year) in enumerate(told)
    ]
    path.write_text("\n".join([header, *some]) + "\n")
    assert Parts("BPR", **columns).leaks() == []  # two are chance


def test_an_id_in_the_content() -> None:
    parts = Parts("BPR")
    content = torch.randn(parts.train._dataset.item_num, 6)
    parts.model.content = content
    assert parts.leaks() == []
    content[:, 4] = 3.0 * torch.arange(len(content)) - 7
    leak = parts.only_leak("id in content")
    assert (leak.count, leak.examples) == (1, ("column 4",))


def test_error_warning_or_nothing(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts("BPR")
    user, item = (int(parts.rows("test")[name][0]) for name in ("user_id", "item_id"))
    parts.add_row("train", user, item)

    def check(how: str) -> None:
        config = {**parts.config.final_config_dict, "leak_guard": how}
        check_leaks(config, parts.train, parts.valid, parts.test, parts.model)

    with pytest.raises(DataError, match=r"the results would mean nothing:\n  - duplicates: 1 pairs"):
        check("error")
    caplog.clear()
    check("off")
    assert not caplog.records
    check("warn")
    assert "leak: duplicates: 1 pairs are in both training and test" in caplog.text


def test_a_graph_among_the_parts_of_a_model_and_with_a_few_unknown_edges() -> None:
    parts = Parts("BPR")
    train = parts.train._dataset
    users, items = (
        np.concatenate([parts.rows(p)[name].numpy() for p in ("train", "test")]) for name in ("user_id", "item_id")
    )
    users, items = np.append(users, 1), np.append(items, 0)  # one edge that nobody knows
    graph = coo_matrix((np.ones(len(users)), (users, items)), shape=(train.user_num, train.item_num))
    parts.model.loss.graph = graph
    leak = parts.only_leak("graph")
    assert leak.count == len(parts.rows("test"))
    assert "BPR.loss.graph" in str(leak)
    parts.model.loss.graph = torch.from_numpy(graph.toarray())
    assert parts.only_leak("graph").count == len(parts.rows("test"))


def test_the_sampler_of_a_knowledge_graph_s_loader(tiny_dataset: Path) -> None:
    triples = "".join(f"e{i}\tr\te{i % 60 + 1}\n" for i in range(1, 61))
    (tiny_dataset / "tiny.kg").write_text(f"head_id:token\trelation_id:token\ttail_id:token\n{triples}")
    links = "".join(f"i{i}\te{i}\n" for i in range(1, 61))
    (tiny_dataset / "tiny.link").write_text(f"item_id:token\tentity_id:token\n{links}")
    parts = Parts("CKE", **OOV)
    datasets = [data._dataset for data in (parts.train, parts.valid, parts.test)]
    parts.train.general_dataloader._sampler = Sampler(["train", "valid", "test"], datasets).set_phase("train")
    assert parts.only_leak("OOV item in the negative sampler").count == datasets[0].oov_split.mask.sum()


def test_a_sequential_split_is_user_by_user_whatever_group_by_says() -> None:
    args = {"split": {"OOV": {"ratio": 0.3}}, "order": "TO", "group_by": None, "mode": "full"}
    assert Parts("SASRec", eval_args=args).leaks() == []
