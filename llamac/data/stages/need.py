"""What only some stages need: packages, imported where they are used, and files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from typing import Any

from llamac.data.stages import StageError


def need(module: str, package: str = "") -> Any:
    """The module, or a StageError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        message = f"needs the package {package or module}: pip install 'llamac[data]'"
        raise StageError(message) from None


def readable(path: str, help: str) -> None:
    """A StageError that says what to do, if the file is not there or not to be read."""
    read(path, help, 0)


def read(path: str, help: str, size: int = -1) -> bytes:
    """A file's bytes, all or the first `size`, or a StageError that says what to do."""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}; {help}") from None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def version(package: str) -> str:
    """`package 1.2.3`"""
    return f"{package} {importlib.metadata.version(package)}"
