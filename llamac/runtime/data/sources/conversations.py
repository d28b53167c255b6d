"""Read records of supervised data: chats, instructions, and prompts with their completions.

A record is in the first of these forms whose fields it has:

    messages                          [{"role": "user", "content": …}, …], as OpenAI's
    conversations                     [{"from": "human", "value": …}, …], as ShareGPT's
    instruction, output               and `input`, which may be absent or empty: Alpaca's
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
from .skipped import Skipped

FORMS = (("messages",), ("conversations",), ("instruction", "output"), ("prompt", "completion"))
OPTIONAL = ("input", "system", "tools", "functions")
PREFERENCE = ("prompt", "chosen", "rejected")  # of `preferences`; whole chats need no prompt
COLUMNS = (*(field for form in (*FORMS, PREFERENCE) for field in form), *OPTIONAL)
FIELDS = "messages, conversations, instruction and output, or prompt and completion"
T = TypeVar("T")
ROLES = ("system", "user", "assistant")
SPEAKERS = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}  # of ShareGPT


class MalformedRecord(ValueError):
    """A record of supervised data that is incomplete or inconsistent.

    reason: a few words without values, by which such records are counted. detail: what it has.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def at(self, path: str, number: int) -> str:
        """Return `path:number (detail)`, as skipped records are listed."""
        return f"{path}:{number}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Conversation:
    """A record of supervised data.

    messages: of a chat; None for a prompt with its completion, which no chat template renders.
    """

    messages: list[dict[str, Any]] | None
    prompt: str = ""
    completion: str = ""

    @property
    def text(self) -> str:
        """Return the record as JSON: the same for equal conversations, whatever their form."""
        plain = {"prompt": self.prompt, "completion": self.completion}
        value = plain if self.messages is None else {"messages": self.messages}
        return json.dumps(value, ensure_ascii=False)

    @property
    def said(self) -> str:
        """Return the text of all messages, or of prompt and completion, without roles."""
        if self.messages is None:
            return f"{self.prompt}{self.completion}"
        return "\n".join(message["content"] for message in self.messages)


def read_conversations(
    path: str, skipped: Skipped, parse: Callable[[Any], T]
) -> Iterator[tuple[int, T]]:
    """Yield (line or record from 1, parsed record) of a file of records; count malformed ones.

    parse: `conversation_of`, or another that raises MalformedRecord.
    """
    for number, record in read_records(path, COLUMNS, skipped):
        try:
            yield number, parse(record)
        except MalformedRecord as error:
            skipped.add(error.reason, error.at(path, number))


def check_source(source: dict[str, Any]) -> None:
    """Raise InputError unless the paths match files of known formats with the needed fields.

    See `check_inputs`.
    """
    if source["kind"] not in PYTHON:
        with add_source_name(source["name"]):
            check_inputs(source["kind"], file_list(source), source.get("text_field", "text"))


def check_inputs(kind: str, paths: Iterable[str], text_field: str) -> None:
    """Raise InputError if none of the sampled files has the fields that the source's kind needs.

    Samples the first records of the first files. Raises SourceError if a package is missing.
    """
    if kind not in CONVERSATIONS:
        check_field(paths, text_field)
        return
    found = [(path, names) for path, names in fields_of(paths) if names]
    forms, fields = FORMS, FIELDS
    if kind == "preferences":
        forms, fields = (PREFERENCE[1:],), "chosen and rejected"
    if found and not any(form_of(names, forms) for _, names in found):
        path, names = found[0]
        shown = ", ".join(list(names)[:12])
        raise InputError(f"{path} has no {fields}; it has {shown}: convert it", "paths")


def form_of(names: Iterable[str], forms: tuple[tuple[str, ...], ...] = FORMS) -> tuple[str, ...]:
    """Return the first form whose fields are all among the names; empty if there is none."""
    names = set(names)
    return next((form for form in forms if names.issuperset(form)), ())


