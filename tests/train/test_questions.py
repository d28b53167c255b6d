"""Questions asked while training: as `llamac eval` judges them, on any layout; training stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llamac.cli import main
from llamac.runtime.errors import RunError
from llamac.runtime.evaluate.questions import Questions, read_questions

from .conftest import Trainer, rows

pytestmark = pytest.mark.slow

LAYOUTS = {
    "fsdp2": ("parallel.data_shard=2",),
    "pp2": ("parallel.pipeline=2",),
    "tp2": ("parallel.tensor=2",),
    "cp2": ("parallel.context=2",),
}
PLAIN = ("model.n_kv_heads=2", "batch.micro_batch=1", "model.vocab_size=344")
ACCURACIES = (
    "eval/boolq/acc",
    "eval/boolq/acc_norm",
    "eval/boolq/acc_answer",
    "eval/piqa/acc_norm",
)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Published rows of two tasks: some longer than the trainer's 32 positions."""
    boolq = [
        {
            "passage": f"Number {n} went up the hill. " * (1 + 3 * (n % 2)),
            "question": f"is {n} a number",
            "answer": bool(n % 3),
        }
        for n in range(5)
    ]
    piqa = [
        {"goal": f"fetch {n}", "sol1": "a pail of water", "sol2": f"{n} pails", "label": n % 2}
        for n in range(5)
    ]
    (tmp_path / "published").mkdir()
    for name, some in (("boolq", boolq), ("piqa", piqa)):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (tmp_path / "published" / f"{name}.jsonl").write_text(text)
    return tmp_path / "published"


@pytest.fixture
def asking(tmp_path: Path, published: Path) -> tuple[str, ...]:
    """The spec's settings that ask them."""
    file = tmp_path / "questions.jsonl"
    arguments = ["--tasks", "piqa,boolq", "--data", str(published), "-o", str(file)]
    assert main(["data", "questions", *arguments]) == 0
    return (f'eval.questions="{file}"', 'eval.tasks=["boolq", "piqa"]', "eval.task_questions=4")


def answers(run: Path) -> list[dict[str, float]]:
    found = [{k: v for k, v in row.items() if k.startswith("eval/")} for row in rows(run)]
    return [one for one in found if one]


def test_training_is_bit_equal_and_results_are_those_of_llamac_eval(
    make_spec: Any, tmp_path: Path, asking: tuple[str, ...], published: Path
) -> None:
    off = Trainer(tmp_path / "off", make_spec(*PLAIN))
    assert off.run(tmp_path / "off") == 0
    on = Trainer(tmp_path / "on", make_spec(*PLAIN, *asking))
    assert on.run(tmp_path / "on") == 0
    for name, tensor in off.weights(tmp_path / "off").items():
        assert torch.equal(tensor, on.weights(tmp_path / "on")[name])
    found = answers(tmp_path / "on")
    assert [row["step"] for row in rows(tmp_path / "on") if "eval/piqa/acc" in row] == [5, 10, 12]
    assert all(one["eval/piqa/questions"] == 4 for one in found)
    assert all(f"{name}_stderr" in found[0] for name in ACCURACIES)
    assert {key.rpartition("/")[0] for key in found[0]} == {"eval/boolq", "eval/piqa"}
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    output = tmp_path / "found.json"
    arguments = ["--tasks", "boolq,piqa", "--data", str(published), "--limit", "4"]
    arguments += ["--context", "32", "-o", str(output)]
    assert main(["eval", str(tmp_path / "on"), *arguments]) == 0
    for result in json.loads(output.read_text())["results"]:
        for metric, value in result["results"].items():
            key = f"eval/{result['task']}/{metric}"
            assert found[-1][key] == value["value"]
            assert found[-1][f"{key}_stderr"] == pytest.approx(value["stderr"])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_answers(
    layout: tuple[str, ...], start_ranks, make_spec: Any, tmp_path: Path, asking: tuple[str, ...]
) -> None:
    changes = (*PLAIN, *asking, 'precision.compute="fp32"', "schedule.steps=5")
    alone = Trainer(tmp_path / "alone", make_spec(*changes))
    assert alone.run(tmp_path / "alone") == 0
    done = start_ranks(tmp_path / "emitted", make_spec(*changes, *layout), tmp_path / "several")
    assert done.returncode == 0, done.stderr
    assert answers(tmp_path / "several") == answers(tmp_path / "alone")


class _Alone:
    device, degrees, size, data_ranks, data_rank = torch.device("cpu"), {"tp": 1}, 1, 1, 0

    def local_positions(self, *several: torch.Tensor) -> list[torch.Tensor]:
        return list(several)

    def any(self, flag: bool) -> bool:
        return flag


class _Letters:
    eos = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_time_ends_and_only_whole_questions_count(tmp_path: Path) -> None:
    row = {"task": "t", "prompts": ["ab", "ab"], "choices": [" c", " d"], "gold": 1}
    file = tmp_path / "q.jsonl"
    file.write_text((json.dumps(row) + "\n") * 5)
    asked = read_questions(file, ["t"], 4, _Letters())
    assert len(asked) == 4
    calls = []

    def score(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append((tokens.tolist(), labels.tolist()))
        return labels.clamp(min=0).sum().float()  # the larger letter, the less likely

    found = Questions(asked, 60, 2, 3).ask(score, _Alone())
    assert found == {
        "eval/t/acc": 0.0,
        "eval/t/acc_stderr": 0.0,
        "eval/t/acc_norm": 0.0,
        "eval/t/acc_norm_stderr": 0.0,
        "eval/t/questions": 4,
    }
    # "\0ab c" cut off on the left; the second row of the batch has no target.
    assert calls[0] == ([[97, 98, 32], [0, 0, 0]], [[-1, 32, 99], [-1, -1, -1]])
    assert Questions(asked, 0, 2, 8).ask(score, _Alone()) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no questions of t"),
        ("{}\n", ":1 is not a valid question"),
        (
            '{"task": "t", "prompts": ["a"], "choices": ["b", "c"], "gold": 0}\n',
            ":1 is not a valid question",
        ),
        (
            '{"task": "t", "prompts": ["a"], "choices": ["b"], "gold": 3}\n',
            ":1 is not a valid question",
        ),
        ("not json\n", ":1 is not a valid question"),
    ],
)
def test_a_file_that_is_none_is_named(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(text)
    with pytest.raises(RunError, match=says):
        read_questions(file, ["t"], 4, _Letters())
    with pytest.raises(RunError, match="cannot be read"):
        read_questions(tmp_path / "none", ["t"], 4, _Letters())


def test_trainers_ask_what_lm_eval_would(tmp_path: Path, make_spec: Any) -> None:
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    from lm_eval.api.model import TemplateLM

    from llamac.runtime.evaluate.questions import encode_pair

    letters = _Letters()

    class Plain(TemplateLM):
        eot_token_id = 0  # type: ignore[assignment]

        def tok_encode(self, string: str, add_special_tokens=None, **kwargs: Any) -> list[int]:
            return [0, *letters.encode(string)]

        _loglikelihood_tokens = loglikelihood_rolling = generate_until = None  # type: ignore

    for pair in (("a b", " c"), ("a ", "c"), ("a\n\n", "c d"), ("Answer:", " yes")):
        assert encode_pair(letters, *pair) == Plain()._encode_pair(*pair)
