"""RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016), with their backward passes.

Statistics are taken in float32 whatever the dtype of x. x, y and their gradients are [..., D] in
one dtype; weight and bias are [D].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .numerics import upcast


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return y = x / sqrt(mean(x²) + eps) · weight; x, y [..., D], weight [D]."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rms_norm_backward(d_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (d_x [..., D], d_weight [D]) of `rms_norm`, whose statistics are computed again.

    d_y: gradient of its result, [..., D].
    """
    wide = upcast(x)
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    normalised = wide * inverse
    d_wide = upcast(d_y)
    d_weight = (d_wide * normalised).flatten(0, -2).sum(0)
    d_normalised = d_wide * weight
    along = (d_normalised * normalised).mean(-1, keepdim=True)  # the part that only rescales x
    d_x = inverse * (d_normalised - normalised * along)
    return d_x.to(x.dtype), d_weight.to(weight.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (total = x + residual, RMSNorm of total), both [..., D]."""
    total = x + residual
    return total, rms_norm(total, weight, eps)


def add_rms_norm_backward(
    d_total: Tensor | None, d_y: Tensor, total: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return (d_x, d_weight) of `add_rms_norm`; d_residual equals d_x.

    d_y: gradient of the normalised result. total: x + residual. d_total: gradient of total from its
    other uses; None if it has none.
    """
    d_x, d_weight = rms_norm_backward(d_y, total, weight, eps)
    return (d_x if d_total is None else d_total + d_x), d_weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return y = (x - mean(x)) / sqrt(var(x) + eps) · weight + bias, with the biased variance.

    x, y [..., D]; weight, bias [D].
    """
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def layer_norm_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (d_x [..., D], d_weight [D], d_bias [D]) of `layer_norm`.

    d_y: gradient of its result, [..., D].
    """
    wide = upcast(x)
    centred = wide - wide.mean(-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normalised = centred * inverse
    d_wide = upcast(d_y)
    d_weight = (d_wide * normalised).flatten(0, -2).sum(0)
    d_bias = d_wide.flatten(0, -2).sum(0)
    d_normalised = d_wide * weight
    shift = d_normalised.mean(-1, keepdim=True)
    along = (d_normalised * normalised).mean(-1, keepdim=True)
    d_x = inverse * (d_normalised - shift - normalised * along)
    return d_x.to(x.dtype), d_weight.to(weight.dtype), d_bias.to(weight.dtype)
