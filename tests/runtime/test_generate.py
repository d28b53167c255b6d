"""Sampling: greedy, nucleus, context, end, and its own randomness."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamac.runtime.generate import continuation, decoded, generate, sample
from llamac.runtime.tokenizers.tokenizer import Tokenizer, train_tokenizer

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
    made = generate(CountsUp(), [3], 4, context=8, device=CPU, temperature=0.0)
    assert list(made) == [4, 5, 6, 7]


def test_generation_stops_after_the_end_token():
    made = generate(CountsUp(), [3], 9, context=8, device=CPU, temperature=0.0, end=5)
    assert list(made) == [4, 5]


def test_the_model_never_sees_more_than_its_context():
    model = CountsUp()
    list(generate(model, [1, 2], 5, context=4, device=CPU, temperature=0.0))
    assert model.seen == [2, 3, 4, 4, 4]


def test_the_same_seed_draws_the_same_and_leaves_global_randomness_alone():
    state = torch.get_rng_state()
    flat = CountsUp(sharpness=0.0)

    def made(seed: int) -> list[int]:
        return list(generate(flat, [0], 20, context=8, device=CPU, seed=seed))

    assert made(5) == made(5)
    assert made(5) != made(6)
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
        next(generate(CountsUp(), [], 1, context=8, device=CPU))


def test_text_starts_as_documents_do_and_keeps_its_prompt():
    class Digits:
        eos = 9

        def encode(self, text: str) -> list[int]:
            return [int(c) for c in text]

        def decode(self, ids) -> str:
            return "".join(map(str, ids))

    def text(prompt: str) -> list[str]:
        how: Any = {"count": 3, "context": 8, "device": CPU, "temperature": 0.0, "top_p": 1.0}
        return list(continuation(CountsUp(), Digits(), prompt, seed=0, **how))

    assert text("12") == ["3", "4", "5", ""]
    assert text("") == ["0", "1", "2", ""]


@pytest.mark.parametrize("temperature", [1e-45, 1e-300, 1e-3, 1e300, float("inf")])
def test_any_temperature_can_be_sampled_at(temperature):
    logits, generator = torch.tensor([3.0, -80.0, 4.0]), torch.Generator().manual_seed(0)
    drawn = {sample(logits, temperature, 1.0, generator) for _ in range(100)}
    assert drawn == ({2} if temperature < 1 else {0, 1, 2})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    lines = [f"{n} foxes and {n + 1} hens, naïve café" for n in range(300)]
    return train_tokenizer(lines, kind="bpe", vocab_size=320)


@pytest.mark.parametrize(
    "text", ["plain", "", " é🦙 漢字\n", "🦙🦙", "\ufffd", "a\ufffd\u2581b", "👩‍👩‍👧"]
)
def test_only_whole_characters_are_given_and_nothing_is_lost(tokenizer, text):
    for before in ("", "foxes ", "naïve 🦙"):
        start = [tokenizer.eos, *map(int, tokenizer.encode(before))]
        pieces = list(decoded(tokenizer, start[-1], map(int, tokenizer.encode(text))))
        assert "".join(pieces) == text
        if "\ufffd" not in text:
            assert not any("\ufffd" in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, 340), max_size=30), text=st.text(max_size=4))
def test_whatever_tokens_come_their_text_does(tokenizer, ids, text):
    start = [tokenizer.eos, *map(int, tokenizer.encode(text))]
    pieces = "".join(decoded(tokenizer, start[-1], ids))
    assert text + pieces == tokenizer.decode(start + ids)


def test_text_that_is_certain_is_not_kept_waiting(tokenizer):
    ids = [int(i) for i in tokenizer.encode("12ß")]
    assert list(decoded(tokenizer, tokenizer.eos, ids)) == ["1", "2", "ß", ""]


def test_a_space_that_begins_the_continuation_is_kept():
    """LLaMA's own tokenizer drops the space before the first word that it decodes."""

    class DropsTheFirstSpace:
        eos = 0
        words = ("", " Once", " upon", "time")

        def encode(self, text: str) -> list[int]:
            return [1]

        def decode(self, ids) -> str:
            return "".join(self.words[i] for i in ids).removeprefix(" ")

    tokenizer = DropsTheFirstSpace()
    assert "".join(decoded(tokenizer, 1, [2, 3])) == " upontime"
    assert "".join(decoded(tokenizer, tokenizer.eos, [1, 2])) == "Once upon"
