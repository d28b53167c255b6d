"""Collectives over one axis of the device mesh, named as the mesh names it.

Parts lie along a tensor dimension in the order of the ranks. Each collective can be had whole, or
as a start, which returns at once, and a wait, which gives the result: what stands between the two
runs meanwhile. The functional collectives of torch.distributed do the work; torch.compile knows
them. Every rank of a group must call the same ones in the same order.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Group(Protocol):
    """The ranks along one mesh axis. `start_…` give what `wait` turns into the result."""

    size: int

    @property
    def rank(self) -> int: ...

    def start_all_gather(self, x: Tensor) -> Tensor:
        """[n, …] → [size · n, …], the ranks' parts one after the other."""
        ...

    def start_reduce_scatter(self, x: Tensor) -> Tensor:
        """[size · n, …] → [n, …]: this rank's part of the sum over ranks."""
        ...

    def start_all_reduce(self, x: Tensor, operation: str) -> Tensor:
        """Return the elementwise `sum` or `max` over ranks."""
        ...

    def wait(self, x: Tensor) -> Tensor: ...


class ProcessGroup:
    """A group of processes, by the name torch.distributed gave it."""

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
    """Begin to put the ranks' parts of `x` together along `dim`."""
    return GROUPS[axis].start_all_gather(x.contiguous())


def all_gather_wait(started: Tensor, axis: str, dim: int) -> Tensor:
    """Return every rank's part, along `dim`."""
    group = GROUPS[axis]
    gathered = group.wait(started)
    if dim == 0:
        return gathered
    return gathered.unflatten(0, (group.size, -1)).movedim(0, dim).flatten(dim, dim + 1)


def all_gather(x: Tensor, axis: str, dim: int) -> Tensor:
    """Put the ranks' parts of `x` together along `dim`: [.., n, ..] → [.., size · n, ..]."""
    return all_gather_wait(all_gather_start(x, axis, dim), axis, dim)


def reduce_scatter_start(x: Tensor, axis: str, dim: int) -> Tensor:
    """Begin to sum `x` over the ranks, each of which keeps its part along `dim`."""
    group = GROUPS[axis]
    if dim != 0:
        x = x.unflatten(dim, (group.size, -1)).movedim(dim, 0).flatten(0, 1)
    return group.start_reduce_scatter(x.contiguous())


def reduce_scatter_wait(started: Tensor, axis: str, dim: int) -> Tensor:
    """This rank's part of the sum."""
    return GROUPS[axis].wait(started)


def reduce_scatter(x: Tensor, axis: str, dim: int) -> Tensor:
    """Sum `x` over the ranks; each keeps its part: [.., size · n, ..] → [.., n, ..]."""
    return reduce_scatter_wait(reduce_scatter_start(x, axis, dim), axis, dim)


def all_reduce_start(x: Tensor, axis: str) -> Tensor:
    """Begin to sum `x` over the ranks."""
    return GROUPS[axis].start_all_reduce(x.contiguous(), "sum")


def all_reduce_wait(started: Tensor, axis: str) -> Tensor:
    """Return the sum."""
    return GROUPS[axis].wait(started)


def all_reduce(x: Tensor, axis: str) -> Tensor:
    """Sum `x` over the ranks."""
    return all_reduce_wait(all_reduce_start(x, axis), axis)


def all_reduce_max(x: Tensor, axis: str) -> Tensor:
    """Return the largest of the ranks' values, element by element."""
    group = GROUPS[axis]
    return group.wait(group.start_all_reduce(x.contiguous(), "max"))


def take_part(x: Tensor, axis: str, dim: int) -> Tensor:
    """This rank's part of what every rank has: [.., size · n, ..] → [.., n, ..]."""
    group = GROUPS[axis]
    return x.chunk(group.size, dim)[group.rank]


def place_part(x: Tensor, axis: str, dim: int) -> Tensor:
    """Zeros all around this rank's part: [.., n, ..] → [.., size · n, ..]."""
    group = GROUPS[axis]
    parts = [torch.zeros_like(x)] * group.size
    parts[group.rank] = x
    return torch.cat(parts, dim)
