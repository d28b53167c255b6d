"""Our adapter and lm-evaluation-harness' own HF model give the same numbers, to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra eval is not installed")

from lm_eval.api.instance import Instance

from llamac.evaluate.adapter import Adapter
from llamac.evaluate.judge import evaluate_task
from llamac.evaluate.loaded_model import open_for_evaluation
from llamac.evaluate.question_files import load_questions
from llamac.evaluate.tasks.known_tasks import TASKS

CONTEXT = 640


def both(made: tuple[Path, Path], context: int = CONTEXT, max_tokens: int = 500) -> list[Any]:
    from lm_eval.models.huggingface import HFLM

    make: Any = HFLM
    theirs = make(
        pretrained=str(made[1]), device="cpu", dtype=torch.float32, batch_size=3, max_length=context
    )
    return [Adapter(open_for_evaluation(made[0], "newest", print, context), max_tokens), theirs]


@pytest.mark.slow
@pytest.mark.parametrize("begin", [False, True], ids=["plain", "with BOS"])
def test_every_task_gives_what_the_hf_model_gives(
    begin: bool, questions: Path, random_model: Callable[..., tuple[Path, Path]]
) -> None:
    lms = both(random_model(begin))
    for name, task in TASKS.items():
        if task.runs_code or task.tokens > 300:
            continue
        for shots, limit in ((0, 6), (2, 3)) if task.kind == "choice" else ((1, 2),):
            asked = load_questions(task, questions, {})
            kept: list[list[Any]] = [[], []]
            found = [
                evaluate_task(lm, asked, shots, limit=limit, on_sample=kept[number].append).results
                for number, lm in enumerate(lms)
            ]
            assert found[0] == found[1], name
            assert [one["asked"] for one in kept[0]] == [one["asked"] for one in kept[1]]
            for mine, theirs in zip(*kept, strict=True):
                assert mine["answered"] == approximately(theirs["answered"]), (name, shots)


def approximately(answers: Any) -> Any:
    """The same, but for rounding of log-probabilities."""
    if not isinstance(answers[0][0], tuple):
        return answers
    return [[(pytest.approx(value, abs=1e-3), greedy) for value, greedy in one] for one in answers]


def request(kind: Any, *arguments: Any) -> Instance:
    return Instance(kind, {}, arguments, 0)


@pytest.mark.slow
@pytest.mark.parametrize("begin", [False, True], ids=["plain", "with BOS"])
def test_long_empty_and_begun_contexts_are_treated_alike(
    begin: bool, random_model: Callable[..., tuple[Path, Path]]
) -> None:
    lms = both(random_model(begin), context=24)
    long = "Grass is a plant and the sky is blue because Ann was late. " * 4
    pairs = [(long, " yes"), (long[:70], " no it is"), ("", "Tom"), ("a ", "b"), ("x", long[:12])]
    pairs += [("<s>Grass", " is")] * begin  # no doubled BOS
    asked = [request("loglikelihood", *pair) for pair in pairs]
    mine, theirs = (lm.loglikelihood(asked) for lm in lms)
    assert [(pytest.approx(value, abs=1e-3), greedy) for value, greedy in theirs] == mine
    texts = [request("loglikelihood_rolling", text) for text in (long, "Grass", long[:99])]
    mine, theirs = (lm.loglikelihood_rolling(texts) for lm in lms)
    assert mine == pytest.approx(theirs, abs=1e-2)
    settings = {"until": ["e", "\n\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
    prompts = [request("generate_until", p, settings) for p in (long, "Grass", "Tom has", "Ann")]
    mine, theirs = (lm.generate_until(prompts) for lm in lms)
    assert mine == theirs


@pytest.mark.slow
def test_an_empty_text_begins_once_and_a_spelled_bos_is_no_second(
    random_model: Callable[..., tuple[Path, Path]],
) -> None:
    run, _ = random_model(True)
    lm = Adapter(open_for_evaluation(run, "newest", print))
    assert lm.tok_encode("Grass")[0] == 1
    assert lm.tok_encode("<s>Grass") == lm.tok_encode("Grass")
    assert 1 not in lm.tok_encode("Grass", add_special_tokens=False)
    assert lm.prefix_token_id == 1


@pytest.mark.slow
def test_votes_take_the_most_frequent_answer_and_draws_differ(
    questions: Path, random_model: Callable[..., tuple[Path, Path]]
) -> None:
    run, _ = random_model()
    lm = Adapter(open_for_evaluation(run, "newest", print, 700))
    kept: list[Any] = []
    asked = load_questions(TASKS["gsm8k"], questions, {})
    found = evaluate_task(lm, asked, 0, limit=2, votes=3, on_sample=kept.append)
    assert found.votes == 3
    assert len(set(kept[0]["answered"][0])) == 3  # three answers were drawn, each its own
    again: list[Any] = []
    evaluate_task(Adapter(lm.opened, 4000), asked, 0, limit=2, votes=3, on_sample=again.append)
    assert kept == again  # whatever is read together
