"""The processes of one run: which of them this is, what they tell each other, and what the first one does alone.

All of it is ``torch.distributed``. A run of one process goes through the same functions, which then do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from recbole.utils import init_seed
from torch import Tensor

from recbole_oov.errors import ConfigError, RecBoleOOVError

Value = TypeVar("Value")

_LONGEST = timedelta(days=30)
"""How long processes wait for what the first one does alone. (That it has died they see at once.)"""
_SIGNS = ("gloo", "NCCL", "nccl", "Connection closed by peer", "Connection reset by peer", "TCPStore")
_REMEDY = (
    "look above or in the other machines' logs for what ended it (out of memory, a full disk, an error). What was "
    "saved before is whole"
)


class ProcessError(RecBoleOOVError):
    """A process of the run was ended, failed, or does not answer."""


def usable_cores() -> int:
    """Processor cores that this process may run on; all of them where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torchrun_group() -> dict[str, Any] | None:
    """What ``torchrun`` says of the run, as the options of a process of it.

    None where this is none of its processes, or the only one.

    Raises:
        ConfigError: Its variables are there and make no sense.
    """
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    try:
        rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        nproc = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        port = str(int(os.environ["MASTER_PORT"]))
    except ValueError as error:
        raise ConfigError(
            f"torchrun: RANK, LOCAL_RANK, WORLD_SIZE and MASTER_PORT must be numbers ({error})"
        ) from error
    if world_size == 1:
        return None
    return {
        "nproc": nproc,
        "world_size": world_size,
        "ip": os.environ["MASTER_ADDR"],
        "port": port,
        "offset": rank - local_rank,
        "local_rank": local_rank,
    }


def join_group(options: Mapping[str, Any], backend: str) -> None:
    """Meet the other processes of the run; those that have met before, in an earlier run, stay together.

    Args:
        options: The configuration: ``local_rank``, ``offset``, ``world_size``, ``ip``, ``port``, ``process_timeout``.
        backend: ``gloo`` on CPUs, ``nccl`` on GPUs.

    Raises:
        ProcessError: They do not come within ``process_timeout``, or the port is taken.
    """
    if dist.is_initialized():
        return
    place = f"{options['ip']}:{options['port']}"
    seconds = int(options.get("process_timeout") or 600)
    try:
        dist.init_process_group(
            backend=backend,
            rank=options["local_rank"] + options.get("offset", 0),
            world_size=options["world_size"],
            init_method=f"tcp://{place}",
            timeout=timedelta(seconds=seconds),
        )
    except (RuntimeError, OSError) as error:
        restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        raise ProcessError(
            f"ip, port: the {options['world_size']} processes did not meet at {place} within {seconds} s "
            f"({str(error).splitlines()[0]}); check that all were started, that {place} can be reached from each "
            f"machine, and that no other program has the port (give another port)"
            + ("; for torchrun to restart a run, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" if restarted else "")
        ) from error


def leave_group() -> None:
    """End what :func:`join_group` began."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share_of(config: Any) -> tuple[int, int]:
    """This process's number among all and how many there are; (0, 1) in a run of one process."""
    if config["single_spec"]:
        return 0, 1
    return config["local_rank"] + (config["offset"] or 0), config["world_size"]


def seed_process(config: Any) -> None:
    """Give each process random numbers of its own, for dropout and negatives; the first one's stay as they are.

    Called once the model is built, which all processes build from the same seed.
    """
    rank = share_of(config)[0]
    if rank:
        init_seed(config["seed"] + rank, config["reproducibility"])


@contextmanager
def alone(config: Any) -> Iterator[None]:
    """Within it, what reads ``config`` works as in a run of one process."""
    before = config["single_spec"]
    config["single_spec"] = True
    try:
        yield
    finally:
        config["single_spec"] = before


def from_first(config: Any, value: Value) -> Value:
    """The first process's value, in all processes."""
    if config["single_spec"]:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def from_all(config: Any, value: Value) -> list[Value]:
    """The values of all processes, the first one's first, in all processes."""
    if config["single_spec"]:
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def sum_of_all(config: Any, values: Tensor) -> Tensor:
    """The sum of the processes' tensors, on the CPU, in all processes."""
    return values if config["single_spec"] else torch.stack(from_all(config, values.detach().cpu())).sum(dim=0)


def on_first(config: Any, work: Callable[[], Value]) -> Value:
    """Let the first process do something while the others wait, however long it takes.

    Args:
        config: The configuration; within ``work`` it is that of a run of one process.
        work: What to do. What it returns is sent by pickle, so tensors should be on the CPU.

    Returns:
        What ``work`` returned, in all processes.

    Raises:
        RecBoleOOVError: ``work`` raised it, in all processes. Other errors end the first process, and with it the run.
    """
    if config["single_spec"]:
        return work()
    group = dist.new_group(backend="gloo", timeout=_LONGEST)
    box: list[Any] = [None, None]
    if share_of(config)[0] == 0:
        try:
            with alone(config):
                box[0] = work()
        except RecBoleOOVError as error:
            box[1] = error
    dist.broadcast_object_list(box, group=group)
    dist.destroy_process_group(group)
    if box[1] is not None:
        raise box[1]
    result: Value = box[0]
    return result


def check_alike(config: Any, what: str, values: Mapping[str, str], remedy: str) -> None:
    """Refuse processes that do not have the same options, data or files.

    Args:
        config: The configuration.
        what: What the values are, for the message.
        values: They, by name.
        remedy: What to do where they differ.

    Raises:
        ConfigError: Some process has another value than the first one; in all processes.
    """
    found = from_all(config, dict(values))
    first = found[0]
    for rank, own in enumerate(found):
        differing = [name for name in sorted({*first, *own}) if first.get(name) != own.get(name)]
        if differing:
            one = differing[0]
            raise ConfigError(
                f"nproc: process {rank} has other {what} than process 0: {', '.join(differing[:5])} ({one} is "
                f"{_short(own.get(one))} there, {_short(first.get(one))} here); {remedy}"
            )


def _short(value: str | None) -> str:
    return "missing" if value is None else value if len(value) <= 40 else f"{value[:40]}…"


def quiet(options: MutableMapping[str, Any]) -> None:
    """Let every process but the first say and report nothing, except errors."""
    if options["local_rank"] + options.get("offset", 0) != 0:
        options.update(state="error", show_progress=False, verbose=False, log_wandb=False)


@contextmanager
def naming_the_lost() -> Iterator[None]:
    """Turn the errors that a collective operation ends in when a process is gone into one that a person can read.

    Raises:
        ProcessError: Another process was ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not lost_contact(error):
            raise
        rank = dist.get_rank() if dist.is_initialized() else "?"
        raise ProcessError(
            f"process {rank} lost contact with another process of the run, which was ended or does not answer "
            f"({str(error).splitlines()[0][:200]}); {_REMEDY}"
        ) from error


def lost_contact(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS)
