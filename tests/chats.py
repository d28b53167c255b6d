"""Chats, templates and a tokenizer for tests, made here: the same in llamac and in transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]

# Each marks its answers for transformers; llamac must find the same without the marks.
CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endgeneration %}"
    "{% else %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ '\n\n' if not loop.first else '' }}{{ 'Question: ' + m.content + '\nAnswer:' }}"
    "{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "plain": PLAIN}

TURNS = [
    ("user", "What is the sum of one and two?"),
    ("assistant", "It is three."),
    ("user", "And of two and two?\n"),
    ("assistant", "\nIt is four, of course: 😀 "),
]


def without_blocks(template: str) -> str:
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


@cache
def trained_tokenizer() -> Any:
    """A byte-level BPE of the tokenizers library, with merges that cross lines."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for _, text in TURNS] + ["assistant user\n\n Question: Answer: [INST] [/INST]"]
    made.train_from_iterator(texts * 8, trainer)
    return made


@cache
def of_transformers() -> Any:
    """The same tokenizer, as transformers has it."""
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained_tokenizer(), bos_token="<s>", eos_token="</s>"
    )


def sums(count: int, turns: int = 3) -> list[list[dict[str, str]]]:
    """Chats of one to `turns` questions with answers, each of them another."""
    return [
        [
            message
            for k in range(1 + n % turns)
            for message in (
                {"role": "user", "content": f"What is {n} and {k}?"},
                {"role": "assistant", "content": f"It is {n + k}."},
            )
        ]
        for n in range(count)
    ]


def write_model_files(directory: Path, template: str = CHATML) -> Path:
    """Write tokenizer.json with the template beside it; return the tokenizer's path."""
    directory.mkdir(exist_ok=True)
    (directory / "chat_template.jinja").write_text(without_blocks(template))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    path = directory / "tokenizer.json"
    path.write_text(trained_tokenizer().to_str())
    return path


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
