"""Options of the whole test suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens",
        action="store_true",
        help="rewrite tests/golden/ to what the compiler produces today, instead of comparing",
    )


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-goldens"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for modules that import `tests.browser`, which skips them without one."""
    from tests.browser import chromium

    with chromium() as found:
        yield found
