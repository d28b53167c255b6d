"""Batched generation of tokens: prefill of all prompts, then one token per row and step.

Rows may differ in length: each is padded on the right and has its own positions, so a row's tokens
do not depend on the others'. Beyond `context` positions, every step computes the row's last
`context` tokens anew, from position 0, which is exact but slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .sampling import Sampling, choose, row_generator

STEP = 16
"""Attention reads the filled part of the cache, rounded up to a multiple of this."""


class Steps(Protocol):
    """Interface of the emitted class Inference, which has the key-value caches of B rows."""

    def prefill(self, tokens: Tensor, last: Tensor) -> Tensor:
        """Compute prompts from position 0 and fill the caches; return logits [B, V] at `last`.

        tokens: int64 [B, S], padded on the right. last: position of each row's last token, int64
        [B].
        """
        ...

    def decode(self, tokens: Tensor, positions: Tensor, filled: int) -> Tensor:
        """Compute one token per row, append it to the caches, and return logits [B, V].

        tokens, positions: each row's newest token and its position, int64 [B]. filled: number of
        positions of the caches to read, above every one of `positions`.
        """
        ...


@dataclass
class GenerationSpeed:
    """Numbers of prompt tokens and of decoded tokens, and the seconds that each took in total.

    Each row's first new token comes from its prompt, so it is not among `tokens`.
    """

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        prompt = self.prompt_tokens / max(self.prompt_seconds, 1e-9)
        decode = self.tokens / max(self.seconds, 1e-9)
        return (
            f"prompt: {self.prompt_tokens} tokens, {prompt:.1f} tokens/s; "
            f"decode: {self.tokens} tokens, {decode:.1f} tokens/s"
        )


def round_up(positions: int) -> int:
    """Round a number of positions up to a multiple of `STEP`."""
    return -(-positions // STEP) * STEP


class Generation:
    """Generation of one batch of rows; iterating yields each step's new (row, token) pairs.

    A row ends after `count` tokens, after one of `ends`, or when `stop` is called. tokens: ids of
    each row so far, with its prompt. ends: ids each of which ends a row.
    """

    def __init__(
        self,
        make: Callable[[int, int], Steps],
        prompts: Sequence[Sequence[int]],
        count: int,
        *,
        context: int,
        device: torch.device,
        sampling: Sampling,
        seed: int,
        first_row: int = 0,
        ends: Collection[int] = (),
        speed: GenerationSpeed | None = None,
    ) -> None:
        """Allocate the caches; nothing is computed before the first iteration.

        make: called as make(rows, positions) to create an Inference. prompts: ids of each row's
        prompt, of which the last `context` are used; ValueError if one is empty. count: largest
        number of new tokens per row. context: largest number of positions. first_row: number of the
        first row; `seed` and a row's number determine its random draws. ends: ids each of which
        ends a row. speed: counters to add to.
        """
        if not all(prompts):
            raise ValueError("every prompt needs at least one token, such as BOS")
        self.tokens = [[*prompt[-context:]] for prompt in prompts]
        self.count, self.context, self.device = count, context, device
        self.sampling, self.ends, self.speed = sampling, frozenset(ends), speed or GenerationSpeed()
        rows = range(first_row, first_row + len(prompts))
        self.generators = [row_generator(seed, row) for row in rows]
        self.left = [count] * len(prompts)
        needed = min(context, max(map(len, self.tokens)) + count)
        self.length = round_up(needed)
        # One position more than attention reads: torch.compile takes equal sizes for the same one.
        self.steps = make(len(prompts), self.length + 1)
        self.present: Tensor | None = None

    def stop(self, row: int) -> None:
        """Stop generating a row, numbered from 0 in the batch."""
        self.left[row] = 0

    @torch.no_grad()
    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        began, read = time.perf_counter(), sum(map(len, self.tokens))
        fresh = True
        while any(self.left):
            full = any(
                left and len(tokens) > self.context
                for left, tokens in zip(self.left, self.tokens, strict=True)
            )
            scores = self._prefill() if fresh or full else self._decode()
            ids = self._choose(scores)
            now = time.perf_counter()
            if fresh:
                self.speed.prompt_tokens += read
                self.speed.prompt_seconds += now - began
            else:
                self.speed.seconds += now - began
            new_tokens = [(row, ids[row]) for row, left in enumerate(self.left) if left]
            self.speed.tokens += 0 if fresh else len(new_tokens)
            for row, token in new_tokens:
                self.tokens[row].append(token)
                self.left[row] = 0 if token in self.ends else self.left[row] - 1
            fresh = False
            yield new_tokens
            began = time.perf_counter()

    def _prefill(self) -> Tensor:
        windows = [tokens[-self.context :] for tokens in self.tokens]
        longest = max(map(len, windows))
        padded = [window + [0] * (longest - len(window)) for window in windows]
        last = torch.tensor([len(window) - 1 for window in windows], device=self.device)
        return self.steps.prefill(torch.tensor(padded, device=self.device), last)

    def _decode(self) -> Tensor:
        """Run one decoding step; return logits. Finished rows repeat their last step."""
        positions = [min(len(tokens), self.context) - 1 for tokens in self.tokens]
        newest = torch.tensor([tokens[-1] for tokens in self.tokens], device=self.device)
        filled = min(round_up(max(positions) + 1), self.length)
        return self.steps.decode(newest, torch.tensor(positions, device=self.device), filled)

    def _choose(self, scores: Tensor) -> list[int]:
        how, draws = self.sampling, [0.0] * len(self.tokens)
        if how.repetition_penalty != 1.0:
            self.present = self._note(scores)
        if not how.greedy:
            for row, left in enumerate(self.left):
                if left:
                    drawn = torch.rand(1, generator=self.generators[row], dtype=torch.float64)
                    draws[row] = drawn.item()
        uniforms = torch.tensor(draws, dtype=torch.float64)
        return choose(scores, how, uniforms, self.present).tolist()

    def _note(self, scores: Tensor) -> Tensor:
        """Record each row's tokens for the repetition penalty: first all, then the newest."""
        if self.present is None:
            present = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
            for row, tokens in enumerate(self.tokens):
                present[row, tokens] = True
            return present
        newest = torch.tensor([tokens[-1] for tokens in self.tokens], device=scores.device)
        return self.present.scatter_(1, newest.unsqueeze(1), True)
