"""Causal attention within documents that share a sequence, on CUDA: no mask of S × S, no waiting.

Documents longer than WIDTH go to the flash kernel for sequences of unequal lengths. It takes a list
of bounds, whose length must be known without asking the device: there are at most S / WIDTH such
documents in a sequence, and what lies between two of them counts as one more, whose results are
dropped. Shorter documents, of which there may be as many as tokens, are attended to in blocks of
WIDTH queries, each with its own keys and those of the block before, under a mask of that size: a
document no longer than WIDTH cannot begin before. Memory is linear in S; the result is exact.

q [B, S, H, D]; k, v [B, S, K, D], 16-bit; starts int64 [B, S]: where each token's document begins.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operators import no_seed

aten = torch.ops.aten

WIDTH = 128


def long_documents(starts: Tensor) -> Tensor:
    """Return which tokens lie in documents longer than WIDTH: bool [B, S]."""
    positions = torch.arange(starts.shape[1], device=starts.device)
    goes_on = F.pad((starts != positions)[:, 1:], (0, 1))  # to the next token
    ends = torch.where(goes_on, starts.shape[1], positions + 1).flip(1).cummin(1).values.flip(1)
    return ends - starts > WIDTH


def bounds_of(starts: Tensor, long: Tensor) -> Tensor:
    """Return where long documents and the gaps between them begin, in B · S tokens in a row.

    int32 [n + 1], n the most there can be; those that there are not are empty and lie at the end.
    """
    batch, length = starts.shape
    begins = starts == torch.arange(length, device=starts.device)
    begins = begins & (long | F.pad(long[:, :-1], (1, 0)))  # in a gap, only the first counts
    begins[:, 0] = True
    most, tokens = batch * (2 * (length // (WIDTH + 1)) + 1), batch * length
    flat = begins.flatten()
    place = torch.where(flat, flat.cumsum(0) - 1, most)
    bounds = torch.full((most + 1,), tokens, dtype=torch.int32, device=starts.device)
    bounds.scatter_(0, place, torch.arange(tokens, dtype=torch.int32, device=starts.device))
    bounds[most] = tokens
    return bounds


def flash_forward(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, scale: float) -> Any:
    """→ (out [B, S, H, D], log-sum-exp [B, H, S]), each piece between two bounds on its own."""
    batch, length = q.shape[:2]
    rows = [x.flatten(0, 1) for x in (q, k, v)]
    out, total, *_rest = aten._flash_attention_forward(
        *rows, bounds, bounds, length, length, 0.0, True, False, scale=scale
    )
    return out.view_as(q), total.unflatten(1, (batch, length)).transpose(0, 1)


def flash_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    bounds: Tensor,
    scale: float,
) -> list[Tensor]:
    """→ [d_q, d_k, d_v], shaped as q, k, v."""
    length, unused = q.shape[1], no_seed(q)
    rows = [x.flatten(0, 1) for x in (d_out, q, k, v, out)]
    total = logsumexp.transpose(0, 1).flatten(1).contiguous()  # [H, B · S]
    gradients = aten._flash_attention_backward(
        *rows, total, bounds, bounds, length, length, 0.0, True, unused, unused, scale=scale
    )
    return [d.view_as(x) for d, x in zip(gradients, (q, k, v), strict=True)]


# -- blocks of WIDTH positions ---------------------------------------------------------------------


def in_blocks(x: Tensor) -> Tensor:
    """[B, S, …] → [B · n, WIDTH, …]; what is missing of the last block is zero."""
    missing = -x.shape[1] % WIDTH
    padded = F.pad(x, (*(0, 0) * (x.ndim - 2), 0, missing))
    return padded.unflatten(1, (-1, WIDTH)).flatten(0, 1)


def from_blocks(blocks: Tensor, batch: int, length: int) -> Tensor:
    """Return the inverse of `in_blocks`."""
    return blocks.unflatten(0, (batch, -1)).flatten(1, 2)[:, :length]


def with_block_before(x: Tensor) -> Tensor:
    """[B, S, …] → [B · n, 2 · WIDTH, …]: each block after the one before it (or zeros)."""
    own = in_blocks(x).unflatten(0, (x.shape[0], -1))
    before = torch.cat([torch.zeros_like(own[:, :1]), own[:, :-1]], 1)
    return torch.cat([before, own], 2).flatten(0, 1)


def add_block_before(blocks: Tensor, batch: int, length: int) -> Tensor:
    """Return the adjoint of `with_block_before`."""
    before, own = blocks.unflatten(0, (batch, -1)).split(WIDTH, 2)
    shifted = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], 1)
    return (own + shifted).flatten(1, 2)[:, :length]


def block_mask(starts: Tensor, long: Tensor, dtype: torch.dtype) -> Tensor:
    """[B · n, 1, WIDTH, 2 · WIDTH]: minus infinity where a query must not look.

    Queries of long documents, whose results are dropped, see themselves alone, and so do those
    beyond the sequence: a row that saw nothing would not be a number.
    """
    positions = torch.arange(starts.shape[1], device=starts.device)
    first = in_blocks(torch.where(long, positions, starts))  # [B · n, WIDTH]
    count = first.shape[0] // starts.shape[0]
    own = torch.arange(WIDTH, device=starts.device)
    begin = WIDTH * torch.arange(count, device=starts.device).repeat(starts.shape[0])
    at = begin[:, None] + own  # of queries
    keys = begin[:, None] - WIDTH + torch.arange(2 * WIDTH, device=starts.device)
    first = torch.where(at < starts.shape[1], first, at)
    seen = (keys[:, None] <= at[:, :, None]) & (keys[:, None] >= first[:, :, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=starts.device)
    return mask.masked_fill(~seen, float("-inf")).unsqueeze(1)
