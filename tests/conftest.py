"""Options of the whole test suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamac.verify.rank_server import RankServer


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens",
        action="store_true",
        help="rewrite tests/golden/ to what the compiler produces today, instead of comparing",
    )


def pytest_collection_finish() -> None:
    gc.freeze()  # torch's million objects: to go through them takes a second each time


def pytest_sessionfinish() -> None:
    gc.freeze()  # pytest collects garbage several times as it ends


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What tests write in this process need not outlive a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-goldens"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for modules that import `tests.browser`, which skips them without one."""
    from tests.browser import chromium

    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def rank_server() -> Iterator[RankServer]:
    """A server that forks ranks; the process starts with the first launch."""
    with RankServer() as server:
        yield server


@pytest.fixture
def rank_program(tmp_path: Path) -> Callable[[str], Path]:
    """Writes code to a file for `rank_server` to run."""

    def write(code: str) -> Path:
        path = tmp_path / "program.py"
        path.write_text(code)
        return path

    return write
