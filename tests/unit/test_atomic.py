from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset

from recbole_oov.config import OOVConfig
from recbole_oov.data import atomic_table
from recbole_oov.data.atomic import check_atomic_files
from recbole_oov.data.atomic_rows import within_bounds
from recbole_oov.data.atomic_table import AtomicTable
from recbole_oov.errors import DataError

Edit = Callable[[list[str]], list[str]]
EVERYTHING = {"inter": "*", "item": "*"}


def check(model: str = "BPR", **options: Any) -> str:
    notes = check_atomic_files(OOVConfig(model, "tiny", config_dict={"load_col": EVERYTHING, **options}, argv=[]))
    return "\n".join(notes)


def change(path: Path, edit: Edit) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(edit(lines)) + "\n", encoding="utf-8")


def cell(line: int, column: int, value: str) -> Edit:
    """Put ``value`` into one cell; lines count from 1, the header's."""

    def edit(lines: list[str]) -> list[str]:
        cells = lines[line - 1].split("\t")
        cells[column] = value
        return [*lines[: line - 1], "\t".join(cells), *lines[line:]]

    return edit


def header(text: str) -> Edit:
    return lambda lines: [text.replace(" ", "\t"), *lines[1:]]


def refused(*words: str, model: str = "BPR", **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        check(model, **options)
    text = str(caught.value)
    for word in words:
        assert word in text, text
    return text


@pytest.fixture
def inter(tiny_dataset: Path) -> Path:
    return tiny_dataset / "tiny.inter"


@pytest.fixture
def item(tiny_dataset: Path) -> Path:
    return tiny_dataset / "tiny.item"


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_good_data_passes(tiny_dataset: Path, model: str) -> None:
    check(model)


@pytest.mark.parametrize("model", ["BPR", "SASRec", "FM", "KGAT", "S3Rec"])
def test_recboles_own_data_passes(model: str) -> None:
    check_atomic_files(OOVConfig(model, "ml-100k", argv=[]))
    stock = {"train_neg_sample_args": None} if model in ("SASRec", "S3Rec") else {}
    check_atomic_files(Config(model, "ml-100k", config_dict=stock))


def test_data_to_be_downloaded_are_not_looked_for(workplace: Path) -> None:
    check_atomic_files(OOVConfig("BPR", "ml-1m", argv=[]))


def test_line_ends_of_any_kind_and_blank_lines_pass(inter: Path) -> None:
    text = inter.read_bytes()
    inter.write_bytes(text.replace(b"\n", b"\r\n"))
    check("SASRec")
    inter.write_bytes(text.replace(b"\n", b"\n\n", 5).removesuffix(b"\n"))
    check("SASRec")
    inter.write_bytes(text.replace(b"\n", b"\r"))
    check("SASRec")


# ---- the file and its header ----


def test_a_missing_file_is_named(inter: Path) -> None:
    config = OOVConfig("BPR", "tiny", argv=[])
    inter.unlink()
    with pytest.raises(DataError, match=r"tiny\.inter: there is no such file; BPR needs it"):
        check_atomic_files(config)


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n\n"])
def test_an_empty_file_is_refused(inter: Path, content: bytes) -> None:
    inter.write_bytes(content)
    refused("tiny.inter: the file is empty; its first line must be a header such as user_id:token")


def test_a_header_alone_is_refused(inter: Path) -> None:
    change(inter, lambda lines: lines[:1])
    refused("tiny.inter: there is a header but no row")


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("user_id item_id rating timestamp", "line 1: the first line is no header: 'user_id\\titem_id"),
        ("user_id:token item_id…", "the header cell 'item_id' (column 2) is not name:type"),
        ("user_id:token item_id:str…", "with a type out of token, float, token_seq"),
        ("user_id:token :token…", "the header cell ':token' (column 2)"),
        ("user_id:token a:b:token…", "the header cell 'a:b:token'"),
        ("user_id:token,item_id:token rating:float", "if this file uses ',', set field_separator"),
        ("user_id:token user_id:token…", "line 1: the column 'user_id' is there twice"),
        ("user_id:token item:token…", "'item_id' (ITEM_ID_FIELD) is not there; its columns are"),
        ("user_id:token itemId:token…", "the column 'item_id' (ITEM_ID_FIELD) is not there; is it 'itemId'?"),
        ("user_id:float item_id:token…", "is of type float; it must be user_id:token"),
        ("\ufeffuser_id:token item_id:token…", "starts with a byte order mark"),
    ],
)  # fmt: skip
def test_a_wrong_header_is_explained(inter: Path, first: str, said: str) -> None:
    change(inter, header(first.replace("…", " rating:float timestamp:float")))
    refused("tiny.inter", said)


