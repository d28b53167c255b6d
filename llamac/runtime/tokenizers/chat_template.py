"""Render chats with a model's chat template into tokens, and mark the tokens of answers.

Templates are Jinja as in transformers, run in jinja2's sandbox. Tokens of answers are those of
`{% generation %}` blocks, if the template has them. Otherwise an answer is the text that the
template appends to the earlier messages and the generation prompt, up to its last special token:
the one that ends the turn belongs to it, the line break afterwards does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from ..errors import RunError
from .tokenizer import Tokenizer

ASSISTANT = "assistant"  # role whose messages are answers
CHAT_TEMPLATE = "chat_template.jinja"  # file beside a tokenizer, and in prepared data
Messages = Sequence[Mapping[str, Any]]  # each {"role", "content"} and perhaps "weight"


class ChatTemplateError(RunError, ValueError):
    """The chat template is invalid, or rejects a chat."""


class RenderedChat(NamedTuple):
    """Tokens of a chat. ids: int32 [n]. answers: whether each belongs to an answer, bool [n]."""

    ids: np.ndarray
    answers: np.ndarray


class ChatTemplate:
    """A chat template with its tokenizer.

    Names of special tokens in the template become those tokens; in a message they are plain text.
    """

    def __init__(self, tokenizer: Tokenizer, template: str, bos: str = "") -> None:
        """Compile the template.

        template: its text. bos: text of the BOS token, which the template may refer to; "" for
        none. Raises ChatTemplateError if the template is invalid or jinja2 is not installed.
        """
        self.tokenizer, self.bos = tokenizer, bos
        self.eos = tokenizer.piece(tokenizer.eos) if tokenizer.eos >= 0 else ""
        ids: dict[str, int] = {}
        for token in range(tokenizer.vocab_size):
            ids.setdefault(tokenizer.piece(token), token)
        self._special = {name: ids[name] for name in tokenizer.control if name in ids and name[1:]}
        names = sorted(map(re.escape, self._special), key=len, reverse=True)
        self._names = re.compile("|".join(names) or "(?!)")
        self._template = _compiled(template)

    def prompt(self, messages: Messages) -> list[int]:
        """Return the ids of a chat up to the beginning of the assistant's next answer.

        messages: {"role", "content"} of each. Raises ChatTemplateError if the template rejects the
        chat.
        """
        signs = _Signs(messages)
        text = self._render(self._quoted(messages, signs), signs, add_generation_prompt=True)
        text = signs.without_blocks(text)[0]
        return self._encoded(text, [], signs).ids.tolist()

    def render(self, messages: Messages) -> RenderedChat:
        """Return the tokens of a complete chat with the mask of its answers.

        messages: {"role", "content"} of each; assistant messages with `weight` 0 are not marked as
        answers. Raises ChatTemplateError if the template rejects the chat; if, without generation
        blocks, it changes earlier messages when later ones follow; or if a weight is 0 and the
        number of its generation blocks is not that of the answers.
        """
        signs = _Signs(messages)
        quoted = self._quoted(messages, signs)
        text, blocks = signs.without_blocks(self._render(quoted, signs))
        answers = [n for n, message in enumerate(messages) if message["role"] == ASSISTANT]
        learned = [n for n in answers if messages[n].get("weight", 1)]
        if not blocks:
            blocks = [self._appended(text, quoted, n, signs) for n in learned]
        elif learned != answers:  # blocks must be matched with answers
            if len(blocks) != len(answers):
                raise ChatTemplateError(
                    f"the chat template has {len(blocks)} generation blocks for {len(answers)} "
                    "answers, so no answer can have weight 0"
                )
            blocks = [blocks[answers.index(n)] for n in learned]
        return self._encoded(text, blocks, signs)

    def ends_answer(self, token: int) -> bool:
        """Return whether the token with this id is special, so that it may end an answer."""
        return token in self._special.values()

    def _appended(self, text: str, messages: Messages, number: int, signs: _Signs) -> _Span:
        """Return the span of message `number`, an answer, in the rendered chat."""
        before = self._render(messages[:number], signs, add_generation_prompt=True)
        through = self._render(messages[: number + 1], signs)
        if not (through.startswith(before) and text.startswith(through)):
            raise ChatTemplateError(
                "the chat template rewrites earlier messages as a chat goes on: use one that does "
                "not, or that encloses answers in {% generation %} … {% endgeneration %}"
            )
        ends = [match.end() for match in self._names.finditer(through, len(before))]
        return len(before), max(ends, default=len(through))

    def _quoted(self, messages: Messages, signs: _Signs) -> list[dict[str, Any]]:
        """Return the messages with a mark in names of special tokens, which keeps them text."""

        def quoted(value: Any) -> Any:
            if not isinstance(value, str):
                return value
            return self._names.sub(lambda name: name[0][0] + signs.quote + name[0][1:], value)

        return [{key: quoted(value) for key, value in message.items()} for message in messages]

    def _render(
        self, messages: Messages, signs: _Signs, add_generation_prompt: bool = False
    ) -> str:
        from jinja2 import TemplateError

        try:
            return self._template.render(
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos,
                eos_token=self.eos,
                _answer_begins=signs.begin,
                _answer_ends=signs.end,
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ChatTemplateError(f"the chat template cannot be used: {error}") from error

    def _encoded(self, text: str, spans: Sequence[_Span], signs: _Signs) -> RenderedChat:
        """Return the tokens of a rendered text, with the mask of those within the spans."""
        ids: list[np.ndarray] = []
        answers: list[np.ndarray] = []
        for begin, end, special in self._parts(text):
            inside = [(max(b, begin), min(e, end)) for b, e in spans if b < end and begin < e]
            if special is not None:
                ids.append(np.array([special], np.int32))
                answers.append(np.full(1, bool(inside)))
                continue
            whole = self._plain(text[begin:end], signs)
            marked = np.zeros(len(whole), bool)
            for first, last in inside:
                marked |= self._within(whole, text[begin:first], text[last:end], signs)
            ids.append(whole)
            answers.append(marked)
        empty = (np.zeros(0, np.int32), np.zeros(0, bool))
        return RenderedChat(np.concatenate([empty[0], *ids]), np.concatenate([empty[1], *answers]))

    def _within(self, whole: np.ndarray, before: str, after: str, signs: _Signs) -> np.ndarray:
        """Return the mask of tokens that do not lie in the text before or after only, bool [n].

        A token across the boundary belongs to the answer, as in transformers.
        """
        head = common_prefix_length(whole, self._plain(before, signs)) if before else 0
        rest = common_prefix_length(whole[::-1], self._plain(after, signs)[::-1]) if after else 0
        place = np.arange(len(whole))
        return (place >= head) & (place < len(whole) - rest)

    def _parts(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """Yield (begin, end, id) of special tokens and of the text between, whose id is None."""
        done = 0
        for match in self._names.finditer(text):
            if done < match.start():
                yield done, match.start(), None
            done = match.end()
            yield match.start(), done, self._special[match[0]]
        if done < len(text):
            yield done, len(text), None

    def _plain(self, text: str, signs: _Signs) -> np.ndarray:
        return np.asarray(self.tokenizer.encode(text.replace(signs.quote, "")), np.int32)


_Span = tuple[int, int]  # begin and end of an answer, in characters


class _Signs:
    """Three private-use characters that the messages do not contain.

    quote: marks a special token's name as text. begin, end: enclose a generation block.
    """

    def __init__(self, messages: Messages) -> None:
        used = set("".join(str(value) for message in messages for value in message.values()))
        free = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)
        self.quote, self.begin, self.end = next(free), next(free), next(free)

    def without_blocks(self, text: str) -> tuple[str, list[_Span]]:
        """Return (rendered text without the signs of its blocks, spans of the blocks)."""
        pieces, spans, at = re.split(f"[{self.begin}{self.end}]", text), list[_Span](), 0
        for number, piece in enumerate(pieces):
            if number % 2:
                spans.append((at, at + len(piece)))
            at += len(piece)
        return "".join(pieces), spans


def common_prefix_length(first: np.ndarray, second: np.ndarray) -> int:
    """Return the number of tokens in the common prefix of two arrays of ids."""
    return sum(1 for _ in takewhile(bool, map(int.__eq__, first.tolist(), second.tolist())))


def _compiled(template: str) -> Any:
    try:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ChatTemplateError("a chat template needs jinja2: pip install jinja2") from error

    class Generation(Extension):
        """Blocks `{% generation %}` as in transformers, whose output is enclosed in signs."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            signs = [nodes.Name(f"_answer_{edge}", "load") for edge in ("begins", "ends")]
            before, after = (nodes.Output([sign]).set_lineno(line) for sign in signs)
            return [before, *body, after]

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except (TemplateError, RecursionError) as error:
        raise ChatTemplateError(f"the chat template cannot be used: {error}") from error
