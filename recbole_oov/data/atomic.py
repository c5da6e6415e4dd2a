"""Checks of a data set's atomic files, before RecBole loads anything.

RecBole reads a file that is cut in the middle of a row, a timestamp that is not a number of seconds, or a column
that is not there without a word, and its results are then about other data than the user believes. Here every file
that RecBole is going to load is read once, in blocks, and what is wrong is said by file, line and column.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import recbole.data.dataset
from recbole.data.dataset import KnowledgeBasedDataset
from recbole.utils import ModelType

from recbole_oov.data.atomic_rows import Ids, Interactions, in_val_interval, within_bounds
from recbole_oov.data.atomic_table import AtomicTable
from recbole_oov.data.atomic_values import EXAMPLES, FeatureIds, Numbers, check_padding
from recbole_oov.errors import DataError

_GRAPH_FILES = {
    "kg": ("HEAD_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD"),
    "link": ("ITEM_ID_FIELD", "ENTITY_ID_FIELD"),
}
_ALIASES = ("user", "item", "entity", "relation")
Columns = dict[str, tuple[str, str | None]]
"""Names of columns that a run needs, each with the reason and the type it must have."""


@dataclass(frozen=True)
class FileNeed:
    """What a run needs of one file."""

    suffix: str
    path: Path
    columns: Columns = field(default_factory=dict)
    optional: bool = False


def check_atomic_files(config: Any) -> list[str]:
    """Check the atomic files that a run will load.

    Args:
        config: RecBole's or the plugin's configuration. ``data_checks: warn`` turns the softer problems (missing ids
            and ratings, repeated rows, users too short for leave-one-out) into notes.

    Returns:
        Notes for the log, which does not exist yet: what RecBole is going to leave out or to fill in, with counts.

    Raises:
        DataError: A file cannot be used. Each problem names file, line, column or option, and the remedy.
    """
    checker = _Checker(config)
    checker.check()
    problems, notes = checker.problems, checker.notes
    if config["data_checks"] == "warn":
        notes = checker.doubts + notes
    else:
        problems = problems + [f"{doubt} (--data_checks=warn runs all the same)" for doubt in checker.doubts]
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError(f"{len(problems)} problems in the data:\n" + "\n".join(f"  - {p}" for p in problems))
    return notes


class _Checker:
    """One pass over a data set's files.

    ``problems`` stop the run, ``doubts`` do unless ``data_checks: warn``, ``notes`` are for the log.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.problems: list[str] = []
        self.doubts: list[str] = []
        self.notes: list[str] = []
        self.user, self.item, self.time = (config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME"))
        self.rating, self.label = config["RATING_FIELD"], config["LABEL_FIELD"]
        self.sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self.eval_args: dict[str, Any] = config["eval_args"] or {}
        self.ids: dict[str, np.ndarray] = {}
        self.interactions: list[Interactions] = []
        self.loaded: dict[str, dict[str, str]] = {}

    def check(self) -> None:
        """Check every file, then what only shows over all of them."""
        if not Path(self.config["data_path"]).exists():
            return  # RecBole is going to download it
        before = len(self.problems)
        for need in self._needs():
            try:
                self._check_file(need)
            except DataError as error:
                self.problems.append(str(error))
        if len(self.problems) == before and self.interactions:
            self._check_names()
            self._check_options()
            self._check_scaling()
        if len(self.problems) == before and self.interactions:
            self._check_interactions()

    # ---- which files, which columns ----

    def _needs(self) -> list[FileNeed]:
        config, folder, name = self.config, Path(self.config["data_path"]), self.config["dataset"]
        parts = config["benchmark_filename"]
        inter = [f"{name}.{part}.inter" for part in parts] if parts else [f"{name}.inter"]
        needs = [FileNeed("inter", folder / file, self._inter_columns(bool(parts))) for file in inter]
        for suffix, id_field in (("user", self.user), ("item", self.item)):
            columns: Columns = {id_field: (f"{suffix.upper()}_ID_FIELD", "token")} if id_field else {}
            needs.append(FileNeed(suffix, folder / f"{name}.{suffix}", columns, optional=True))
        if _loads_graph(config):
            for suffix, keys in _GRAPH_FILES.items():
                needs.append(FileNeed(suffix, folder / f"{name}.{suffix}", {config[k]: (k, "token") for k in keys}))
        for suffix in config["additional_feat_suffix"] or []:
            needs.append(FileNeed(suffix, folder / f"{name}.{suffix}"))
        return needs

    def _inter_columns(self, benchmark: bool) -> Columns:
        columns: Columns = {}
        if self.user:
            columns |= {self.user: ("USER_ID_FIELD", "token"), self.item: ("ITEM_ID_FIELD", "token")}
        if benchmark and self.sequential:
            columns[f"{self.item}{self.config['LIST_SUFFIX']}"] = ("the history, for benchmark_filename", "token_seq")
        elif self.sequential:
            columns[self.time] = ("TIME_FIELD, which sequential models need", "float")
        elif self.eval_args.get("order") == "TO" and not benchmark:
            columns[self.time] = ("TIME_FIELD, which eval_args order TO needs", "float")
        threshold = self.config["threshold"]
        for name in threshold or {}:
            columns[name] = ("threshold", "float")
        if not threshold and "labeled" in (self.eval_args.get("mode") or {}).values():
            columns[self.label] = ("LABEL_FIELD, which eval_args mode labeled needs; or set threshold", "float")
        asks = getattr(self.config.model_class, "interaction_columns", None)
        return columns if asks is None else {**columns, **asks(self.config)}

    def _loaded(self, need: FileNeed, table: AtomicTable) -> list[str]:
        """The columns that RecBole loads of a file, by ``load_col`` and ``unload_col``; none if not the file at all."""
        load_col, unload_col = self.config["load_col"], self.config["unload_col"] or {}
        if load_col is not None and need.suffix not in load_col:
            return []
        wanted = None if load_col is None or load_col[need.suffix] == "*" else load_col[need.suffix]
        chosen_by_user = "load_col" in self.config.external_config_dict
        for name in wanted or []:
            if name not in table.columns and chosen_by_user:
                raise DataError(
                    f"{table.path}: load_col names the column {name!r}, which is not there; its columns are "
                    f"{', '.join(table.columns)}"
                )
        not_wanted = unload_col.get(need.suffix, [])
        loaded = [name for name in table.columns if (wanted is None or name in wanted) and name not in not_wanted]
        for name, (reason, kind) in need.columns.items():
            self._check_column(name, reason, kind, loaded, need, table)
        return loaded

    @staticmethod
    def _check_column(
        name: str, reason: str, kind: str | None, loaded: list[str], need: FileNeed, table: AtomicTable
    ) -> None:
        if name not in table.columns:
            near = [other for other in table.columns if other.lower().replace("_", "") == name.lower().replace("_", "")]
            hint = f"; is it {near[0]!r}?" if near else f"; its columns are {', '.join(table.columns)}"
            raise DataError(f"{table.path}: the column {name!r} ({reason}) is not there{hint}")
        if name not in loaded:
            raise DataError(
                f"{table.path}: the column {name!r} ({reason}) is there but not loaded; add it to load_col, as in "
                f"load_col: {{{need.suffix}: [{', '.join([*loaded, name])}]}}"
            )
        if kind is not None and table.columns[name].type not in kind.split(" or "):
            raise DataError(
                f"{table.path}, line 1: the column {name!r} ({reason}) is of type {table.columns[name].type}; it must "
                f"be {' or '.join(f'{name}:{one}' for one in kind.split(' or '))}"
            )

    # ---- rows ----

    def _check_file(self, need: FileNeed) -> None:
        config = self.config
        load_col = config["load_col"]
        if not need.path.is_file():
            if need.path.exists() or need.path.is_symlink():
                raise DataError(f"{need.path}: is a folder, a broken link or no plain file; put the file itself there")
            named = load_col is not None and need.suffix in load_col and "load_col" in config.external_config_dict
            if need.optional and named and load_col[need.suffix] != "*":
                raise DataError(f"{need.path}: there is no such file; load_col names columns of it")
            if need.optional:
                return
            raise DataError(f"{need.path}: there is no such file; {config['model']} needs it")
        if load_col is not None and need.suffix not in load_col:
            if not need.optional:
                raise DataError(
                    f"{need.path}: load_col has no {need.suffix!r}, so that nothing of the file would be read"
                )
            return
        table = AtomicTable(need.path, config["field_separator"], config["seq_separator"], config["encoding"])
        loaded = self._loaded(need, table)
        self.loaded[need.suffix] = {name: table.columns[name].type for name in loaded}
        found = Interactions(config, table) if need.suffix == "inter" else None
        id_field = {"user": self.user, "item": self.item}.get(need.suffix)
        ids = FeatureIds(table, id_field) if id_field else None
        numbers = Numbers(table, loaded, self.time)
        rows = 0
        for block in table.blocks(loaded):
            rows += len(block.lines)
            numbers.add(block)
            if found is not None:
                found.add(block)
            if ids is not None:
                of_block = Ids.of(block.frame[id_field])
                check_padding(of_block.texts, table.path, ids.column)
                ids.add(block, of_block.hashes, of_block.missing, in_val_interval(block.frame, table, config))
        if rows == 0:
            raise DataError(f"{table.path}: there is a header but no row")
        if found is not None:
            self.interactions.append(found)
            self.doubts += found.doubts()
            self.notes += found.notes()
        if ids is not None:
            self.doubts += ids.check()
            self.ids[need.suffix] = ids.known()
        read = self._read_numbers() - {self.rating} if found is not None else set()
        self.notes += numbers.notes(but=read | {self.rating} if found is not None else ())
        self.doubts += numbers.doubts(read)

    # ---- over all rows ----

    def _read_numbers(self) -> set[str]:
        """Columns of numbers in the interactions that training reads: as features, or to make labels of."""
        numbers = {name for name, kind in self.loaded.get("inter", {}).items() if kind.startswith("float")}
        if self.config["MODEL_TYPE"] in (ModelType.CONTEXT, ModelType.DECISIONTREE):
            return numbers
        return numbers & set(self.config["threshold"] or {})

    def _check_scaling(self) -> None:
        """Columns of interactions that RecBole scales by numbers of held-out rows.

        A doubt where the user asked for it; RecBole itself asks for it on ml-100k, where it is a note.
        """
        config = self.config
        option = "normalize_field" if config["normalize_field"] else "normalize_all"
        if not config[option]:
            return
        # Labels are made before, of a column that is then dropped.
        read = self._read_numbers() - {self.label, *(config["threshold"] or {})}
        scaled = sorted(read if option == "normalize_all" else read & set(config[option]))
        if scaled:
            (self.doubts if option in config.external_config_dict else self.notes).append(
                f"{option}: RecBole scales {', '.join(scaled)} of the interactions by the smallest and the largest "
                f"number of all rows, held-out ones included, and the model reads it; scale the column in the file by "
                f"training rows, or leave it out with unload_col: {{inter: [{', '.join(scaled)}]}}"
            )

    def _check_options(self) -> None:
        config = self.config
        loaded = {name: kind for columns in self.loaded.values() for name, kind in columns.items()}
        for option in (
            "val_interval",
            "normalize_field",
            "discretization",
            *(f"alias_of_{kind}_id" for kind in _ALIASES),
        ):
            for name in config[option] or []:
                if name not in loaded:
                    self.problems.append(
                        f"{option}: the column {name!r} is not loaded from any file; loaded are "
                        f"{', '.join(sorted(loaded))} (see load_col)"
                    )
        for name, bounds in (config["val_interval"] or {}).items():
            if name in loaded and isinstance(bounds, str) != loaded[name].startswith("float"):
                right = "an interval, as in '[3,inf)'" if loaded[name].startswith("float") else "a list of values"
                self.problems.append(
                    f"val_interval: {bounds!r} is not allowed for {name}, which is of type {loaded[name]}; give {right}"
                )
        suffixes = {"inter", "user", "item", *_GRAPH_FILES, "net", *(config["additional_feat_suffix"] or [])}
        for suffix in config["load_col"] or {}:
            if suffix not in suffixes and "load_col" in config.external_config_dict:
                self.problems.append(
                    f"load_col: RecBole loads no file .{suffix}; it loads {', '.join(sorted(suffixes))}; name "
                    f"others in "
                    f"additional_feat_suffix"
                )

    def _check_names(self) -> None:
        """Columns of one name in two files, of which RecBole keeps one, and names that RecBole gives itself."""
        owner: dict[str, str] = {}
        for suffix in ("inter", "user", "item"):
            for name, kind in self.loaded.get(suffix, {}).items():
                if name == {"user": self.user, "item": self.item}.get(suffix):
                    continue
                if name in owner:
                    said = (
                        f"the column {name!r} is both in .{owner[name]} and in .{suffix}, and RecBole keeps one of them"
                    )
                    same = kind == self.loaded[owner[name]][name] and name not in (self.user, self.item)
                    (self.doubts if same else self.problems).append(
                        f"{said}; leave one out, as in unload_col: {{{suffix}: [{name}]}}"
                    )
                owner.setdefault(name, suffix)
        if self.sequential and not self.config["benchmark_filename"]:
            own = {f"{name}{self.config['LIST_SUFFIX']}" for name in self.loaded.get("inter", {})}
            for name in sorted(own | {self.config["ITEM_LIST_LENGTH_FIELD"]}):
                if name in owner:
                    self.problems.append(
                        f"the column {name!r} of .{owner[name]} has a name that RecBole gives to a column of "
                        f"its own for "
                        f"sequential models; rename it, or leave it out (unload_col)"
                    )

    def _check_interactions(self) -> None:
        if self.config["benchmark_filename"]:
            return
        found = self.interactions[0]
        strict = self.config["filter_inter_by_user_or_item"] is True
        kept = found.kept_rows(self.ids if strict else {})
        user_bounds, item_bounds = (self.config[f"{side}_inter_num_interval"] for side in ("user", "item"))
        legal = within_bounds(kept.users, kept.items, user_bounds, item_bounds)
        if not legal.any():
            options = "val_interval, filter_inter_by_user_or_item, user_inter_num_interval and item_inter_num_interval"
            self.problems.append(f"{found.table.path}: no row is left after filtering; loosen {options}")
            return
        left_out = kept.left_out
        if not legal.all():
            left_out["outside user_inter_num_interval and item_inter_num_interval"] = int((~legal).sum())
        if left_out:
            listed = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
            self.notes.append(
                f"{found.table.path}: {int(legal.sum())} of {found.n_rows} rows are used; left out are {listed}"
            )
        if not strict:
            self.notes += [
                f"{found.table.path}: {count} rows {reason}, and have no features (filter_inter_by_user_or_item: False)"
                for reason, count in found.kept_rows(self.ids).left_out.items()
                if "file" in reason
            ]
        if self.sequential and "LS" in (self.eval_args.get("split") or {}):
            self._check_short_users(found, kept.users[legal])

    def _check_short_users(self, found: Interactions, users: np.ndarray) -> None:
        need = 3 if self.eval_args["split"]["LS"] == "valid_and_test" else 2
        codes, hashes = pd.factorize(users)
        short = hashes[np.bincount(codes) < need]
        if len(short):
            names = found.names_of(short[:EXAMPLES])
            more = ", …" if len(short) > EXAMPLES else ""
            self.doubts.append(
                f"{found.table.path}: {len(short)} of {len(hashes)} users have fewer than {need} interactions "
                f"({self.user} {', '.join(names)}{more}), too few to leave the last out for validation and test; set "
                f'user_inter_num_interval: "[{need},inf)"'
            )


def _loads_graph(config: Any) -> bool:
    own = getattr(recbole.data.dataset, f"{config['model']}Dataset", None)
    of_class = isinstance(own, type) and issubclass(own, KnowledgeBasedDataset)
    return of_class or (own is None and config["MODEL_TYPE"] == ModelType.KNOWLEDGE)
