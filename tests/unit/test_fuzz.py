"""Damaged files and odd options: what is accepted is what RecBole then sees, and all else is a named error."""

# ruff: noqa: E501, PT017 (a piece a line; whatever is accepted or refused is right)

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset
from recbole.data.dataset import Dataset
from recbole.utils import FeatureSource

from recbole_oov.config import OOVConfig, parse_value
from recbole_oov.config.reading import read_config_file
from recbole_oov.data.atomic import check_atomic_files
from recbole_oov.data.atomic_table import AtomicTable
from recbole_oov.errors import ConfigError, DataError

INTER = b"""user_id:token\titem_id:token\trating:float\ttimestamp:float
u1\ti1\t3\t100
u1\ti2\t4.5\t101
u2\ti1\t1e0\t102
u2\ti3\t\t103
u3\ti4\t2\t104
\xc3\xbc4\ti 5\t-1\t1.05e2
"""
ITEM = b"""item_id:token\ttitle:token_seq\tvector:float_seq
i1\tamber cup\t0.5 1
i2\t12" of it\t1 2
i3\t"a ""b"" c"\t
i4\t\t-1e3 .5
i 5\tx  y\t1 1
"""
PIECES = [
    b"\t", b"\n", b"\r", b"\r\n", b"\t\t", b" ", b'"', b'""', b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1a", b"\x0b", b"\x0c", b"\x1c",
    b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xc2\xa0", b":", b",", b"nan", b"inf", b"-", b"1e400", b"1e39", b"NA", b"None", b"#",
    b"\\", b"'", b"_", b"0x1", b"[PAD]", b"\xd9\xa3", b"token", b"1" * 40, b"\n\n", b"\t\n", b"\xed\xa0\x80",
]  # fmt: skip
OPTIONS = {"load_col": {"inter": "*", "item": "*"}, "data_checks": "warn"}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes of a good file flipped, cut out, put in, doubled; some cells swapped; or no such file at all."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["put", "put", "flip", "cut", "end", "double", "cells", "replace"]))
        length = draw(st.integers(1, 12))
        if kind == "put":
            data[at:at] = draw(st.sampled_from(PIECES))
        elif kind == "replace":
            data[at : at + 1] = draw(st.sampled_from(PIECES))
        elif kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "end":
            del data[at:]
        elif kind == "double":
            data[at:at] = data[at : at + length]
        else:
            cells = re.split(rb"([\t\n])", bytes(data))
            one, other = (draw(st.integers(0, len(cells) - 1)) for _ in range(2))
            cells[one], cells[other] = cells[other], cells[one]
            data = bytearray(b"".join(cells))
    return bytes(data)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.inter").write_bytes(INTER)
    (folder / "tiny.item").write_bytes(ITEM)
    return folder


@pytest.fixture
def config(place: Path) -> OOVConfig:
    return OOVConfig("BPR", "tiny", config_dict=OPTIONS, argv=[])


def as_recbole_loads(config: Any, path: Path, source: FeatureSource) -> pd.DataFrame:
    """What RecBole's own method makes of a file."""
    dataset = Dataset.__new__(Dataset)
    dataset.config, dataset.logger = config, logging.getLogger("nobody")
    dataset.field2source, dataset.field2type, dataset.field2seqlen = {}, {}, {}
    dataset.field2bucketnum = defaultdict(int)
    frame: pd.DataFrame = dataset._load_feat(str(path), source)
    return frame


def as_checked(path: Path) -> pd.DataFrame:
    """The rows that the checks have looked at."""
    table = AtomicTable(path)
    return pd.concat([block.frame for block in table.blocks(list(table.columns))], ignore_index=True)


def same(ours: pd.Series, theirs: pd.Series, kind: str) -> bool:
    if kind == "float":
        return np.allclose(ours.to_numpy(float), theirs.to_numpy(float), rtol=1e-12, atol=0, equal_nan=True)
    if kind == "token":
        return ours.astype(object).where(ours.notna(), None).tolist() == theirs.where(theirs.notna(), None).tolist()
    texts = [list(filter(None, text.split(" "))) if isinstance(text, str) else [] for text in ours]
    if kind == "float_seq":
        return [list(map(float, text)) for text in texts] == [list(row) for row in theirs]
    return texts == [list(row) for row in theirs]


