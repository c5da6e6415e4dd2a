"""Per-user metric values in a Parquet file: what is written is read, or nothing is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recbole_oov.errors import ConfigError, DataError, RecBoleOOVError
from recbole_oov.evaluation.per_user import COLUMNS, read_per_user, user_tokens, users_file, write_per_user
from recbole_oov.evaluation.significance import compare

USERS = {"overall": ["7", "u8", "ü9"], "oov": np.array(["u8"])}
VALUES = {
    "overall": {"recall@10": np.array([0.1, 1 / 3, 1.0]), "ndcg@10": np.array([0.0, 0.5, 1.0])},
    "oov": {"recall@10": np.array([0.25])},
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_per_user(tmp_path / "folder" / "x.users.parquet", USERS, VALUES)
    frame = read_per_user(path)
    assert tuple(frame.columns) == COLUMNS
    assert frame.to_numpy().tolist() == [
        ["7", "overall", "recall@10", 0.1],
        ["u8", "overall", "recall@10", 1 / 3],
        ["ü9", "overall", "recall@10", 1.0],
        ["7", "overall", "ndcg@10", 0.0],
        ["u8", "overall", "ndcg@10", 0.5],
        ["ü9", "overall", "ndcg@10", 1.0],
        ["u8", "oov", "recall@10", 0.25],
    ]
    assert [p.name for p in path.parent.iterdir()] == ["x.users.parquet"]
    assert len(read_per_user(write_per_user(tmp_path / "empty.parquet", {}, {}))) == 0


def test_two_runs_are_compared_out_of_their_files(tmp_path: Path) -> None:
    users = {"overall": [f"u{i}" for i in range(5)]}
    ours = write_per_user(tmp_path / "a", users, {"overall": {"recall@10": np.arange(1.0, 6)}})
    base = write_per_user(tmp_path / "b", users, {"overall": {"recall@10": np.zeros(5)}})
    (result,) = compare(read_per_user(ours), {"BPR": read_per_user(base)}, metrics=["recall@10"])
    assert result.p_holm == pytest.approx(1 / 32)


def test_a_failed_write_keeps_the_earlier_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_per_user(tmp_path / "x.parquet", USERS, VALUES)
    before = path.read_bytes()

    def no_space(frame: pd.DataFrame, part: Path, **kwargs: object) -> None:
        part.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", no_space)
    with pytest.raises(DataError, match=r"x.parquet: cannot be written \(No space left on device\)"):
        write_per_user(path, USERS, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_values_of_other_users_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecBoleOOVError, match=r"recall@10 of group oov has shape \(2,\) for 1 users"):
        write_per_user(tmp_path / "x", USERS, {"oov": {"recall@10": np.zeros(2)}})
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_such_table(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        read_per_user(path)
    write_per_user(path, USERS, VALUES)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        read_per_user(path)
    pd.DataFrame({"user": ["a"], "score": [1.0]}).to_parquet(path)
    with pytest.raises(DataError, match="has the columns user, score; per-user values have user, group, metric, value"):
        read_per_user(path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None)
    for call in (lambda: write_per_user(tmp_path / "x", USERS, VALUES), lambda: read_per_user(tmp_path / "x")):
        with pytest.raises(ConfigError, match=r'pip install "recbole-oov\[parquet\]"'):
            call()


def test_where_the_table_goes() -> None:
    checkpoint = "saved/BPR-Nov-22-2026_10-11-12.pth"
    assert users_file({"save_user_metrics": False}, checkpoint) is None
    assert users_file({"save_user_metrics": None}, checkpoint) is None
    beside = Path("saved/BPR-Nov-22-2026_10-11-12.users.parquet")
    assert users_file({"save_user_metrics": True}, checkpoint) == beside
    assert users_file({"save_user_metrics": "here/u.parquet"}, checkpoint) == Path("here/u.parquet")


def test_internal_ids_become_tokens() -> None:
    dataset = SimpleNamespace(uid_field="user_id", field2id_token={"user_id": np.array(["[PAD]", "196", "22"])})
    tokens = user_tokens(dataset, {"overall": np.array([2, 1]), "oov": np.array([], dtype=int)})
    assert tokens["overall"].tolist() == ["22", "196"]
    assert tokens["oov"].tolist() == []