def test_a_time_that_is_a_token_is_refused(inter: Path) -> None:
    change(inter, header("user_id:token item_id:token rating:float timestamp:token"))
    check("BPR")
    refused("line 1: the column 'timestamp' (TIME_FIELD", "must be timestamp:float", model="SASRec")


def test_columns_that_options_name_must_be_there(inter: Path) -> None:
    listed = {"inter": ["user_id", "item_id", "ratings"]}
    refused(
        "load_col names the column 'ratings', which is not there; its columns are user_id, item_id", load_col=listed
    )
    short = {"inter": ["user_id", "item_id"]}
    said = "'timestamp' (TIME_FIELD, which sequential models need) is there but not loaded; add it to load_col, as in "
    refused(said + "load_col: {inter: [user_id, item_id, timestamp]}", model="SASRec", load_col=short)
    refused("(TIME_FIELD, which eval_args order TO needs)", load_col=short, eval_args={"order": "TO"})
    refused("'rating' (threshold) is there but not loaded", load_col=short, threshold={"rating": 3})
    refused("'label' (LABEL_FIELD, which eval_args mode labeled needs; or set threshold)", model="FM")
    refused("'item_id' (ITEM_ID_FIELD) is there but not loaded", load_col=None, unload_col={"inter": ["item_id"]})
    refused("val_interval: the column 'year' is not loaded", load_col={"inter": "*"}, val_interval={"year": "[1,2]"})
    refused("normalize_field: the column 'age' is not loaded", normalize_field=["age"])
    refused("tiny.ent: there is no such file", additional_feat_suffix=["ent"], load_col={**EVERYTHING, "ent": ["a"]})


def test_other_files_are_checked_the_same_way(tiny_dataset: Path, item: Path) -> None:
    change(item, header("id:token title:token_seq year:token"))
    refused("tiny.item: the column 'item_id' (ITEM_ID_FIELD) is not there")
    check(load_col={"inter": "*"})  # a file that is not loaded is not looked at
    change(item, header("item_id:token title:token_seq year:token"))
    change(item, cell(7, 1, "a\tb"))
    refused("tiny.item, line 7: 4 cells where the header has 3 columns")
    change(item, cell(7, 2, "1999"))
    change(item, lambda lines: [line.rsplit("\t", 1)[0] if i == 6 else line for i, line in enumerate(lines)])
    (tiny_dataset / "tiny.user").write_text("user_id:token\tage:float\nu1\told\n")
    refused("tiny.user, line 2: column age is of type float, but holds 'old'", load_col={**EVERYTHING, "user": "*"})
    graph = {**EVERYTHING, "kg": "*", "link": "*"}
    refused("tiny.kg: there is no such file; KGAT needs it", "tiny.link: there is no", model="KGAT", load_col=graph)
    (tiny_dataset / "tiny.kg").write_text("head_id:token\trelation_id:token\ttail_id:token\na\tb\n")
    (tiny_dataset / "tiny.link").write_text("item_id:token\tentity:token\ni1\ta\n")
    refused("tiny.kg, line 2: 2 cells", "'entity_id' (ENTITY_ID_FIELD) is not there", model="KGAT", load_col=graph)
    refused("load_col has no 'kg'", model="KGAT", load_col=EVERYTHING)


def test_all_files_problems_are_reported_at_once(inter: Path, item: Path) -> None:
    inter.write_text("")
    item.write_text("")
    assert refused("tiny.inter: the file is empty", "tiny.item: the file is empty").startswith(
        "2 problems in the data:"
    )


# ---- rows ----


@pytest.mark.parametrize(
    ("line", "cells", "said"), [(9, 2, "the line is cut short"), (9, 1, "1 cell where"), (9, 5, "too many")]
)
def test_a_row_of_the_wrong_width_is_found(inter: Path, line: int, cells: int, said: str) -> None:
    change(inter, lambda rows: [*rows[: line - 1], "\t".join("12345"[:cells]), *rows[line:]])
    refused(
        f"tiny.inter, line {line}: {cells} cell",
        "where the header has 4 columns",
        said,
        "write one cell for each column",
    )


