"""The picture of a search: the probabilities of the samplers over its epochs."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def save_plot(
    trajectory: Sequence[Sequence[float]], names: Sequence[str], model_file: str, tensorboard: Any = None
) -> str:
    """Draw p over epochs, beside the log file, and beside the checkpoint where there is no log file.

    Args:
        trajectory: p after each epoch. (T, K)
        names: Of the samplers. (K,)
        model_file: The checkpoint's path.
        tensorboard: RecBole's writer, which gets the picture too.

    Returns:
        What to say of it: where it is, or which package it would need.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return 'no plot of the probabilities: it needs matplotlib; pip install "recbole-oov[plot]"'
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for at, name in enumerate(names):
        axes.plot(range(1, len(trajectory) + 1), [row[at] for row in trajectory], label=name)
    axes.set(xlabel="epoch", ylabel="probability", ylim=(0, 1))
    axes.legend(fontsize="small", ncols=2)
    path = plot_path(model_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    if tensorboard is not None:
        tensorboard.add_figure("architecture/probabilities", figure)
    return f"plot of the probabilities: {path}"


def plot_path(model_file: str) -> Path:
    """Beside the newest log file of this process, else beside the checkpoint."""
    files = [h.baseFilename for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    place = Path(files[-1] if files else model_file)
    return place.with_name(f"{place.stem}-search.png")
