"""``push`` and ``pull``: a checkpoint as a folder in the format of Hugging Face's repositories.

The folder has ``model.json`` and its tensor file (``docs/checkpoints.md``), ``recbole_oov.json`` with a fingerprint of
the ids that the weights belong to, item content that was read from a file, and a model card. Nothing is sent anywhere
unless a repository is named as ``hf://owner/name``.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_oov.checkpoint_loading import load_checkpoint_and_data
from recbole_oov.checkpoints import store
from recbole_oov.compat import load_checkpoint
from recbole_oov.data.identity import ids_fingerprint
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.tools.arguments import read_arguments
from recbole_oov.tools.card import model_card
from recbole_oov.tools.portable import forget_places

HUB = "hf://"
MODEL_FILE, ABOUT_FILE, CARD_FILE = "model.json", "recbole_oov.json", "README.md"
_FORMAT = "recbole_oov model folder"
_VERSION = 1
_KEPT = ("config", "epoch", "best_valid_score", "state_dict", "other_parameter", "ids")
"""What of a checkpoint is published: all that scoring needs. The optimizer's state is twice as large as the weights."""


def push(argv: Sequence[str]) -> None:
    """Run the command.

    ``push --checkpoint=saved/NAME.json --to=FOLDER|hf://owner/name [--license=mit] [--evaluate=False]
    [--private=False] [--data_path=FOLDER]``

    Raises:
        ConfigError: An option is wrong, or the folder is not empty.
        DataError: The data that the model belongs to is not there, or a file cannot be written or sent.
    """
    options = ("checkpoint", "to", "license", "evaluate", "private", "data_path")
    given = read_arguments("push", argv, options, needed=("checkpoint", "to"))
    for flag in ("evaluate", "private"):
        if not isinstance(given.get(flag, True), bool):
            raise ConfigError(f"push: {flag} {given[flag]!r} is not allowed; it must be True or False")
    to = str(given["to"])
    how = {"licence": str(given.get("license", "unknown")), "evaluate": given.get("evaluate", True)}
    if not to.startswith(HUB):
        publish(given["checkpoint"], to, given.get("data_path"), **how)
        print(f"{to}: {', '.join(sorted(os.listdir(to)))}; nothing was sent anywhere")
        print(f"elsewhere: recbole-oov pull --from={to} --to=FOLDER")
        return
    repository = repository_of(to)
    with tempfile.TemporaryDirectory(prefix="recbole_oov-") as name:
        publish(given["checkpoint"], name, given.get("data_path"), **how)
        upload(Path(name), repository, private=given.get("private", True))
    print(f"pushed to https://huggingface.co/{repository}")


def publish(
    checkpoint: str | Path,
    to: str | Path,
    data_path: str | Path | None = None,
    *,
    licence: str = "unknown",
    evaluate: bool = True,
) -> None:
    """Write the folder of a checkpoint, whole or not at all; raises as :func:`push`.

    Args:
        checkpoint: The checkpoint's ``.json`` file, or a ``.pth`` of RecBole's.
        to: A new or an empty folder.
        data_path: The folder of data sets, if the data is no longer where it was.
        licence: The card's licence, an identifier as the hub knows them.
        evaluate: Test the model, for the card.
    """
    path = Path(checkpoint)
    with new_folder(to, "push") as folder:
        config, model, dataset, train, valid, test = load_checkpoint_and_data(path, data_path, log=False)
        result = _test_result(config, model, train, valid, test) if evaluate else None
        state = load_checkpoint(path)
        kept = {name: state[name] for name in _KEPT if name in state}
        kept["config"], content_file = forget_places(state["config"])
        store.save(kept, folder / MODEL_FILE)
        if content_file is not None:
            shutil.copyfile(content_file, folder / content_file.name)
        written_by = store.read_manifest(folder / MODEL_FILE)["written_by"]
        card = model_card(kept["config"], dataset, train, result, state.get("best_valid_score"), licence, written_by)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        about = {
            "format": _FORMAT,
            "version": _VERSION,
            "model": str(config["model"]),
            "dataset": str(config["dataset"]),
            "ids": ids_fingerprint(train._dataset),
            "content_file": content_file.name if content_file else None,
            "test_result": result,
        }
        (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def pull(argv: Sequence[str]) -> None:
    """Run the command: ``pull --from=FOLDER|hf://owner/name --to=FOLDER [--data_path=FOLDER]``.

    Raises:
        ConfigError: An option is wrong, ``from`` was not written by push, or the folder ``to`` is not empty.
        DataError: The data is not there or another than the model was trained on; the hub does not answer.
    """
    given = read_arguments("pull", argv, ("from", "to", "data_path"), needed=("from", "to"))
    path = fetch(str(given["from"]), str(given["to"]), given.get("data_path"))
    print(f"{path}: the users and items are those of the data here; load it: recbole_oov.load({str(path)!r})")


def fetch(source: str, to: str | Path, data_path: str | Path | None = None) -> Path:
    """Copy what :func:`push` wrote into a folder, as a checkpoint whose places are this machine's.

    Args:
        source: A folder, or ``hf://owner/name``.
        to: A new or an empty folder.
        data_path: The folder of data sets; by default ``dataset``. ml-100k comes with RecBole.

    Returns:
        The checkpoint, for :func:`recbole_oov.load` and every command with ``--checkpoint``.

    Raises:
        ConfigError, DataError, CheckpointError: As of :func:`pull`; nothing was written then.
    """
    folder = _source_folder(source)
    about = _about(folder)
    state = load_checkpoint(folder / MODEL_FILE)
    state["config"], _ = forget_places(state["config"])  # whoever wrote the folder need not have done so
    content_file = about.get("content_file")
    with new_folder(to, "pull") as made:
        if content_file is not None:
            _set_content(state, (made / content_file).absolute())
            shutil.copyfile(folder / content_file, made / content_file)
        store.save(state, made / MODEL_FILE)
        config, _, _, train, _, _ = load_checkpoint_and_data(made / MODEL_FILE, data_path, log=False)
        if about.get("ids") != ids_fingerprint(train._dataset):
            raise DataError(
                f"dataset: {config['dataset']} in {config['data_path']} has other users or items, or another split, "
                f"than the data that the model was trained on; its weights belong to the ids of that data. Name the "
                f"folder that holds it with data_path"
            )
        if content_file is not None:
            _set_content(state, (Path(to) / content_file).absolute())
        state["config"].final_config_dict["data_path"] = config["data_path"]
        store.save(state, made / MODEL_FILE)
        for name in (CARD_FILE, ABOUT_FILE):
            shutil.copyfile(folder / name, made / name)
    return Path(to) / MODEL_FILE


@contextmanager
def new_folder(to: str | Path, command: str) -> Iterator[Path]:
    """A folder beside ``to`` that takes its place when the block ends well, and is gone when it does not.

    Raises:
        ConfigError: ``to`` is a file or a folder with something in it.
        DataError: A file or a folder cannot be written.
    """
    target = Path(to)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(f"{command}: to {str(to)!r} is not empty; name a new or an empty folder")
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.absolute().parent, prefix=f".{target.name}.", suffix=".part"))
        yield part
        if target.is_dir():
            target.rmdir()
        part.rename(target)
        mask = os.umask(0)
        os.umask(mask)
        target.chmod(0o777 & ~mask)  # mkdtemp's folders are their owner's alone
    except OSError as error:
        raise DataError(f"{command}: {to} cannot be written ({error.strerror or error}); choose another one") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def repository_of(to: str) -> str:
    """``owner/name`` out of ``hf://owner/name``.

    Raises:
        ConfigError: It is not of that form.
    """
    repository = to.removeprefix(HUB)
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", repository):
        raise ConfigError(f"{to!r} names no repository; write {HUB}owner/name, or a folder without {HUB}")
    return repository


