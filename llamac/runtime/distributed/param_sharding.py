"""Mapping between a rank's parameters and their parts of the canonical ones.

Tensor parallelism splits the canonical pieces of a packed parameter along dim 0, each on its own,
or the packed parameter along dim 1; FSDP then splits the result along dim 0, at any row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Shard

from ..checkpoint.dcp import TensorChunk
from ..parameters import Pieces, initial_value, pattern


@dataclass(frozen=True)
class ParamSharding:
    """Sharding of a model's parameters over tensor-parallel ranks, from the tables of model.py.

    A pattern is a name in which the layer's number is `*`. packed: name of a packed parameter →
    its (canonical name, rows) pieces in order; other parameters are canonical themselves.
    shard_dim: pattern → dim that the ranks split; other parameters are replicated. replicas:
    pattern of a canonical parameter → number of ranks with the same part, 1 by default.
    partial_gradients: patterns of replicated parameters whose gradient is a partial sum on each
    rank. size, rank: number of tensor-parallel ranks, and this one's.
    """

    packed: Mapping[str, Pieces]
    shard_dim: Mapping[str, int] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)
    partial_gradients: Collection[str] = ()
    size: int = 1
    rank: int = 0

    def chunks(
        self, name: str, parameter: Tensor, values: Tensor
    ) -> Iterator[tuple[str, TensorChunk]]:
        """Yield (canonical name, chunk) of each canonical piece in this rank's part of `parameter`.

        name: the model's name of the parameter. values: its local shard, or the shard's gradient or
        state in the same shape; chunks are views of it. Padding rows and pieces that lie on other
        ranks are left out.
        """
        rows, first = parameter.shape[0], _first_row(parameter)
        begin = 0
        for canonical, full_rows in self.packed.get(name, ((name, rows),)):
            shard_rows, start, count = self._rows(name, canonical, full_rows)
            low, high = max(begin, first), min(begin + count, first + values.shape[0])
            if low < high:
                view = values[low - first : high - first]
                yield canonical, self._chunk(name, view, full_rows, start + low - begin)
            begin += shard_rows

    def _rows(self, name: str, canonical: str, full_rows: int) -> tuple[int, int, int]:
        """Return a piece's (rows on this rank, first canonical row, rows that are not padding)."""
        if self.shard_dim.get(pattern(name)) != 0:
            return full_rows, 0, full_rows
        replicas = self.replicas_of(canonical)
        shard_rows = -(-full_rows * replicas // self.size)
        start = self.rank // replicas * shard_rows
        return shard_rows, start, max(0, min(shard_rows, full_rows - start))

    def _chunk(self, name: str, view: Tensor, rows: int, start: int) -> TensorChunk:
        shape, offsets = [rows, *view.shape[1:]], [start] + [0] * (view.ndim - 1)
        if self.shard_dim.get(pattern(name)) == 1:
            shape[1], offsets[1] = shape[1] * self.size, self.rank * shape[1]
        return TensorChunk(view, tuple(shape), tuple(offsets))

    def replicas_of(self, canonical: str) -> int:
        """Return how many tensor-parallel ranks have the same part of a split parameter.

        canonical: its canonical name.
        """
        return self.replicas.get(pattern(canonical), 1)

    def has_partial_gradient(self, name: str) -> bool:
        """Return whether a gradient is to be summed over tensor-parallel ranks.

        name: the model's name of a replicated parameter.
        """
        return pattern(name) in self.partial_gradients

    def is_split(self, name: str) -> bool:
        """Return whether tensor-parallel ranks split a parameter. name: the model's name of it."""
        return pattern(name) in self.shard_dim


def _first_row(parameter: Tensor) -> int:
    """Return the index of the first row in this rank's FSDP shard of a parameter."""
    if not isinstance(parameter, DTensor):
        return 0
    first, rows = 0, parameter.shape[0]
    mesh = parameter.device_mesh
    for axis, placement in enumerate(parameter.placements):
        if placement == Shard(0):
            shard_rows = -(-rows // mesh.size(axis))  # torch.chunk's rule
            first += min(shard_rows * mesh.get_local_rank(axis), rows)
    return first


def local_shard(parameter: Tensor) -> Tensor:
    """Return this rank's shard of an FSDP parameter or gradient; other tensors unchanged."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@torch.no_grad()
def initialise_sharded(
    parameters: Iterable[tuple[str, Tensor]],
    init: Mapping[str, tuple[str, float]],
    sharding: ParamSharding,
    seed: int,
) -> None:
    """Initialise this rank's parameters in place, to the same values as on a single rank.

    parameters: (the model's name, parameter). init: pattern of a canonical parameter →
    (distribution, standard deviation), see `initialise_parameters`. seed: seed of the run. Padding
    rows become zero.
    """
    for name, parameter in parameters:
        values = local_shard(parameter)
        values.zero_()
        for canonical, chunk in sharding.chunks(name, parameter, values):
            index = tuple(
                slice(start, start + size)
                for start, size in zip(chunk.offsets, chunk.tensor.shape, strict=True)
            )
            chunk.tensor.copy_(initial_value(canonical, chunk.shape, init, seed)[index])
