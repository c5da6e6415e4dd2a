"""Item vectors that the user brings: read as they are, or refused by line and item."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recbole.data.interaction import Interaction

from recbole_oov.data.content import item_content
from recbole_oov.data.content_file import read_vectors
from recbole_oov.data.content_text import whitened
from recbole_oov.errors import DataError

ITEMS = ["a", "b", "c", "d"]
VECTORS = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 0.0], [4.0, 4.0, 4.0], [-1.0, 0.0, 2.5]])
HEADER = "item_id:token\tvector:float_seq"


def dataset(trained: tuple[int, ...] = (1, 2)) -> Any:
    """Four items a to d with ids 1 to 4; the trained ones have a training row."""
    import torch

    return SimpleNamespace(
        dataset_name="small",
        iid_field="item_id",
        item_num=5,
        field2id_token={"item_id": np.array(["[PAD]", *ITEMS])},
        inter_feat=Interaction({"item_id": torch.tensor(trained)}),
    )


def lines(*rows: str, header: str = HEADER) -> bytes:
    return ("\n".join([header, *rows]) + "\n").encode()


def text_file(path: Path, items: list[str] | None = None, vectors: np.ndarray = VECTORS) -> Path:
    rows = [f"{item}\t{' '.join(map(str, vector))}" for item, vector in zip(items or ITEMS, vectors, strict=True)]
    path.write_bytes(lines(*rows))
    return path


def npz_file(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"ids": np.array(ITEMS), "vectors": VECTORS, **arrays})
    return path


def read(path: Path, **content: Any) -> Any:
    return item_content({"content": {"from": "file", "path": str(path), **content}}, dataset()).numpy()


def test_both_formats_give_the_vectors_as_written(tmp_path: Path) -> None:
    for path in (text_file(tmp_path / "v.vec"), npz_file(tmp_path / "v.npz")):
        content = read(path)
        assert content.dtype == np.float32
        assert np.array_equal(content, np.vstack([np.zeros(3), VECTORS]).astype(np.float32))


def test_rows_follow_ids_not_the_file_s_order(tmp_path: Path) -> None:
    path = text_file(tmp_path / "v", ["d", "b", "a", "c"], VECTORS[[3, 1, 0, 2]])
    assert np.array_equal(read(path)[1:], VECTORS.astype(np.float32))


def test_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    ids, vectors = read_vectors(npz_file(tmp_path / "v.npz", ids=np.array([7, 8, 9, 10])), "item_id")
    assert ids == ["7", "8", "9", "10"]
    assert vectors.shape == (4, 3)


def test_items_of_other_data_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = text_file(tmp_path / "v", [*ITEMS, "x", "y"], np.vstack([VECTORS, VECTORS[:2]]))
    with caplog.at_level(logging.INFO):
        read(path)
    assert "2 items of the file are not in small" in caplog.text


def test_zero_vectors_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(text_file(tmp_path / "v", vectors=VECTORS * [[1], [0], [1], [1]]))
    assert "the vectors of 1 items are zero" in caplog.text


def test_items_without_a_vector(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = text_file(tmp_path / "v", ["a", "b"], VECTORS[:2])
    with pytest.raises(DataError, match=r"2 of 4 items of small have no vector in .*v \(item_id c, d\)"):
        read(path)
    mean = read(path, missing="mean")
    np.testing.assert_allclose(mean[3:], [VECTORS[:2].mean(axis=0)] * 2)
    assert not read(path, missing="zero")[3:].any()
    assert "missing: zero" in caplog.text
    with pytest.raises(DataError, match="has a vector for none of the 2 IV items of small"):
        read(text_file(tmp_path / "w", ["c", "d"], VECTORS[:2]), missing="mean")


def test_a_smaller_dim_is_fitted_on_iv_items(tmp_path: Path) -> None:
    content = read(text_file(tmp_path / "v"), dim=2)
    assert content.shape == (5, 2)
    # Two IV items span the two directions, so that what they say of each other is all kept.
    np.testing.assert_allclose(content[1:3] @ content[1:3].T, VECTORS[:2] @ VECTORS[:2].T, rtol=1e-5)
    oov_changed = VECTORS.copy()
    oov_changed[2:] *= 100
    again = read(text_file(tmp_path / "w", vectors=oov_changed), dim=2)
    assert np.array_equal(again[1:3], content[1:3])
    assert not np.array_equal(again[3:], content[3:])


def test_whitened_directions_are_equally_large_among_iv_items_and_fitted_on_them_alone() -> None:
    random = np.random.default_rng(0)
    scales = np.array([100.0, 10.0, 1.0, 0.1])
    vectors = 50 + random.normal(size=(400, 4)) * scales
    iv = np.arange(400) < 300
    names = [f"{item:03d}" for item in range(400)]
    white = whitened(vectors, iv, names, None)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1)
    # What the Mahalanobis distance of IV items says: cosines of centred vectors under their inverse covariance.
    centred, inverse = vectors - vectors[iv].mean(axis=0), np.linalg.inv(np.cov(vectors[iv].T))
    products = centred @ inverse @ centred.T
    norms = np.sqrt(np.diag(products))
    np.testing.assert_allclose(white @ white.T, products / np.outer(norms, norms), atol=1e-8)
    assert whitened(vectors, iv, names, 2).shape == (400, 2)
    # A direction in which IV items do not differ is left out.
    flat = np.column_stack([vectors, np.where(iv, 3.0, random.normal(size=400))])
    np.testing.assert_allclose(whitened(flat, iv, names, None) @ white.T, white @ white.T, atol=1e-6)
    changed = np.where(iv[:, None], vectors, vectors * 7)
    assert np.array_equal(whitened(changed, iv, names, None)[iv], white[iv])


def test_whitened_content_of_a_file(tmp_path: Path) -> None:
    path = text_file(tmp_path / "v", ITEMS, VECTORS)
    content = read(path, whiten=True)
    # Two IV items differ in one direction alone, in which each is as far from their mean as the other.
    assert content.shape == (5, 1)
    np.testing.assert_allclose(np.abs(content[1:3]), np.ones((2, 1)), rtol=1e-5)
    assert content[1] == -content[2]


def test_what_cannot_be_whitened_is_refused_and_fewer_dimensions_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = np.repeat(VECTORS[:1], 4, axis=0)
    with pytest.raises(DataError, match="whiten: True needs items that differ"):
        read(text_file(tmp_path / "v", vectors=same), whiten=True)
    with pytest.raises(DataError, match="the 1 IV items with content do not"):
        read(text_file(tmp_path / "w", vectors=VECTORS * [[1], [0], [1], [1]]), whiten=True)
    assert read(text_file(tmp_path / "x"), whiten=True, dim=2).shape == (5, 1)
    assert "1 dimensions instead of 2" in caplog.text
    missing = read(text_file(tmp_path / "y", ["a", "b", "c"], VECTORS[:3]), whiten=True, missing="mean")
    assert not missing[4].any() and missing[3].any()


BAD_TEXT = {
    "nan": (lines("a\t1 2", "b\t1 nan"), r"line 3: the vector of item b holds nan \(number 2\)"),
    "inf": (lines("a\t1 2", "b\tinf 2"), r"line 3: the vector of item b holds inf \(number 1\)"),
    "too large": (lines("a\t1 2", "b\t1e300 2"), r"line 3: the vector of item b holds inf"),
    "width": (lines("a\t1 2", "b\t1 2 3"), "line 3: the vector of item b has 3 numbers; the lines before have 2"),
    "no number": (lines("a\t1 2", "b\t"), "line 3: the vector of item b has 0 numbers"),
    "word": (lines("a\t1 2", "b\t1 two"), "line 3: column vector is of type float_seq, but holds 'two'"),
    "twice": (lines("a\t1 2", "b\t1 2", "a\t3 4"), "line 4: item a is there already, at line 2"),
    "no id": (lines("a\t1 2", "\t1 2"), "line 3: the item has no id"),
    "cut": (lines("a\t1 2", "b"), "line 3: 1 cell where the header has 2 columns"),
    "no header": (b"a\t1 2\nb\t3 4\n", "line 1: the first line is no header"),
    "wrong type": (
        lines("a\t1", header="item_id:token\tvector:float"),
        "it must be item_id:token<TAB>vector:float_seq",
    ),
    "wrong name": (lines("a\t1", header="movie:token\tvector:float_seq"), "it must be item_id:token<TAB>vector:fl"),
    "two vectors": (lines("a\t1\t1", header=HEADER + "\tw:float_seq"), "one column of type float_seq"),
    "empty": (b"", "the file is empty"),
    "header alone": (lines(), "there is a header but no row"),
    "latin-1": (lines("a\t1 2") + "é\t1 2\n".encode("latin-1"), "line 3: is not UTF-8"),
    "bom": (b"\xef\xbb\xbf" + lines("a\t1 2"), "byte order mark"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text_files(tmp_path: Path, case: str) -> None:
    content, message = BAD_TEXT[case]
    path = tmp_path / "v.vec"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_vectors(path, "item_id")
    assert str(path) in str(raised.value)


BAD_NPZ = {
    "objects": (
        {"ids": np.array(["a", 2, None, "d"], dtype=object)},
        "cannot be read .*pickle.*ids as an array of text",
    ),
    "names": ({"vectors": VECTORS, "ids": np.array([1.5, 2, 3, 4])}, r"ids is float64 \(4,\)"),
    "shape": ({"vectors": VECTORS[0]}, r"vectors is float64 \(3,\) for 4 ids"),
    "length": ({"vectors": VECTORS[:3]}, r"vectors is float64 \(3, 3\) for 4 ids"),
    "empty": ({"vectors": np.zeros((4, 0))}, r"vectors is float64 \(4, 0\)"),
    "nan": ({"vectors": VECTORS * [[1], [1], [np.nan], [1]]}, r"row 2: the vector of item c holds nan \(number 1\)"),
    "twice": ({"ids": np.array(["a", "b", "b", "d"])}, "row 2: item b is there already, at row 1"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_archives(tmp_path: Path, case: str) -> None:
    arrays, message = BAD_NPZ[case]
    with pytest.raises(DataError, match=message):
        read_vectors(npz_file(tmp_path / "v.npz", **arrays), "item_id")


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_vectors(tmp_path / "none.npz", "item_id")
    other = tmp_path / "other.npz"
    np.savez(other, item=np.arange(3))
    with pytest.raises(DataError, match="holds the arrays item; it must hold ids"):
        read_vectors(other, "item_id")
    for content in (b"no archive", b"", npz_file(tmp_path / "v.npz").read_bytes()[:-40]):
        other.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_vectors(other, "item_id")
