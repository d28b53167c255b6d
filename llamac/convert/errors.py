"""The error raised when a model cannot be converted."""

from __future__ import annotations

from llamac.runtime.errors import RunError


class ConversionError(RunError):
    """Files are damaged, or a format does not support the model. Exit code 2."""

    exit_code = 2
