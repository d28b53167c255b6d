"""Former place of `plain`, which scripts outside this tree still import from here."""

from llamac.data.formats.wikitext import plain

__all__ = ["plain"]
