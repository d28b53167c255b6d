"""Tokenise supervised data: conversations become tokens, of which only answers have a loss.

A chat is rendered by its template (`chat_template`). A prompt with a completion is tokenised as the
begin tokens, the prompt, the completion and EOS. If the last answer of a chat does not end with a
special token of the template, EOS is appended as part of the answer.
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
    common_prefix_length,
)
from ..tokenizers.loading import load_tokenizer_file
from ..tokenizers.tokenizer import Tokenizer
from .sources.conversations import (
    Conversation,
    MalformedRecord,
    parse_conversation,
    read_conversations,
)
from .sources.input_files import file_list
from .sources.preference_records import Preference, parse_preference
from .sources.skipped_records import Skipped

ALPACA = "alpaca"  # value of tokenizer.chat_template that selects ALPACA_TEMPLATE
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
"""Stanford Alpaca's prompt format, for tokenizers without a chat template."""


PARSERS: dict[str, Callable[[Any], Conversation | Preference]] = {
    "supervised": parse_conversation,
    "preferences": parse_preference,
}
"""Source kind → function that parses one of its records, or raises MalformedRecord."""


@dataclass(frozen=True)
class ChatSettings:
    """Chat template of a tokenizer, and the tokens that begin a text.

    template: text of the Jinja template; None if there is none. bos: text of the BOS token, ""
    without one. begin: ids that precede a text that no template renders. origin: file or setting
    that the template comes from, for messages.
    """

    template: str | None
    bos: str
    begin: tuple[int, ...]
    origin: str = "tokenizer.chat_template"

    def written(self) -> dict[str, Any]:
        """Return `bos`, `begin` and `template_sha256` (None without one) for the manifest."""
        sha256 = self.template and hashlib.sha256(self.template.encode()).hexdigest()
        return {"template_sha256": sha256, "bos": self.bos, "begin": list(self.begin)}


