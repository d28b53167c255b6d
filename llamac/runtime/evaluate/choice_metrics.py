"""Rules that choose among the answers of a multiple-choice question (LLaMA paper, section 3).

A rule turns log P(answer | question) of each answer into a score, and chooses the answer with the
largest one; of equal scores the first, as numpy's argmax does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ANSWER = "Answer:"  # context without a question (Brown et al. 2020, section 2.4)


def best_index(scores: Sequence[float]) -> int:
    """Return the index of the largest score; of equal ones the first."""
    return max(range(len(scores)), key=lambda number: (scores[number], -number))


def per_unit(log_probabilities: Sequence[float], lengths: Sequence[int]) -> list[float]:
    """Return each log-probability divided by its answer's length in characters or tokens."""
    return [value / length for value, length in zip(log_probabilities, lengths, strict=True)]


def log_ratios(log_probabilities: Sequence[float], without: Sequence[float]) -> list[float]:
    """Return log P(answer | question) - log P(answer | another context) of each answer, in nats.

    log_probabilities: given the question. without: given the other context.
    """
    return [value - other for value, other in zip(log_probabilities, without, strict=True)]


def question_metrics(
    gold: int,
    log_probabilities: Sequence[float],
    characters: Sequence[int],
    without: Sequence[float] | None = None,
) -> Mapping[str, float]:
    """Return metric → 1.0 if its rule chooses the right answer to a question, else 0.0.

    gold: index of the right answer. log_probabilities: log P(answer | question) of each answer, in
    nats. characters: length of each answer, for the metric `acc_norm`. without: log P(answer |
    "Answer:") of each answer, in nats, for `acc_answer`; None leaves that metric out.
    """
    scores = {"acc": log_probabilities, "acc_norm": per_unit(log_probabilities, characters)}
    if without is not None:
        scores["acc_answer"] = log_ratios(log_probabilities, without)
    return {metric: float(best_index(values) == gold) for metric, values in scores.items()}
