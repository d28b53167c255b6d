"""Sampling: greedy, nucleus, context, end, and its own randomness."""

from __future__ import annotations

import pytest
import torch

from llamac.runtime.generate import generate, sample, sample_text

CPU = torch.device("cpu")


class CountsUp:
    """Predicts the token after the last one, and remembers how much it was shown."""

    def __init__(self, vocabulary: int = 10, sharpness: float = 5.0) -> None:
        self.vocabulary, self.sharpness = vocabulary, sharpness
        self.seen: list[int] = []

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen.append(tokens.shape[1])
        following = (tokens + 1) % self.vocabulary
        return self.sharpness * torch.nn.functional.one_hot(following, self.vocabulary).float()


def test_temperature_zero_takes_the_likeliest():
    assert generate(CountsUp(), [3], 4, context=8, device=CPU, temperature=0.0) == [4, 5, 6, 7]


def test_generation_stops_after_the_end_token():
    made = generate(CountsUp(), [3], 9, context=8, device=CPU, temperature=0.0, end=5)
    assert made == [4, 5]


def test_the_model_never_sees_more_than_its_context():
    model = CountsUp()
    generate(model, [1, 2], 5, context=4, device=CPU, temperature=0.0)
    assert model.seen == [2, 3, 4, 4, 4]


def test_the_same_seed_draws_the_same_and_leaves_global_randomness_alone():
    state = torch.get_rng_state()
    flat = CountsUp(sharpness=0.0)
    first = generate(flat, [0], 20, context=8, device=CPU, seed=5)
    assert first == generate(flat, [0], 20, context=8, device=CPU, seed=5)
    assert first != generate(flat, [0], 20, context=8, device=CPU, seed=6)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("top_p", "allowed"), [(0.0, {2}), (0.6, {2, 0}), (1.0, {0, 1, 2, 3})])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, allowed):
    logits = torch.tensor([0.3, 0.15, 0.5, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    assert {sample(logits, 1.0, top_p, generator) for _ in range(300)} == allowed


def test_sampled_frequencies_are_the_models():
    logits, generator = torch.tensor([0.2, 0.8]).log(), torch.Generator().manual_seed(0)
    ones = sum(sample(logits, 1.0, 1.0, generator) for _ in range(2000))
    assert ones / 2000 == pytest.approx(0.8, abs=0.05)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="BOS"):
        generate(CountsUp(), [], 1, context=8, device=CPU)


def test_text_starts_as_documents_do_and_keeps_its_prompt():
    class Digits:
        eos = 9

        def encode(self, text: str) -> list[int]:
            return [int(c) for c in text]

        def decode(self, ids) -> str:
            return "".join(map(str, ids))

    def text(prompt: str) -> str:
        return sample_text(
            CountsUp(),
            Digits(),
            prompt,
            count=3,
            context=8,
            device=CPU,
            temperature=0.0,
            top_p=1.0,
            seed=0,
        )

    assert text("12") == "12345"
    assert text("") == "012"
