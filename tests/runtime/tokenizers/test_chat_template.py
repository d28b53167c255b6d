"""Chats become the tokens, and the answers' mask, that transformers gives for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamac.runtime.tokenizers.chat_template import ChatTemplate, ChatTemplateError
from llamac.runtime.tokenizers.tokenizer_json import JsonTokenizer
from tests.chats import CHATML, TEMPLATES, TURNS, of_transformers, trained_tokenizer, without_blocks

CHATS: dict[str, list[dict[str, Any]]] = {
    "one turn": [{"role": role, "content": text} for role, text in TURNS[:2]],
    "two turns": [{"role": role, "content": text} for role, text in TURNS],
    "ends with a question": [{"role": role, "content": text} for role, text in TURNS[:3]],
    "repeats itself": [{"role": role, "content": "a a a a"} for role, _ in TURNS],
}


@pytest.fixture(scope="module")
def libraries() -> tuple[JsonTokenizer, Any]:
    """The same tokenizer in llamac and in transformers."""
    return JsonTokenizer(trained_tokenizer().to_str().encode()), of_transformers()


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_tokens_and_mask_are_those_of_transformers(
    libraries: tuple[JsonTokenizer, Any], template: str, chat: list[dict[str, Any]], marked: bool
) -> None:
    ours, theirs = libraries
    wanted = theirs.apply_chat_template(
        chat, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    found = ChatTemplate(ours, template if marked else without_blocks(template), "<s>").render(chat)
    assert found.ids.tolist() == wanted["input_ids"]
    assert found.answers.astype(int).tolist() == wanted["assistant_masks"]
    assert found.answers.any()
    assert not found.answers.all()


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_an_answer_follows_the_prompt_that_generation_begins_with(
    libraries: tuple[JsonTokenizer, Any], template: str
) -> None:
    rendered = ChatTemplate(libraries[0], template, "<s>").render(CHATS["one turn"])
    prompt = ChatTemplate(libraries[0], template, "<s>").prompt(CHATS["one turn"][:1])
    assert rendered.ids[~rendered.answers].tolist()[: len(prompt)] == prompt
    assert rendered.answers.argmax() == len(prompt)


def test_a_template_finds_what_transformers_gives_it(libraries: tuple[JsonTokenizer, Any]) -> None:
    template = (
        "{% if tools is not none or documents is not none %}tools{% endif %}"
        "{{ strftime_now('%d %b %Y') + (messages[0].content | tojson) + eos_token }}"
    )
    chat = [{"role": "user", "content": "a < b & 'c' \u00e9"}]
    ours, theirs = libraries
    wanted = theirs.apply_chat_template(chat, chat_template=template, return_dict=True)
    assert ChatTemplate(ours, template, "<s>").prompt(chat) == wanted["input_ids"]


def test_an_answer_of_weight_0_is_not_learned(libraries: tuple[JsonTokenizer, Any]) -> None:
    first, *rest = (dict(message) for message in CHATS["two turns"])
    for template in (CHATML, without_blocks(CHATML)):
        made = ChatTemplate(libraries[0], template)
        both = made.render([first, *rest])
        last = made.render([first, rest[0] | {"weight": 0}, *rest[1:]])
        assert last.ids.tolist() == both.ids.tolist()
        assert 0 < last.answers.sum() < both.answers.sum()
        assert (last.answers <= both.answers).all()
        assert last.answers[-2]


class Letters:
    vocab_size, bos, eos, control = 128, -1, 1, ("<|end|>",)

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def piece(self, token: int) -> str:
        return "<|end|>" if token == 1 else chr(token)


LETTERS: Any = Letters()


def test_a_message_cannot_write_special_tokens() -> None:
    template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<|end|>{% endfor %}"
    wanted = [*map(ord, "u:x<|end|>"), 1, *map(ord, "a:y\ue000<|end|>"), 1]
    question = {"role": "user", "content": "x<|end|>"}
    answer = {"role": "assistant", "content": "y\ue000<|end|>"}
    assert ChatTemplate(LETTERS, template).prompt([question]) == wanted[:11]
    found = ChatTemplate(LETTERS, template).render([question, answer])
    assert found.ids.tolist() == wanted
    assert found.answers.tolist() == [False] * 11 + [True] * 12


REFUSED = {
    "{{ messages[9].content }}": "cannot be used",
    "{{ raise_exception('roles must alternate') }}": "roles must alternate",
    "{{ messages[-1].content }}": "rewrites earlier messages",
    "{{ ''.__class__.__mro__ }}": "cannot be used",
    "{% generation %}{{ messages[-1].content }}{% endgeneration %}": "1 generation blocks for 2 ",
}


@pytest.mark.parametrize("template", REFUSED)
def test_a_template_that_cannot_render_a_chat_says_why(template: str) -> None:
    first, answer, *rest = CHATS["two turns"]
    with pytest.raises(ChatTemplateError, match=REFUSED[template]):
        ChatTemplate(LETTERS, template).render([first, answer | {"weight": 0}, *rest])


def test_an_invalid_template_is_refused_before_any_chat() -> None:
    with pytest.raises(ChatTemplateError, match="cannot be used"):
        ChatTemplate(LETTERS, "{% for m in %}")


def test_merges_across_an_answers_borders_are_in_the_test(
    libraries: tuple[JsonTokenizer, Any],
) -> None:
    """Without such a token, the test above would not tell one way of cutting from another."""
    pieces = json.loads(libraries[0].model)["model"]["vocab"]
    assert "ĊĊ" in pieces
