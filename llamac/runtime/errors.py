"""Errors that a person can mend."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class RunError(Exception):
    """A run cannot go on, and the message says what a person can do about it.

    teller: of several ranks that raise it, the one that tells; None: each has its own to tell.
    """

    exit_code = 1

    def __init__(self, message: str, teller: int | None = None) -> None:
        super().__init__(message)
        self.teller = teller


WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "make the directory writable for this user"
    ),
    **dict.fromkeys(
        (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP),
        "remove or rename the file in its place",
    ),
}


def way_out(error: BaseException) -> str:
    """Return what a person can do about what the disk refuses."""
    return WAYS_OUT.get(getattr(error, "errno", None) or 0, "fix that")


class SourceError(RunError, ValueError):
    """A source that cannot be read at all: nothing matches, or a package is missing."""


class InputError(SourceError):
    """A key of a `[[data.source]]` that what is on disk cannot serve.

    at: the key, such as ("paths", 0) or ("text_field",). source: the source's name, once known.
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
def naming(source: str) -> Iterator[None]:
    """InputErrors that are raised within name that source."""
    try:
        yield
    except InputError as error:
        error.source = source
        raise
