"""The format: what goes in comes out, to the bit; nothing that was damaged comes out; what was there stays."""

from __future__ import annotations

import collections
import errno
import json
import math
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.utils.enum_type import ModelType

from recbole_oov import compat
from recbole_oov.checkpoints import CheckpointError, files, load, remove, save, store


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the waiting for the disk, where only the content is of interest."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- what goes in comes out -------------------------------------------------------------------------------------------

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.bool, torch.complex64, torch.complex128),
]
SHAPES = [(), (0,), (1,), (3,), (2, 3), (0, 4), (2, 1, 5), (1, 1)]


def bits(tensor: torch.Tensor) -> bytes:
    plain = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return (torch.view_as_real(plain) if plain.is_complex() else plain).reshape(-1).view(torch.uint8).numpy().tobytes()


def made(dtype: torch.dtype, shape: tuple[int, ...], how: str, seed: int) -> torch.Tensor:
    """A tensor of random bits, NaN and all, in one of the ways in which a tensor can lie in memory."""
    n = math.prod(shape)
    raw = torch.randint(0, 256, (n * dtype.itemsize,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    if dtype == torch.bool:
        tensor = (raw % 2).bool()
    elif dtype.is_complex:
        tensor = torch.view_as_complex(raw.view(dtype.to_real()).reshape(n, 2))
    else:
        tensor = raw.view(dtype)
    tensor = tensor.reshape(shape)
    if how == "transposed" and len(shape) > 1:
        return tensor.transpose(0, -1)
    if how == "expanded":
        return tensor.expand(2, *shape)
    if how == "every second":
        return tensor.repeat_interleave(2, -1)[..., ::2] if shape and n else tensor
    if how == "conjugate" and dtype.is_complex:
        return tensor.conj()
    if how == "parameter" and (dtype.is_floating_point or dtype.is_complex):
        return torch.nn.Parameter(tensor)
    return tensor


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.sampled_from(SHAPES),
    how=st.sampled_from(["plain", "transposed", "expanded", "every second", "conjugate", "parameter"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300)
@pytest.mark.usefixtures("no_sync")
def test_any_tensor_comes_back_to_the_bit(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...], how: str, seed: int
) -> None:
    tensor = made(dtype, shape, how, seed)
    save({"t": tensor}, tmp_path / "t.json")
    back = load(tmp_path / "t.json")["t"]
    assert (back.dtype, back.shape, type(back)) == (tensor.dtype, tensor.shape, type(tensor))
    assert back.requires_grad == tensor.requires_grad
    assert bits(back) == bits(tensor)
    if how in ("transposed", "parameter") and tensor.numel():
        assert back.stride() == tensor.stride()
    assert back.numel() == 0 or back.data_ptr() % 16 == 0, "aligned as torch aligns its own"


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=9)
    | st.complex_numbers()
    | st.sampled_from(list(ModelType)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(
            st.text(max_size=3) | st.just("$") | st.integers() | st.tuples(st.integers()), inner, max_size=4
        )
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(collections.OrderedDict)
        | st.sets(st.integers() | st.text(max_size=3), max_size=4)
        | st.frozensets(st.floats(allow_nan=False), max_size=4)
    ),
    max_leaves=12,
)


@given(plain_values)
@settings(max_examples=300)
@pytest.mark.usefixtures("no_sync")
def test_any_plain_value_comes_back_as_it_was(tmp_path: Path, value: Any) -> None:
    save({"v": value}, tmp_path / "v.json")
    back = load(tmp_path / "v.json")["v"]
    assert repr(back) == repr(value) or back == value  # repr tells 1 from 1.0 and from True, and nan is nan
    assert type(back) is type(value)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(1000))
    save({"a": weight, "b": [weight], "c": weight.detach()}, tmp_path / "t.json")
    (file,) = tmp_path.glob("*.safetensors")
    assert file.stat().st_size < 4_400
    back = load(tmp_path / "t.json")
    assert back["a"] is back["b"][0]
    assert torch.equal(back["c"], weight)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr])
def test_sparse_tensors(tmp_path: Path, layout: torch.layout) -> None:
    dense = torch.tensor([[0.0, 1.5, 0, 0], [2, 0, 0, -0.5]])
    blocks = {"blocksize": (1, 2)} if layout == torch.sparse_bsr else {}
    tensor = dense.to_sparse(layout=layout, **blocks)
    save({"t": tensor}, tmp_path / "t.json")
    back = load(tmp_path / "t.json")["t"]
    assert back.layout == layout
    assert torch.equal(back.to_dense(), dense)
    if layout == torch.sparse_coo:
        assert back.is_coalesced() == tensor.is_coalesced()


