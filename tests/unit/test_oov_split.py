"""The OOV protocol: what is split how, what training may see, and published splits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation

from recbole_oov.config import OOVConfig
from recbole_oov.data.oov_split import PARTS, OOVOptions, choose_items, oov_mask, plan, refuse_empty
from recbole_oov.errors import ConfigError, DataError


def build(model: str, split: dict[str, Any], **options: Any) -> tuple[Any, Any, Any, Any]:
    args = {"split": {"OOV": split}, "order": "RO", "group_by": None, "mode": "full", **options.pop("eval_args", {})}
    base = {"eval_args": args, "show_progress": False, "topk": [5], "valid_metric": "MRR@5"}
    config = OOVConfig(model, "tiny", config_dict={**base, **options}, argv=[])
    return (config, *data_preparation(config, create_dataset(config)))


def rows_of(data: Any) -> tuple[np.ndarray, np.ndarray]:
    part = data._dataset
    return np.asarray(part.inter_feat[part.uid_field]), np.asarray(part.inter_feat[part.iid_field])


@st.composite
def interactions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(30, 200))
    users, items = random.integers(1, draw(st.integers(3, 20)), n), random.integers(1, draw(st.integers(8, 30)), n)
    return users, items, random.integers(0, 50, n).astype(float)


@given(
    interactions(), st.sampled_from(["random", "time", "popularity"]), st.booleans(), st.booleans(), st.integers(0, 9)
)
def test_the_plan_holds_on_any_interactions(
    data: tuple[np.ndarray, np.ndarray, np.ndarray], by: str, in_order: bool, per_user: bool, seed: int
) -> None:
    users, items, times = data
    options = OOVOptions(by=by, seed=seed, ratio=0.3)
    rows, notes = plan(users, items, times, options, in_order=in_order, per_user=per_user)
    every = np.concatenate([rows[part] for part in PARTS])
    assert len(np.unique(every)) == len(every)
    assert len(users) - len(every) == sum(int(note.split()[0]) for note in notes if "left out" in note)
    iv = set(items[rows["train"]])
    for part in ("oov_valid", "oov_test"):
        assert not iv & set(items[rows[part]])
        assert set(users[rows[part]]) <= set(users[rows["train"]])
    assert not set(items[rows["oov_valid"]]) & set(items[rows["oov_test"]])
    for part in ("iv_valid", "iv_test"):
        assert set(items[rows[part]]) <= iv
        assert set(users[rows[part]]) <= set(users[rows["train"]])
    if in_order and not per_user:
        ends = [times[rows[part]] for part in ("train", "iv_valid", "iv_test")]
        assert all(not len(late) or early.max() <= late.min() for early, late in itertools.pairwise(ends))
        if by == "time":
            assert all((times[rows[part]] >= times[rows["train"]].max()).all() for part in ("oov_valid", "oov_test"))


@given(interactions(), st.sampled_from(["random", "time", "popularity"]))
def test_items_are_chosen_by_lot_by_age_or_by_rarity(data: tuple[np.ndarray, np.ndarray, np.ndarray], by: str) -> None:
    _, items, times = data
    options = OOVOptions(by=by, ratio=0.4)
    valid, test = choose_items(items, times, options, np.random.default_rng(0))
    known = np.unique(items)
    assert len(valid) + len(test) == round(0.4 * len(known))
    assert len(valid) == round(0.5 * (len(valid) + len(test)))
    kept = np.setdiff1d(known, np.concatenate([valid, test]))
    if by == "popularity":
        count = dict(zip(*np.unique(items, return_counts=True), strict=True))
        assert max(count[i] for i in (*valid, *test)) <= min(count[i] for i in kept)
    if by == "time":
        first = {i: times[items == i].min() for i in known}
        assert max(first[i] for i in kept) <= min(first[i] for i in valid) <= max(first[i] for i in valid)
        assert max(first[i] for i in valid) <= min(first[i] for i in test)


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "ItemKNN", "SASRec"])
@pytest.mark.parametrize("by", ["random", "time", "popularity"])
def test_no_oov_item_is_in_training_or_drawn_as_a_negative(tiny_dataset: Path, model: str, by: str) -> None:
    options: dict[str, Any] = {"eval_args": {"order": "TO"}} if model == "SASRec" or by == "time" else {}
    options |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    config, train, valid, test = build(model, {"by": by, "ratio": 0.3}, **options)
    mask = train._dataset.oov_split.mask
    assert np.array_equal(mask, oov_mask(train._dataset))
    assert 10 <= mask.sum() <= 20
    assert not mask[rows_of(train)[1]].any()
    for part in (valid, test):
        held = mask[rows_of(part)[1]]
        assert held.any()
        assert not held.all()
    seen_in_batches: set[int] = set()
    for _ in range(3):
        for batch in train:
            for name in ("item_id", "neg_item_id", "item_id_list"):
                if name in batch:
                    seen_in_batches |= set(batch[name].ravel().tolist())
    assert seen_in_batches
    assert not mask[list(seen_in_batches)].any()


def test_the_split_does_not_depend_on_the_seed_of_training(tiny_dataset: Path) -> None:
    first = [rows_of(data) for data in build("BPR", {"seed": 1}, seed=1)[1:]]
    same = [rows_of(data) for data in build("BPR", {"seed": 1}, seed=2)[1:]]
    other = [rows_of(data) for data in build("BPR", {"seed": 2}, seed=1)[1:]]
    assert all(set(zip(*a, strict=True)) == set(zip(*b, strict=True)) for a, b in zip(first, same, strict=True))
    assert set(zip(*first[2], strict=True)) != set(zip(*other[2], strict=True))


def test_an_oov_target_of_a_sequential_model_comes_after_the_history_of_its_time(tiny_dataset: Path) -> None:
    _, train, valid, test = build(
        "SASRec", {"ratio": 0.3, "seed": 10}, eval_args={"order": "TO"}, MAX_ITEM_LIST_LENGTH=5
    )
    dataset = train._dataset
    mask = dataset.oov_split.mask
    assert not any("IV targets" in note for note in dataset.oov_split.notes)  # all of the mask was kept out on purpose
    lines = (tiny_dataset / "tiny.inter").read_text().splitlines()[1:]
    history: dict[int, list[tuple[float, int]]] = {}
    for line in lines:
        user, item, _, time = line.split("\t")
        ids = (dataset.token2id("user_id", user), dataset.token2id("item_id", item))
        history.setdefault(int(ids[0]), []).append((float(time), int(ids[1])))
    for own in history.values():
        own.sort()
    n_checked = 0
    for data, most_hidden in ((valid, 2), (test, 1)):
        rows = data._dataset.inter_feat
        for n in range(len(rows)):
            target, user = int(rows["item_id"][n]), int(rows["user_id"][n])
            if not mask[target]:
                continue
            iv = [(time, item) for time, item in history[user] if not mask[item]]
            # Leave-one-out keeps the last for the test and the one before for validation, but two always train.
            iv = iv[: len(iv) - max(0, min(most_hidden, len(iv) - 2))]
            when = next(time for time, item in history[user] if item == target)
            before = [item for time, item in iv if time <= when]
            length = int(rows["item_length"][n])
            assert rows["item_id_list"][n].tolist() == (before[-5:] + [0] * 5)[:5]
            assert length == min(5, len(before)) > 0
            assert rows["timestamp_list"][n][:length].max() <= rows["timestamp"][n] == when
            n_checked += 1
    assert n_checked > 50
    assert not mask[np.asarray(dataset.inter_feat["item_id_list"]).ravel()].any()


@pytest.fixture
def published(tiny_dataset: Path) -> Path:
    """A split of ``tiny`` in the published format, in ``tiny/split``."""
    lines = (tiny_dataset / "tiny.inter").read_text().splitlines()[1:]
    pairs = [tuple(line.split("\t")[:2]) for line in lines]
    cold = {f"i{i}" for i in range(1, 13)}
    warm = [pair for pair in pairs if pair[1] not in cold]
    parts = {
        "warm_emb": warm[30:],
        "warm_val": warm[:15],
        "warm_test": warm[15:30],
        "cold_item_val": [pair for pair in pairs if pair[1] in {f"i{i}" for i in range(1, 7)}],
        "cold_item_test": [pair for pair in pairs if pair[1] in {f"i{i}" for i in range(7, 13)}],
    }
    folder = tiny_dataset / "split"
    folder.mkdir()
    for name, rows in parts.items():
        text = "".join(f"{user}\t{item}\n" for user, item in rows)
        (folder / f"{name}.tsv").write_text("user_id:token\titem_id:token\n" + text)
    return folder


def test_a_published_split_is_read_row_by_row(tiny_dataset: Path, published: Path) -> None:
    _, train, valid, test = build("BPR", {"files": "split"})
    dataset = train._dataset
    found = []
    for data in (train, valid, test):
        users, items = rows_of(data)
        tokens = (dataset.id2token("user_id", users), dataset.id2token("item_id", items))
        found.append(sorted(zip(*tokens, strict=True)))
    for rows, names in zip(
        found, (["warm_emb"], ["warm_val", "cold_item_val"], ["warm_test", "cold_item_test"]), strict=True
    ):
        text = "\n".join((published / f"{name}.tsv").read_text().partition("\n")[2] for name in names)
        assert rows == sorted(tuple(line.split("\t")) for line in text.split("\n") if line)
    assert dataset.oov_split.n_rows["train"] == len(found[0])
    # ColdRec shares the same parts as comma-separated files with short names.
    for path in published.iterdir():
        path.with_suffix(".csv").write_text("user,item\n" + path.read_text().partition("\n")[2].replace("\t", ","))
        path.unlink()
    again = build("BPR", {"files": str(published)})[1]
    assert sorted(zip(*rows_of(again), strict=True)) == sorted(zip(*rows_of(train), strict=True))


def test_a_published_split_that_does_not_fit(tiny_dataset: Path, published: Path) -> None:
    path = published / "warm_val.tsv"
    text = path.read_text()
    path.write_text(text + "u1\tnobody\n")
    with pytest.raises(DataError, match=r"warm_val.tsv, line 17: 1 of 16 pairs are not among .* first is u1, nobody"):
        build("BPR", {"files": "split"})
    path.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(DataError, match="is in two places of the split"):
        build("BPR", {"files": "split"})
    cold = (published / "cold_item_val.tsv").read_text().splitlines()
    path.write_text(text)
    (published / "cold_item_val.tsv").write_text("\n".join(cold[:-1]) + "\n")
    with (published / "warm_emb.tsv").open("a") as file:
        file.write(cold[-1] + "\n")
    with pytest.raises(DataError, match="1 OOV items have training rows"):
        build("BPR", {"files": "split"})
    path.write_text(text.replace("item_id", "thing", 1))
    with pytest.raises(DataError, match="the column 'item_id' is not there; its columns are user_id, thing"):
        build("BPR", {"files": "split"})
    path.unlink()
    from recbole_oov.data.oov_files import check_split_files

    config = OOVConfig("BPR", "tiny", config_dict={"oov_split": "split"}, argv=[])
    with pytest.raises(ConfigError, match="one file for the part iv_valid, called iv_valid.tsv or warm_val"):
        check_split_files(config)


def test_too_few_items_or_rows(tiny_dataset: Path) -> None:
    with pytest.raises(DataError, match="ratio 0.01 and valid 0.5 make 0 of 60 items OOV"):
        build("BPR", {"ratio": 0.01})
    with pytest.raises(DataError, match="the part iv_valid would be empty; raise ratio, change valid or iv"):
        refuse_empty({part: [] if part == "iv_valid" else [1] for part in PARTS})
    with pytest.raises(DataError, match="a published split has no order in time"):
        build("SASRec", {"files": "split"}, eval_args={"order": "TO"})
    with pytest.raises(DataError, match=r"DIENDataset adds the columns .* to each row"):
        build("DIEN", {}, eval_args={"order": "TO"}, metrics=["MRR"])


def test_a_user_of_all_iv_items_has_no_negative(tiny_dataset: Path) -> None:
    inter = tiny_dataset / "tiny.inter"
    everything = "".join(f"glutton\ti{i}\t3\t5\n" for i in range(1, 61))
    inter.write_text("\n".join(inter.read_text().splitlines()) + "\n" + everything)
    with pytest.raises(DataError, match=r"1 users \(user_id glutton\) have interacted with all \d+ items of the"):
        build("BPR", {"iv": [0.9998, 0.0001, 0.0001], "ratio": 0.1})


def test_the_short_form(tiny_dataset: Path) -> None:
    def args(*argv: str, **options: Any) -> Any:
        return OOVConfig("BPR", "tiny", config_dict=options, argv=list(argv))["eval_args"]

    assert args("--oov_split=random")["split"] == {"OOV": {"by": "random"}}
    assert args("--oov_split=time")["order"] == "TO"
    assert args("--oov_split=popularity")["order"] == "RO"
    assert args("--oov_split=some/folder")["split"] == {"OOV": {"files": "some/folder"}}
    assert args("--oov_split=time")["group_by"] is None
    assert args("--oov_split=time", eval_args={"group_by": "user"})["group_by"] == "user"
    assert args(eval_args={"split": {"OOV": {"by": "time"}}})["order"] == "TO"
    with pytest.raises(ConfigError, match="order: RO splits interactions at random, and by: time is to have training"):
        args("--oov_split=time", eval_args={"order": "RO"})
    with pytest.raises(ConfigError, match="oov_split: 'random' and eval_args split are both given"):
        args("--oov_split=random", eval_args={"split": {"RS": [8, 1, 1]}})


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"ratio": 0}, "eval_args split OOV ratio: 0 is not allowed; it must be a number above 0 and below 1"),
        ({"by": "luck"}, "eval_args split OOV by: 'luck' is not allowed; it must be one of random, time, popularity"),
        ({"ration": 0.2}, "eval_args split OOV: 'ration' is not one of its keys"),
        ({"iv": [1, 0, 0]}, "eval_args split OOV iv: .* is not allowed; it must be three numbers above 0"),
        ({"seed": -1}, "eval_args split OOV seed: -1 is not allowed"),
        ({"files": "x", "ratio": 0.1}, "files takes the split as it is; leave out ratio"),
        ("random", "eval_args split OOV: 'random' is not allowed; it must be a mapping"),
    ],
)
def test_bad_options(tiny_dataset: Path, split: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        OOVConfig("BPR", "tiny", config_dict={"eval_args": {"split": {"OOV": split}}}, argv=[])


def test_what_the_protocol_cannot_be_combined_with(tiny_dataset: Path) -> None:
    with pytest.raises(ConfigError, match="'uni100' ranks sampled items; the OOV protocol ranks all: use full"):
        OOVConfig("BPR", "tiny", config_dict={"eval_args": {"split": {"OOV": {}}, "mode": "uni100"}}, argv=[])
    with pytest.raises(ConfigError, match="benchmark_filename: the data set comes split already"):
        OOVConfig("BPR", "tiny", config_dict={"oov_split": "random", "benchmark_filename": ["a", "b", "c"]}, argv=[])


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_held_out_rows_change_nothing_in_what_negatives_are_drawn(tiny_dataset: Path, distribution: str) -> None:
    def drawn() -> Any:
        _, train, _, _ = build("BPR", {}, train_neg_sample_args={"distribution": distribution})
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 (what RecBole draws with)
        return train, torch.cat([batch["neg_item_id"] for batch in train])

    train, first = drawn()
    dataset = train._dataset
    held = {str(dataset.id2token("item_id", i)) for i in np.flatnonzero(dataset.oov_split.mask)}
    path = tiny_dataset / "tiny.inter"
    header, *lines = path.read_text().splitlines()
    # Each OOV item's interactions come from other users; which rows there are, and their order, stay as they are.
    kept = [n for n, line in enumerate(lines) if line.split("\t")[1] in held]
    moved = np.roll([lines[n].split("\t")[0] for n in kept], 7)
    for n, user in zip(kept, moved, strict=True):
        cells = lines[n].split("\t")
        lines[n] = "\t".join([str(user), *cells[1:]])
    path.write_text("\n".join([header, *lines]) + "\n")
    assert torch.equal(drawn()[1], first)
