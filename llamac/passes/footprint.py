"""Peak memory of a rank during a step, by what it is used for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal
from weakref import WeakKeyDictionary

from torch import fx

from llamac.ir.graph import is_op, op_of, ops_in, placeholders, type_of
from llamac.ir.program import Program, Region
from llamac.ir.types import DTYPES
from llamac.ir.values import operands_of
from llamac.ops.attention import attention
from llamac.passes.liveness import peak_bytes, saved_bytes
from llamac.spec.parallel import micro_batches_per_round
from llamac.spec.precision import ITEM_SIZE

Sharding = Literal["none", "zero1", "zero2", "zero3"]
"""What data ranks share: nothing; the optimizer's state; gradients too; parameters too (FSDP)."""

CONTEXT = 0.7e9
"""Bytes of a process on a GPU besides torch's: the CUDA context and NCCL's buffers."""
FRAGMENTS = 0.02
"""Of what torch holds, what its allocator cannot use."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    communication: gathered parameters and gradients in transfer. overhead: the process itself and
    what its allocator loses.
    """

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    communication: float
    overhead: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Held:
    """Parameters that a rank holds: of one layer, of all its layers, and with the rest."""

    layer: int
    layers: int
    total: int


def held(program: Program, layers: int, first: bool, last: bool) -> Held:
    """Return the memory held by a pipeline stage, which may be the first, the last, or both."""
    layer = rest = 0
    embedding = _parameters_of(program, "embed")
    for name, parameter in program.parameters.items():
        count = parameter.type.elements({})
        if parameter.per_layer:
            layer += count
        elif (name in embedding and first) or (name not in embedding and last):
            rest += count
    return Held(layer, layer * layers, layer * layers + rest)


def _parameters_of(program: Program, region: str) -> set[str]:
    graph = program.regions[region].forward.graph
    return {node.meta["param"] for node in placeholders(graph, "param")}


def states(
    own: Held,
    dtype: str,
    sharding: Sharding,
    ranks: int,
    micro_batches: int,
    whole_stage: bool,
    state_bytes: int,
) -> dict[str, float]:
    """Return bytes of parameters, gradients and optimizer state, and of what is gathered of them.

    As the emitted trainer has it: alone 2 + 4 bytes of parameters (bf16 and its fp32 master), 4 of
    gradients, `state_bytes` of the optimizer's state: with AdamW's 8, Megatron's 18; in fp32
    4 + 4 + 8. Under FSDP all of it in fp32 shards,
    a layer and the next gathered, and gradients of all layers in fp32 until a step's last
    micro-batch reduces them. whole_stage: all layers stay gathered, as under a pipeline schedule.
    """
    size, n = ITEM_SIZE[dtype], own.total
    master = 0 if dtype == "fp32" else 4
    if sharding == "zero3":
        gathered = own.total if whole_stage else own.total - own.layers + 2 * own.layer
        waiting = 4 * n if micro_batches > 1 else (4 + size) * 2 * own.layer
        return {
            "parameters": 4 * n / ranks,
            "gradients": 4 * n / ranks,
            "optimizer": state_bytes * n / ranks,
            "communication": size * gathered + waiting,
        }
    shared = 1 if sharding == "none" else ranks
    return {
        "parameters": size * n,
        "gradients": 4 * n / (ranks if sharding == "zero2" else 1),
        "optimizer": (master + state_bytes) * n / shared,
        "communication": 0.0,
    }


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch.

    kept: by layer region. peak: of a region's backward pass, its inputs and kept values included.
    head_kept, head_peak: the same of the loss.
    """

    kept: Mapping[str, float]
    peak: Mapping[str, float]
    head_kept: float
    head_peak: float
    logits: float


@dataclass(frozen=True)
class _Extent:
    """Bytes of a region: those kept, the peak of either pass, and the scores that a kernel writes.

    again: whether attention is recomputed, so that no scores are kept.
    """

    kept: float
    peak: float
    scores: float
    again: bool


_extents: WeakKeyDictionary[fx.GraphModule, dict[tuple[object, ...], _Extent]]
_extents = WeakKeyDictionary()


def _extent(region: Region, symbols: Mapping[str, int]) -> _Extent:
    """Simulate liveness, once per region's graphs and micro-batch sizes."""
    assert region.backward is not None
    known = _extents.setdefault(region.backward, {})
    key = (region.saved, *symbols.items())
    if key not in known:
        ahead = peak_bytes(region.forward.graph, region.saved, symbols)
        behind = peak_bytes(region.backward.graph, (), symbols)
        scores = _scores(region.forward.graph, symbols)
        again = any(is_op(node, attention) for node in ops_in(region.backward.graph))
        known[key] = _Extent(saved_bytes(region, symbols), max(ahead, behind), scores, again)
    return known[key]