def test_a_sum_that_is_not_coalesced_keeps_its_order(tmp_path: Path) -> None:
    tensor = torch.sparse_coo_tensor([[1, 0, 1]], [1.0, 2.0, 3.0], (2,))
    save({"t": tensor}, tmp_path / "t.json")
    back = load(tmp_path / "t.json")["t"]
    assert not back.is_coalesced()
    assert back._indices().tolist() == [[1, 0, 1]]


ARRAYS = {
    "float": np.linspace(0, 1, 6).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">f8"),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "unsigned": np.array([2**63], dtype=np.uint64),
    "complex": np.array([1 + 2j]),
    "matrix": np.asmatrix(np.eye(2)),
    "text": np.array([["a", "bc"]]),
    "objects": np.array([1, "a", None, [1, 2]], dtype=object),
    "times": np.array(["2026-01-01", "NaT"], dtype="datetime64[ns]"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path: Path, name: str) -> None:
    array = ARRAYS[name]
    save({"a": array}, tmp_path / "a.json")
    back = load(tmp_path / "a.json")["a"]
    assert type(back) is type(array) and back.dtype == array.dtype.newbyteorder("=") and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
def test_sparse_matrices(tmp_path: Path, form: str) -> None:
    matrix = getattr(scipy.sparse, f"{form}_matrix")(np.array([[0, 1.5, 0], [2, 0, 0]], dtype=np.float32))
    save({"m": matrix}, tmp_path / "m.json")
    back = load(tmp_path / "m.json")["m"]
    assert type(back) is type(matrix) and back.dtype == np.float32
    np.testing.assert_array_equal(back.toarray(), matrix.toarray())


def test_what_training_saves_comes_back(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "m.json")
    back = load(tmp_path / "m.json")
    assert back["state_dict"]._metadata == model.state_dict()._metadata
    assert repr(back["optimizer"]) == repr(optimizer.state_dict())
    torch.optim.Adam(model.parameters()).load_state_dict(back["optimizer"])


def test_other_programs_read_the_tensor_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = {"item": torch.randn(3, 2), "user": torch.arange(4, dtype=torch.int16), "flag": torch.tensor(True)}
    save({"state_dict": weights}, tmp_path / "m.json")
    (file,) = tmp_path.glob("m.*.safetensors")
    assert {name: t.tolist() for name, t in load_file(file).items()} == {
        f"state_dict.{name}": t.tolist() for name, t in weights.items()
    }


def test_a_checkpoint_of_a_gpu_that_is_not_here_goes_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.json"
    save({"w": torch.ones(2)}, path)
    rewrite(path, lambda manifest: manifest["state"]["w"].update(device="cuda:7"))
    assert load(path)["w"].device.type == "cpu"
    assert load(path, map_location="meta")["w"].device.type == "meta"


def test_objects_of_other_classes_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {"a": 1, "thing": Path, "inner": [object(), 2]}
    save(state, tmp_path / "m.json")
    assert load(tmp_path / "m.json") == {"a": 1, "inner": [None, 2]}
    assert "without thing (builtins.type), inner.0 (builtins.object)" in caplog.text
    with pytest.raises(CheckpointError, match=r"not written, because a checkpoint cannot hold thing"):
        save(state, tmp_path / "n.json", whole=True)
    assert not list(tmp_path.glob("n*"))


def test_a_tensor_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="w is a Tensor on meta"):
        save({"w": torch.ones(2, device="meta")}, tmp_path / "m.json")


# --- nothing that was damaged comes out -------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest as somebody would who knows how its check sum is made."""
    manifest = json.loads(path.read_bytes())
    change(manifest)
    manifest["sha256"] = "0" * 64
    text = json.dumps(manifest, indent=1)
    path.write_text(text.replace("0" * 64, store.hashlib.sha256(text.encode()).hexdigest(), 1))