def chat_settings(tokenizer: Mapping[str, Any], model: Tokenizer) -> ChatSettings:
    """Return the chat settings for a `[tokenizer]` table and the files beside its `path`.

    The template is the one that `chat_template` selects (a file, or Alpaca's), or else
    chat_template.jinja or the entry of tokenizer_config.json beside the tokenizer. model: the
    loaded tokenizer, whose BOS and EOS count unless import.json has others. Raises SourceError if a
    file cannot be read.
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
    bos_token = config.get("bos_token")
    bos_token = bos_token.get("content") if isinstance(bos_token, dict) else bos_token
    bos = imported.get("bos", model.bos)
    text = bos_token if isinstance(bos_token, str) else ""
    text = model.piece(bos) if isinstance(bos, int) and 0 <= bos < model.vocab_size else text
    begin = tuple(imported["begin"]) if "begin" in imported else (model.eos,)
    return ChatSettings(template, text, begin, str(origin))


def _table(path: Path) -> dict[str, Any]:
    try:
        table = read_json(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    return table if isinstance(table, dict) else {}


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
    template = config.get("chat_template")
    if isinstance(template, list):
        named = (
            entry
            for entry in template
            if isinstance(entry, dict) and entry.get("name") == "default"
        )
        template = next((entry.get("template") for entry in named), None)
    return template if isinstance(template, str) else None


class AnswerEncoder:
    """Encoder of conversations into tokens, of which only answers have a loss."""

    def __init__(self, model: Tokenizer, chat: ChatSettings, context: int) -> None:
        """Compile the chat template, if there is one.

        model: tokenizer. chat: its settings. context: largest number of tokens of a conversation.
        Raises ChatTemplateError if the template is invalid.
        """
        self.model, self.chat, self.context = model, chat, context
        self.template = None
        if chat.template is not None:
            try:
                self.template = ChatTemplate(model, chat.template, chat.bos)
            except ChatTemplateError as error:
                raise ChatTemplateError(f"{chat.origin}: {error}") from error

    def written(self) -> dict[str, Any]:
        """Return the chat settings for the manifest, and `end`: [id that ends an answer]."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ids = np.array([self.model.eos])
        if self.template is not None:
            with suppress(MalformedRecord):  # the template may reject this chat
                ids = self._tokens(Conversation(messages))[0]
        return self.chat.written() | {"end": ids[-1:].tolist()}

    def encode(self, record: Conversation | Preference) -> np.ndarray:
        """Return a record's tokens, int32 [n]: t for an id with a loss, -2 - t for one without.

        They end with the last answer. A preference's tokens are those of the chosen conversation,
        PADDING, and those of the rejected one. Raises MalformedRecord if a conversation is longer
        than `context`, if the template rejects it or leaves out its answers, or if the two of a
        preference have equal tokens; SourceError for a chat if the tokenizer has no template.
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
        """Return (ids, whether each belongs to an answer), int32 and bool [n]."""
        end = np.array([self.model.eos], np.int32)
        if conversation.messages is None:
            prompt, begin = conversation.prompt, np.array(self.chat.begin, np.int32)
            whole, first = self.model.encode_batch([prompt + conversation.completion, prompt])
            ids = np.concatenate([begin, whole, end])
            return ids, np.arange(len(ids)) >= len(begin) + common_prefix_length(whole, first)
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
    """Settings of an `AnswerEncoder`, hashable.

    tokenizer: items of a `[tokenizer]` table with a `path`. context: largest number of tokens of a
    conversation.
    """

    tokenizer: tuple[tuple[str, Any], ...]
    context: int

    @property
    def encoder(self) -> AnswerEncoder:
        """Return the encoder with these settings, cached per process.

        Raises TokenizerError if the tokenizer cannot be loaded, SourceError if a file with chat
        settings cannot be read, ChatTemplateError if the template is invalid.
        """
        return _encoder(self)


@lru_cache(maxsize=4)
def _encoder(supervision: Supervision) -> AnswerEncoder:
    table = dict(supervision.tokenizer)
    model = load_tokenizer_file(table["path"], table.get("eos"))
    return encoder_of(model, supervision)


@lru_cache(maxsize=4)
def encoder_of(model: Tokenizer, supervision: Supervision) -> AnswerEncoder:
    """Return the encoder of conversations for a loaded tokenizer, cached per process.

    model: the tokenizer. supervision: chat settings and context length; the chat template and
    configuration files are looked up beside its tokenizer's `path`, which is not loaded.

    Raises SourceError if a file cannot be read, ChatTemplateError if the template is invalid.
    """
    chat = chat_settings(dict(supervision.tokenizer), model)
    return AnswerEncoder(model, chat, supervision.context)


def read_supervised(
    path: str, kind: str, encoder: AnswerEncoder, skipped: Skipped
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield (line or record number from 1, conversation as JSON, tokens) of a file's records.

    kind: source kind, a key of `PARSERS`. tokens: from `AnswerEncoder.encode`. Malformed records
    are counted in `skipped`.
    """
    for number, record in read_conversations(path, skipped, PARSERS[kind]):
        try:
            yield number, record.text, encoder.encode(record)
        except MalformedRecord as error:  # raised by `encode`: the reader skips its own
            skipped.add(error.reason, error.at(path, number))


def supervised_documents(
    source: dict[str, Any], encoder: AnswerEncoder, skipped: Skipped
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (conversation as JSON, tokens) of a source's records, in order of its sorted files.

    Stops after the record that reaches the source's `max_bytes` of JSON. tokens: from
    `AnswerEncoder.encode`. Malformed records are counted in `skipped`.
    """
    limit, seen = source.get("max_bytes"), 0
    for path in file_list(source):
        for _, text, tokens in read_supervised(path, source["kind"], encoder, skipped):
            if limit is not None and seen >= limit:
                return
            yield text, tokens
            seen += len(text.encode())


def write_chat_template(directory: Path, chat: ChatSettings) -> None:
    """Write the chat template, if there is one, to a directory of prepared data.

    Runs read it from there to generate text.
    """
    if chat.template is not None:
        write(directory / CHAT_TEMPLATE, chat.template.encode())