def accepted_as_recbole_reads_it(config: Any, place: Path, name: str, data: bytes) -> bool:
    """Whether the file is accepted; if so, RecBole must read it, and read the same."""
    path = place / name
    path.write_bytes(data)
    try:
        check_atomic_files(config)
    except DataError as error:
        assert (
            str(path.relative_to(place.parents[1])) in str(error) or "column" in str(error) or "load_col" in str(error)
        )
        return False
    source = FeatureSource.INTERACTION if name.endswith(".inter") else FeatureSource.ITEM
    theirs, ours = as_recbole_loads(config, path, source), as_checked(path)
    assert list(theirs.columns) == list(ours.columns)
    assert len(theirs) == len(ours)
    for column in AtomicTable(path).columns.values():
        assert same(ours[column.name], theirs[column.name], column.type), column
    return True


@given(damaged(INTER))
@example(INTER)
@settings(max_examples=150)
def test_a_damaged_inter_file_is_refused_or_read_as_recbole_reads_it(config: Any, place: Path, data: bytes) -> None:
    assert accepted_as_recbole_reads_it(config, place, "tiny.inter", data) or data != INTER


@given(damaged(ITEM))
@example(ITEM)
@settings(max_examples=150)
def test_a_damaged_item_file_is_refused_or_read_as_recbole_reads_it(config: Any, place: Path, data: bytes) -> None:
    assert accepted_as_recbole_reads_it(config, place, "tiny.item", data) or data != ITEM


@given(st.binary(max_size=200) | st.text(alphabet='ab:\t\n\r"tokenfloat_sq1.', max_size=80).map(str.encode))
def test_any_bytes_are_refused_or_read(config: Any, place: Path, data: bytes) -> None:
    accepted_as_recbole_reads_it(config, place, "tiny.item", data)


@st.composite
def filtered(draw: st.DrawFn) -> tuple[list[tuple[str, str, int, int]], dict[str, Any]]:
    """Interactions, with gaps and repeats, and filters of RecBole's."""
    row = st.tuples(
        st.sampled_from(["a", "b", "c", "NA"]),
        st.sampled_from([*"pqrst", ""]),
        st.integers(1, 5),
        st.integers(0, 6),
    )
    options: dict[str, Any] = {
        "rm_dup_inter": draw(st.sampled_from([None, "first", "last"])),
        "user_inter_num_interval": draw(st.sampled_from([None, "[2,inf)", "[3,6]"])),
        "item_inter_num_interval": draw(st.sampled_from([None, "[2,inf)"])),
        "filter_inter_by_user_or_item": draw(st.booleans()),
    }
    if draw(st.booleans()):
        options["val_interval"] = draw(
            st.sampled_from([{"rating": "[2,4]"}, {"item_id": ["p", "q", "r"]}, {"price": "(1,inf)"}])
        )
    return draw(st.lists(row, min_size=1, max_size=30)), options


@given(filtered())
@settings(max_examples=60)
def test_the_rows_that_are_said_to_be_used_are_those_that_recbole_uses(
    config: Any, place: Path, case: tuple[list[tuple[str, str, int, int]], dict[str, Any]]
) -> None:
    rows, options = case
    lines = ["\t".join(map(str, row)) for row in rows]
    (place / "tiny.inter").write_text("\n".join([INTER.decode().splitlines()[0], *lines]) + "\n")
    (place / "tiny.item").write_text("item_id:token\tprice:float\np\t1\nq\t2\nr\t3\nx\t4\n")
    config.final_config_dict.update(dict.fromkeys(["val_interval"]), **options)
    try:
        notes = "\n".join(check_atomic_files(config))
    except DataError as error:
        if "RecBole would remove other rows" in str(error):
            return
        assert "no row is left" in str(error)
        with pytest.raises(ValueError, match="Some feat is empty"):
            create_dataset(config)
        return
    used = re.search(r"(\d+) of (\d+) rows are used; left out are", notes)
    assert len(create_dataset(config).inter_feat) == (int(used[1]) if used else len(rows))