def test_a_thousand_flipped_bytes_are_all_detected(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    save({"state_dict": {"w": torch.randn(40), "n": torch.arange(5)}, "epoch": 3, "score": 0.25, "x": "text"}, path)
    (tensors,) = tmp_path.glob("*.safetensors")
    content = {file: file.read_bytes() for file in (path, tensors)}
    draw = random.Random(0)
    places = [(file, at) for file, text in content.items() for at in range(len(text))]
    for file, at in draw.choices(places, k=1000):
        text = content[file]
        flipped = text[at] ^ draw.randrange(1, 256)
        file.write_bytes(text[:at] + bytes([flipped]) + text[at + 1 :])
        with pytest.raises(CheckpointError, match=r"m\.\S*(json|safetensors): .*(use another one|cannot be read)"):
            load(path)
        file.write_bytes(text)
    assert load(path)["epoch"] == 3


@pytest.mark.parametrize("which", ["m.json", "*.safetensors"])
@pytest.mark.parametrize("size", [0, 1, 60, -1])
def test_a_file_cut_short_is_detected(tmp_path: Path, which: str, size: int) -> None:
    save({"w": torch.randn(40)}, tmp_path / "m.json")
    (file,) = tmp_path.glob(which)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="use another one"):
        load(tmp_path / "m.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"m\.json: this checkpoint cannot be read \(No such file"):
        load(tmp_path / "m.json")
    save({"w": torch.randn(4)}, tmp_path / "m.json")
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"safetensors: this file is missing, which belongs to .*move both"):
        load(tmp_path / "m.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "not a checkpoint of version 1"),
        (lambda m: m["files"][0].update(name="../m.safetensors"), "does not lie beside it"),
        (lambda m: m["state"].update(x={"$": "call", "name": "os.system"}), "unknown kind 'call'"),
        (lambda m: m["state"].update(x={"$": ["list"]}), "unknown kind"),
        (lambda m: m["state"].update(x={"$": "enum", "class": "os", "name": "system"}), "unknown enumeration 'os'"),
        (lambda m: m["state"].update(x={"$": "enum", "class": "ModelType", "name": "mro"}), "'enum' is not what"),
        (lambda m: m["state"].update(x={"$": "config", "class": "Popen", "values": {}}), "'config' is not what"),
        (lambda m: m["state"].update(x={"$": "dtype", "name": "load"}), "unknown type 'load'"),
        (lambda m: m["state"].update(x={"$": "array", "dtype": "f4", "numbers": {}}), "not what it should be"),
        (lambda m: m["state"]["w"].update(stride=[0, 0]), "strides"),
        (lambda m: m["state"]["w"].update(name="other"), "tensor 'other'"),
        (lambda m: m["state"]["w"].update(dtype="float64", shape=[2]), "not what it should be"),
    ],
)
def test_a_made_up_manifest_runs_nothing_and_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "m.json"
    save({"w": torch.randn(2, 2).T}, path)
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message):
        load(path)


@given(st.binary(max_size=300))
def test_any_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        load(tmp_path / "m.json")


# --- what was there stays ---------------------------------------------------------------------------------------------


def state(number: int) -> dict[str, Any]:
    return {"number": number, "w": torch.full((50,), float(number)), "list": [torch.tensor(number)]}


def number_in(path: Path) -> int:
    back = load(path)
    assert torch.equal(back["w"], state(back["number"])["w"]) and back["list"][0] == back["number"]
    return int(back["number"])


class FailingDisk:
    """The ``os`` that ``files`` writes with: call number ``fails_at`` fails, or all calls from it on."""

    def __init__(self, fails_at: int, code: int, *, forever: bool) -> None:
        self.calls = 0
        self._fails_at, self._code, self._forever = fails_at, code, forever

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "close", "replace", "unlink"):
            return real

        def call(*args: Any) -> Any:
            self.calls += 1
            if self.calls == self._fails_at or (self._forever and self.calls > self._fails_at):
                if name == "close":
                    real(*args)
                elif name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])  # half of it was taken
                raise OSError(self._code, os.strerror(self._code))
            return real(*args)

        return call


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_an_error_at_any_step_of_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, forever: bool
) -> None:
    path = tmp_path / "m.json"
    messages = []
    for step in range(1, 100):
        save(state(1), path)
        disk = FailingDisk(step, code, forever=forever)
        monkeypatch.setattr(files, "os", disk)
        try:
            save(state(2), path)
        except CheckpointError as error:
            messages.append(str(error))
        monkeypatch.setattr(files, "os", os)
        assert number_in(path) in (1, 2)
        if disk.calls < step:
            break
    assert all("m.json" in m and os.strerror(code) in m and "checkpoint_dir" in m for m in messages)
    assert len(messages) >= 10, "open, write, sync, close and rename of two files, and the folder"
    save(state(3), path)
    assert number_in(path) == 3
    assert len(list(tmp_path.iterdir())) == 2, "nothing is left behind"


