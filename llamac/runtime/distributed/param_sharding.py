"""Mapping from a rank's parameters to parts of canonical ones, and gradients to be reduced.

Tensor parallelism splits the canonical pieces of a packed parameter along dim 0, piece by piece, or
the whole along dim 1; FSDP then splits the result along dim 0, at any row.
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
    """Sharding tables of model.py, for one of `size` tensor-parallel ranks.

    packed: parameter of the model → its canonical pieces, unless it is a whole canonical one.
    shard_dim: pattern of a parameter → dim that the ranks split. replicas: pattern of a canonical
    parameter → number of ranks with the same part. partial_gradients: patterns of replicated
    parameters whose gradient is a partial sum on each rank.
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
        """Yield (canonical name, chunk) of each piece in this rank's part of a parameter.

        Padding and pieces on other ranks are left out. values: shaped as this rank's part of
        `parameter`.
        """
        rows, first = parameter.shape[0], _first_row(parameter)
        begin = 0
        for canonical, whole in self.packed.get(name, ((name, rows),)):
            part, start, count = self._rows(name, canonical, whole)
            low, high = max(begin, first), min(begin + count, first + values.shape[0])
            if low < high:
                yield (
                    canonical,
                    self._chunk(
                        name, values[low - first : high - first], whole, start + low - begin
                    ),
                )
            begin += part

    def _rows(self, name: str, canonical: str, whole: int) -> tuple[int, int, int]:
        """Return (rows held, first canonical row, rows that are not padding)."""
        if self.shard_dim.get(pattern(name)) != 0:
            return whole, 0, whole
        replicas = self.replicas.get(pattern(canonical), 1)
        part = -(-whole * replicas // self.size)
        start = self.rank // replicas * part
        return part, start, max(0, min(part, whole - start))

    def _chunk(self, name: str, view: Tensor, rows: int, start: int) -> TensorChunk:
        shape, offsets = [rows, *view.shape[1:]], [start] + [0] * (view.ndim - 1)
        if self.shard_dim.get(pattern(name)) == 1:
            shape[1], offsets[1] = shape[1] * self.size, self.rank * shape[1]
        return TensorChunk(view, tuple(shape), tuple(offsets))

    def replicas_of(self, canonical: str) -> int:
        return self.replicas.get(pattern(canonical), 1)

    def has_partial_gradient(self, name: str) -> bool:
        return pattern(name) in self.partial_gradients

    def is_split(self, name: str) -> bool:
        return pattern(name) in self.shard_dim


def _first_row(parameter: Tensor) -> int:
    """Return the first row of a parameter in this rank's FSDP shard."""
    if not isinstance(parameter, DTensor):
        return 0
    first, rows = 0, parameter.shape[0]
    mesh = parameter.device_mesh
    for axis, placement in enumerate(parameter.placements):
        if placement == Shard(0):
            part = -(-rows // mesh.size(axis))  # torch.chunk's rule
            first += min(part * mesh.get_local_rank(axis), rows)
    return first


def local(parameter: Tensor) -> Tensor:
    """Return the local shard of a parameter or gradient; a plain tensor is returned unchanged."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@torch.no_grad()
def initialise_sharded(
    parameters: Iterable[tuple[str, Tensor]],
    init: Mapping[str, tuple[str, float]],
    sharding: ParamSharding,
    seed: int,
) -> None:
    """Initialise every parameter as on one rank; padding becomes zero."""
    for name, parameter in parameters:
        values = local(parameter)
        values.zero_()
        for canonical, chunk in sharding.chunks(name, parameter, values):
            place = tuple(
                slice(start, start + size)
                for start, size in zip(chunk.offsets, chunk.tensor.shape, strict=True)
            )
            chunk.tensor.copy_(initial_value(canonical, chunk.shape, init, seed)[place])
