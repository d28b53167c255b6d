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
    """Return (cos, sin) tables in `dtype`, each [positions, head_dim / 2], computed in float64.

    positions: number of positions from 0. theta, scaling: as in `scaled_frequencies`. device: None
    for the CPU.
    """
    frequencies = scaled_frequencies(head_dim, theta, scaling)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def scaled_frequencies(
    head_dim: int, theta: float, scaling: dict[str, float | str] | None
) -> Tensor:
    """Return each coordinate pair's rotation angle per position, in radians: fp64 [head_dim / 2].

    theta: base of the frequencies, theta ** (-2i / head_dim) for pair i. scaling: `kind` ("linear"
    or "llama3"), `factor` and, for llama3, `low_freq_factor`, `high_freq_factor` and
    `original_context`; None for no scaling. Raises ValueError for another kind.
    """
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
    """Rotate the first `heads` heads of x [B, S, H, D] by position; return x's shape and dtype.

    cos, sin: [S, D/2], or [B, S, D/2] where sequences differ in their positions. layout:
    "interleaved" or "half_split". heads: None rotates all; the others are copied unchanged.
    inverse: rotate back, which is also the backward pass. The rotation is computed in the tables'
    dtype, float32 in training.
    """
    heads = x.shape[-2] if heads is None else heads
    turned, unrotated = x[..., :heads, :], x[..., heads:, :]
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
    return torch.cat((rotated, unrotated), dim=-2) if heads < x.shape[-2] else rotated
