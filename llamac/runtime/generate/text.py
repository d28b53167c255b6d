"""Incremental decoding of tokens into text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class SpeaksTokens(Protocol):
    """Interface of the tokenizer used in generation."""

    def encode(self, text: str) -> Iterable[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...


class Decoder:
    """Incremental decoder of one row, which returns text as soon as it is final.

    A character may consist of several tokens and decodes to U+FFFD before the last one, so such an
    end is held back, as is an end that may begin a stop string. The previous token is decoded too,
    because LLaMA's tokenizer drops the leading space of a text's first token.
    """

    def __init__(self, tokenizer: SpeaksTokens, before: int, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, [stop for stop in stops if stop]
        self.tokens, self.known = [before], tokenizer.decode([before])
        self.waiting, self.stopped = "", ""

    def feed(self, token: int) -> str:
        """Add a token; return the text that is now final. `stopped`: the stop string found."""
        self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens)
        if text.endswith("\ufffd"):
            return ""
        new = text[len(self.known) :]
        self.tokens, self.known = [token], self.tokenizer.decode([token])
        return self._certain(new)

    def finish(self) -> str:
        """Return the text held back, at the end of generation."""
        new = self.tokenizer.decode(self.tokens)[len(self.known) :]
        text = self._certain(new)
        if not self.stopped:
            text, self.waiting = text + self.waiting, ""
        return text

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self.waiting + new
        found = [(at, stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.stopped = min(found)
            self.waiting = ""
            return text[:at]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.waiting = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of a text that is a prefix of the stop string."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
