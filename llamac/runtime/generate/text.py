"""Incremental decoding of tokens into text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class SpeaksTokens(Protocol):
    """Interface of a tokenizer as generation uses it."""

    def encode(self, text: str) -> Iterable[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...


class Decoder:
    """Incremental decoder of one row, which returns text as soon as later tokens cannot change it.

    A character may consist of several tokens and decodes to U+FFFD before the last one, so such an
    end is held back, as is an end that may begin a stop string. New tokens are decoded after those
    of the last final text: LLaMA's tokenizer drops the leading space of a text's first token, and
    tokenizers' ByteFallback decodes a run of byte tokens only as a whole. stopped: the stop string
    that ended the text, or "".
    """

    def __init__(
        self, tokenizer: SpeaksTokens, prompt: Sequence[int], stops: Sequence[str] = ()
    ) -> None:
        """Start after a prompt.

        prompt: its ids. stops: strings each of which ends the text; empty ones are ignored.
        """
        self.tokenizer, self.stops = tokenizer, [stop for stop in stops if stop]
        self.final, self.final_text = [*prompt], tokenizer.decode(prompt)
        self.new: list[int] = []
        self.waiting, self.stopped = "", ""

    def feed(self, token: int) -> str:
        """Add a token; return the text that is final now, without a stop string.

        Sets `stopped` to the stop string once one is found; then the rest is dropped.
        """
        self.new.append(token)
        text = self._decoded()
        if text.endswith("\ufffd"):
            return ""
        if text:  # tokens without text, such as special ones, do not matter to those after them
            self.final, self.final_text = self.new, self.tokenizer.decode(self.new)
        self.new = []
        return self._certain(text)

    def finish(self) -> str:
        """Return the text held back so far, at the end of generation, without a stop string.

        Sets `stopped` if the stop string is found only now.
        """
        text = self._certain(self._decoded())
        if not self.stopped:
            text, self.waiting = text + self.waiting, ""
        return text

    def _decoded(self) -> str:
        text = self.tokenizer.decode([*self.final, *self.new])
        if text.startswith(self.final_text):
            return text[len(self.final_text) :]
        return self.tokenizer.decode(self.new)  # an invalid byte changes the text of its whole run

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self.waiting + new
        matches = [(at, stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        if matches:
            at, self.stopped = min(matches)
            self.waiting = ""
            return text[:at]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.waiting = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of a text that is a prefix of the stop string."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
