"""Questions of every task as they are published, made up; and a random model that answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.convert.conftest import hf_config, hf_model, imports

LABELS = ["A", "B", "C", "D"]
FOUR = {"text": ["red", "dark green", "blue", "a bit yellow"], "label": LABELS}

PUBLISHED: Mapping[str, dict[str, Any]] = {
    "boolq": {"passage": "Grass is a plant.", "question": "is grass a plant", "answer": True},
    "piqa": {"goal": "open a jar", "sol1": "turn its lid", "sol2": "sing to it", "label": 0},
    "siqa": {
        "context": "Ann ran.",
        "question": "Why?",
        "answerA": "she was late",
        "answerB": "she slept",
        "answerC": "no",
        "label": "1",
    },
    "hellaswag": {
        "activity_label": "Cooking",
        "ctx_a": "A man stirs. [header]",
        "ctx_b": "he",
        "endings": ["eats it.", "flies off.", "is a pan.", "waits a while."],
        "label": "0",
    },
    "winogrande": {
        "sentence": "The cup fell off the shelf because _ was slippery.",
        "option1": "the cup",
        "option2": "the shelf",
        "answer": "2",
    },
    "arc-e": {"question": "What is the sky?", "choices": FOUR, "answerKey": "C"},
    "arc-c": {"question": "What is grass?", "choices": FOUR, "answerKey": "B"},
    "obqa": {"question_stem": "The sky is", "choices": FOUR, "answerKey": "C"},
    "csqa": {"question": "What is the sun?", "choices": FOUR, "answerKey": "D"},
    "mmlu": {"question": "1 + 1?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 1},
    "race-middle": {
        "article": "Tom has a dog.",
        "question": "Who has a dog?",
        "options": ["Tom", "Ann", "a cat", "no one"],
        "answer": "A",
    },
    "race-high": {
        "article": "Ann reads.",
        "question": "Who reads?",
        "options": ["Tom", "Ann"],
        "answer": "B",
    },
    "nq": {"question": "who wrote it", "answer": ["The Poet", "a poet"]},
    "triviaqa": {"question": "Who?", "answer": {"value": "Ann", "aliases": ["Ann", "Anna"]}},
    "gsm8k": {"question": "3 + 4?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    "math": {"problem": "Halve 1.", "solution": r"It is $\boxed{\frac{1}{2}}$."},
    "humaneval": {
        "prompt": "def one():\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "entry_point": "one",
        "canonical_solution": "    return 1\n",
    },
    "mbpp": {
        "text": "Return 1.",
        "code": "def f():\n    return 1",
        "test_list": ["assert f() == 1"],
    },
}


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A directory with twelve varied questions of each task."""
    words = ["a blue", "stone", "river walks", "under", "seven quiet", "houses", "near old trees"]

    def varied(value: Any, number: int) -> Any:
        if not isinstance(value, str) or len(value) < 6 or "_" in value or "\n" in value:
            return value
        return " ".join([value, *(words[(number * 5 + i) % 7] for i in range(number % 6))])

    for name, row in PUBLISHED.items():
        rows = [{key: varied(value, n) for key, value in row.items()} for n in range(12)]
        write_rows(tmp_path / "questions" / f"{name}.jsonl", rows)
    return tmp_path / "questions"


@pytest.fixture
def random_model(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """`random_model(begin=True)`: (import, the same as transformers wrote it).

    begin: whether its tokenizer begins texts with BOS.
    """
    tokenizers = pytest.importorskip("tokenizers")

    def make(begin: bool = False) -> tuple[Path, Path]:
        directory = tmp_path / "hf"
        hf_model(hf_config(num_key_value_heads=2, max_position_embeddings=1024)).save_pretrained(
            directory
        )
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        special = ["<unk>", "<s>", "</s>"]
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=331,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        )
        text = " ".join(str(row) for row in PUBLISHED.values())
        made.train_from_iterator([text] * 3, trainer)
        if begin:
            made.post_processor = tokenizers.processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 1)]
            )
        made.save(str(directory / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
        config |= {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        return imports(directory), directory

    return make
