"""Collectives over one named axis of the device mesh.

Parts are ordered by rank along a tensor dimension. Each collective exists as a synchronous function
and as a start, which returns at once, and a wait, which returns the result. They call the
functional collectives of torch.distributed, which torch.compile supports. All ranks of a group must
call the same collectives in the same order.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Group(Protocol):
    """The ranks along one mesh axis. `wait` returns the result of a handle from `start_…`."""

    size: int

    @property
    def rank(self) -> int: ...

    def start_all_gather(self, x: Tensor) -> Tensor:
        """Start to concatenate the ranks' parts: [n, …] → [size · n, …]."""
        ...

    def start_reduce_scatter(self, x: Tensor) -> Tensor:
        """Start to sum over ranks and scatter: [size · n, …] → [n, …], this rank's part."""
        ...

    def start_all_reduce(self, x: Tensor, operation: str) -> Tensor:
        """Start the elementwise `sum` or `max` over ranks."""
        ...

    def wait(self, x: Tensor) -> Tensor: ...


class ProcessGroup:
    """A torch.distributed process group, by name."""

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
"""The group this process belongs to on each mesh axis."""


def all_gather_start(x: Tensor, axis: str, dim: int) -> Tensor:
    """Start to concatenate the ranks' parts of `x` along `dim`."""
    return GROUPS[axis].start_all_gather(x.contiguous())


def all_gather_wait(started: Tensor, axis: str, dim: int) -> Tensor:
    """Wait for an all-gather; return all ranks' parts, concatenated along `dim`."""
    group = GROUPS[axis]
    gathered = group.wait(started)
    if dim == 0:
        return gathered
    return gathered.unflatten(0, (group.size, -1)).movedim(0, dim).flatten(dim, dim + 1)


def all_gather(x: Tensor, axis: str, dim: int) -> Tensor:
    """Concatenate the ranks' parts of `x` along `dim`: [.., n, ..] → [.., size · n, ..]."""
    return all_gather_wait(all_gather_start(x, axis, dim), axis, dim)


def reduce_scatter_start(x: Tensor, axis: str, dim: int) -> Tensor:
    """Start to sum `x` over ranks, each of which keeps its part along `dim`."""
    group = GROUPS[axis]
    if dim != 0:
        x = x.unflatten(dim, (group.size, -1)).movedim(dim, 0).flatten(0, 1)
    return group.start_reduce_scatter(x.contiguous())


def reduce_scatter_wait(started: Tensor, axis: str, dim: int) -> Tensor:
    """Wait for a reduce-scatter; return this rank's part of the sum."""
    return GROUPS[axis].wait(started)


def reduce_scatter(x: Tensor, axis: str, dim: int) -> Tensor:
    """Sum `x` over the ranks; each keeps its part: [.., size · n, ..] → [.., n, ..]."""
    return reduce_scatter_wait(reduce_scatter_start(x, axis, dim), axis, dim)


def all_reduce_start(x: Tensor, axis: str) -> Tensor:
    """Start to sum `x` over ranks."""
    return GROUPS[axis].start_all_reduce(x.contiguous(), "sum")


def all_reduce_wait(started: Tensor, axis: str) -> Tensor:
    """Wait for an all-reduce; return the sum."""
    return GROUPS[axis].wait(started)


def all_reduce(x: Tensor, axis: str) -> Tensor:
    """Sum `x` over the ranks."""
    return all_reduce_wait(all_reduce_start(x, axis), axis)


def all_reduce_max(x: Tensor, axis: str) -> Tensor:
    """Return the largest of the ranks' values, element by element."""
    group = GROUPS[axis]
    return group.wait(group.start_all_reduce(x.contiguous(), "max"))


def take_part(x: Tensor, axis: str, dim: int) -> Tensor:
    """Return this rank's part of a replicated tensor: [.., size · n, ..] → [.., n, ..]."""
    group = GROUPS[axis]
    return x.chunk(group.size, dim)[group.rank]


def place_part(x: Tensor, axis: str, dim: int) -> Tensor:
    """Pad this rank's part with zeros to full size: [.., n, ..] → [.., size · n, ..]."""
    group = GROUPS[axis]
    parts = [torch.zeros_like(x)] * group.size
    parts[group.rank] = x
    return torch.cat(parts, dim)
