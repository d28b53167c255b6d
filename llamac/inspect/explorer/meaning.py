"""Descriptions of layouts, and of why values are saved or recomputed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import fx

from llamac.inspect.memory import ValueMemory
from llamac.ir.graph import op_of, producer
from llamac.ir.types import TensorType
from llamac.ops.async_collectives import is_collective

Chip = tuple[str, str, str]
"""Mesh axis, placement on it (`S(1)`, `P`, `R`, `stage`) and a description of the placement."""
TensorKind = Literal["value", "parameter", "gradient"]
"""Kinds of tensors: an activation or its gradient, a parameter, a parameter's gradient."""
STAGES = "pp"  # the mesh axis of pipeline stages
_DATA_PARALLEL: Mapping[TensorKind, tuple[str, str]] = {
    "value": ("S(0)", "each of the {ranks} data ranks works on sequences of its own"),
    "parameter": ("S(0)", "sharded over {ranks} ranks; gathered before its layer runs"),
    "gradient": (
        "P",
        "of the rank's own sequences: summed over the {ranks} data ranks once a step",
    ),
}
_REPLICATED = ("R", "the same on each of the {ranks} replicas")


def chips(
    kind: TensorType,
    tensor_kind: TensorKind,
    degrees: Mapping[str, int],
    mesh: Mapping[str, int],
    symbols: Mapping[str, int],
) -> Iterator[Chip]:
    """Yield how a tensor is laid out on each axis of the device mesh that has several ranks.

    kind: the tensor's type in the Program.
    degrees: sizes of all axes of the run.
    mesh: sizes of the axes that occur in the Program's types; FSDP's and the pipeline's do not.
    symbols: size of each symbolic dimension, such as S/tp.
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
            replicated = axis == "dp_replicate" and tensor_kind == "parameter"
            placement, words = _REPLICATED if replicated else _DATA_PARALLEL[tensor_kind]
            yield axis, placement, words.format(ranks=f"{ranks:,}")


def _meaning(placement: str, kind: TensorType, ranks: int, symbols: Mapping[str, int]) -> str:
    if placement == "R":
        return f"the same on each of the {ranks:,} ranks"
    if placement == "P":
        return f"a partial sum: yet to be summed over the {ranks:,} ranks"
    dim = int(placement[2:-1])
    size = kind.shape[dim]
    named = f" ({size})" if isinstance(size, str) else ""
    part = symbols[size] if isinstance(size, str) else size
    return f"split along dimension {dim}{named}: {part:,} on each of {ranks:,} ranks"


def _recomputation_cost(maker: fx.Node) -> str:
    """Explain why an expensive value is saved rather than recomputed."""
    name = op_of(maker).name
    if "attention" in name:
        return "recomputing it would take an attention"
    if "linear" in name:
        return "recomputing it would take a matmul"
    if is_collective(maker):
        return "recomputing it would take a matmul and a transfer"
    return "it takes no more memory than the values it is computed from"


def reason(value: fx.Node, memory: ValueMemory, policy: str) -> str:
    """Explain in one clause why a forward value is saved, recomputed, or neither.

    value: node of a forward graph. memory: what `region_memory` says of it.
    policy: `recompute.policy` of the spec.
    """
    maker, _ = producer(value)
    if memory.status == "view":
        return f"a view of {memory.base}, without memory of its own"
    if memory.status == "not needed":
        return "no gradient reads it: it is freed after its last reader"
    if maker.op == "placeholder":
        return "the region's input, from which the rest can be recomputed"
    cheap = op_of(maker).cost == "recompute"
    if memory.status == "saved":
        if not cheap:
            return _recomputation_cost(maker)
        return f"the policy {policy} saves it to avoid recomputation"
    if cheap:
        return "memory-bound: recomputing it costs less than saving it"
    return f"the policy {policy} recomputes it to reduce memory"
