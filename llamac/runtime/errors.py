"""Errors whose messages tell the user what is wrong and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class RunError(Exception):
    """A run cannot continue; the message says what the user can do.

    printing_rank: rank that prints the message, if all ranks raise the error; None if each rank
    prints its own. exit_code: exit code of the process.
    """

    exit_code = 1

    def __init__(self, message: str, printing_rank: int | None = None) -> None:
        super().__init__(message)
        self.printing_rank = printing_rank


REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "make the directory writable for this user"
    ),
    **dict.fromkeys(
        (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP),
        "remove or rename the file in its place",
    ),
}
"""Advice on an error of the file system, by errno."""


def remedy(error: BaseException) -> str:
    """Return advice on an error of the file system, as an imperative clause: "make room".

    Errors that are not in REMEDIES give "fix that".
    """
    return REMEDIES.get(getattr(error, "errno", None) or 0, "fix that")


class SourceError(RunError, ValueError):
    """Data sources cannot be used at all, for example because a package is missing."""


class InputError(SourceError):
    """A key of a `[[data.source]]` does not match the files on disk.

    at: path of the key within the source, such as ("paths", 0) or ("text_field",). source: name of
    the source, put before the message; "" until `add_source_name` sets it.
    """

    exit_code = 2
    source = ""

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at = at

    def __str__(self) -> str:
        message = super().__str__()
        return f"source {self.source!r}: {message}" if self.source else message


@contextmanager
def add_source_name(source: str) -> Iterator[None]:
    """Context manager that sets the source's name on an InputError raised in its block."""
    try:
        yield
    except InputError as error:
        error.source = source
        raise
