"""Checkpoints that RecBole pickled without the plugin: read in full; and whatever else a pickle may hold, refused."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recbole.model.layers
import scipy.sparse
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.utils import get_model
from recbole.utils.enum_type import EvaluatorType, InputType, ModelType

from recbole_oov import compat
from recbole_oov.checkpoints import CheckpointError, legacy, nodes
from recbole_oov.compat import mending


def stock_state(config: Any) -> dict[str, Any]:
    """What stock RecBole's trainer puts together, with every kind of value that its models have."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    dense = np.array([[0, 1.5, 0], [2, 0, 0]])
    return {
        "config": config,
        "epoch": 3,
        "cur_step": 0,
        "best_valid_score": np.float64(0.25),
        "state_dict": model.state_dict(),
        "other_parameter": {
            "array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "matrix": np.asmatrix(np.eye(2)),
            "text": np.array(["[PAD]", "u1"]),
            "objects": np.array([{1, 2}, None, "x"], dtype=object),
            "big endian": np.arange(3, dtype=">f8"),
            **{form: getattr(scipy.sparse, f"{form}_matrix")(dense) for form in ("csr", "csc", "coo", "lil")},
            "cache": None,
            "tensor": torch.arange(6).reshape(2, 3).T,
            "half": torch.ones(2, dtype=torch.bfloat16),
            "sparse": torch.tensor([[0.0, 2.0]]).to_sparse(),
            "parameter": torch.nn.Parameter(torch.ones(2)),
            "layer": recbole.model.layers.MLPLayers([2, 2]),
            "numbers": (np.int64(3), np.bool_(True), 2**70, b"\xff\x00", 1.5, None, frozenset({1})),
        },
        "optimizer": optimizer.state_dict(),
    }


def stock_file(path: Path, state: Any, *, protocol: int = 4) -> Path:
    """Write as stock RecBole does: torch's own function, and a Config whose class pickles all it has."""
    with mending.left_out("checkpoint_config"):
        torch.save(state, path, pickle_protocol=protocol)
    return path


@pytest.fixture
def config(workplace: Path) -> Any:
    config = object.__new__(Config)
    vars(config).update(
        model="BPR",
        dataset="tiny",
        model_class=get_model("BPR"),
        yaml_loader=yaml.FullLoader,
        final_config_dict={
            "model": "BPR",
            "MODEL_TYPE": ModelType.GENERAL,
            "MODEL_INPUT_TYPE": InputType.PAIRWISE,
            "eval_type": EvaluatorType.RANKING,
            "device": torch.device("cpu"),
            "learning_rate": 0.001,
            "topk": [10],
        },
    )
    return config


@pytest.mark.parametrize("protocol", [4, 2])
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_checkpoint_of_stock_recbole_is_read_in_full(config: Any, tmp_path: Path, protocol: int) -> None:
    state = stock_state(config)
    back = compat.load_checkpoint(stock_file(tmp_path / "m.pth", state, protocol=protocol))
    assert list(back) == list(state)
    assert type(back["config"]) is Config
    assert back["config"].final_config_dict == config.final_config_dict
    assert back["config"].model_class is get_model("BPR"), "found again by name"
    assert (back["epoch"], back["cur_step"], back["best_valid_score"]) == (3, 0, 0.25)
    assert type(back["best_valid_score"]) is float
    assert back["state_dict"]._metadata == state["state_dict"]._metadata
    for name, weights in state["state_dict"].items():
        assert torch.equal(back["state_dict"][name], weights) and back["state_dict"][name].dtype == weights.dtype
    assert repr(back["optimizer"]) == repr(state["optimizer"])
    other, expected = back["other_parameter"], state["other_parameter"]
    assert set(other) == set(expected) - {"layer"}, "a layer is left out: its weights are in state_dict"
    for name in ("array", "matrix", "text", "objects", "big endian"):
        assert type(other[name]) is type(expected[name]) and other[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(other[name], expected[name])
    for name in ("csr", "csc", "coo", "lil"):
        assert type(other[name]) is type(expected[name])
        np.testing.assert_array_equal(other[name].toarray(), expected[name].toarray())
    for name in ("tensor", "half", "parameter"):
        assert torch.equal(other[name], expected[name]) and other[name].stride() == expected[name].stride()
    assert type(other["parameter"]) is torch.nn.Parameter and other["parameter"].requires_grad
    assert torch.equal(other["sparse"].to_dense(), expected["sparse"].to_dense())
    assert other["numbers"] == (3, True, 2**70, b"\xff\x00", 1.5, None, frozenset({1}))


def test_tied_weights_stay_tied(tmp_path: Path, workplace: Path) -> None:
    weight = torch.randn(3)
    back = legacy.load(stock_file(tmp_path / "m.pth", {"a": weight, "b": weight, "c": weight[1:]}))
    assert back["a"] is back["b"]
    assert back["c"].data_ptr() == back["a"][1:].data_ptr()


def test_weights_of_a_gpu_go_where_they_can(tmp_path: Path, workplace: Path) -> None:
    path = stock_file(tmp_path / "m.pth", {"w": torch.ones(2)})
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text.replace(b"\x8c\x03cpu", b"\x8c\x06cuda:3") if name.endswith(".pkl") else text)
    assert legacy.load(path)["w"].device.type == "cpu"
    assert legacy.load(path, "meta")["w"].device.type == "meta"


