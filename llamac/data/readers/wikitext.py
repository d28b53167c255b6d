"""Former location of `plain`, kept because scripts outside this tree import it from here."""

from llamac.data.formats.wikitext import plain

__all__ = ["plain"]
