"""Read records of supervised data: chats, instructions, and prompts with their completions.

A record has the first of these forms whose fields it contains:

    messages                          OpenAI: [{"role": "user", "content": …}, …]
    conversations                     ShareGPT: [{"from": "human", "value": …}, …]
    instruction, output               Alpaca; an optional `input` may be empty
    prompt, completion                two texts, or two lists of messages

A record that is incomplete or inconsistent raises MalformedRecord instead of being repaired. The
readers of files catch it and count the record as skipped (`skipped.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import InputError, add_source_name
from .input_files import CONVERSATIONS, PYTHON, file_list
from .records import check_field, fields_of, read_records
from .skipped_records import Skipped

# Required fields of each form of a record.
FORMS = (("messages",), ("conversations",), ("instruction", "output"), ("prompt", "completion"))
OPTIONAL = ("input", "system", "tools", "functions")  # further fields that are read
PREFERENCE = ("prompt", "chosen", "rejected")  # of `preferences`; whole chats need no prompt
# All fields that are read, which are the columns to read from parquet.
COLUMNS = (*(field for form in (*FORMS, PREFERENCE) for field in form), *OPTIONAL)
FIELDS = "messages, conversations, instruction and output, or prompt and completion"
T = TypeVar("T")
ROLES = ("system", "user", "assistant")  # of messages
SPEAKERS = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}  # of ShareGPT


class MalformedRecord(ValueError):
    """A record of supervised data that is incomplete or inconsistent.

    reason: a few words without values, by which skipped records are counted. detail: the record's
    offending value.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def at(self, path: str, number: int) -> str:
        """Return `path:number (detail)`, as skipped records are listed.

        number: line or record number.
        """
        return f"{path}:{number}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Conversation:
    """A record of supervised data: a chat, or a prompt with its completion.

    messages: the chat, each message {"role", "content"} and perhaps "weight" (0: no loss). None for
    a prompt with its completion, which is not rendered by a chat template. prompt, completion: the
    two texts in that case.
    """

    messages: list[dict[str, Any]] | None
    prompt: str = ""
    completion: str = ""

    @property
    def text(self) -> str:
        """Return the record as JSON, equal for equal conversations whatever their form."""
        plain = {"prompt": self.prompt, "completion": self.completion}
        value = plain if self.messages is None else {"messages": self.messages}
        return json.dumps(value, ensure_ascii=False)

    @property
    def content(self) -> str:
        """Return the text of all messages, or of prompt and completion, without roles."""
        if self.messages is None:
            return f"{self.prompt}{self.completion}"
        return "\n".join(message["content"] for message in self.messages)


def read_conversations(
    path: str, skipped: Skipped, parse: Callable[[Any], T]
) -> Iterator[tuple[int, T]]:
    """Yield (line or record number from 1, parsed record) of a file's records.

    parse: `parse_conversation`, or another function that raises MalformedRecord; such records and
    damaged ones are counted in `skipped`.
    """
    for number, record in read_records(path, COLUMNS, skipped):
        try:
            yield number, parse(record)
        except MalformedRecord as error:
            skipped.add(error.reason, error.at(path, number))


def check_source(source: dict[str, Any]) -> None:
    """Raise InputError if a glob of a source matches no file, or files that it cannot read.

    Those are files of an unknown format, or without the fields that its kind needs (see
    `check_inputs`). source: `[[data.source]]` table, whose name is added to the error. Raises
    SourceError if a package is not installed.
    """
    if source["kind"] not in PYTHON:
        with add_source_name(source["name"]):
            check_inputs(source["kind"], file_list(source), source.get("text_field", "text"))


def check_inputs(kind: str, paths: Iterable[str], text_field: str) -> None:
    """Raise InputError if none of the sampled files has the fields that the source's kind needs.

    Samples the first records of the first files. text_field: field that holds the text; unused for
    conversations. Raises SourceError if a package is not installed.
    """
    if kind not in CONVERSATIONS:
        check_field(paths, text_field)
        return
    samples = [(path, names) for path, names in fields_of(paths) if names]
    forms, fields = FORMS, FIELDS
    if kind == "preferences":
        forms, fields = (PREFERENCE[1:],), "chosen and rejected"
    if samples and not any(form_of(names, forms) for _, names in samples):
        path, names = samples[0]
        shown = ", ".join(list(names)[:12])
        raise InputError(f"{path} has no {fields}; it has {shown}: convert it", "paths")


def form_of(names: Iterable[str], forms: tuple[tuple[str, ...], ...] = FORMS) -> tuple[str, ...]:
    """Return the first of `forms` whose fields are all among `names`, or ()."""
    names = set(names)
    return next((form for form in forms if names.issuperset(form)), ())