def upload(folder: Path, repository: str, *, private: bool = True) -> None:
    """Send a folder to the hub, with the token that ``hf auth login`` has stored.

    Raises:
        ConfigError: It is to be private, and the repository is there and public; nothing was sent.
        DataError: The hub refused it, or cannot be reached.
    """
    hub: Any = importlib.import_module("huggingface_hub")
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        # A repository that is there already stays as public as it is, whatever was asked for.
        if private and not api.repo_info(repository).private:
            raise ConfigError(
                f"push: {repository} is there already and is public; nothing was sent. Make it private, push "
                f"to another one, or publish the model on purpose with --private=False"
            )
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except (OSError, ValueError) as error:  # the library's own errors are OSErrors and ValueErrors
        raise DataError(
            f"push: {repository} could not be pushed ({_first_line(error)}); log in with: hf auth login, or push to a "
            f"folder, --to=FOLDER"
        ) from error


def _source_folder(source: str) -> Path:
    if source.startswith(HUB):
        hub: Any = importlib.import_module("huggingface_hub")
        repository = repository_of(source)
        try:
            return Path(hub.snapshot_download(repository))
        except (OSError, ValueError) as error:
            raise DataError(f"{source}: could not be downloaded ({_first_line(error)}); check the name") from error
    folder = Path(source)
    if not (folder / ABOUT_FILE).is_file() or not (folder / MODEL_FILE).is_file():
        raise ConfigError(f"pull: from {source!r} is no folder that push wrote; give one, or {HUB}owner/name")
    return folder


def _about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); push the model again") from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT or about.get("version") != _VERSION:
        raise DataError(f"{path}: is not of version {_VERSION} of {_FORMAT!r}; read it with the release that wrote it")
    name = about.get("content_file")
    if name is not None and Path(str(name)).name != name:
        raise DataError(f"{path}: content_file names {name!r}, which does not lie in the folder; push the model again")
    return about


def _set_content(state: dict[str, Any], path: Path) -> None:
    final = state["config"].final_config_dict
    final["content"] = {**final["content"], "path": str(path)}


def _test_result(config: Any, model: Any, train: Any, valid: Any, test: Any) -> dict[str, float]:
    from recbole_oov.runner import trainer_class

    config["log_wandb"] = False  # the model is only tested, whatever its training sent
    trainer = trainer_class(config)(config, model)
    try:
        trainer.remember(train, valid)
        result = trainer.evaluate(test, load_best_model=False, show_progress=bool(config["show_progress"]))
    finally:
        trainer.tensorboard.close()
        shutil.rmtree(trainer.tensorboard.log_dir, ignore_errors=True)  # a test has no curves
    return {str(name): float(value) for name, value in result.items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
