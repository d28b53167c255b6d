"""Import packages and read files that only some stages need; report missing ones clearly."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from typing import Any

from llamac.data.stages import StageError


def need(module: str, package: str = "") -> Any:
    """Import and return a module. Raises StageError with how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        message = f"needs the package {package or module}: pip install 'llamac[data]'"
        raise StageError(message) from None


def require_readable(path: str, help: str) -> None:
    """Raise StageError with `help` if the file is missing or unreadable."""
    file_bytes(path, help, 0)


def file_bytes(path: str, help: str, size: int = -1) -> bytes:
    """Return a file's bytes, all or the first `size`. Raises StageError with `help`."""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}; {help}") from None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def version(package: str) -> str:
    """Return a package's name and version: `package 1.2.3`."""
    return f"{package} {importlib.metadata.version(package)}"
