"""Causal attention written out: the reference for the kernels, and the fallback on any device.

q [B, S, H, D]; k, v [B, S, K, D], where K divides H (grouped-query attention: each key head serves
H/K query heads). Scores and softmax in float32. O(S²) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .numerics import upcast


def _scores(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    """[B, K, H/K, S, S], minus infinity where a causal query would look ahead."""
    grouped = q.unflatten(2, (k.shape[2], -1))
    scores = upcast(torch.einsum("bskgd,btkd->bkgst", grouped, k)) * scale
    if not causal:
        return scores
    ahead = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(ahead, float("-inf"))


def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = True
) -> tuple[Tensor, Tensor]:
    """→ (out [B, S, H, D], log-sum-exp of the scores [B, H, S])."""
    scores = _scores(q, k, scale, causal)
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
) -> tuple[Tensor, Tensor, Tensor]:
    """→ (d_q, d_k, d_v), shaped as q, k, v. The weights are rebuilt from the log-sum-exp."""
    heads = (k.shape[2], -1)
    weights = torch.exp(_scores(q, k, scale, causal) - logsumexp.unflatten(1, heads).unsqueeze(-1))
    d_grouped = d_out.unflatten(2, heads)
    d_v = torch.einsum("bkgst,bskgd->btkd", weights.to(v.dtype), d_grouped)
    d_weights = upcast(torch.einsum("bskgd,btkd->bkgst", d_grouped, v))
    through_sum = upcast(d_out * out).sum(-1).transpose(1, 2).unflatten(1, heads)
    d_scores = (weights * (d_weights - through_sum.unsqueeze(-1)) * scale).to(q.dtype)
    d_q = torch.einsum("bkgst,btkd->bskgd", d_scores, k).flatten(2, 3)
    d_k = torch.einsum("bkgst,bskgd->btkd", d_scores, q.unflatten(2, heads))
    return d_q, d_k, d_v
