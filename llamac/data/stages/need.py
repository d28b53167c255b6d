"""Packages that only some stages need: imported where they are."""

from __future__ import annotations

import importlib
from typing import Any

from llamac.data.stages import StageError


def need(module: str, package: str = "") -> Any:
    """The module, or a StageError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        message = f"needs the package {package or module}: pip install 'llamac[data]'"
        raise StageError(message) from None