def activations(
    program: Program, scores_kept: bool = False, logit_bytes: float | None = None
) -> Activations:
    """Measure activations by liveness over the scheduled graphs, recomputation included.

    scores_kept: whether attention's scores are kept where a kernel writes them. logit_bytes: bytes
    per logit of all copies at the worst moment; None takes those of our fused loss.
    """
    symbols = program.symbols
    own = {name: _extent(program.regions[name], symbols) for name in dict.fromkeys(program.layers)}
    kept = {
        name: one.kept + (one.scores if scores_kept and not one.again else 0.0)
        for name, one in own.items()
    }
    head = program.regions["head"]
    whole, logits = _extent(head, symbols), _logits(head.forward.graph, symbols, logit_bytes)
    peak = {name: one.peak + one.scores for name, one in own.items()}
    return Activations(kept, peak, whole.kept, whole.peak, logits)


def _scores(graph: fx.Graph, symbols: Mapping[str, int]) -> float:
    """Return bytes of attention's scores, softmax and mask, where a kernel writes them (5as²b)."""
    total = 0.0
    for node in ops_in(graph):
        if node.kwargs.get("kernel") == "math":
            query = type_of(node.args[0])  # type: ignore[arg-type]
            length, width = symbols[str(query.shape[1])], int(query.shape[3])
            total += 5 * query.elements(symbols) / width * length
    return total


def _logits(graph: fx.Graph, symbols: Mapping[str, int], nbytes: float | None = None) -> float:
    """Return the bytes of the largest block of logits that is not a value of the graph.

    Logits exist in the compute dtype, and in fp32 for the loss, unless `nbytes` says otherwise.
    """
    for node in ops_in(graph):
        if "cross_entropy" in op_of(node).name and "chunk" not in node.kwargs and nbytes:
            # The graph has them and their gradients.
            logits = next(type_of(v) for v in operands_of(node) if len(type_of(v).shape) == 3)
            return max(0.0, nbytes * logits.elements(symbols) - 2 * logits.nbytes(symbols))
        if "chunk" in node.kwargs:
            x, weight = (type_of(operand) for operand in node.args[:2])  # type: ignore[arg-type]
            tokens = x.elements(symbols) // int(x.shape[-1])
            rows = min(int(node.kwargs["chunk"]), tokens)  # type: ignore[arg-type]
            return rows * int(weight.shape[0]) * (nbytes or DTYPES[weight.dtype].itemsize + 4)
    return 0.0


def in_flight(stage: int, ranks: int, virtual: int, micro_batches: int) -> float:
    """Return the most micro-batches whose activations a pipeline rank keeps at once.

    Counted as if each were of all its layers, so interleaving gives fractions: 1F1B keeps one for
    each rank ahead, interleaved 1F1B more (Narayanan et al. 2021).
    """
    if virtual == 1:
        return min(micro_batches, ranks - stage)
    each = micro_batches_per_round(micro_batches, ranks)
    warm = 2 * (ranks - stage - 1) + (virtual - 1) * each + 1
    return min(micro_batches, warm / virtual)


@dataclass(frozen=True)
class Fresh:
    """Bytes of the gradients that a step allocates: of a layer, of the embedding, of all."""

    layer: float = 0.0
    embedding: float = 0.0
    total: float = 0.0


def fresh_gradients(
    program: Program, own: Held, dtype: str, sharding: Sharding, micro_batches: int
) -> Fresh:
    """Return the gradients that each step allocates anew and its update frees.

    Only a single fp32 rank with one micro-batch per step does so; elsewhere gradients are there
    before the backward pass, and `Fresh` is zero.
    """
    if dtype != "fp32" or sharding != "none" or micro_batches > 1:
        return Fresh()
    embedding = held(program, 0, first=True, last=False).total
    return Fresh(4.0 * own.layer, 4.0 * embedding, 4.0 * own.total)


def behind(
    found: Activations,
    runs: Iterable[tuple[str, int]],
    flying: float,
    last: bool,
    fresh: Fresh | None = None,
) -> float:
    """Return the peak activation bytes on one pipeline rank, excluding logits.

    runs: (region, number of layers in a row), in order. flying: see `in_flight`. last: whether the
    rank computes the loss. fresh: gradients that the step allocates.

    A layer's own peak comes on top of what the layers before it keep; those after it are already
    freed.
    """
    runs, fresh = list(runs), fresh or Fresh()
    alive = flying * sum(found.kept[name] * count for name, count in runs)
    layers = sum(count for _, count in runs)
    most = max(0.0, alive + found.head_peak - fresh.total) if last else 0.0
    for name, count in reversed(runs):
        own, needed = found.kept[name], found.peak[name] - found.kept[name]
        for below in {0, count - 1}:  # of the run's layers, how many are done: the last, or all
            lacking = fresh.embedding + fresh.layer * (layers - below)
            most = max(most, alive - own * below + needed - lacking)
        alive -= own * count
        layers -= count
    return most
