"""Error of conversions."""

from __future__ import annotations

from llamac.runtime.errors import RunError


class ConversionError(RunError):
    """A model cannot be converted: damaged files, an unsupported feature or an unusable option.

    exit_code: status with which the command exits.
    """

    exit_code = 2
