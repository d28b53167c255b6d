"""Descriptions of layouts, and of why values are saved or recomputed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import fx

from llamac.inspect.memory import ValueMemory
from llamac.ir.graph import op_of, producer
from llamac.ir.types import TensorType
from llamac.ops.overlapped import is_collective

Chip = tuple[str, str, str]
"""Mesh axis, placement (`S(1)`, `P`, `R`, …) and what it means."""
Holds = Literal["value", "parameter", "gradient"]
"""Kinds of tensors: an activation or its gradient, a parameter, a parameter's gradient."""
STAGES = "pp"
_OVER_DATA: Mapping[Holds, tuple[str, str]] = {
    "value": ("S(0)", "each of the {ranks} data ranks works on sequences of its own"),
    "parameter": ("S(0)", "rests in {ranks} parts, and is gathered before its layer runs"),
    "gradient": ("P", "of its own sequences only: summed over the {ranks} data ranks once a step"),
}
_REPLICATED = ("R", "the same on each of the {ranks} replicas")


def chips(
    kind: TensorType,
    holds: Holds,
    degrees: Mapping[str, int],
    mesh: Mapping[str, int],
    symbols: Mapping[str, int],
) -> Iterator[Chip]:
    """Yield a chip for each axis of the device mesh with several ranks.

    degrees: all axes of the run. mesh: the axes that occur in the Program's types.
    """
    for axis, ranks in degrees.items():
        if ranks == 1:
            continue
        if axis in mesh:
            placement = kind.placement(axis)
            yield axis, placement, _meaning(placement, kind, ranks, symbols)
        elif axis == STAGES:
            yield axis, "stage", f"is on one of {ranks} pipeline ranks: the one that runs its layer"
        else:
            replicated = axis == "dp_replicate" and holds == "parameter"
            placement, words = _REPLICATED if replicated else _OVER_DATA[holds]
            yield axis, placement, words.format(ranks=f"{ranks:,}")


def _meaning(placement: str, kind: TensorType, ranks: int, symbols: Mapping[str, int]) -> str:
    if placement == "R":
        return f"the same on each of the {ranks:,} ranks"
    if placement == "P":
        return f"a partial sum: still to be added up over the {ranks:,} ranks"
    dim = int(placement[2:-1])
    size = kind.shape[dim]
    named = f" ({size})" if isinstance(size, str) else ""
    part = symbols[size] if isinstance(size, str) else size
    return f"split along dimension {dim}{named}: {part:,} on each of {ranks:,} ranks"


def _dear(maker: fx.Node) -> str:
    """Return why a value is saved rather than recomputed."""
    name = op_of(maker).name
    if "attention" in name:
        return "computing it again would take an attention"
    if "linear" in name:
        return "computing it again would take a matmul"
    if is_collective(maker):
        return "having it again would take a matmul and a transfer"
    return "it takes no more than keeping what it is computed from"


def reason(value: fx.Node, memory: ValueMemory, policy: str) -> str:
    """Return why a forward value is saved, recomputed, or neither."""
    maker, _ = producer(value)
    if memory.status == "view":
        return f"no data of its own: it is a view of {memory.base}"
    if memory.status == "not needed":
        return "no gradient reads it: it is freed after its last reader"
    if maker.op == "placeholder":
        return "the region's input, from which the rest can be computed again"
    cheap = op_of(maker).cost == "recompute"
    if memory.status == "saved":
        if not cheap:
            return _dear(maker)
        return f"the policy {policy} keeps it, so that it is not computed again"
    if cheap:
        return "memory-bound: computing it again costs less than keeping it"
    return f"the policy {policy} does not keep it, to save memory"