def conversation_of(record: Any) -> Conversation:
    """Return a record as a conversation. Raises MalformedRecord."""
    if not isinstance(record, Mapping):
        raise MalformedRecord("not an object", type(record).__name__)
    given = {name: value for name, value in record.items() if value is not None}
    if given.get("tools") or given.get("functions"):
        raise MalformedRecord("tools are not supported")
    form = form_of(given)
    if not form:
        shown = ", ".join(map(repr, list(record)[:8]))
        raise MalformedRecord(
            "the fields are of no known form", f"has {shown}" if shown else "has nothing"
        )
    if form[0] in ("messages", "conversations"):
        system = [{"role": "system", "content": given["system"]}] if given.get("system") else []
        return Conversation(checked_chat(_joined(system, given[form[0]], form[0])))
    if form[0] == "instruction":
        return Conversation(checked_chat(_alpaca(given)))
    prompt, completion = given["prompt"], given["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return Conversation(checked_chat([*prompt, *completion]))
    return Conversation(
        None, checked_text(prompt, "prompt"), checked_text(completion, "completion")
    )


def checked_chat(messages: Any) -> list[dict[str, Any]]:
    """Return the messages of a whole chat: a question first, and at least one answer.

    Raises MalformedRecord.
    """
    found = checked_messages(messages)
    spoken = [message for message in found if message["role"] != "system"]
    if not spoken:
        raise MalformedRecord("no messages")
    if spoken[0]["role"] == "assistant":
        raise MalformedRecord("the assistant speaks first")
    if not any(m["role"] == "assistant" and m.get("weight", 1) for m in spoken):
        raise MalformedRecord("no answer to learn")
    return found


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """Return messages as `{"role", "content"}` and, where given, `weight`; raise MalformedRecord.

    Content may be a list of OpenAI's text parts. ShareGPT's `from` and `value` are understood.
    """
    if not isinstance(messages, list):
        raise MalformedRecord("the messages are no list", type(messages).__name__)
    return [_message(message, f"message {n}") for n, message in enumerate(messages, 1)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise MalformedRecord("a message is no object", where)
    given = {name: value for name, value in message.items() if value is not None}
    if any(given.get(name) for name in ("tool_calls", "function_call", "tool_call_id")):
        raise MalformedRecord("tool calls are not supported", where)
    sharegpt = "role" not in given and "from" in given
    role = given.get("from" if sharegpt else "role")
    if role is None:
        raise MalformedRecord("a message has no role", where)
    named = SPEAKERS.get(role) if sharegpt and isinstance(role, str) else role
    if named not in ROLES:
        raise MalformedRecord("unknown role", f"{where}: {str(role)[:40]!r}")
    content = given.get("value" if sharegpt else "content")
    if content is None:
        raise MalformedRecord("a message has no content", where)
    if isinstance(content, list):
        content = _parts(content, where)
    found: dict[str, Any] = {"role": named, "content": checked_text(content, where)}
    if "weight" in given:
        if given["weight"] not in (0, 1):
            raise MalformedRecord("a weight is neither 0 nor 1", f"{where}: {given['weight']!r}")
        found["weight"] = int(given["weight"])
    return found


def _parts(parts: list[Any], where: str) -> str:
    """Join OpenAI's text parts."""
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in parts
    ]
    if not all(isinstance(text, str) for text in texts):
        raise MalformedRecord("content is not text", where)
    return "".join(texts)  # type: ignore[arg-type]


def checked_text(text: Any, where: str) -> str:
    """Return a text that is not blank and is valid Unicode without NUL; raise MalformedRecord."""
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
    instruction = checked_text(record["instruction"], "instruction")
    more = record.get("input", "")
    if not isinstance(more, str):
        raise MalformedRecord("content is not text", f"input: {type(more).__name__}")
    question = f"{instruction}\n\n{more}" if more.strip() else instruction
    system = record.get("system")
    return [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": question},
        {"role": "assistant", "content": checked_text(record["output"], "output")},
    ]
