"""Rules that choose among the answers of a multiple-choice question (LLaMA paper, section 3).

Every rule takes log P(answer | question) for each answer and chooses the largest score; the first
of equal ones, as numpy's argmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ANSWER = "Answer:"  # the context that stands for no question (Brown et al. 2020, section 2.4)


def best_index(scores: Sequence[float]) -> int:
    """Return the index of the largest score; the first of equal ones."""
    return max(range(len(scores)), key=lambda number: (scores[number], -number))


def per_unit(log_probabilities: Sequence[float], lengths: Sequence[int]) -> list[float]:
    """Return each log-probability divided by its answer's length in characters or tokens."""
    return [value / length for value, length in zip(log_probabilities, lengths, strict=True)]


def log_ratios(log_probabilities: Sequence[float], without: Sequence[float]) -> list[float]:
    """Return log of P(answer | question) / P(answer | another context)."""
    return [value - other for value, other in zip(log_probabilities, without, strict=True)]


def question_metrics(
    gold: int,
    log_probabilities: Sequence[float],
    characters: Sequence[int],
    without: Sequence[float] | None = None,
) -> Mapping[str, float]:
    """Return each metric of one question: 1.0 where its rule chooses the answer `gold`, else 0.0.

    log_probabilities: of the answers, in nats. characters: length of each answer. without: log
    P(answer | "Answer:"), for `acc_answer`.
    """
    scores = {"acc": log_probabilities, "acc_norm": per_unit(log_probabilities, characters)}
    if without is not None:
        scores["acc_answer"] = log_ratios(log_probabilities, without)
    return {metric: float(best_index(values) == gold) for metric, values in scores.items()}
