"""Causal attention within documents that share a sequence, on CUDA, without an S × S mask.

Documents longer than WIDTH use the flash kernel for variable-length sequences. It takes a list of
bounds whose length must be known without synchronising with the device: a sequence has at most S /
WIDTH such documents, and each gap between two of them counts as one more, whose results are
dropped. Shorter documents use blocks of WIDTH queries, each with the keys of its own and of the
previous block under a mask: a document no longer than WIDTH cannot begin earlier. Memory is linear
in S, and the result is exact.

q [B, S, H, D]; k, v [B, S, K, D], 16-bit; starts int64 [B, S]: position at which each token's
document begins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

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
    """Return the bounds of long documents and of the gaps between them, in B · S flattened tokens.

    int32 [n + 1], where n is the largest possible number; unused ones are empty, at the end.
    """
    batch, length = starts.shape
    begins = starts == torch.arange(length, device=starts.device)
    begins = begins & (long | F.pad(long[:, :-1], (1, 0)))  # one bound per gap, at its first token
    begins[:, 0] = True
    most, tokens = batch * (2 * (length // (WIDTH + 1)) + 1), batch * length
    flat = begins.flatten()
    place = torch.where(flat, flat.cumsum(0) - 1, most)
    bounds = torch.full((most + 1,), tokens, dtype=torch.int32, device=starts.device)
    bounds.scatter_(0, place, torch.arange(tokens, dtype=torch.int32, device=starts.device))
    bounds[most] = tokens
    return bounds


def flash_forward(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, scale: float) -> Any:
    """Attend within each pair of bounds; return (out [B, S, H, D], log-sum-exp [B, H, S])."""
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
    """Return [d_q, d_k, d_v], shaped as q, k, v."""
    length, unused = q.shape[1], no_seed(q)
    rows = [x.flatten(0, 1) for x in (d_out, q, k, v, out)]
    total = logsumexp.transpose(0, 1).flatten(1).contiguous()  # [H, B · S]
    gradients = aten._flash_attention_backward(
        *rows, total, bounds, bounds, length, length, 0.0, True, unused, unused, scale=scale
    )
    return [d.view_as(x) for d, x in zip(gradients, (q, k, v), strict=True)]


class DocumentLayout(NamedTuple):
    """Layout of a micro-batch's documents, as both kernels read it.

    long: bool [B, S], `long_documents`. bounds: int32 [n + 1], `bounds_of`. mask: `block_mask`.
    """

    long: Tensor
    bounds: Tensor
    mask: Tensor


_layouts = WeakTensorKeyDictionary()  # DocumentLayout of each live tensor of starts


def layout_of(starts: Tensor, dtype: torch.dtype) -> DocumentLayout:
    """Return the layout of documents, computed once for a tensor of starts.

    All layers of a micro-batch are given the same tensor, forward and backward. dtype: the mask's.
    """
    known: DocumentLayout | None = _layouts.get(starts)
    if known is None or known.mask.dtype != dtype:
        long = long_documents(starts)
        mask = block_mask(starts, long, dtype)
        _layouts[starts] = known = DocumentLayout(long, bounds_of(starts, long), mask)
    return known


# -- blocks of WIDTH positions ---------------------------------------------------------------------


def in_blocks(x: Tensor) -> Tensor:
    """Split [B, S, …] into blocks [B · n, WIDTH, …]; the last one is padded with zeros."""
    missing = -x.shape[1] % WIDTH
    padded = F.pad(x, (*(0, 0) * (x.ndim - 2), 0, missing))
    return padded.unflatten(1, (-1, WIDTH)).flatten(0, 1)


def from_blocks(blocks: Tensor, batch: int, length: int) -> Tensor:
    """Return the inverse of `in_blocks`."""
    return blocks.unflatten(0, (batch, -1)).flatten(1, 2)[:, :length]


def with_block_before(x: Tensor) -> Tensor:
    """Return [B · n, 2 · WIDTH, …]: each block of [B, S, …] after its predecessor or zeros."""
    own = in_blocks(x).unflatten(0, (x.shape[0], -1))
    before = torch.cat([torch.zeros_like(own[:, :1]), own[:, :-1]], 1)
    return torch.cat([before, own], 2).flatten(0, 1)


def add_block_before(blocks: Tensor, batch: int, length: int) -> Tensor:
    """Return the adjoint of `with_block_before`."""
    before, own = blocks.unflatten(0, (batch, -1)).split(WIDTH, 2)
    shifted = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], 1)
    return (own + shifted).flatten(1, 2)[:, :length]


def block_mask(starts: Tensor, long: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask [B · n, 1, WIDTH, 2 · WIDTH], minus infinity where attention is forbidden.

    Queries of long documents, whose results are dropped, and those beyond the sequence see only
    themselves, because a row without any key would be NaN.
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
