"""Rotary position embedding (Su et al. 2021) in both layouts, with linear and Llama-3 scaling.

`interleaved` rotates the pairs (0, 1), (2, 3), … as Meta's code does; `half_split` rotates
(0, D/2), (1, D/2 + 1), … as Hugging Face's does. They differ by a permutation of the rows of wq
and wk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rope_tables(
    positions: int,
    head_dim: int,
    theta: float,
    scaling: dict[str, float | str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return cos and sin tables, each [positions, head_dim / 2]; angles are computed in float64."""
    frequencies = scaled_frequencies(head_dim, theta, scaling)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def scaled_frequencies(
    head_dim: int, theta: float, scaling: dict[str, float | str] | None
) -> Tensor:
    """Return the rotation angle of each coordinate pair per position: float64 [head_dim / 2]."""
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if scaling is None:
        return frequencies
    factor = float(scaling["factor"])
    if scaling["kind"] == "linear":  # position interpolation, Chen et al. 2023
        return frequencies / factor
    if scaling["kind"] != "llama3":
        raise ValueError(f"unknown rope scaling {scaling['kind']!r}")
    # Llama 3: stretch long wavelengths, keep short ones, interpolate in between.
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_context"]) * frequencies / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * frequencies + (1 - keep) * frequencies / factor


def rope(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: str,
    heads: int | None = None,
    inverse: bool = False,
) -> Tensor:
    """Rotate the first `heads` heads of x [B, S, H, D] by their position; pass the others through.

    cos, sin: [S, D/2], or [B, S, D/2] where sequences differ in their positions. `inverse` rotates
    back, which is also the backward pass. Angles are applied in the tables' dtype (float32 in
    training); the result has x's dtype.
    """
    heads = x.shape[-2] if heads is None else heads
    turned, passed = x[..., :heads, :], x[..., heads:, :]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)  # the heads of a position share the angle
    if inverse:
        sin = -sin
    if layout == "interleaved":
        a, b = turned.unflatten(-1, (-1, 2)).unbind(-1)
        rotated = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    else:
        a, b = turned.chunk(2, dim=-1)
        rotated = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    rotated = rotated.to(x.dtype)
    return torch.cat((rotated, passed), dim=-2) if heads < x.shape[-2] else rotated
