"""Supervised data: the forms of records, and what of them is refused, counted and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamac.runtime.data.sources.conversations import (
    MalformedRecord,
    check_source,
    parse_conversation,
    read_conversations,
)
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.runtime.errors import InputError
from tests.chats import write_lines

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CHAT = [QUESTION, ANSWER]
SAYS = {"role": "system", "content": "s"}

FORMS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "messages": ({"messages": CHAT, "id": 1}, CHAT),
    "parts": (
        {"messages": [QUESTION | {"content": [{"type": "text", "text": "q"}]}, ANSWER]},
        CHAT,
    ),
    "weights": ({"messages": [*CHAT, ANSWER | {"weight": 0}]}, [*CHAT, ANSWER | {"weight": 0}]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        CHAT,
    ),
    "sharegpt with a system": (
        {
            "system": "s",
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        },
        [SAYS, *CHAT],
    ),
    "alpaca": ({"instruction": "q", "output": "a"}, CHAT),
    "alpaca without input": ({"instruction": "q", "input": "", "output": "a"}, CHAT),
    "alpaca with null": ({"instruction": "q", "input": None, "output": "a"}, CHAT),
    "alpaca with input": (
        {"instruction": "q", "input": "more", "output": "a"},
        [QUESTION | {"content": "q\n\nmore"}, ANSWER],
    ),
    "prompt of messages": ({"prompt": [QUESTION], "completion": [ANSWER]}, CHAT),
    "text of messages": ({"messages": '[{"role": "user", "content": "q"}, ' + "%s]"}, CHAT),
}
FORMS["text of messages"][0]["messages"] %= '{"role": "assistant", "content": "a"}'


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_chat(form: str) -> None:
    record, chat = FORMS[form]
    assert parse_conversation(record).messages == chat


def test_a_prompt_and_its_completion_are_no_chat() -> None:
    found = parse_conversation({"prompt": "1 + 1 = ", "completion": "2"})
    assert (found.messages, found.prompt, found.completion) == (None, "1 + 1 = ", "2")


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


MALFORMED: list[tuple[Any, str]] = [
    (5, "not an object"),
    ([QUESTION, ANSWER], "not an object"),
    ({}, "no known form"),
    ({"text": "t"}, "no known form"),
    ({"instruction": "q"}, "no known form"),
    ({"prompt": "q", "completion": None}, "no known form"),
    ({"messages": None}, "no known form"),
    ({"messages": "hello"}, "the messages are no list"),
    ({"messages": {"role": "user"}}, "the messages are no list"),
    (chat(), "no messages"),
    (chat(SAYS), "no messages"),
    (chat("q", "a"), "a message is no object"),
    (chat({"content": "q"}, ANSWER), "a message has no role"),
    (chat(QUESTION | {"role": None}, ANSWER), "a message has no role"),
    (chat(QUESTION | {"role": "bot"}, ANSWER), "unknown role"),
    (chat(QUESTION | {"role": ["user"]}, ANSWER), "unknown role"),
    (chat(QUESTION | {"role": "tool"}, ANSWER), "unknown role"),
    (chat({"role": "user"}, ANSWER), "a message has no content"),
    (chat(QUESTION, ANSWER | {"content": None}), "a message has no content"),
    (chat(QUESTION, ANSWER | {"content": ""}), "empty content"),
    (chat(QUESTION | {"content": " \n"}, ANSWER), "empty content"),
    (chat(SAYS | {"content": ""}, QUESTION, ANSWER), "empty content"),
    (chat(QUESTION, ANSWER | {"content": 5}), "content is not text"),
    (chat(QUESTION | {"content": [{"type": "image"}]}, ANSWER), "content is not text"),
    (chat(QUESTION | {"content": ["q"]}, ANSWER), "content is not text"),
    (chat(QUESTION | {"content": "\0"}, ANSWER), "NUL in text"),
    (chat(QUESTION | {"content": "\ud800"}, ANSWER), "invalid Unicode"),
    (chat(ANSWER, QUESTION, ANSWER), "the assistant speaks first"),
    (chat(SAYS, ANSWER), "the assistant speaks first"),
    (chat(QUESTION), "no answer to learn"),
    (chat(QUESTION, ANSWER | {"weight": 0}), "no answer to learn"),
    (chat(QUESTION, ANSWER | {"weight": 0.5}), "a weight is neither 0 nor 1"),
    (chat(QUESTION, ANSWER | {"tool_calls": [{"id": 1}]}), "tool calls are not supported"),
    (chat(*CHAT) | {"tools": [{"type": "function"}]}, "tools are not supported"),
    ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "a"}]}, "has no content"),
    ({"conversations": [{"from": "it", "value": "q"}]}, "unknown role"),
    ({"conversations": [{"from": "gpt", "value": "q"}]}, "the assistant speaks first"),
    ({"instruction": "", "output": "a"}, "empty content"),
    ({"instruction": "q", "output": " "}, "empty content"),
    ({"instruction": "q", "output": 3}, "content is not text"),
    ({"instruction": "q", "input": 3, "output": "a"}, "content is not text"),
    ({"prompt": "", "completion": "a"}, "empty content"),
    ({"prompt": "q", "completion": ["a"]}, "content is not text"),
    ({"prompt": [QUESTION], "completion": "a"}, "content is not text"),
]


@pytest.mark.parametrize(("record", "reason"), MALFORMED)
def test_what_cannot_be_learned_from_is_refused(record: Any, reason: str) -> None:
    with pytest.raises(MalformedRecord) as error:
        parse_conversation(record)
    assert reason in error.value.reason


def test_malformed_records_are_counted_with_file_and_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [chat(*CHAT), chat(QUESTION), chat(*CHAT), 5])
    path.write_text(path.read_text() + "{broken\n")
    skipped = Skipped()
    assert [number for number, _ in read_conversations(str(path), skipped, parse_conversation)] == [
        1,
        3,
    ]
    assert skipped.counts == {"no answer to learn": 1, "not an object": 1, "invalid JSON": 1}
    assert skipped.examples[0] == f"{path}:2: no answer to learn"
    assert skipped.examples[2].startswith(f"{path}:5")


def test_parquet_and_csv_are_read_as_json_lines_are(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [chat(*CHAT), chat(QUESTION), chat(SAYS, *CHAT)]
    lines = write_lines(tmp_path / "a.jsonl", records)
    parquet.write_table(arrow.Table.from_pylist(records), tmp_path / "a.parquet")
    wanted = list(read_conversations(str(lines), Skipped(), parse_conversation))
    skipped = Skipped()
    assert (
        list(read_conversations(str(tmp_path / "a.parquet"), skipped, parse_conversation)) == wanted
    )
    assert skipped.examples == [f"{tmp_path / 'a.parquet'}:2: no answer to learn"]
    alpaca = {"instruction": ["q", ""], "input": ["", "x"], "output": ["a", "b"], "n": [1, 2]}
    parquet.write_table(arrow.table(alpaca), tmp_path / "b.parquet")
    (tmp_path / "b.csv").write_text("instruction,input,output,n\nq,,a,1\n,x,b,2\n")
    for name, second in (("b.parquet", 2), ("b.csv", 3)):
        skipped = Skipped()
        (found,) = [
            one.messages
            for _, one in read_conversations(str(tmp_path / name), skipped, parse_conversation)
        ]
        assert found == CHAT
        assert skipped.examples[0].startswith(f"{tmp_path / name}:{second}")


def test_files_without_any_form_are_refused_before_reading(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    source = {"name": "s", "kind": "supervised", "paths": [str(path)]}
    with pytest.raises(InputError, match=r"source 's': .* it has question, answer"):
        check_source(source)
    (tmp_path / "a.txt").write_text("q a")
    with pytest.raises(InputError, match="cannot read this kind of file"):
        check_source(source | {"paths": [str(tmp_path / "a.txt")]})
