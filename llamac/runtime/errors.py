"""Errors that a person can mend."""

from __future__ import annotations


class RunError(Exception):
    """A run cannot go on, and the message says what a person can do about it.

    teller: of several ranks that raise it, the one that tells; None: each has its own to tell.
    """

    exit_code = 1

    def __init__(self, message: str, teller: int | None = None) -> None:
        super().__init__(message)
        self.teller = teller
