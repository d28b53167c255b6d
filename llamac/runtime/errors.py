"""Errors that a person can mend."""


class RunError(Exception):
    """A run cannot go on, and the message says what a person can do about it. Exit code 1."""
