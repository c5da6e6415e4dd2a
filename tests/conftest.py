"""Fixtures for all tests, and the marker that a test's folder gives it."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import sys
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import recbole_oov  # noqa: F401  (makes the plugin known to RecBole before a test imports RecBole)

settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("tests")

N_USERS, N_ITEMS = 40, 60
WORDS = ["amber", "basil", "cedar", "dune", "ember", "fjord", "grove", "heath", "islet", "jetty", "knoll", "lagoon"]


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with the folder that it lies in: unit, conformance, recipe or slow."""
    root = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(root) and item.path.parent != root:
            item.add_marker(item.path.relative_to(root).parts[0])


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECBOLE_OOV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """RecBole's log writes to the output of the test that started it, and would write to a closed one after it."""
    before = list(getLogger().handlers)
    yield
    for handler in [handler for handler in getLogger().handlers if handler not in before]:
        getLogger().removeHandler(handler)
        handler.close()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, for ``saved/`` and ``log/``, and a command line without arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    return tmp_path


@pytest.fixture
def tiny_dataset(workplace: Path) -> Path:
    """The data set ``tiny`` in ``dataset/tiny``: 40 users, 60 items with titles, ratings, times. Its folder.

    A user's next item follows from the last one more often than not, so that a model can learn something.
    """
    folder = workplace / "dataset" / "tiny"
    folder.mkdir(parents=True)
    draw = random.Random(0)
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(1, N_USERS + 1):
        item, seen = draw.randrange(N_ITEMS), set[int]()
        for step in range(draw.randint(8, 14)):
            item = (item + 1) % N_ITEMS if draw.random() < 0.7 else draw.randrange(N_ITEMS)
            while item in seen:
                item = (item + 1) % N_ITEMS
            seen.add(item)
            inter.append(f"u{user}\ti{item + 1}\t{draw.randint(1, 5)}\t{1_000_000 + 100 * step + user}")
    items = ["item_id:token\ttitle:token_seq\tyear:token"]
    for item in range(1, N_ITEMS + 1):
        items.append(f"i{item}\t{WORDS[item % 12]} {WORDS[item // 12]}\t{1990 + item % 10}")
    (folder / "tiny.inter").write_text("\n".join(inter) + "\n", encoding="utf-8")
    (folder / "tiny.item").write_text("\n".join(items) + "\n", encoding="utf-8")
    return folder
