"""Tokenise supervised data: conversations become tokens, of which only answers have a loss.

A chat is rendered by its template (`chat_template`). A prompt and a completion stand one after the
other, between the token that begins texts and EOS. If the last answer does not end with a special
token of the template, EOS follows, and counts as part of the answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..durable_files import read_json, write
from ..errors import SourceError
from ..kernels.padding import PADDING, toggle_loss
from ..tokenizers.chat_template import (
    CHAT_TEMPLATE,
    ChatTemplate,
    ChatTemplateError,
    shared_start,
)
from ..tokenizers.loading import load_tokenizer_file
from ..tokenizers.tokenizer import Tokenizer
from .sources.conversations import (
    Conversation,
    MalformedRecord,
    conversation_of,
    read_conversations,
)
from .sources.input_files import file_list
from .sources.preference_records import Preference, preference_of
from .sources.skipped import Skipped

ALPACA = "alpaca"  # names the template below
ALPACA_TEMPLATE = """\
{% for message in messages %}
{% if message.role == 'system' %}
{{ message.content + '\\n\\n' }}
{%- elif message.role == 'user' %}
{% if loop.first %}
{{ 'Below is an instruction that describes a task. Write a response that appropriately completes \
the request.\\n\\n' }}
{%- endif %}
{{ '### Instruction:\\n' + message.content + '\\n\\n### Response:\\n' }}
{%- else %}
{{ message.content + eos_token }}
{%- if not loop.last %}
{{ '\\n\\n' }}
{%- endif %}
{% endif %}
{% endfor %}"""
"""Prompts in the manner of Stanford's Alpaca, for tokenizers without a chat template."""


PARSERS: dict[str, Callable[[Any], Conversation | Preference]] = {
    "supervised": conversation_of,
    "preferences": preference_of,
}
"""Function that reads a record, by the source's kind."""


@dataclass(frozen=True)
class ChatSettings:
    """Chat template of a tokenizer and the tokens that begin a text.

    template: its chat template, if it has one, from the file `origin`. bos: text of its BOS. begin:
    ids that begin a text.
    """

    template: str | None
    bos: str
    begin: tuple[int, ...]
    origin: str = "tokenizer.chat_template"

    def written(self) -> dict[str, Any]:
        """Return the settings for a manifest, with the template's hash."""
        sha256 = self.template and hashlib.sha256(self.template.encode()).hexdigest()
        return {"template_sha256": sha256, "bos": self.bos, "begin": list(self.begin)}


def chat_settings(tokenizer: Mapping[str, Any], model: Tokenizer) -> ChatSettings:
    """Return the chat settings of a `[tokenizer]` table, from it and the files beside its `path`.

    The template is the file `chat_template`, Alpaca's, or what lies beside the tokenizer:
    chat_template.jinja, or an entry of tokenizer_config.json. Raises SourceError.
    """
    home = Path(tokenizer["path"]).expanduser().parent
    imported, config = _table(home / "import.json"), _table(home / "tokenizer_config.json")
    template_path = tokenizer.get("chat_template")
    origin = Path(template_path).expanduser() if template_path else home / CHAT_TEMPLATE
    if template_path == ALPACA:
        template: str | None = ALPACA_TEMPLATE
    elif template_path or origin.is_file():
        template = _text(origin)
    else:
        template, origin = _configured_template(config), home / "tokenizer_config.json"
    named = config.get("bos_token")
    named = named.get("content") if isinstance(named, dict) else named
    bos = imported.get("bos", model.bos)
    text = named if isinstance(named, str) else ""
    text = model.piece(bos) if isinstance(bos, int) and 0 <= bos < model.vocab_size else text
    begin = tuple(imported["begin"]) if "begin" in imported else (model.eos,)
    return ChatSettings(template, text, begin, str(origin))


