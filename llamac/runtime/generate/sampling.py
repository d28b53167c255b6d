"""Sampling of each row's next token from its logits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, applied in the order penalty, temperature, top_k, top_p, min_p.

    temperature: divides the logits; 0 takes the most likely token. top_k: number of most likely
    tokens to sample from; 0 for all. top_p: total probability of the smallest set of most likely
    tokens to sample from (Holtzman et al. 2020, section 3.1). min_p: smallest probability to
    sample, as a fraction of the largest one. repetition_penalty: divides the logits of tokens
    already in the row, or multiplies negative ones (Keskar et al. 2019).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        """Return whether the most likely token is always taken."""
        return self.temperature == 0.0


def row_generator(seed: int, row: int) -> torch.Generator:
    """Return the random generator of a row, on the CPU; row 0 uses the seed itself.

    row: number of the prompt among those of all batches, so that it does not depend on batching.
    """
    if row:
        digest = hashlib.sha256(f"{seed}:{row}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
    return torch.Generator().manual_seed(seed)


def choose(
    scores: Tensor, how: Sampling, uniforms: Tensor, present: Tensor | None = None
) -> Tensor:
    """Sample a token for each row from its logits; return their ids, int64 [B].

    scores: logits [B, V]. how: settings. uniforms: float64 [B] in [0, 1), one draw per row.
    present: bool [B, V], the tokens in each row so far; None for no repetition penalty.
    """
    scores = scores.float()
    if present is not None:
        penalty = how.repetition_penalty
        penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
        scores = torch.where(present, penalised, scores)
    if how.greedy:
        return scores.argmax(-1)
    best = scores.amax(-1, keepdim=True)
    scores = (scores - best).double() / how.temperature  # finite, however cold it is
    ids = None
    if how.top_k:
        scores, ids = scores.topk(min(how.top_k, scores.shape[-1]), dim=-1)
    elif how.top_p < 1.0:
        scores, ids = scores.sort(descending=True, stable=True)
    chances = scores.softmax(-1)
    if how.top_p < 1.0:
        outside = chances.cumsum(-1) - chances >= how.top_p
        outside[:, 0] = False
        chances = chances.masked_fill(outside, 0.0)
    if how.min_p > 0.0:
        chances = chances.masked_fill(chances < how.min_p * chances.amax(-1, keepdim=True), 0.0)
    below = chances.cumsum(-1)
    aims = (uniforms.to(below.device) * below[:, -1]).unsqueeze(-1)
    places = torch.searchsorted(below, aims, right=True)
    last = (chances > 0).long().cumsum(-1).argmax(-1, keepdim=True)  # rounding may reach past it
    places = torch.minimum(places, last)
    return (places if ids is None else ids.gather(-1, places)).squeeze(-1)
