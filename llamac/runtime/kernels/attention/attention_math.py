"""Causal attention in plain PyTorch: the reference for the kernels, and the fallback on any device.

q [B, S, H, D]; k, v [B, S, K, D], where K divides H (grouped-query attention: each key head serves
H/K query heads). Scores and softmax are float32; memory is O(S²). There may be more keys than
queries: the last key has the position of the last query.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics import upcast
from .visible import hidden_keys


def _scores(
    q: Tensor,
    k: Tensor,
    scale: float,
    causal: bool,
    starts: Tensor | None,
    window: int | None,
) -> Tensor:
    """Return the scores [B, K, H/K, S, S], minus infinity where masked."""
    grouped = q.unflatten(2, (k.shape[2], -1))
    scores = upcast(torch.einsum("bskgd,btkd->bkgst", grouped, k)) * scale
    if not causal:
        return scores
    hidden = hidden_keys(q.shape[1], k.shape[1], q.device, starts, window)
    return scores.masked_fill(hidden[:, None, None], float("-inf"))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool = True,
    starts: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (out [B, S, H, D], log-sum-exp of the scores [B, H, S], float32 or wider).

    starts: index of the first key of each query's document, int64 [B, S]; None for no document
    mask. window: number of keys that a query attends to, its own included; None for all earlier
    ones. Without `causal`, both are ignored. scale: factor of the scores.
    """
    scores = _scores(q, k, scale, causal, starts, window)
    weights = scores.softmax(-1).to(v.dtype)
    out = torch.einsum("bkgst,btkd->bskgd", weights, v).flatten(2, 3)
    return out, scores.logsumexp(-1).flatten(1, 2)


def attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool = True,
    starts: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (d_q, d_k, d_v), shaped as q, k, v.

    d_out: gradient of `out`. out, logsumexp: results of `attention`; the other arguments are those
    of that call. Attention weights are recomputed from the log-sum-exp.
    """
    heads = (k.shape[2], -1)
    scores = _scores(q, k, scale, causal, starts, window)
    weights = torch.exp(scores - logsumexp.unflatten(1, heads).unsqueeze(-1))
    d_grouped = d_out.unflatten(2, heads)
    d_v = torch.einsum("bkgst,bskgd->btkd", weights.to(v.dtype), d_grouped)
    d_weights = upcast(torch.einsum("bskgd,btkd->bkgst", d_grouped, v))
    through_sum = upcast(d_out * out).sum(-1).transpose(1, 2).unflatten(1, heads)
    d_scores = (weights * (d_weights - through_sum.unsqueeze(-1)) * scale).to(q.dtype)
    d_q = torch.einsum("bkgst,btkd->bskgd", d_scores, k).flatten(2, 3)
    d_k = torch.einsum("bkgst,bskgd->btkd", d_scores, q.unflatten(2, heads))
    return d_q, d_k, d_v