def _table(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SourceError(
            f"cannot read the chat template {path}: {why}; tokenizer.chat_template must name a "
            f'Jinja file, or be "{ALPACA}"'
        ) from error


def _configured_template(config: Mapping[str, Any]) -> str | None:
    found = config.get("chat_template")
    if isinstance(found, list):
        named = (one for one in found if isinstance(one, dict) and one.get("name") == "default")
        found = next((one.get("template") for one in named), None)
    return found if isinstance(found, str) else None


class AnswerEncoder:
    """Encoder of conversations into tokens of which only answers have a loss."""

    def __init__(self, model: Tokenizer, chat: ChatSettings, context: int) -> None:
        """context: tokens of a sequence, which a conversation must fit in.

        Raises ChatTemplateError for an invalid template.
        """
        self.model, self.chat, self.context = model, chat, context
        self.template = None
        if chat.template is not None:
            try:
                self.template = ChatTemplate(model, chat.template, chat.bos)
            except ChatTemplateError as error:
                raise ChatTemplateError(f"{chat.origin}: {error}") from error

    def written(self) -> dict[str, Any]:
        """Return the chat settings for a manifest, with the token that ends an answer."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ids = np.array([self.model.eos])
        if self.template is not None:
            with suppress(MalformedRecord):  # the template may want other chats
                ids = self._tokens(Conversation(messages))[0]
        return self.chat.written() | {"end": ids[-1:].tolist()}

    def encode(self, record: Conversation | Preference) -> np.ndarray:
        """Return the tokens, int32 [n]: t with a loss, -2 - t without.

        They end with the last answer. A preference's are those of its chosen chat, padding, and
        those of the rejected one. Raises MalformedRecord if they do not fit, or the template
        refuses the chat; SourceError for a chat without a template.
        """
        if isinstance(record, Preference):
            chosen, rejected = self.encode(record.chosen), self.encode(record.rejected)
            if np.array_equal(chosen, rejected):
                raise MalformedRecord("chosen and rejected have equal tokens")
            return np.concatenate([chosen, np.array([PADDING], np.int32), rejected])
        ids, answers = self._tokens(record)
        if not answers.any():
            raise MalformedRecord("the chat template leaves out the answer")
        if len(ids) > self.context:
            raise MalformedRecord("longer than the context", f"{len(ids):,} > {self.context:,}")
        return np.where(answers, ids, toggle_loss(ids)).astype(np.int32)

    def _tokens(self, conversation: Conversation) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and whether each is of an answer."""
        end = np.array([self.model.eos], np.int32)
        if conversation.messages is None:
            prompt, begin = conversation.prompt, np.array(self.chat.begin, np.int32)
            whole, first = self.model.encode_batch([prompt + conversation.completion, prompt])
            ids = np.concatenate([begin, whole, end])
            return ids, np.arange(len(ids)) >= len(begin) + shared_start(whole, first)
        if self.template is None:
            raise SourceError(
                "the records are chats, and the tokenizer has no chat template: set "
                f'tokenizer.chat_template to a Jinja file, or to "{ALPACA}" for Alpaca\'s prompts'
            )
        try:
            ids, answers = self.template.render(conversation.messages)
        except ChatTemplateError as error:
            raise MalformedRecord("the chat template refuses it", str(error)) from error
        length = int(np.flatnonzero(answers)[-1]) + 1 if answers.any() else 0
        ids, answers = ids[:length], answers[:length]
        if length and not self.template.ends_answer(int(ids[-1])):
            ids, answers = np.append(ids, end), np.append(answers, True)
        return ids, answers


@dataclass(frozen=True)
class Supervision:
    """Settings that tokenise supervised data: a `[tokenizer]` table with a path, and context."""

    tokenizer: tuple[tuple[str, Any], ...]
    context: int

    @property
    def encoder(self) -> AnswerEncoder:
        """Return the encoder; it is made once in a process. Raises TokenizerError, SourceError."""
        return _encoder(self)


@lru_cache(maxsize=4)
def _encoder(supervision: Supervision) -> AnswerEncoder:
    table = dict(supervision.tokenizer)
    model = load_tokenizer_file(table["path"], table.get("eos"))
    return encoder_of(model, supervision)


@lru_cache(maxsize=4)
def encoder_of(model: Tokenizer, supervision: Supervision) -> AnswerEncoder:
    """Return the encoder of a loaded tokenizer; it is made once for each. Raises SourceError."""
    chat = chat_settings(dict(supervision.tokenizer), model)
    return AnswerEncoder(model, chat, supervision.context)


def read_supervised(
    path: str, kind: str, encoder: AnswerEncoder, skipped: Skipped
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield (line or record from 1, text, tokens) of a file's records; count the others as skipped.

    text: the conversation as JSON. tokens: from `AnswerEncoder.encode`.
    """
    for number, record in read_conversations(path, skipped, PARSERS[kind]):
        try:
            yield number, record.text, encoder.encode(record)
        except MalformedRecord as error:  # of `encode`: the reader skips what it cannot parse
            skipped.add(error.reason, error.at(path, number))


def supervised_documents(
    source: dict[str, Any], encoder: AnswerEncoder, skipped: Skipped
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (text, tokens) of a source's conversations, until `max_bytes` of text."""
    limit, seen = source.get("max_bytes"), 0
    for path in file_list(source):
        for _, text, tokens in read_supervised(path, source["kind"], encoder, skipped):
            if limit is not None and seen >= limit:
                return
            yield text, tokens
            seen += len(text.encode())


def write_chat_template(directory: Path, chat: ChatSettings) -> None:
    """Write the template to prepared data, from where runs take it to generate text."""
    if chat.template is not None:
        write(directory / CHAT_TEMPLATE, chat.template.encode())