def parse_conversation(record: Any) -> Conversation:
    """Convert a parsed JSON object of any supported form (see the module) to a conversation.

    Raises MalformedRecord if it has none of the forms, or is incomplete or inconsistent.
    """
    if not isinstance(record, Mapping):
        raise MalformedRecord("not an object", type(record).__name__)
    fields = {name: value for name, value in record.items() if value is not None}
    if fields.get("tools") or fields.get("functions"):
        raise MalformedRecord("tools are not supported")
    form = form_of(fields)
    if not form:
        shown = ", ".join(map(repr, list(record)[:8]))
        raise MalformedRecord(
            "the fields are of no known form", f"has {shown}" if shown else "has nothing"
        )
    if form[0] in ("messages", "conversations"):
        system = [{"role": "system", "content": fields["system"]}] if fields.get("system") else []
        return Conversation(check_chat(_joined(system, fields[form[0]], form[0])))
    if form[0] == "instruction":
        return Conversation(check_chat(_alpaca(fields)))
    prompt, completion = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return Conversation(check_chat([*prompt, *completion]))
    return Conversation(None, check_text(prompt, "prompt"), check_text(completion, "completion"))


def check_chat(messages: Any) -> list[dict[str, Any]]:
    """Return the messages of a complete chat, from `normalise_messages`.

    Raises MalformedRecord unless it begins with the user, after any system message, and has an
    answer with a loss.
    """
    chat = normalise_messages(messages)
    turns = [message for message in chat if message["role"] != "system"]
    if not turns:
        raise MalformedRecord("no messages")
    if turns[0]["role"] == "assistant":
        raise MalformedRecord("the assistant speaks first")
    if not any(m["role"] == "assistant" and m.get("weight", 1) for m in turns):
        raise MalformedRecord("no answer to learn")
    return chat


def normalise_messages(messages: Any) -> list[dict[str, Any]]:
    """Convert messages to `{"role", "content"}`, with `weight` where it is given.

    Accepts OpenAI's messages, whose content may be a list of text parts, and ShareGPT's. Raises
    MalformedRecord if `messages` is no list, or for a message with an unknown role, without text or
    with tool calls.
    """
    if not isinstance(messages, list):
        raise MalformedRecord("the messages are no list", type(messages).__name__)
    return [_message(message, f"message {n}") for n, message in enumerate(messages, 1)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise MalformedRecord("a message is no object", where)
    fields = {name: value for name, value in message.items() if value is not None}
    if any(fields.get(name) for name in ("tool_calls", "function_call", "tool_call_id")):
        raise MalformedRecord("tool calls are not supported", where)
    sharegpt = "role" not in fields and "from" in fields
    role = fields.get("from" if sharegpt else "role")
    if role is None:
        raise MalformedRecord("a message has no role", where)
    named = SPEAKERS.get(role) if sharegpt and isinstance(role, str) else role
    if named not in ROLES:
        raise MalformedRecord("unknown role", f"{where}: {str(role)[:40]!r}")
    content = fields.get("value" if sharegpt else "content")
    if content is None:
        raise MalformedRecord("a message has no content", where)
    if isinstance(content, list):
        content = _parts(content, where)
    normalised: dict[str, Any] = {"role": named, "content": check_text(content, where)}
    if "weight" in fields:
        if fields["weight"] not in (0, 1):
            raise MalformedRecord("a weight is neither 0 nor 1", f"{where}: {fields['weight']!r}")
        normalised["weight"] = int(fields["weight"])
    return normalised


def _parts(parts: list[Any], where: str) -> str:
    """Join OpenAI's text parts."""
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in parts
    ]
    if not all(isinstance(text, str) for text in texts):
        raise MalformedRecord("content is not text", where)
    return "".join(texts)  # type: ignore[arg-type]


def check_text(text: Any, where: str) -> str:
    """Return `text` if it is a non-blank string of valid Unicode without NUL.

    Otherwise raises MalformedRecord. where: position in the record, for the message.
    """
    if not isinstance(text, str):
        raise MalformedRecord("content is not text", f"{where}: {type(text).__name__}")
    if not text.strip():
        raise MalformedRecord("empty content", where)
    if "\0" in text:
        raise MalformedRecord("NUL in text", where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MalformedRecord("invalid Unicode", where) from error
    return text


def _joined(system: list[Any], messages: Any, field: str) -> list[Any]:
    if isinstance(messages, str):  # as in a column of CSV
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise MalformedRecord("the messages are no list", f"{field} is a text") from error
    return [*system, *messages] if isinstance(messages, list) else messages


def _alpaca(record: Mapping[str, Any]) -> list[dict[str, str]]:
    instruction = check_text(record["instruction"], "instruction")
    given_input = record.get("input", "")
    if not isinstance(given_input, str):
        raise MalformedRecord("content is not text", f"input: {type(given_input).__name__}")
    question = f"{instruction}\n\n{given_input}" if given_input.strip() else instruction
    system = record.get("system")
    return [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": question},
        {"role": "assistant", "content": check_text(record["output"], "output")},
    ]
