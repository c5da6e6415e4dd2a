"""Starting the processes of a run on this machine, and seeing to it that all end when one does."""

from __future__ import annotations

import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from recbole_oov.errors import RecBoleOOVError
from recbole_oov.processes import ProcessError, lost_contact

_GRACE = 5.0
"""Seconds that the other processes have to say what they saw when one has ended."""
_LOOK = 0.5
"""Seconds between two looks at what processes say."""
_LAST_LINES = 16_000
"""Characters of a traceback that are sent."""


def spawn(task: Callable[..., Any], nproc: int, *arguments: Any) -> Any:
    """Run ``task(rank, *arguments)`` in processes of their own.

    Args:
        task: A function at the top level of a module.
        nproc: How many.
        arguments: For each of them.

    Returns:
        What the first one returned.

    Raises:
        RecBoleOOVError: A process raised one; or, as a :class:`ProcessError`, was killed or failed otherwise. The
            others have been ended.
    """
    import torch.multiprocessing as mp

    messages = mp.get_context("spawn").SimpleQueue()
    context: Any = mp.spawn(_worker, args=(task, arguments, messages), nprocs=nproc, join=False)
    processes: list[Any] = context.processes
    said: dict[int, tuple[str, Any]] = {}
    try:
        while alive := [process for process in processes if process.is_alive()]:
            wait([process.sentinel for process in alive], timeout=_LOOK)
            _read(messages, said)
            if any(process.exitcode for process in processes):
                break
        failed = any(process.exitcode for process in processes)
        deadline = time.monotonic() + _GRACE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()) if failed else None)
            _read(messages, said)
        exits = [process.exitcode for process in processes]
    finally:
        _end(processes)
    if failed:
        raise _failure(exits, said)
    return said[0][1] if 0 in said else None  # it was interrupted


def _worker(rank: int, task: Callable[..., Any], arguments: tuple[Any, ...], messages: Any) -> None:
    try:
        result = task(rank, *arguments)
    except RecBoleOOVError as error:
        messages.put((rank, "lost" if isinstance(error, ProcessError) else "refused", error))
        raise SystemExit(2) from None
    except Exception as error:
        text = traceback.format_exc()[-_LAST_LINES:]
        messages.put((rank, "lost" if lost_contact(error) else "failed", ProcessError(text)))
        raise SystemExit(1) from None
    if rank == 0:
        messages.put((rank, "returned", result))


def _read(messages: Any, said: dict[int, tuple[str, Any]]) -> None:
    """Take what has arrived; a pipe that nobody reads from would block who writes."""
    while not messages.empty():
        rank, *message = messages.get()
        said[rank] = tuple(message)


def _failure(exits: Sequence[int | None], said: dict[int, tuple[str, Any]]) -> RecBoleOOVError:
    """What ended the run: a refusal, else who was killed, else a failure; that contact was lost follows from those."""
    for wanted in ("refused", "killed", "failed", "lost"):
        for rank, code in enumerate(exits):
            kind, error = said.get(rank, (None, None))
            if wanted == "killed" and kind is None and code is not None and code < 0:
                name = signal.Signals(-code).name
                why = ", perhaps because memory ran out" if name == "SIGKILL" else ""
                return ProcessError(
                    f"process {rank} of {len(exits)} was ended from outside by {name}{why}; the others were ended too. "
                    f"What was saved before is whole"
                )
            if kind == wanted == "failed":
                return ProcessError(f"process {rank} of {len(exits)} failed; the others were ended.\n{error}")
            if kind == wanted and isinstance(error, RecBoleOOVError):
                return error
    return ProcessError(f"a process ended with status {next(code for code in exits if code)}; the others were ended")


def _end(processes: Sequence[Any]) -> None:
    """End those that are still there."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()


def free_port() -> str:
    """A port of this machine that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])
