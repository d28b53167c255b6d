"""Error of conversions."""

from __future__ import annotations

from llamac.runtime.errors import RunError


class ConversionError(RunError):
    """A model cannot be converted: its files are damaged, or the format does not support it.

    The command exits with code 2.
    """

    exit_code = 2
