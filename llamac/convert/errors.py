"""The error of a model that cannot be converted."""

from __future__ import annotations

from llamac.runtime.errors import RunError


class ConversionError(RunError):
    """Files that are damaged, or a model that a format cannot hold. Exit code 2."""

    exit_code = 2