def test_a_file_that_may_not_grow_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    save(state(1), path)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            save({"w": torch.ones(100_000)}, path)
        except CheckpointError as error:
            os._exit(7 if "File too large" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert number_in(path) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no-folder/m\.json: .*could not be written \(No such file"):
        save(state(1), tmp_path / "no-folder" / "m.json")


class DeadlyStep(FailingDisk):
    """The ``os`` of a process that is killed when it makes a certain call."""

    def __getattr__(self, name: str) -> Any:
        if name in ("open", "write", "fsync", "close", "replace", "unlink"):
            self.calls += 1
            if self.calls == self._fails_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return getattr(os, name)


def killed_while_saving(path: Path, last: int, draw: random.Random, *, at_a_step: bool) -> None:
    """Let a process save one state after the other, and kill it at a random step of saving, or at a random moment."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        if at_a_step:
            files.os = DeadlyStep(draw.randrange(1, 40), errno.EIO, forever=False)  # type: ignore[assignment]
        os.write(writing, b"!")
        while True:
            last += 1
            save(state(last), path)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    if not at_a_step:
        time.sleep(draw.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_two_hundred_kills_while_saving(tmp_path: Path) -> None:
    """Each kill hits a process that does nothing but save; what is there afterwards was saved whole."""
    path, draw = tmp_path / "m.json", random.Random(0)
    save(state(0), path)
    last, kinds = 0, collections.Counter[str]()
    for at in range(200):
        before = set(tmp_path.glob(".*.tmp"))
        killed_while_saving(path, last, draw, at_a_step=at % 2 == 0)
        draw.random()  # the child's draws are not the parent's
        number = number_in(path)
        assert number >= last
        kinds["half a file"] += bool(set(tmp_path.glob(".*.tmp")) - before)
        kinds["a newer state"] += number > last
        kinds["the same state"] += number == last
        last = number
    assert min(kinds.values()) > 20, kinds
    save(state(-1), path)
    assert len(list(tmp_path.iterdir())) == 2, "what killed processes left is cleared away"


def test_a_reader_never_sees_a_half_replaced_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    save(state(0), path)
    child = os.fork()
    if child == 0:
        for number in range(1, 10**9):
            save(state(number), path)
    try:
        seen, end = set[int](), time.monotonic() + 60
        while len(seen) <= 5 and time.monotonic() < end:
            seen |= {number_in(path) for _ in range(20)}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len(seen) > 5


def test_checkpoints_beside_each_other_leave_each_other_alone(tmp_path: Path) -> None:
    names = ["BPR.json", "BPR.progress.json", "BPR-2.json", "BPRX.json"]
    for round_ in range(2):
        for at, name in enumerate(names):
            save(state(10 * round_ + at), tmp_path / name)
    assert [number_in(tmp_path / name) for name in names] == [10, 11, 12, 13]
    remove(tmp_path / "BPR.json")
    assert [number_in(tmp_path / name) for name in names[1:]] == [11, 12, 13]
    assert len(list(tmp_path.iterdir())) == 6


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "best.json"
    link.symlink_to(tmp_path / "disk" / "model.json")
    save(state(1), link)
    assert link.is_symlink() and number_in(link) == number_in(tmp_path / "disk" / "model.json") == 1


def test_recboles_functions_reach_the_format_by_the_file_s_name(tmp_path: Path) -> None:
    compat.save_checkpoint(state(1), tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["format"] == store.FORMAT
    assert compat.load_checkpoint(tmp_path / "m.json", map_location="cpu")["number"] == 1
    compat.save_checkpoint(state(1), tmp_path / "m.pth")
    assert torch.load(tmp_path / "m.pth")["number"] == 1


def test_the_manifest_says_what_wrote_it(tmp_path: Path) -> None:
    with store.adding(history={"valid": [0.5]}):
        save(state(1), tmp_path / "m.json")
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert manifest["written_by"]["torch"] == metadata.version("torch")
    assert manifest["written_by"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert load(tmp_path / "m.json")["history"] == {"valid": [0.5]}
