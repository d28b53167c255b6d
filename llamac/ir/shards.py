"""Conversion between canonical parameters (named as in Meta's checkpoints) and ranks' shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from llamac.ir.program import Parameter, Piece, Program

Coordinates = Mapping[str, int]
"""Index of a rank on each mesh axis, from 0."""

SINGLE_RANK: Coordinates = MappingProxyType({})
"""Coordinates in the empty mesh of a single rank."""


def rank_coordinates(mesh: Mapping[str, int]) -> list[dict[str, int]]:
    """Return the mesh coordinates of every rank, in rank order: the last axis varies fastest.

    mesh: number of ranks on each axis, outermost first.
    """
    return [
        dict(zip(mesh, numbers, strict=True)) for numbers in product(*map(range, mesh.values()))
    ]


def local_parameter(
    parameter: Parameter,
    weights: Mapping[str, Tensor],
    layer: int | None,
    mesh: Mapping[str, int],
    coordinates: Coordinates,
) -> Tensor:
    """Return a rank's shard of a parameter, its pieces stacked along dim 0.

    A piece whose rows do not divide over the ranks is padded with zeros at the end.

    Args:
        parameter: Entry of the parameter table, whose layout determines the shard.
        weights: Full weights by canonical name.
        layer: Layer number, which replaces `*` in names; None for parameters outside layers.
        mesh: Number of ranks on each axis.
        coordinates: The rank's coordinates in the mesh.
    """
    parts = [weights[piece.name.replace("*", str(layer))] for piece in parameter.pieces]
    for axis, placement in parameter.type.layout:
        size, rank = mesh[axis], coordinates[axis]
        if placement == "S(0)":
            parts = [
                _padded(part[_rows(piece, size, rank)], piece.rank_rows(size))
                for piece, part in zip(parameter.pieces, parts, strict=True)
            ]
        else:
            dim = int(placement[2:-1])
            parts = [part.chunk(size, dim)[rank] for part in parts]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _rows(piece: Piece, size: int, rank: int) -> slice:
    """Return the canonical rows of a piece that one of `size` ranks holds."""
    part = piece.rank_rows(size)
    start = rank // piece.copies * part
    return slice(min(start, piece.rows), min(start + part, piece.rows))


def _padded(part: Tensor, rows: int) -> Tensor:
    missing = rows - part.shape[0]
    return F.pad(part, (0, 0) * (part.ndim - 1) + (0, missing)) if missing else part


def canonical_gradients(
    program: Program,
    rank_gradients: Sequence[tuple[Coordinates, Mapping[tuple[str, int | None], Tensor]]],
) -> dict[str, Tensor]:
    """Return the full gradients by canonical name, assembled from the gradients of all ranks.

    They are summed over the axes on which they are partial sums (`Program.reduction_axes`), such as
    `cp`, where each rank's loss is a sum over its own positions.

    rank_gradients: each rank's coordinates, and its gradients by (parameter, layer number or None).
    """
    found: dict[str, Tensor] = {}
    for name, layer in rank_gradients[0][1]:
        parameter = program.parameters[name]
        by_rank = [
            (coordinates, gradients[name, layer]) for coordinates, gradients in rank_gradients
        ]
        for piece, gradient in _full_gradients(parameter, by_rank, program):
            found[piece.name.replace("*", str(layer))] = gradient
    return found


def _full_gradients(
    parameter: Parameter, by_rank: list[tuple[Coordinates, Tensor]], program: Program
) -> Iterator[tuple[Piece, Tensor]]:
    mesh, reduced = program.mesh, program.reduction_axes(parameter)
    split = dict(parameter.type.layout)
    ranks_of = {axis: mesh[axis] for axis, place in split.items() if place == "S(0)"}
    size = next(iter(ranks_of.values()), 1)
    start = 0
    for piece in parameter.pieces:
        rows = piece.rank_rows(size)
        total: Tensor | None = None
        for coordinates, gradient in by_rank:
            if any(coordinates[axis] for axis in mesh if axis not in reduced and axis not in split):
                continue  # a copy of another rank's part
            part = gradient[start : start + rows]
            place = [slice(None)] * part.ndim
            shape = [piece.rows, *part.shape[1:]]
            for axis, placement in split.items():
                if placement == "S(0)":
                    place[0] = _rows(piece, size, coordinates[axis])
                    part = part[: place[0].stop - place[0].start]
                else:
                    dim, width = int(placement[2:-1]), part.shape[int(placement[2:-1])]
                    place[dim] = slice(coordinates[axis] * width, (coordinates[axis] + 1) * width)
                    shape[dim] = width * mesh[axis]
            if total is None:
                total = part.new_zeros(shape)
            total[tuple(place)] += part
        assert total is not None
        yield piece, total
        start += rows