# --- refused ----------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def raw(module: str, name: str, *arguments: str) -> bytes:
    """A pickle that calls a function by its name, without importing it here."""
    text = b"\x80\x04" + b"".join(pickle.dumps(part, 2)[2:-1] for part in (module, name)) + b"\x93("
    return text + b"".join(pickle.dumps(argument, 2)[2:-1] for argument in arguments) + b"tR."


def archive(path: Path, pickled: bytes, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/version", b"3\n")
        for name, content in files.items():
            archive.writestr(f"m/{name.replace('__', '/')}", content)
    return path


HOSTILE = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("builtins", "getattr"),
    ("builtins", "setattr"),
    ("builtins", "object"),
    ("builtins", "type"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("importlib", "import_module"),
    ("runpy", "run_path"),
    ("pickle", "loads"),
    ("copyreg", "_reconstructor"),
    ("logging.config", "fileConfig"),
    ("logging", "FileHandler"),
    ("torch", "load"),
    ("torch", "save"),
    ("torch", "compile"),
    ("torch.hub", "load"),
    ("torch.jit", "load"),
    ("torch.serialization", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.utils.collect_env", "run"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ("torch.nn.modules.module", "Module"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy", "memmap"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy.f2py.crackfortran", "myeval"),
    ("scipy.sparse", "load_npz"),
    ("pandas", "read_pickle"),
    ("pandas", "eval"),
    ("yaml", "unsafe_load"),
    ("yaml.loader", "UnsafeLoader"),
    ("recbole.quick_start", "run"),
    ("recbole.quick_start.quick_start", "run_recbole"),
    ("recbole.config.configurator", "Config"),
    ("recbole.data.dataset.dataset", "Dataset"),
    ("recbole.model.general_recommender.bpr", "BPR"),
    ("recbole.utils.utils", "ensure_dir"),
    ("recbole.utils.enum_type", "Enum"),
    ("recbole.utils.enum_type", "Enum.mro"),
    ("recbole.trainer.trainer", "os.system"),
    ("recbole_oov.compat.checkpoints", "save_checkpoint"),
    ("recbole_oov", "run"),
]


@pytest.mark.parametrize(("module", "name"), HOSTILE)
def test_a_call_that_recbole_never_pickles_is_refused_and_not_made(
    module: str, name: str, tmp_path: Path, workplace: Path
) -> None:
    marker = tmp_path / "ran"
    path = archive(tmp_path / "m.pth", raw(module, name, f"touch {marker}"))
    for load in (legacy.load, compat.load_checkpoint):
        with pytest.raises(CheckpointError, match=r"m\.pth: "):
            load(path)
    assert not marker.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.pth"]


def in_config(evil: Any) -> Any:
    config = object.__new__(Config)
    vars(config).update(model="BPR", final_config_dict={"evil": evil})
    return config


def in_layer(evil: Any) -> Any:
    layer = recbole.model.layers.MLPLayers([2, 2])
    layer.logger = evil
    return {"state_dict": {}, "other_parameter": {"layer": layer}}


CARRIERS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda evil: evil,
    "in the config": in_config,
    "in a layer": in_layer,
    "as an item": lambda evil: {"state_dict": {"w": evil}},
    "as a key": lambda evil: {evil: 1},
    "in an array": lambda evil: np.array([evil, None], dtype=object),
    "in a tensor's size": lambda evil: Call(torch._utils._rebuild_tensor_v2, None, 0, evil, (1,), False, {}),
    "in an enumeration": lambda evil: Call(ModelType, evil),
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_it_is_refused_wherever_it_hides(carrier: str, protocol: int, tmp_path: Path, workplace: Path) -> None:
    marker = tmp_path / "ran"
    state = CARRIERS[carrier](Call(os.system, f"touch {marker}"))
    with pytest.raises(CheckpointError, match=r"m\.pth: .*system.* could run code, so it is refused"):
        legacy.load(stock_file(tmp_path / "m.pth", state, protocol=protocol))
    assert not marker.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        # BUILD with a state for attributes, on what a name stands for: would change it for the whole process
        b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93N}\x8c\x05build\x8c\x01xs\x86b.",
        b"\x80\x04\x8c\x10recbole.model.layers\x8c\x09MLPLayers\x93N}\x8c\x04text\x8c\x01xs\x86b.",
        b"\x80\x04\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93N}\x8c\x08__call__\x8c\x01xs\x86b.",
        # a number from the registry of extensions, which holds whatever a library put there
        b"\x80\x04\x82\x01.",
        # a reference to something that is no storage
        b"\x80\x04\x8c\x04evil\x51.",
        # nothing, too little, too deep
        b"",
        b"\x80\x04.",
        b"\x80\x04" + b"(" * 50_000 + b"t" * 50_000 + b".",
    ],
)
def test_pickles_that_are_odd_are_refused_and_leave_nothing_behind(
    pickled: bytes, tmp_path: Path, workplace: Path
) -> None:
    before = {name: (kind.text, kind.build) for name, kind in nodes._names.items()}
    with pytest.raises(CheckpointError, match=r"m\.pth: "):
        legacy.load(archive(tmp_path / "m.pth", pickled))
    assert {name: (kind.text, kind.build) for name, kind in nodes._names.items()} == before


def tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...], length: int = 4) -> bytes:
    """The pickle of a tensor that says what it likes about a storage of ``length`` numbers."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", length) if value == "here" else None

    file = io.BytesIO()
    Pickler(file, 4).dump(Call(torch._utils._rebuild_tensor_v2, "here", offset, size, stride, False, {}))
    return file.getvalue()


@pytest.mark.parametrize(
    ("offset", "size", "stride", "length"),
    [
        *((0, (5,), (1,), 4), (2, (4,), (1,), 4), (0, (2, 2), (1, 9), 4), (-1, (1,), (1,), 4), (0, (3,), (-1,), 4)),
        *((0, (1,), (1,), 400), (0, (10**12,), (0,), 400)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], length: int, tmp_path: Path
) -> None:
    good = archive(tmp_path / "good.pth", tensor_pickle(0, (2, 2), (1, 2)), data__0=np.arange(4, dtype="f4").tobytes())
    assert legacy.load(good).tolist() == [[0, 2], [1, 3]]
    bad = archive(tmp_path / "m.pth", tensor_pickle(offset, size, stride, length), data__0=bytes(16))
    with pytest.raises(CheckpointError, match=r"m\.pth: "):
        legacy.load(bad)


@pytest.mark.parametrize("code", ["O9", "V8", "f8,f8", "i" * 50, "m8[ns]", "np.float64"])
def test_types_of_arrays_that_recbole_does_not_save_are_refused(code: str, tmp_path: Path) -> None:
    pickled = pickle.dumps({"x": Call(np.dtype, "f8")}, 4).replace(
        b"\x8c\x02f8", b"\x8c" + bytes([len(code)]) + code.encode()
    )
    pickled = pickled[:2] + pickled[11:] if pickled[2:3] == b"\x95" else pickled  # without the frame's length
    with pytest.raises(CheckpointError, match="is of the type"):
        legacy.load(archive(tmp_path / "m.pth", pickled))


@given(data=st.data())
@settings(max_examples=200)
def test_a_damaged_pickle_ends_in_one_kind_of_error(tmp_path: Path, data: st.DataObject) -> None:
    good = raw("collections", "OrderedDict") if data.draw(st.booleans()) else tensor_pickle(0, (2, 2), (1, 2))
    at = data.draw(st.integers(2, len(good) - 1))
    pickled = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 2)) :]
    with contextlib.suppress(CheckpointError):
        legacy.load(archive(tmp_path / "m.pth", pickled, data__0=bytes(16)))


def test_other_archives_are_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script.pth")
    with pytest.raises(CheckpointError, match="no checkpoint of RecBole's"):
        legacy.load(tmp_path / "script.pth")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(CheckpointError, match="no checkpoint of RecBole's"):
        legacy.load(tmp_path / "empty.zip")
    (tmp_path / "text.pth").write_text("text")
    with pytest.raises(CheckpointError, match=r"text\.pth: .*damaged or made up"):
        legacy.load(tmp_path / "text.pth")
