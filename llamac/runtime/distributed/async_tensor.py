"""Async tensor parallelism: linear layers whose collective is pipelined with their matmul.

On CUDA the matmul is decomposed into one part per rank, which starts as soon as its input arrives,
or is sent as soon as it is computed, by direct copies between GPUs (torch's symmetric memory; Wang
et al. 2023, "Overlap communication with dependent computation via decomposition"). On other devices
the collective and the matmul run one after the other, with the same result.

All n ranks of mesh axis `axis` call these functions together. O and I are the sizes of this rank's
part of the weight. On CUDA, the first call on an axis raises RunError if its GPUs have no access to
each other's memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import RunError
from ..kernels.linear import input_gradient, linear
from .collectives import GROUPS, all_gather, reduce_scatter


def gather_linear(x: Tensor, weight: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """All-gather x [B, S/n, I] and apply weight [O, I]; return (x [B, S, I], y [B, S, O]).

    axis: mesh axis of the n ranks. O: number of the weight's rows on this rank.
    """
    if x.is_cuda:
        return _gather_matmul(x, weight.T, axis)
    gathered = all_gather(x, axis, dim=1)
    return gathered, linear(gathered, weight)


def gather_input_gradient(d_y: Tensor, weight: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """All-gather d_y [B, S/n, O]; return (d_y [B, S, O], d_x [B, S, I] = d_y @ weight).

    axis: mesh axis of the n ranks. I: number of the weight's columns on this rank.
    """
    if d_y.is_cuda:
        return _gather_matmul(d_y, weight, axis)
    gathered = all_gather(d_y, axis, dim=1)
    return gathered, input_gradient(gathered, weight)


def linear_scatter(x: Tensor, weight: Tensor, axis: str) -> Tensor:
    """Apply weight [O, I] to x [B, S, I] and reduce-scatter over S; return y [B, S/n, O].

    axis: mesh axis of the n ranks. I: number of the weight's columns on this rank.
    """
    if x.is_cuda:
        return _matmul_scatter(x, weight.T, axis)
    return reduce_scatter(linear(x, weight), axis, dim=1)


def input_gradient_scatter(d_y: Tensor, weight: Tensor, axis: str) -> Tensor:
    """Compute d_y [B, S, O] @ weight [O, I] and reduce-scatter over S; return d_x [B, S/n, I].

    axis: mesh axis of the n ranks. O: number of the weight's rows on this rank.
    """
    if d_y.is_cuda:
        return _matmul_scatter(d_y, weight, axis)
    return reduce_scatter(input_gradient(d_y, weight), axis, dim=1)


def _gather_matmul(x: Tensor, weight: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    gathered, (y,) = torch.ops.symm_mem.fused_all_gather_matmul(
        x.contiguous(), [weight], 1, _symmetric_group(axis)
    )
    return gathered, y


def _matmul_scatter(x: Tensor, weight: Tensor, axis: str) -> Tensor:
    return torch.ops.symm_mem.fused_matmul_reduce_scatter(
        x.contiguous(), weight, "sum", 1, _symmetric_group(axis)
    )


@torch.compiler.assume_constant_result
def _symmetric_group(axis: str) -> str:
    """Return the name of the axis's group; the first call enables symmetric memory on it.

    Raises RunError if the GPUs do not support it.
    """
    import torch.distributed._symmetric_memory as symmetric_memory

    name = GROUPS[axis].name  # type: ignore[attr-defined]
    if name not in _ready:
        try:
            symmetric_memory.enable_symm_mem_for_group(name)
            symmetric_memory.get_symm_mem_workspace(name, min_size=1)
        except RuntimeError as error:
            raise RunError(
                "parallel.async_tensor = true needs GPUs with access to each other's memory, "
                f"such as over NVLink: {str(error).splitlines()[0]}. Set it to false"
            ) from error
        _ready.add(name)
    return name


_ready: set[str] = set()
