"""The user's cache: found again, never trusted, never in the way."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_oov.data import cache
from recbole_oov.data.cache import cache_folder, cached, fingerprint, write_atomically

TENSOR = torch.arange(12, dtype=torch.float32).view(3, 4)


class Counted:
    """Makes the tensor and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return TENSOR.clone()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECBOLE_OOV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_computed_is_found_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    compute = Counted()
    first = cached("kind", "key", compute)
    with caplog.at_level(logging.INFO):
        assert torch.equal(cached("kind", "key", compute), first)
    assert compute.calls == 1
    assert "taken from" in caplog.text
    assert torch.equal(cached("kind", "other", compute), first)
    assert compute.calls == 2
    assert sorted(path.name for path in (folder / "kind").iterdir()) == ["key.safetensors", "other.safetensors"]


def test_every_flipped_byte_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    compute = Counted()
    cached("kind", "key", compute)
    path = folder / "kind" / "key.safetensors"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        assert torch.equal(cached("kind", "key", compute), TENSOR)
    # A flip inside a name that nobody reads may leave the tensor as it was; all others are computed again.
    assert compute.calls > 0.95 * len(whole)
    assert "is damaged" in caplog.text
    assert path.read_bytes() == whole


def test_a_file_cut_short_is_noticed(folder: Path) -> None:
    compute = Counted()
    cached("kind", "key", compute)
    path = folder / "kind" / "key.safetensors"
    whole = path.read_bytes()
    for length in (0, 7, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert torch.equal(cached("kind", "key", compute), TENSOR)
    assert compute.calls == 5


def test_a_cache_that_cannot_be_written_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("a file where the folder should be")
    assert torch.equal(cached("kind", "key", Counted()), TENSOR)
    assert "cannot be kept in" in caplog.text
    assert "RECBOLE_OOV_CACHE names another folder" in caplog.text


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def no_space(part: Path) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, no_space)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, lambda part: part.write_text("after"))
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o444, "others may read it as they may any new file"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache.Path, "home", lambda: tmp_path)
    monkeypatch.delenv("RECBOLE_OOV_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "recbole_oov"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_folder() == tmp_path / ".cache" / "recbole_oov"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "recbole_oov"
    monkeypatch.setenv("RECBOLE_OOV_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_fingerprints_tell_inputs_apart() -> None:
    base = {"texts": ["a b", "c"], "iv": np.array([False, True]), "dim": 8}
    others = [
        base | {"texts": ["a", "b c"]},
        base | {"texts": ["c", "a b"]},
        base | {"iv": np.array([True, False])},
        base | {"iv": np.array([0, 1])},
        base | {"dim": 9},
        {"texts": base["texts"], "iv": base["iv"], "width": 8},
    ]
    keys = {fingerprint(**inputs) for inputs in [base, *others]}
    assert len(keys) == 1 + len(others)
    assert fingerprint(**dict(reversed(base.items()))) == fingerprint(**base)
    with pytest.raises(TypeError, match="object has no fingerprint"):
        fingerprint(a=object())
