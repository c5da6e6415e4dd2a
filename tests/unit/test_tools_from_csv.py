"""``from-csv``: own CSV files become a data set, or an error that names file, line, column, value and remedy."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from recbole_oov.cli import main
from recbole_oov.data.atomic_table import MISSING
from recbole_oov.data.oov_split import columns
from recbole_oov.errors import DataError
from recbole_oov.tools import from_csv as module
from recbole_oov.tools.csv_rows import as_id, as_number, as_seconds, as_words
from recbole_oov.tools.datasets import open_dataset

ORDERS = "customer,product,bought,stars\nc1,p1,2024-01-31,4.5\nc2,p2,2024-01-31T12:00:00+02:00,3\nc1,p2,1700000000,5\n"
PRODUCTS = 'sku,full title,brand,price\np1,"Amber ""tide"", a novel",Acme,3\np2,  Basil   and cedar ,,4.25\n'
MAKE = ["from-csv", "orders.csv", "--name=shop", "--user=customer", "--item=product", "--time=bought"]
ITEMS = ["--items=products.csv", "--item_id=sku", "--text=[full title]", "--token=brand", "--number=price"]


def written(text: str = ORDERS, products: str = PRODUCTS) -> None:
    Path("orders.csv").write_text(text, encoding="utf-8")
    Path("products.csv").write_text(products, encoding="utf-8")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said where nothing may have been written."""
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    assert sorted(Path().rglob("*")) == before
    return capsys.readouterr().err


def test_the_files_are_what_recbole_reads(workplace: Path) -> None:
    written()
    assert main([*MAKE, "--rating=stars", *ITEMS]) == 0
    inter = Path("dataset/shop/shop.inter").read_text(encoding="utf-8").splitlines()
    assert inter == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "c1\tp1\t4.5\t1706659200",
        "c2\tp2\t3\t1706695200",
        "c1\tp2\t5\t1700000000",
    ]
    items = Path("dataset/shop/shop.item").read_text(encoding="utf-8").splitlines()
    assert items == [
        "item_id:token\tfull_title:token_seq\tbrand:token\tprice:float",
        "p1\tAmber 'tide', a novel\tAcme\t3",
        "p2\tBasil and cedar\t\t4.25",
    ]
    _, dataset, notes = open_dataset("Pop", ["--dataset=shop"], {"load_col": None})
    users, item_ids, times = columns(dataset)
    tokens = [dataset.id2token("user_id", users).tolist(), dataset.id2token("item_id", item_ids).tolist()]
    assert tokens == [["c1", "c2", "c1"], ["p1", "p2", "p2"]]
    assert times is not None and times.astype(np.int64).tolist() == [1706659200, 1706695200, 1700000000]
    titles = dataset.item_feat["full_title"][int(dataset.token2id("item_id", "p2"))]
    assert dataset.field2id_token["full_title"][titles].tolist() == ["Basil", "and", "cedar"]
    assert notes == []


def test_other_separators_a_mark_of_the_byte_order_and_blank_lines(workplace: Path) -> None:
    written("\ufeffcustomer;product;bought\n\nc1;p1;0\n")
    assert main([*MAKE, "--separator=;"]) == 0
    expected = Path("dataset/shop/shop.inter").read_text(encoding="utf-8")
    written("customer\tproduct\tbought\nc1\tp1\t0\n")
    assert main([*MAKE, "--separator=tab", "--output=other"]) == 0
    assert Path("other/shop/shop.inter").read_text(encoding="utf-8") == expected
    assert expected.splitlines()[1] == "c1\tp1\t0"


def test_names_are_texts(workplace: Path) -> None:
    Path("orders.csv").write_text("1e1,0x2,true,1.50\nc1,p1,5,6\n", encoding="utf-8")
    arguments = ["--name=1e3", "--user=1e1", "--item=0x2", "--rating=true", "--time=1.50", "--output=007"]
    assert main(["from-csv", "orders.csv", *arguments]) == 0
    inter = Path("007/1e3/1e3.inter").read_text(encoding="utf-8")
    assert inter.splitlines()[1] == "c1\tp1\t5\t6"


def test_items_without_a_row_are_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(ORDERS + "c3,p9,1,1\n")
    assert main([*MAKE, *ITEMS]) == 0
    assert "1 items with interactions have no row in products.csv (p9)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [("0", "0"), ("1.5", "1.5"), ("1970-01-02", "86400"), ("1970-01-01 01:00:00+01:00", "0")],
)
def test_times(cell: str, seconds: str) -> None:
    assert as_seconds(cell) == seconds


