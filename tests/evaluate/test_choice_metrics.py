"""The rules that choose an answer, on cases where each chooses another."""

from __future__ import annotations

import pytest

from llamac.runtime.evaluate.choice_metrics import (
    best_index,
    log_ratios,
    per_unit,
    question_metrics,
)

# Answers of 20, 10 and 4 characters, and of 3, 4 and 2 tokens.
LOG = [-9.0, -5.0, -3.0]
CHARACTERS, TOKENS = [20, 10, 4], [3, 5, 2]
WITHOUT = [-10.0, -11.0, -3.0]  # log P(answer | "Answer:")


def test_each_rule_chooses_another_answer() -> None:
    assert best_index(LOG) == 2
    assert best_index(per_unit(LOG, CHARACTERS)) == 0  # -0.45, -0.5, -0.75
    assert best_index(per_unit(LOG, TOKENS)) == 1  # -3.0, -1.0, -1.5
    assert best_index(log_ratios(LOG, WITHOUT)) == 1  # 1, 6, 0
    assert best_index(per_unit(LOG, TOKENS)) != best_index(per_unit(LOG, CHARACTERS))


@pytest.mark.parametrize(
    ("gold", "wanted"),
    [
        (0, {"acc": 0, "acc_norm": 1, "acc_answer": 0}),
        (1, {"acc": 0, "acc_norm": 0, "acc_answer": 1}),
        (2, {"acc": 1, "acc_norm": 0, "acc_answer": 0}),
    ],
)
def test_a_question_is_judged_by_every_rule(gold: int, wanted: dict[str, float]) -> None:
    assert question_metrics(gold, LOG, CHARACTERS, WITHOUT) == wanted


def test_without_another_context_there_is_no_such_metric_and_ties_go_to_the_first() -> None:
    assert question_metrics(0, [-1.0, -1.0], [1, 1]) == {"acc": 1.0, "acc_norm": 1.0}
    assert question_metrics(1, [-1.0, -1.0], [1, 1]) == {"acc": 0.0, "acc_norm": 0.0}


def test_accuracies_are_those_of_the_harness_on_the_same_log_probabilities() -> None:
    numpy = pytest.importorskip("numpy")
    random = numpy.random.default_rng(0)
    for _ in range(200):
        log, lengths = -random.exponential(5, 4), random.integers(1, 30, 4)
        for gold in range(4):
            found = question_metrics(gold, log.tolist(), lengths.tolist())
            assert found["acc"] == float(numpy.argmax(log) == gold)
            assert found["acc_norm"] == float(numpy.argmax(log / lengths) == gold)
