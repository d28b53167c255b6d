"""Incremental decoding of tokens into text, and encoding of chat prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..errors import RunError


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


MARK = "\ue000"  # of private use: breaks a special token's name where a user wrote it


def chat_tokens(
    tokenizer: Any, template: str, messages: Sequence[Mapping[str, str]], begin: Sequence[int]
) -> list[int]:
    """Return the tokens of a conversation, up to the assistant's answer.

    The template runs in jinja2's sandbox. Names of special tokens become those tokens if written by
    the template, and plain text if they are in a message.
    """
    ids: dict[str, int] = {}
    for token in range(tokenizer.vocab_size):
        ids.setdefault(tokenizer.piece(token), token)
    names = {name: ids[name] for name in tokenizer.control if name in ids}

    def broken(text: str) -> str:
        for name in names:
            text = text.replace(name, name[0] + MARK + name[1:])
        return text

    given = [{**message, "content": broken(message["content"])} for message in messages]
    bos = tokenizer.piece(begin[0]) if begin else _piece(tokenizer, tokenizer.bos)
    text = _render(template, given, bos, _piece(tokenizer, tokenizer.eos))
    return [
        token
        for part in _split(text, sorted(names, key=len, reverse=True))
        for token in ([names[part]] if part in names else _plain(tokenizer, part))
    ]


def _plain(tokenizer: Any, text: str) -> list[int]:
    return [int(i) for i in tokenizer.encode(text.replace(MARK, ""))]


def _piece(tokenizer: Any, token: int) -> str:
    return tokenizer.piece(token) if token >= 0 else ""


def _split(text: str, names: Sequence[str]) -> Iterator[str]:
    """Split a text into names of special tokens and the text between them."""
    while text:
        found = [(at, -len(name), name) for name in names if (at := text.find(name)) >= 0]
        if not found:
            yield text
            return
        at, _, name = min(found)
        if at:
            yield text[:at]
        yield name
        text = text[at + len(name) :]


def _render(template: str, messages: Sequence[Mapping[str, str]], bos: str, eos: str) -> str:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise RunError("a chat template needs jinja2: pip install jinja2") from error

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(template).render(
            messages=list(messages), add_generation_prompt=True, bos_token=bos, eos_token=eos
        )
    except (TemplateError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise RunError(f"the chat template cannot be used: {error}") from error
