"""Import packages and read files that only some stages need, with clear errors if missing."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from typing import Any

from llamac.data.stages import StageError


def need(module: str, package: str = "") -> Any:
    """Import and return a module.

    package: its name on PyPI; "" if it is that of the module. Raises StageError, with the command
    that installs the package, if it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        message = f"needs the package {package or module}: pip install 'llamac[data]'"
        raise StageError(message) from None


def require_readable(path: str, help: str) -> None:
    """Raise StageError if the file cannot be read. help: what to do, for the message."""
    file_bytes(path, help, 0)


def file_bytes(path: str, help: str, size: int = -1) -> bytes:
    """Return the first `size` bytes of a file; -1 means all.

    help: what to do, for the message. Raises StageError if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}; {help}") from None


def sha256(data: bytes) -> str:
    """Return the SHA-256 digest of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def version(package: str) -> str:
    """Return an installed package's name on PyPI and version, such as "py3langid 1.0.0"."""
    return f"{package} {importlib.metadata.version(package)}"
