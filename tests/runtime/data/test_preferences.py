"""Preferences: each form is read; what cannot be learned is counted, named, and never stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamac.runtime.data.answer_tokens import AnswerEncoder, ChatSettings, supervised_documents
from llamac.runtime.data.sources.conversations import MalformedRecord
from llamac.runtime.data.sources.preference_records import parse_preference
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.runtime.errors import InputError
from llamac.runtime.kernels.padding import PADDING
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from tests.chats import CHATML, without_blocks, write_lines, write_model_files

QUESTION = {"role": "user", "content": "What is one and one?"}
TWO, THREE = ({"role": "assistant", "content": text} for text in ("It is two.", "It is three."))
EARLIER = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]


def chats(record: dict[str, Any]) -> tuple[Any, Any]:
    found = parse_preference(record)
    return found.chosen.messages, found.rejected.messages


FORMS = {
    "lists": {"prompt": [QUESTION], "chosen": [TWO], "rejected": [THREE]},
    "whole chats": {"chosen": [QUESTION, TWO], "rejected": [QUESTION, THREE]},
    "whole chats and their prompt": {
        "prompt": QUESTION["content"],
        "chosen": [QUESTION, TWO],
        "rejected": [QUESTION, THREE],
    },
    "a text and lists": {"prompt": QUESTION["content"], "chosen": [TWO], "rejected": [THREE]},
    "a list and texts": {
        "prompt": [QUESTION],
        "chosen": TWO["content"],
        "rejected": THREE["content"],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_chats_is_the_same_preference(form: str) -> None:
    record = FORMS[form] | {"score_chosen": 9.0, "prompt_id": "x"}
    assert chats(record) == ([QUESTION, TWO], [QUESTION, THREE])


def test_answers_of_the_prompt_have_no_loss() -> None:
    record = {"prompt": [*EARLIER, QUESTION], "chosen": [TWO], "rejected": [THREE]}
    for chat, last in zip(chats(record), (TWO, THREE), strict=True):
        assert chat == [EARLIER[0], EARLIER[1] | {"weight": 0}, QUESTION, last]


def test_texts_stay_texts() -> None:
    found = parse_preference({"prompt": "1 + 1 = ", "chosen": "2", "rejected": "3"})
    assert (found.chosen.prompt, found.chosen.completion) == ("1 + 1 = ", "2")
    assert (found.rejected.prompt, found.rejected.completion) == ("1 + 1 = ", "3")


MALFORMED: dict[str, tuple[Any, str]] = {
    "no chosen": ({"prompt": "a", "rejected": "b"}, "no chosen"),
    "no rejected": ({"prompt": "a", "chosen": "b", "rejected": None}, "no rejected"),
    "no prompt": ({"chosen": "a", "rejected": "b"}, "no prompt"),
    "equal texts": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are equal"),
    "equal chats": ({"chosen": [QUESTION, TWO], "rejected": [QUESTION, TWO]}, "are equal"),
    "other prompts": (
        {"chosen": [QUESTION, TWO], "rejected": [EARLIER[0], TWO]},
        "different prompts",
    ),
    "one goes on": (
        {"chosen": [QUESTION, TWO, *EARLIER], "rejected": [QUESTION, TWO]},
        "different prompts",
    ),
    "no answer": ({"chosen": [QUESTION, TWO], "rejected": [QUESTION]}, "no answer to learn"),
    "empty": ({"prompt": "a", "chosen": " ", "rejected": "b"}, "empty content"),
    "kinds": ({"prompt": "a", "chosen": "b", "rejected": [TWO]}, "another kind"),
    "a number": ({"prompt": "a", "chosen": 1, "rejected": 2}, "no list"),
    "prompt": ({"prompt": 3, "chosen": [TWO], "rejected": [THREE]}, "neither text nor messages"),
    "role": ({"prompt": [QUESTION], "chosen": [{"role": "x"}], "rejected": [TWO]}, "unknown role"),
    "a list": ([1, 2], "not an object"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_records_are_refused(what: str) -> None:
    record, reason = MALFORMED[what]
    with pytest.raises(MalformedRecord) as error:
        parse_preference(record)
    assert reason in error.value.reason


@pytest.fixture
def encoder(tmp_path: Path) -> AnswerEncoder:
    path = write_model_files(tmp_path / "model")
    settings = ChatSettings(without_blocks(CHATML), "<s>", ())
    return AnswerEncoder(load_tokenizer_file(path), settings, context=120)


def test_bad_lines_are_counted_and_named_and_not_stored(
    encoder: AnswerEncoder, tmp_path: Path
) -> None:
    long = {"role": "assistant", "content": "much " * 200}
    records = [
        FORMS["lists"],
        FORMS["lists"] | {"rejected": [long]},
        FORMS["lists"] | {"rejected": [TWO]},
        {"prompt": "a", "chosen": "b"},
        {"chosen": [*EARLIER, QUESTION, TWO], "rejected": [*EARLIER, QUESTION, THREE]},
    ]
    path, skipped = write_lines(tmp_path / "pairs.jsonl", records), Skipped()
    source = {"kind": "preferences", "paths": [str(path)], "name": "pairs"}
    found = [tokens for _, tokens in supervised_documents(source, encoder, skipped)]
    assert len(found) == 2
    assert skipped.counts == {
        "longer than the context": 1,
        "chosen and rejected are equal": 1,
        "no rejected": 1,
    }
    said = "\n".join(skipped.examples)
    assert all(f"{path}:{line}" in said for line in (2, 3, 4))
    for tokens in found:
        (middle,) = np.flatnonzero(tokens == PADDING)
        for half, answer in ((tokens[:middle], TWO), (tokens[middle + 1 :], THREE)):
            learned = encoder.model.decode(half[half >= 0].tolist())
            assert learned.startswith(answer["content"])
            assert "Hello" not in learned


def test_a_file_without_the_fields_is_an_error(tmp_path: Path) -> None:
    from llamac.runtime.data.sources.conversations import check_inputs

    path = write_lines(tmp_path / "chats.jsonl", [{"messages": [QUESTION, TWO]}])
    with pytest.raises(InputError, match="has no chosen and rejected; it has messages"):
        check_inputs("preferences", [str(path)], "text")
