"""Memory of the values that each region's forward pass saves for its backward pass.

Memory is counted per storage: a view has none of its own, and saving a view saves its whole base.
Parameters and constant tables are not counted, as they stay in memory anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import fx

from llamac.ir.graph import ops_in, placeholders, producer, recomputed_ops, type_of
from llamac.ir.program import Program, Region
from llamac.ir.types import TensorType
from llamac.ir.values import (
    base_of,
    forward_by_name,
    forward_values,
    layer_count,
    operands_of,
    values_of,
)

Status = Literal["saved", "recomputed", "view", "not needed"]
"""Ways in which the backward pass gets a forward value; see `ValueMemory`."""


@dataclass(frozen=True)
class ValueMemory:
    """Memory of one value of a region's forward graph, on one rank.

    nbytes: size in bytes, with the program's B and S.
    status: `saved` for the backward pass, `recomputed` in it, a `view` of another value, or else
        `not needed`.
    base: name of the value whose storage it uses; its own name unless `status` is `view`.
    saved_bytes: bytes it adds to the saved set; 0 unless `status` is `saved`.
    """

    name: str
    type: TensorType
    nbytes: int
    status: Status
    base: str
    saved_bytes: int


@dataclass(frozen=True)
class RegionMemory:
    """Activation memory of one region, on one rank.

    count: runs per forward pass of the model.
    values: all values of the forward graph, views included.
    saved: bytes saved for the backward pass by one run.
    without_recomputation: bytes that one run would save if nothing were recomputed.
    """

    name: str
    count: int
    values: tuple[ValueMemory, ...]
    saved: int
    without_recomputation: int


@dataclass(frozen=True)
class ProgramMemory:
    """Memory of one rank: activations of the regions with a backward graph, and parameters.

    unit: result of `stream_bytes`, which papers call sbh.
    parameters: number of parameters of the model over all ranks.
    parameter_bytes: bytes of a rank's tensor-parallel shards of the parameters of all layers.
    """

    regions: tuple[RegionMemory, ...]
    unit: int
    parameters: int
    parameter_bytes: int

    @property
    def saved(self) -> int:
        """Bytes that one forward pass of the model saves for the backward pass."""
        return sum(region.saved * region.count for region in self.regions)

    @property
    def without_recomputation(self) -> int:
        """Bytes that one forward pass would save if nothing were recomputed."""
        return sum(region.without_recomputation * region.count for region in self.regions)

    def sbh(self, nbytes: float) -> float:
        """Return a number of bytes as a multiple of `unit`."""
        return nbytes / self.unit


def program_memory(program: Program) -> ProgramMemory:
    """Return the memory of each region that has a backward graph, and of the parameters."""
    sizes = (
        parameter.type.nbytes({}) * program.copies(parameter)
        for parameter in program.parameters.values()
    )
    return ProgramMemory(
        regions=tuple(
            region_memory(region, program.symbols, layer_count(region.name, program.layers))
            for region in program.regions.values()
            if region.backward is not None
        ),
        unit=stream_bytes(program),
        parameters=program.parameter_count,
        parameter_bytes=sum(sizes),
    )


def region_memory(region: Region, symbols: Mapping[str, int], count: int = 1) -> RegionMemory:
    """Return the memory of one region, which must have a backward graph.

    symbols: size of each symbolic dimension, such as S/tp. count: runs of the region per forward
    pass of the model.
    """
    assert region.backward is not None, f"{region.name} has no backward graph"
    forward = forward_by_name(region)
    saved_names = {base_of(forward[name]).name for name in region.saved}
    recomputed = _recomputed(region.backward.graph)
    values = tuple(
        _value(value, symbols, saved_names, recomputed, forward) for value in forward_values(region)
    )
    return RegionMemory(
        region.name,
        count,
        values,
        saved=sum(value.saved_bytes for value in values),
        without_recomputation=_everything(region.backward.graph, forward, symbols),
    )


def activation_bytes(region: Region, symbols: Mapping[str, int]) -> int:
    """Return the bytes of all values that one forward run of a region computes, without views.

    symbols: size of each symbolic dimension, such as S/tp.
    """
    computed = (v for node in ops_in(region.forward.graph) for v in values_of(node))
    return sum(type_of(v).nbytes(symbols) for v in computed if base_of(v) is v)


def stream_bytes(program: Program) -> int:
    """Return the bytes of a rank's residual stream, [B, S, D] in the compute dtype.

    With sequence or context parallelism, that is the rank's shard of S.
    """
    layer = program.regions[program.layers[0]]
    return type_of(placeholders(layer.forward.graph, "input")[0]).nbytes(program.symbols)


def readable_bytes(nbytes: float) -> str:
    """Format bytes in binary units: 1536 → `1.50 KiB`.

    A number below 100 has three significant digits; from 100 on, and for bytes, it is whole.
    """
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    if unit == "B" or size >= 100:
        return f"{size:.0f} {unit}"
    return f"{size:#.3g} {unit}"


def _value(
    value: fx.Node,
    symbols: Mapping[str, int],
    saved_names: set[str],
    recomputed: set[str],
    forward: Mapping[str, fx.Node],
) -> ValueMemory:
    nbytes = type_of(value).nbytes(symbols)
    base = base_of(value)
    status: Status = "not needed"
    if base is not value:
        status = "view"
    elif value.name in saved_names:
        status = "saved"
    elif value.name in recomputed:
        status = "recomputed"
    held = nbytes if status == "saved" else 0
    return ValueMemory(value.name, type_of(value), nbytes, status, base.name, held)


def _recomputed(backward: fx.Graph) -> set[str]:
    return {value.name for node in recomputed_ops(backward) for value in values_of(node)}


def _everything(
    backward: fx.Graph, forward: Mapping[str, fx.Node], symbols: Mapping[str, int]
) -> int:
    """Return the bytes of all forward values that gradient ops read, without views."""
    recomputed = recomputed_ops(backward)
    found: dict[str, int] = {}
    for node in ops_in(backward):
        for operand in operands_of(node) if node not in recomputed else ():
            base = base_of(operand)
            base = base_of(forward.get(base.name, base))
            if base.name in forward or producer(base)[0] in recomputed:
                found[base.name] = type_of(base).nbytes(symbols)
    return sum(found.values())