def test_a_file_cut_in_its_last_row_is_found(inter: Path) -> None:
    text = inter.read_bytes()
    lines = text.count(b"\n")
    cut = text.rstrip(b"\n").rfind(b"\t")
    inter.write_bytes(text[:cut])
    refused(f"tiny.inter, line {lines}: 3 cells where the header has 4 columns: the line is cut short")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (2, "good", "column rating is of type float, but holds 'good'; write a number, or leave the cell empty"),
        (2, "1,5", "but holds '1,5'"),
        (2, "1_000", "but holds '1_000'"),
        (3, "2020-01-01", "column timestamp is of type float, but holds '2020-01-01'"),
        (3, "", "column timestamp is missing (or nan); write a finite number, or remove the row"),
        (3, "nan", "column timestamp is missing"),
        (3, "NULL", "column timestamp is missing"),
        (3, "inf", "column timestamp is infinite"),
        (3, "1e400", "but holds '1e400'"),
        (2, "-inf", "column rating is infinite"),
    ],
)
def test_a_cell_that_is_no_number_is_found(inter: Path, column: int, value: str, said: str) -> None:
    change(inter, cell(17, column, value))
    refused("tiny.inter, line 17: column", said)


@pytest.mark.parametrize("value", ["3", " 3.5", "-1e3", ".5", "4."])
def test_a_number_may_be_written_in_any_way(inter: Path, value: str) -> None:
    change(inter, cell(17, 2, value))
    check()


def test_a_list_of_numbers_is_checked(item: Path) -> None:
    change(item, header("item_id:token title:token_seq vector:float_seq"))
    change(item, lambda rows: [rows[0], *("\t".join([*row.split("\t")[:2], "0.5 -1e3  2"]) for row in rows[1:])])
    check()
    change(item, cell(4, 2, "0.5 x"))
    refused("tiny.item, line 4: column vector is of type float_seq, but holds 'x'; write numbers separated by ' '")


def test_bytes_that_are_no_text_are_found(inter: Path) -> None:
    rows = inter.read_bytes().split(b"\n")
    inter.write_bytes(b"\n".join([*rows[:5], b"caf\xe9" + rows[5], *rows[6:]]))
    refused("tiny.inter, line 6: is not UTF-8: 0xe9 at byte 4 of the line; save the file as UTF-8, or set encoding")
    check(encoding="latin-1")
    refused("encoding: 'utf-99' is not a text encoding", encoding="utf-99")
    inter.write_bytes(b"\n".join([*rows[:5], b"\0" + rows[5], *rows[6:]]))
    refused("line 6: holds a zero byte, so it is no text file")
    inter.write_bytes(b"\n".join(rows).decode().encode("utf-16"))
    refused("is not UTF-8")
    check(encoding="utf-16", load_col={"inter": "*"})


def test_a_quotation_mark_that_would_swallow_lines_is_found(item: Path) -> None:
    change(item, cell(5, 1, 'the "quoted" one'))
    change(item, cell(6, 1, '"quoted ""first"" whole"'))
    check()
    change(item, cell(7, 1, '"open first'))
    refused("tiny.item, line 7: a quotation mark opens a cell and is not closed", "remove it or double it")


def test_a_cell_too_long_for_the_reader_is_found(item: Path) -> None:
    change(item, cell(5, 1, "x" * 140_000))
    refused("tiny.item, line 5: column title holds 140000 characters; RecBole reads at most 131072")


