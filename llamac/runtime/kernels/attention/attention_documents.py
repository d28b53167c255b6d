"""Causal attention within documents that share a sequence, on CUDA, without an S × S mask.

Documents longer than WIDTH use the flash kernel for variable-length sequences. Its list of bounds
(`cu_seqlens`) must have a length that is known without synchronising with the device: a sequence
has at most S / WIDTH such documents, and each gap between two of them counts as one more, whose
results are dropped. Shorter documents use blocks of WIDTH queries, each with the keys of its own
and of the previous block under a mask: a document no longer than WIDTH cannot begin earlier. Memory
is linear in S, and the result is exact.

q [B, S, H, D]; k, v [B, S, K, D], 16-bit; starts int64 [B, S]: position at which each token's
document begins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..operators import no_seed

aten = torch.ops.aten

WIDTH = 128
"""Queries per block, and the length in tokens up to which documents use blocks."""


def long_documents(starts: Tensor) -> Tensor:
    """Return the mask of tokens that lie in documents longer than WIDTH: bool [B, S].

    starts: position at which each token's document begins, int64 [B, S].
    """
    positions = torch.arange(starts.shape[1], device=starts.device)
    continues = F.pad((starts != positions)[:, 1:], (0, 1))  # whether the next token does so
    ends = torch.where(continues, starts.shape[1], positions + 1).flip(1).cummin(1).values.flip(1)
    return ends - starts > WIDTH


def document_bounds(starts: Tensor, long: Tensor) -> Tensor:
    """Return the bounds of long documents and of the gaps around them, int32 [n + 1].

    Bounds are offsets into the B · S flattened tokens. n is the largest number of segments that
    the shape allows; the unused ones are empty and come last. starts: position at which each
    token's document begins, int64 [B, S]. long: from `long_documents`.
    """
    batch, length = starts.shape
    begins = starts == torch.arange(length, device=starts.device)
    begins = begins & (long | F.pad(long[:, :-1], (1, 0)))  # one bound per gap, at its first token
    begins[:, 0] = True
    segments, tokens = batch * (2 * (length // (WIDTH + 1)) + 1), batch * length
    flat = begins.flatten()
    index = torch.where(flat, flat.cumsum(0) - 1, segments)
    bounds = torch.full((segments + 1,), tokens, dtype=torch.int32, device=starts.device)
    bounds.scatter_(0, index, torch.arange(tokens, dtype=torch.int32, device=starts.device))
    bounds[segments] = tokens
    return bounds


def flash_forward(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, scale: float) -> Any:
    """Attend causally within each segment; return (out [B, S, H, D], log-sum-exp [B, H, S]).

    bounds: int32 [n + 1], from `document_bounds`.
    """
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
    """Return [d_q, d_k, d_v] of `flash_forward`, shaped as q, k, v.

    d_out: gradient of its `out`. out, logsumexp: its results. bounds: int32 [n + 1].
    """
    length, unused = q.shape[1], no_seed(q)
    rows = [x.flatten(0, 1) for x in (d_out, q, k, v, out)]
    total = logsumexp.transpose(0, 1).flatten(1).contiguous()  # [H, B · S]
    gradients = aten._flash_attention_backward(
        *rows, total, bounds, bounds, length, length, 0.0, True, unused, unused, scale=scale
    )
    return [d.view_as(x) for d, x in zip(gradients, (q, k, v), strict=True)]


class DocumentLayout(NamedTuple):
    """Documents of a micro-batch, in the form that the kernels for long and short ones read.

    long: tokens of documents longer than WIDTH, bool [B, S]. bounds: bounds of the flash kernel's
    segments, int32, from `document_bounds`. mask: mask of the blocks, from `block_mask`.
    """

    long: Tensor
    bounds: Tensor
    mask: Tensor


_layouts = WeakTensorKeyDictionary()  # cache: tensor of starts → its DocumentLayout


def document_layout(starts: Tensor, dtype: torch.dtype) -> DocumentLayout:
    """Return the layout of documents, cached by the identity of the tensor `starts`.

    All layers of a micro-batch are given the same tensor, forward and backward, so it is computed
    once. starts: position at which each token's document begins, int64 [B, S]. dtype: dtype of the
    mask.
    """
    layout: DocumentLayout | None = _layouts.get(starts)
    if layout is None or layout.mask.dtype != dtype:
        long = long_documents(starts)
        mask = block_mask(starts, long, dtype)
        _layouts[starts] = layout = DocumentLayout(long, document_bounds(starts, long), mask)
    return layout


# -- blocks of WIDTH positions ---------------------------------------------------------------------


def to_blocks(x: Tensor) -> Tensor:
    """Split x [B, S, …] into n = ceil(S / WIDTH) blocks per sequence: [B · n, WIDTH, …].

    The last block of each sequence is padded with zeros.
    """
    missing = -x.shape[1] % WIDTH
    padded = F.pad(x, (*(0, 0) * (x.ndim - 2), 0, missing))
    return padded.unflatten(1, (-1, WIDTH)).flatten(0, 1)


def from_blocks(blocks: Tensor, batch: int, length: int) -> Tensor:
    """Join blocks [B · n, WIDTH, …] into [B, S, …] without the padding: inverse of `to_blocks`.

    batch, length: the sizes B and S.
    """
    return blocks.unflatten(0, (batch, -1)).flatten(1, 2)[:, :length]


def with_previous_block(x: Tensor) -> Tensor:
    """Return each block of x [B, S, …] with the one before it: [B · n, 2 · WIDTH, …].

    The first block of each sequence has zeros before it. Blocks are those of `to_blocks`.
    """
    own = to_blocks(x).unflatten(0, (x.shape[0], -1))
    before = torch.cat([torch.zeros_like(own[:, :1]), own[:, :-1]], 1)
    return torch.cat([before, own], 2).flatten(0, 1)


def add_previous_block(blocks: Tensor, batch: int, length: int) -> Tensor:
    """Sum blocks [B · n, 2 · WIDTH, …] into [B, S, …]: the adjoint of `with_previous_block`.

    batch, length: the sizes B and S.
    """
    before, own = blocks.unflatten(0, (batch, -1)).split(WIDTH, 2)
    shifted = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], 1)
    return (own + shifted).flatten(1, 2)[:, :length]


def block_mask(starts: Tensor, long: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask to add to the blocks' scores: [B · n, 1, WIDTH, 2 · WIDTH] in `dtype`.

    It is minus infinity where attention is forbidden, else 0. starts: position at which each
    token's document begins, int64 [B, S]. long: from `long_documents`. Queries of long documents,
    whose results are dropped, and those beyond the sequence see only themselves, because a row
    without any key would be NaN.
    """
    positions = torch.arange(starts.shape[1], device=starts.device)
    first = to_blocks(torch.where(long, positions, starts))  # [B · n, WIDTH]
    count = first.shape[0] // starts.shape[0]
    own = torch.arange(WIDTH, device=starts.device)
    begin = WIDTH * torch.arange(count, device=starts.device).repeat(starts.shape[0])
    at = begin[:, None] + own  # of queries
    keys = begin[:, None] - WIDTH + torch.arange(2 * WIDTH, device=starts.device)
    first = torch.where(at < starts.shape[1], first, at)
    seen = (keys[:, None] <= at[:, :, None]) & (keys[:, None] >= first[:, :, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=starts.device)
    return mask.masked_fill(~seen, float("-inf")).unsqueeze(1)
