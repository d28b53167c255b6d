"""Read records of preference data: a prompt with a chosen and a rejected answer.

A record has `chosen` and `rejected`, and `prompt` unless both are complete chats:

    prompt, chosen, rejected          three texts, or three lists of messages
    chosen, rejected                  two complete chats, which begin with the same messages
    prompt, chosen, rejected          a text, and two complete chats that begin with it

As in `conversations`, an incomplete or inconsistent record raises MalformedRecord and is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from .conversations import (
    PREFERENCE,
    Conversation,
    MalformedRecord,
    check_chat,
    check_text,
    normalise_messages,
)

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Preference:
    """A chosen and a rejected conversation, with a loss only on answers after their common prompt.

    Answers among the common first messages of two chats have weight 0.
    """

    chosen: Conversation
    rejected: Conversation

    @property
    def text(self) -> str:
        """Return the record as JSON, equal for equal preferences whatever their form."""
        return json.dumps([self.chosen.text, self.rejected.text], ensure_ascii=False)


def parse_preference(record: Any) -> Preference:
    """Convert a parsed JSON object with `chosen`, `rejected` and perhaps `prompt` to a preference.

    Raises MalformedRecord if it is incomplete or inconsistent, or the two conversations are equal.
    """
    if not isinstance(record, Mapping):
        raise MalformedRecord("not an object", type(record).__name__)
    fields = {name: value for name, value in record.items() if value is not None}
    if missing := [name for name in PREFERENCE[1:] if name not in fields]:
        raise MalformedRecord(f"no {missing[0]}")
    prompt, chosen, rejected = (fields.get(name) for name in PREFERENCE)
    if type(chosen) is not type(rejected):
        raise MalformedRecord("chosen is of another kind than rejected")
    if isinstance(chosen, str) and prompt is None:
        raise MalformedRecord("no prompt")
    if isinstance(chosen, str) and isinstance(prompt, str):
        preference = Preference(
            _plain(prompt, chosen, "chosen"), _plain(prompt, rejected, "rejected")
        )
    else:
        preference = _compared(_chat(prompt, chosen), _chat(prompt, rejected))
    if preference.chosen == preference.rejected:
        raise MalformedRecord("chosen and rejected are equal")
    return preference


def _plain(prompt: Any, answer: Any, where: str) -> Conversation:
    return Conversation(None, check_text(prompt, "prompt"), check_text(answer, where))


def _chat(prompt: Any, answer: Any) -> Messages:
    """Return the messages of a prompt with its answer."""
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    answers = normalise_messages(answer)
    if isinstance(prompt, list):
        return check_chat([*normalise_messages(prompt), *answers])
    if isinstance(prompt, str) and answers and answers[0]["role"] == "assistant":
        return check_chat([{"role": "user", "content": check_text(prompt, "prompt")}, *answers])
    if prompt is not None and not isinstance(prompt, str):
        raise MalformedRecord("the prompt is neither text nor messages", type(prompt).__name__)
    return check_chat(answers)


def _compared(chosen: Messages, rejected: Messages) -> Preference:
    """Return two chats as a preference; their common first messages are the prompt.

    Answers in the prompt get weight 0.
    """
    pairs = zip(chosen, rejected, strict=False)
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    for chat in (chosen, rejected):
        if len(chat) > shared and chat[shared]["role"] != "assistant":
            raise MalformedRecord("chosen and rejected answer different prompts")
        if len(chat) == shared and len(chosen) != len(rejected):
            raise MalformedRecord("an answer is missing", "one chat is the beginning of the other")
    prompt = [m | {"weight": 0} if m["role"] == "assistant" else m for m in chosen[:shared]]
    if len(chosen) == shared:
        return Preference(Conversation(chosen), Conversation(rejected))
    conversations = (Conversation([*prompt, *chat[shared:]]) for chat in (chosen, rejected))
    return Preference(*conversations)