# ---- YAML ----

GOOD = """# a run
model: BPR
topk: &k [5, 10]
metrics: [Recall, "NDCG", 'MRR']
eval_args: {split: {RS: [0.8, 0.1, 0.1]}, order: RO, mode: full}
base: &base
  a: 1e-3
  b: [null, ~, None, true]
more: {<<: *base, c: 2020-01-01, d: 1:30, e: 007, f: *k}
"""
TOKENS = [
    "&a ", "*a", "*k", "<<: ", "<<: *base", "!!python/name:os.system ", "!!binary ", "!!int ", "!!set ", "!!timestamp ", "!x ",
    "[", "]", "{", "}", ": ", "- ", "? ", "|\n", ">\n", "'", '"', "#", "\n", "\n  ", "---\n", "...\n", "%YAML 1.1\n", "\t", "\0",
    "\x85", "\u2028", "\ufeff", "9" * 4400, "1e999", "0x1F", "-", "~", "=", "@", "`", "\\x41", "None", "2001-12-14t21:59:43.10-05:00",
    "[" * 300, "{a: " * 300, "- " * 300, "? " * 50, "yes", "1_0", "🙂",
]  # fmt: skip


@st.composite
def damaged_yaml(draw: st.DrawFn) -> str:
    text = GOOD
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 6))
        text = text[:at] + draw(st.sampled_from([*TOKENS, ""])) + text[at + cut :]
    return text


def is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str | int | float | bool | None) for key in value) and all(
            map(is_plain, value.values())
        )
    if isinstance(value, list):
        return all(map(is_plain, value))
    return type(value) in (str, int, float, bool, type(None))


def read_quickly(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
    began = time.process_time()
    try:
        values = read_config_file(path)
    except ConfigError as error:
        assert "config file" in str(error)
    else:
        assert is_plain(values)
        assert all(isinstance(key, str) for key in values)
    assert time.process_time() - began < 5


@given(damaged_yaml())
@settings(max_examples=150)
def test_damaged_yaml_is_plain_data_or_refused(tmp_path: Path, text: str) -> None:
    read_quickly(tmp_path / "any.yaml", text)


@given(st.lists(st.sampled_from([*TOKENS, "a", "b: ", " ", "a: "]), max_size=12).map("".join))
def test_pieces_of_yaml_are_plain_data_or_refused(tmp_path: Path, text: str) -> None:
    read_quickly(tmp_path / "any.yaml", text)


@given(damaged_yaml() | st.lists(st.sampled_from(TOKENS), max_size=8).map("".join))
def test_a_value_on_the_command_line_is_plain_or_refused(text: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ConfigError):
        assert is_plain(parse_value(text))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]}}\n" for i in range(9)),
         "more than 100000 values"),
        ("a: &a [1, 1]\n" + "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(12)),
         "more than 100000 values"),
        ("a: &a [*a]", "an alias that holds itself"),
        ("a: &a {<<: *a}", "an alias that holds itself"),
        ("a: " + "9" * 5000, "one of too many digits"),
        ("a: !!int abc", "line 1, column 4, is not valid YAML: 'abc' is no whole number"),
        ("a: !!binary aGVsbG8=", "no option takes a value of type !!binary"),
        ("a: !!set {1, 2}", "no option takes a value of type !!set"),
        ("a: !!timestamp 2020-01-01", "no option takes a value of type !!timestamp"),
        ("a: " + "[" * 5000, "it nests too deeply"),
        ("a: \0", "special characters are not allowed"),
        ("x" * (1 << 20) + "y", "has more than 1048576 bytes"),
    ],
)  # fmt: skip
def test_yaml_that_would_cost_too_much_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match="config file") as caught:
        read_config_file(path)
    assert said in str(caught.value)
    assert time.process_time() - began < 10
