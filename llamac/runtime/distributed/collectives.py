"""Collectives over one named axis of the device mesh.

The ranks' parts are ordered by rank along a tensor dimension. Each collective exists as a function
that blocks, and as a pair: `…_start` returns a handle (a tensor whose values are not ready) at
once, and `…_wait` returns the result. They call the functional collectives of torch.distributed,
which torch.compile supports and which do not modify their inputs. All ranks of a group must call
the same collectives in the same order.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Group(Protocol):
    """The ranks along one mesh axis, and their collectives. size: number of ranks."""

    size: int

    @property
    def rank(self) -> int:
        """Return this process's number along the axis, from 0."""
        ...

    def start_all_gather(self, x: Tensor) -> Tensor:
        """Start to concatenate the ranks' parts along dim 0: [n, ...] → [size · n, ...]."""
        ...

    def start_reduce_scatter(self, x: Tensor) -> Tensor:
        """Start to sum over ranks; this rank gets its part of dim 0: [size · n, ...] → [n, ...]."""
        ...

    def start_all_reduce(self, x: Tensor, operation: str) -> Tensor:
        """Start the elementwise reduction of `x` over ranks. operation: "sum" or "max"."""
        ...

    def wait(self, x: Tensor) -> Tensor:
        """Return the result of a collective. x: handle from one of the start methods."""
        ...


class ProcessGroup:
    """`Group` over a process group of torch.distributed, given by its registered name.

    size: number of its ranks. rank: this process's number in it.
    """

    def __init__(self, name: str, size: int, rank: int) -> None:
        self.name, self.size, self.rank = name, size, rank

    def start_all_gather(self, x: Tensor) -> Tensor:
        return torch.ops._c10d_functional.all_gather_into_tensor(x, self.size, self.name)

    def start_reduce_scatter(self, x: Tensor) -> Tensor:
        return torch.ops._c10d_functional.reduce_scatter_tensor(x, "sum", self.size, self.name)

    def start_all_reduce(self, x: Tensor, operation: str) -> Tensor:
        return torch.ops._c10d_functional.all_reduce(x, operation, self.name)

    def wait(self, x: Tensor) -> Tensor:
        return torch.ops._c10d_functional.wait_tensor(x)


GROUPS: dict[str, Group] = {}
"""This process's group on the axes `cp` and `tp`, if of more than one rank; `Mesh` fills it."""


def all_gather_start(x: Tensor, axis: str, dim: int) -> Tensor:
    """Start to concatenate the ranks' parts of `x` along `dim`; return a handle.

    axis: mesh axis of the ranks, a key of `GROUPS`.
    """
    return GROUPS[axis].start_all_gather(x.contiguous())


def all_gather_wait(started: Tensor, axis: str, dim: int) -> Tensor:
    """Return the result of an all-gather, concatenated along `dim`.

    started: handle from `all_gather_start`. axis, dim: as given to it.
    """
    group = GROUPS[axis]
    gathered = group.wait(started)
    if dim == 0:
        return gathered
    return gathered.unflatten(0, (group.size, -1)).movedim(0, dim).flatten(dim, dim + 1)


def all_gather(x: Tensor, axis: str, dim: int) -> Tensor:
    """Concatenate the ranks' parts of `x` along `dim`: [..., n, ...] → [..., size · n, ...].

    axis: mesh axis of the ranks, a key of `GROUPS`.
    """
    return all_gather_wait(all_gather_start(x, axis, dim), axis, dim)


def reduce_scatter_start(x: Tensor, axis: str, dim: int) -> Tensor:
    """Start to sum `x` over an axis's ranks, each of which gets its part along `dim`.

    axis: mesh axis, a key of `GROUPS`. Returns a handle for `reduce_scatter_wait`.
    """
    group = GROUPS[axis]
    if dim != 0:
        x = x.unflatten(dim, (group.size, -1)).movedim(dim, 0).flatten(0, 1)
    return group.start_reduce_scatter(x.contiguous())


def reduce_scatter_wait(started: Tensor, axis: str, dim: int) -> Tensor:
    """Return this rank's part of the sum of a reduce-scatter.

    started: handle from `reduce_scatter_start`. axis, dim: as given to it.
    """
    return GROUPS[axis].wait(started)


def reduce_scatter(x: Tensor, axis: str, dim: int) -> Tensor:
    """Sum `x` over an axis's ranks; return this rank's part along `dim`.

    [..., size · n, ...] → [..., n, ...]; `x` is unchanged.
    """
    return reduce_scatter_wait(reduce_scatter_start(x, axis, dim), axis, dim)


def all_reduce_start(x: Tensor, axis: str) -> Tensor:
    """Start to sum `x` over the ranks of a mesh axis; return a handle for `all_reduce_wait`."""
    return GROUPS[axis].start_all_reduce(x.contiguous(), "sum")


def all_reduce_wait(started: Tensor, axis: str) -> Tensor:
    """Return the sum of an all-reduce. started: handle from `all_reduce_start`."""
    return GROUPS[axis].wait(started)


def all_reduce(x: Tensor, axis: str) -> Tensor:
    """Return the elementwise sum of `x` over the ranks of a mesh axis; `x` is unchanged."""
    return all_reduce_wait(all_reduce_start(x, axis), axis)


def all_reduce_max(x: Tensor, axis: str) -> Tensor:
    """Return the elementwise maximum of `x` over the ranks of a mesh axis; `x` is unchanged."""
    group = GROUPS[axis]
    return group.wait(group.start_all_reduce(x.contiguous(), "max"))


def take_part(x: Tensor, axis: str, dim: int) -> Tensor:
    """Return this rank's shard along `dim` of a replicated tensor, as a view; no communication.

    Shapes: [..., size · n, ...] → [..., n, ...]. axis: mesh axis of the ranks.
    """
    group = GROUPS[axis]
    return x.chunk(group.size, dim)[group.rank]


def place_part(x: Tensor, axis: str, dim: int) -> Tensor:
    """Return this rank's part x amid zeros along `dim`, a partial sum of the full tensor.

    [..., n, ...] → [..., size · n, ...]. axis: mesh axis of the ranks.
    """
    group = GROUPS[axis]
    parts = [torch.zeros_like(x)] * group.size
    parts[group.rank] = x
    return torch.cat(parts, dim)
