"""Results of LLaMA in its paper, which `llamac eval` prints for comparison."""

from __future__ import annotations

from collections.abc import Mapping

SIZES = ("7B", "13B", "33B", "65B")  # of LLaMA, in the order of the columns
PAPER = "LLaMA paper, tables 3 to 9 (arXiv:2302.13971)"

# (task, examples, majority of k) → results of LLaMA 7B, 13B, 33B and 65B, in per cent.
PUBLISHED: Mapping[tuple[str, int, bool], tuple[float, float, float, float]] = {
    # table 3: zero-shot common sense reasoning
    ("boolq", 0, False): (76.5, 78.1, 83.1, 85.3),
    ("piqa", 0, False): (79.8, 80.1, 82.3, 82.8),
    ("siqa", 0, False): (48.9, 50.4, 50.4, 52.3),
    ("hellaswag", 0, False): (76.1, 79.2, 82.8, 84.2),
    ("winogrande", 0, False): (70.1, 73.0, 76.0, 77.0),
    ("arc-e", 0, False): (72.8, 74.8, 80.0, 78.9),
    ("arc-c", 0, False): (47.6, 52.7, 57.8, 56.0),
    ("obqa", 0, False): (57.2, 56.4, 58.6, 60.2),
    # table 4: NaturalQuestions
    ("nq", 0, False): (16.8, 20.1, 24.9, 23.8),
    ("nq", 1, False): (18.7, 23.4, 28.3, 31.0),
    ("nq", 5, False): (22.0, 28.1, 32.9, 35.0),
    ("nq", 64, False): (26.1, 31.9, 36.0, 39.9),
    # table 5: TriviaQA, filtered dev set
    ("triviaqa", 0, False): (50.0, 56.6, 65.1, 68.2),
    ("triviaqa", 1, False): (53.4, 60.5, 67.9, 71.6),
    ("triviaqa", 5, False): (56.3, 63.1, 69.9, 72.6),
    ("triviaqa", 64, False): (57.6, 64.0, 70.4, 73.0),
    # table 6: RACE, zero-shot
    ("race-middle", 0, False): (61.1, 61.6, 64.1, 67.9),
    ("race-high", 0, False): (46.9, 47.2, 48.3, 51.6),
    # table 7: mathematics; the majority is of 256 answers for MATH and of 100 for GSM8k
    ("math", 4, False): (2.9, 3.9, 7.1, 10.6),
    ("math", 4, True): (6.9, 8.8, 15.2, 20.5),
    ("gsm8k", 8, False): (11.0, 17.8, 35.6, 50.9),
    ("gsm8k", 8, True): (18.1, 29.3, 53.1, 69.7),
    # table 8: code, pass@1
    ("humaneval", 0, False): (10.5, 15.8, 21.7, 23.7),
    ("mbpp", 3, False): (17.7, 22.0, 30.2, 37.7),
    # table 9: MMLU, average
    ("mmlu", 5, False): (35.1, 46.9, 57.8, 63.4),
}
