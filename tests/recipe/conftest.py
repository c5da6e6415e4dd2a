"""A small data set for whole runs, and a folder to run in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

# Early: it imports ray, which closes all log handlers that there are, and with absl's one what pytest captures.
import recbole.quick_start  # noqa: F401

from recbole_oov.testing import two_circles, write_atomic


@pytest.fixture(scope="session")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the data set ``circles``."""
    folder = tmp_path_factory.mktemp("data")
    # Once round a circle at most: a general model's random split would have both of two equal rows.
    titles = {f"i{i}": f"Story {i} of the sea" for i in range(24)}
    said: dict[str, Callable[[str, str], object]] = {
        "rating:float": lambda user, item: 1 + int(item[1:]) % 5,
        "explanation:token_seq": lambda user, item: f"all like {titles[item].lower()}",
        "review:token_seq": lambda user, item: f"I read {titles[item].lower()} twice",
    }
    write_atomic(folder, "circles", two_circles(length=12), titles, said)
    return folder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run writes ``saved/``, ``log/`` and ``log_tensorboard/`` into a folder of its own."""
    monkeypatch.chdir(tmp_path)
