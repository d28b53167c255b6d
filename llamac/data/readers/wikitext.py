"""Former location of `plain`, kept because scripts outside this tree import it from here."""

from llamac.data.formats.wiki_markup import plain

__all__ = ["plain"]
