"""Checkpoints that RecBole 1.2.1 pickled without this plugin, read without running anything out of them.

Such a file is a ZIP archive of torch's: ``data.pkl``, a pickle of the state, and the bytes of each tensor beside it.
A pickle is a program that calls what it names. Here no name leads to the thing that it names: each is looked up in a
table and stands for a :class:`~nodes.Note` of what it was called with. What the notes mean is worked out afterwards.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from logging import getLogger
from pathlib import PurePosixPath
from typing import Any

import torch

from recbole_oov.checkpoints.error import CheckpointError
from recbole_oov.checkpoints.nodes import LEFT_OUT, Nodes, Refused, known_name

_FAULTS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
    NotImplementedError,
    MemoryError,
    OSError,
)
"""What a pickle that was made up can end in, beside :class:`Refused`."""


def load(path: str | os.PathLike[str], map_location: Any = None) -> Any:
    """Read a checkpoint that stock RecBole wrote.

    Args:
        path: The ``.pth`` file.
        map_location: The device for all tensors; None puts each where it was, and on the CPU where this machine has no
            such device.

    Returns:
        The state, with a Config of RecBole's; the layers that some models list in ``other_parameter`` are left out,
        for their weights are in ``state_dict`` as well.

    Raises:
        CheckpointError: It holds a name that a checkpoint of RecBole's does not, or is damaged.
    """
    device = None if map_location is None else torch.device(map_location)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, device, str(path))
    except Refused as error:
        raise CheckpointError(
            f"{path}: this checkpoint refers to {error}, which could run code, so it is refused; if the class only "
            f"keeps data and you trust the file, name the class to recbole_oov.compat.allow_in_checkpoints first"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except _FAULTS as error:
        raise CheckpointError(f"{path}: this checkpoint is damaged or made up: {error}; use another one") from error


def _read(archive: zipfile.ZipFile, device: torch.device | None, shown: str) -> Any:
    found = {PurePosixPath(name).name: name for name in archive.namelist() if len(PurePosixPath(name).parts) == 2}
    if "data.pkl" not in found or "constants.pkl" in found:
        raise CheckpointError("this is no checkpoint of RecBole's, but another kind of archive")
    folder = str(PurePosixPath(found["data.pkl"]).parent)
    if "byteorder" in found and archive.read(found["byteorder"]) != b"little":
        raise CheckpointError("this checkpoint was written on a big-endian machine, which is not supported")
    nodes = Nodes(lambda key: archive.read(f"{folder}/data/{key}"), device)
    with archive.open(found["data.pkl"]) as file:
        state = nodes.resolve(_Unpickler(file, nodes).load())
    if state is LEFT_OUT:
        raise CheckpointError("this checkpoint holds no state")
    if nodes.left_out:
        getLogger(__name__).info("%s: left out %s, which are not plain data", shown, ", ".join(sorted(nodes.left_out)))
    return state


class _Unpickler(pickle.Unpickler):
    """An unpickler for which a name is nothing but a name."""

    def __init__(self, file: Any, nodes: Nodes) -> None:
        super().__init__(file, encoding="utf-8")
        self._nodes = nodes

    def find_class(self, module: str, name: str) -> Any:
        return known_name(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return self._nodes.storage(pid)