def test_a_file_is_read_in_blocks_without_a_seam(inter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [block.frame for block in AtomicTable(inter).blocks(["user_id", "timestamp"])]
    assert len(whole) == 1
    monkeypatch.setattr(atomic_table, "BLOCK", 100)
    parts = list(AtomicTable(inter).blocks(["user_id", "timestamp"]))
    assert len(parts) > 10
    assert [user for part in parts for user in part.frame["user_id"]] == whole[0]["user_id"].tolist()
    assert np.concatenate([part.lines for part in parts]).tolist() == list(range(2, len(whole[0]) + 2))
    change(inter, cell(200, 2, "good"))
    refused("tiny.inter, line 200: column rating")


def test_another_separator_is_followed(inter: Path, item: Path) -> None:
    for path in (inter, item):
        path.write_text(path.read_text().replace("\t", ","))
    check("SASRec", field_separator=",")
    refused("if this file uses ',', set field_separator")
    for path in (inter, item):
        path.write_text(path.read_text().replace(",", "::"))
    check("SASRec", field_separator="::")
    change(inter, lambda rows: [*rows[:7], rows[7] + "::", *rows[8:]])
    refused("tiny.inter, line 8: 5 cells", field_separator="::")


# ---- what only shows over all rows ----


def test_missing_ids_and_ratings_are_doubtful(inter: Path) -> None:
    change(inter, cell(5, 1, ""))
    change(inter, cell(6, 1, "NA"))
    change(inter, cell(8, 2, ""))
    found = refused("lines 5, 6: the user or item id is missing", "line 8: rating is missing")
    assert "(--data_checks=warn runs all the same)" in found
    assert "lines 5, 6: the user or item id is missing" in check(data_checks="warn")
    change(inter, cell(9, 0, "NA"))  # RecBole would remove another row than line 6
    found = refused("lines 5, 6, 9: the user or item id is missing, the user's in 1 of them", data_checks="warn")


def test_numbers_that_held_out_rows_would_fill_in_are_doubtful(inter: Path) -> None:
    change(inter, lambda rows: [f"{row}\t{'price:float' if at == 0 else at % 7}" for at, row in enumerate(rows)])
    change(inter, cell(8, 4, ""))
    clicks = {"threshold": {"rating": 3}, "metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}}
    said = "price is missing in 1 of 429 rows; RecBole would put the mean of all rows there, held-out ones included"
    found = refused(said, "leave it out with unload_col: {inter: [price]}", model="FM", **clicks)
    assert "(--data_checks=warn runs all the same)" in found
    assert said in check("FM", data_checks="warn", **clicks)
    assert "price" not in check("FM", unload_col={"inter": ["price"]}, **clicks)
    assert "RecBole puts the mean of the others there" in check("BPR"), "which does not read it"
    refused(said, model="BPR", threshold={"price": 3})


def test_numbers_that_are_scaled_by_held_out_rows_are_doubtful(inter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clicks = {"threshold": {"rating": 3}, "metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}}
    said = "RecBole scales timestamp of the interactions by the smallest and the largest number of all rows"
    for options in ({"normalize_all": True}, {"normalize_field": ["timestamp"]}):
        refused(f"{next(iter(options))}: {said}", model="FM", **clicks, **options)
        assert said not in check("BPR", **options), "which does not read it"
    assert said not in check("FM", **clicks)
    config = OOVConfig("FM", "tiny", config_dict={"load_col": EVERYTHING, **clicks}, argv=[])
    config["normalize_all"] = True  # as RecBole's own options of ml-100k have it
    assert said in "\n".join(check_atomic_files(config))


def test_repeated_rows_are_doubtful(inter: Path) -> None:
    change(inter, lambda rows: rows + rows[1:3])
    said = check()
    assert "2 of " in said
    assert "rows repeat an earlier one, same user, item and time; rm_dup_inter: first would remove them" in said
    change(inter, lambda rows: rows + rows[1:])
    refused("rows repeat an earlier one", "set rm_dup_inter: first")
    check(rm_dup_inter="first")


def test_an_id_without_end_is_doubtful(inter: Path) -> None:
    change(inter, cell(5, 1, "x" * 20_000))
    refused("line 5: an id of 20000 characters; is a separator missing?")


def test_no_row_left_is_found(inter: Path, item: Path) -> None:
    refused("no row is left after filtering; loosen val_interval", user_inter_num_interval="[100,inf)")
    refused("no row is left", item_inter_num_interval="(1000,inf)")
    refused("no row is left", val_interval={"rating": "[6,inf)"})
    change(item, lambda rows: [rows[0], "other\tx\t1"])
    refused("no row is left")
    check(filter_inter_by_user_or_item=False)


def short_users(rows: list[str]) -> list[str]:
    return [*rows, "x1\ti1\t3\t1000000", "x2\ti1\t3\t1000000", "x2\ti2\t3\t1000001"]


def test_users_too_short_for_leave_one_out_are_doubtful(inter: Path) -> None:
    change(inter, short_users)
    check("BPR")
    found = refused("2 of 42 users have fewer than 3 interactions (user_id x1, x2)", model="SASRec")
    assert 'set user_inter_num_interval: "[3,inf)"' in found
    check("SASRec", user_inter_num_interval="[3,inf)")
    check("SASRec", data_checks="warn")
    check("SASRec", eval_args={"split": {"RS": [8, 1, 1]}, "order": "TO"})
    refused("1 of 42 users have fewer than 2", model="SASRec", eval_args={"split": {"LS": "test_only"}, "order": "TO"})


def test_filters_that_remove_short_users_are_followed(inter: Path) -> None:
    change(inter, lambda rows: [*rows, "x1\tlonely\t3\t1000000"])
    check("SASRec")  # tiny.item has no such item, so RecBole drops the row
    refused("1 of 41 users", model="SASRec", filter_inter_by_user_or_item=False)
    check("SASRec", filter_inter_by_user_or_item=False, item_inter_num_interval="[2,inf)")
    change(inter, lambda rows: [*rows[:-1], "x1\ti1\t0\t1000000"])
    check("SASRec", val_interval={"rating": "[1,inf)"})
    check("SASRec", val_interval={"user_id": [f"u{i}" for i in range(1, 41)]})
    change(inter, lambda rows: [*rows[:-1], *["x1\ti1\t3\t1000000"] * 3])
    refused("1 of 41 users", model="SASRec", rm_dup_inter="first")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_the_filter_by_counts_leaves_what_a_plain_loop_leaves(
    pairs: list[tuple[int, int]], user_low: int, item_low: int
) -> None:
    users, items = (np.array(side, dtype=np.uint64) for side in zip(*pairs, strict=True))
    kept = within_bounds(users, items, f"[{user_low},inf)", f"[{item_low},inf)")
    left = set(range(len(pairs)))
    while True:
        counts = [[pairs[row][side] for row in left] for side in (0, 1)]
        bad = {r for r in left if counts[0].count(pairs[r][0]) < user_low or counts[1].count(pairs[r][1]) < item_low}
        if not bad:
            break
        left -= bad
    assert set(np.flatnonzero(kept).tolist()) == left


def test_recbole_keeps_the_same_rows(inter: Path) -> None:
    """The rows counted here are the rows in RecBole's data set after its own filters."""
    from recbole_oov.data.atomic_rows import Interactions

    options = {"load_col": EVERYTHING, "user_inter_num_interval": "[6,inf)", "item_inter_num_interval": "[3,50]",
               "val_interval": {"rating": "[2,inf)"}, "rm_dup_inter": "first"}  # fmt: skip
    change(inter, lambda rows: rows + rows[1:20])
    config = OOVConfig("BPR", "tiny", config_dict=options, argv=[])
    table = AtomicTable(inter)
    found = Interactions(config, table)
    for block in table.blocks(list(table.columns)):
        found.add(block)
    left = found.kept_rows({})
    kept = within_bounds(left.users, left.items, config["user_inter_num_interval"], config["item_inter_num_interval"])
    assert 100 < kept.sum() < 400
    assert kept.sum() == len(create_dataset(config).inter_feat)


# ---- benchmark files ----


@pytest.fixture
def benchmark(inter: Path) -> list[str]:
    for part in ("train", "valid", "test"):
        shutil.copy(inter, inter.with_name(f"tiny.{part}.inter"))
    inter.unlink()
    return ["train", "valid", "test"]


def test_benchmark_files_are_checked_each(inter: Path, benchmark: list[str]) -> None:
    check(benchmark_filename=benchmark)
    change(inter.with_name("tiny.valid.inter"), cell(3, 3, "late"))
    inter.with_name("tiny.test.inter").write_text("")
    refused(
        "tiny.valid.inter, line 3: column timestamp", "tiny.test.inter: the file is empty", benchmark_filename=benchmark
    )


def test_sequential_models_need_histories_in_benchmark_files(inter: Path, benchmark: list[str]) -> None:
    said = "the column 'item_id_list' (the history, for benchmark_filename) is not there"
    refused(said, model="SASRec", benchmark_filename=benchmark)


# ---- any bytes ----

good = b"user_id:token\titem_id:token\ttimestamp:float\n"
pieces = st.sampled_from(
    [b"u1", b"i1", b"\t", b"\n", b"\r", b'"', b"1.5", b"inf", b"nan", b",", b"\0", b"\xff", b" ", b"x" * 3000]
)


@settings(max_examples=60)
@given(st.one_of(st.binary(max_size=200), st.lists(pieces, max_size=40).map(lambda parts: good + b"".join(parts))))
def test_any_bytes_are_accepted_or_refused_with_a_data_error(tiny_dataset: Path, content: bytes) -> None:
    path = tiny_dataset / "tiny.inter"
    path.write_bytes(good)
    config = OOVConfig("SASRec", "tiny", config_dict={"load_col": EVERYTHING}, argv=[])
    path.write_bytes(content)
    try:
        check_atomic_files(config)
    except DataError as error:
        said = str(error)
    else:
        said = "tiny"
    assert re.search("tiny", said)


@settings(max_examples=40)
@given(st.lists(pieces, max_size=30).map(b"".join))
def test_what_passes_is_read_by_recbole_with_as_many_rows(tiny_dataset: Path, content: bytes) -> None:
    """A file that passes has the same rows for RecBole's own reader as it has for the check."""
    (tiny_dataset / "tiny.item").unlink(missing_ok=True)
    path = tiny_dataset / "tiny.inter"
    path.write_bytes(good + content)
    options = {"load_col": {"inter": "*"}, "filter_inter_by_user_or_item": False}
    config = OOVConfig("BPR", "tiny", config_dict=options, argv=[])
    try:
        check_atomic_files(config)
    except DataError:
        return
    rows = sum(len(block.lines) for block in AtomicTable(path).blocks([]))
    assert len(create_dataset(config).inter_feat) == rows