@pytest.mark.parametrize(
    ("convert", "cell", "said"),
    [
        (as_seconds, "31.1.2024", "'31.1.2024' is no time; write seconds after 1970"),
        (as_seconds, "-1", "'-1' is no time"),
        (as_seconds, "nan", "'nan' is no time"),
        (as_seconds, "1700000000000", "divide by 1000"),
        (as_number, "", "'' is no number; write it as 3 or 3.5"),
        (as_number, "1_000", "'1_000' is no number"),
        (as_number, "inf", "'inf' is no number"),
        (as_number, "1,5", "'1,5' is no number"),
        (as_id, " ", "is empty; fill it in, or remove the row"),
        (as_id, "a\tb", "holds a tab"),
        (as_id, 'a"b', "double quote"),
        (as_id, "[PAD]", "is RecBole's own name of no user"),
        (as_number, "１２", "'１２' is no number"),
        (as_number, "1e39", "'1e39' is more than RecBole's numbers can hold"),
        (as_seconds, "٣", "'٣' is no time"),
        *((as_id, word, f"{word!r} is read as a missing id by RecBole; rename it") for word in sorted(MISSING - {""})),
    ],
)
def test_cells_that_are_refused(convert: module.Convert, cell: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        convert(cell)
    assert said in str(error.value)


def test_ids_stay_text() -> None:
    assert (as_id(" 007 "), as_id("1.0"), as_words('  the "sea"\n of  ')) == ("007", "1.0", "the 'sea' of")


def test_bad_rows_are_listed_with_line_column_value_and_remedy(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["c1,p1,yesterday,1", ",p1,0,1", "c1,p1,0", *["c1,p1,never,1"] * 5]
    written("customer,product,bought,stars\nc1,p1,0,1\n" + "\n".join(rows) + "\n")
    said = refused(MAKE, capsys)
    assert "8 bad rows" in said and "and 3 more bad rows" in said
    assert "orders.csv, line 3: bought: 'yesterday' is no time; write seconds after 1970" in said
    assert "orders.csv, line 4: customer: is empty; fill it in, or remove the row" in said
    assert "orders.csv, line 5: has fewer or more cells than the header; quote cells that hold the separator" in said


def test_a_bad_item_leaves_no_interactions_behind(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(products=PRODUCTS + "p1,again,Acme,1\n")
    said = refused([*MAKE, *ITEMS], capsys)
    assert "products.csv, line 4: sku: 'p1' is there already, in line 2; keep one" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "orders.csv: is empty; its first line must name the columns"),
        ("customer,product,bought\n", "orders.csv: there is a header but no row"),
        ("customer,product\nc,p\n", "no column, or more than one, called 'bought'; its columns are customer, product"),
        ("customer;product;bought\nc;p;0\n", "is the separator another one (--separator=;)?"),
        ('customer,product,bought\nc1,"p1,0\n', "is a quote left open"),
        ("customer,product,bought\nc1,p\x001,0\n", "holds a tab, a line break, a zero byte or a double quote"),
    ],
)
def test_files_that_are_refused(text: str, said: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(text)
    assert said in refused(MAKE, capsys)


def test_another_encoding_is_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("orders.csv").write_bytes("customer,product,bought\nJosé,p1,0\n".encode("latin-1"))
    assert "orders.csv: is not UTF-8 text" in refused(MAKE, capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["from-csv"], "name a file, as in: from-csv interactions.csv"),
        (["from-csv", "orders.csv", "--name=shop"], "--user=… is needed"),
        ([*MAKE, "--itmes=x.csv"], "did you mean --items?"),
        ([*MAKE, "--text=[title]"], "name columns of --items=ITEMS.csv, which is missing"),
        ([*MAKE, "--separator=::"], "is not one character"),
        ([*MAKE, "--output="], "--output= has no value; give one, or leave it out"),
        ([*MAKE[:3], "--user=product", "--item=product"], "user and item are both 'product'; name two columns"),
        ([*MAKE[:2], "--name=../x", *MAKE[3:]], "cannot name a data set"),
        ([*MAKE, "--items=products.csv", "--item_id=sku"], "name the columns of items to keep, as in --text=[title]"),
        ([*MAKE, *ITEMS, "--text=[brand]", "--token=brand"], "given twice"),
        ([*MAKE, "--items=products.csv", "--item_id=sku", "--text=brand", "--token=brand"], "brand is named twice"),
        (["from-csv", "nowhere.csv", *MAKE[2:]], "nowhere.csv: cannot be read (No such file or directory)"),
    ],
)
def test_options_that_are_refused(
    arguments: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written()
    error = refused(arguments, capsys)
    assert said in error or ("given twice" in said and "twice" in error)


def test_killed_while_writing_there_is_the_old_file_whole(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written()
    assert main([*MAKE, *ITEMS]) == 0
    folder = Path("dataset/shop")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with Path("orders.csv").open("a", encoding="utf-8") as file:
        csv.writer(file).writerows([f"c{n}", "p1", n, 1] for n in range(1000))

    child = os.fork()
    if child == 0:  # half of the interactions reach the disk, then the process is gone
        plain = module._writer

        def half(header: list[str], lines: list[list[str]]) -> object:
            write = plain(header, lines[: len(lines) // 2])

            def kill(part: Path) -> None:
                write(part)
                if "user_id:token" in header:
                    os.kill(os.getpid(), signal.SIGKILL)

            return kill

        monkeypatch.setattr(module, "_writer", half)
        main([*MAKE, *ITEMS])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert (folder / "shop.inter").read_bytes() == before["shop.inter"]
    assert main([*MAKE, *ITEMS]) == 0
    assert len((folder / "shop.inter").read_text(encoding="utf-8").splitlines()) == 1004


def test_a_full_disk_is_an_error_in_words(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, write: object) -> None:
        raise OSError(28, "No space left on device")

    written()
    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(DataError, match="cannot be written .No space left on device.; choose another output"):
        module.from_csv(MAKE[1:])
