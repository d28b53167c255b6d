"""Peak memory of a rank during a training step, by purpose."""

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
from llamac.passes.analysis.liveness import peak_bytes, saved_bytes
from llamac.spec.parallel import micro_batches_per_round
from llamac.spec.precision import ITEM_SIZE

Sharding = Literal["none", "zero1", "zero2", "zero3"]
"""State that is sharded over data-parallel ranks: nothing (`none`), optimizer state (`zero1`), also
gradients (`zero2`), also parameters (`zero3`, FSDP).
"""

CONTEXT = 0.7e9
"""Bytes that a GPU process uses outside torch's allocator: CUDA context and NCCL buffers."""
FRAGMENTS = 0.02
"""Fraction of the memory reserved by torch that is lost to fragmentation."""


@dataclass(frozen=True)
class Memory:
    """Memory of one rank in bytes, by purpose.

    optimizer: optimizer state and fp32 master weights.
    logits: largest block of logits that exists only inside an op.
    communication: gathered parameters, and gradients in transfer.
    overhead: CUDA context, NCCL buffers and allocator fragmentation.
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
        """Sum of all purposes in bytes."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters on a pipeline rank: of one layer, of all its layers, and in total."""

    layer: int
    layers: int
    total: int


@dataclass(frozen=True)
class StageParameters(ParameterCounts):
    """Numbers of parameters on one rank, and of those that are trained."""

    trained: ParameterCounts


def stage_parameters(program: Program, layers: int, first: bool, last: bool) -> StageParameters:
    """Return the numbers of parameters on one rank: tensor-parallel shards of its pipeline stage.

    They are counted before data-parallel sharding, with copies and padding.

    layers: number of layers on the rank.
    first: whether it has the embedding. last: whether it has the head.
    """
    layer, rest = [0, 0], [0, 0]  # frozen, trained
    embedding = _parameters_of(program, "embed")
    for name, parameter in program.parameters.items():
        count = parameter.type.elements({})
        if parameter.per_layer:
            layer[parameter.trainable] += count
        elif (name in embedding and first) or (name not in embedding and last):
            rest[parameter.trainable] += count
    trained = ParameterCounts(layer[1], layer[1] * layers, layer[1] * layers + rest[1])
    whole = sum(layer)
    return StageParameters(whole, whole * layers, whole * layers + sum(rest), trained)


def _parameters_of(program: Program, region: str) -> set[str]:
    graph = program.regions[region].forward.graph
    return {node.meta["param"] for node in placeholders(graph, "param")}


def training_state(
    own: StageParameters,
    dtype: str,
    sharding: Sharding,
    ranks: int,
    micro_batches: int,
    whole_stage: bool,
    state_bytes: int,
) -> dict[str, float]:
    """Return the bytes of parameters, gradients, optimizer state and gathered parameters on a rank.

    The keys are `parameters`, `gradients`, `optimizer` and `communication`, as in the emitted
    trainer. On one rank a parameter takes 2 + 4 bytes (bf16 and fp32 master), its gradient 4, and
    the optimizer `state_bytes`: 18 with AdamW's 8, as in Megatron; in fp32 it takes 4 + 4 + 8.
    Under FSDP all of these are fp32 shards; in addition two layers are gathered at a time, and
    unreduced fp32 gradients of all layers exist until a step's last micro-batch. A frozen parameter
    takes 2 bytes (4 in fp32) and nothing else.

    own: numbers of parameters on the rank. dtype: compute dtype, `bf16` or `fp32`.
    ranks: number of ranks over which state is sharded.
    micro_batches: micro-batches per step; 1 if each reduces its gradients.
    whole_stage: whether all layers stay gathered, as under a pipeline schedule.
    state_bytes: bytes of optimizer state per parameter.
    """
    size, n, trained = ITEM_SIZE[dtype], own.total, own.trained.total
    master = 0 if dtype == "fp32" else 4
    if sharding == "zero3":
        gathered = own.total if whole_stage else own.total - own.layers + 2 * own.layer
        waiting = 4 * trained if micro_batches > 1 else (4 + size) * 2 * own.trained.layer
        return {
            "parameters": (4 * trained + size * (n - trained)) / ranks,
            "gradients": 4 * trained / ranks,
            "optimizer": state_bytes * trained / ranks,
            "communication": size * gathered + waiting,
        }
    shared = 1 if sharding == "none" else ranks
    return {
        "parameters": size * n,
        "gradients": 4 * trained / (ranks if sharding == "zero2" else 1),
        "optimizer": (master + state_bytes) * trained / shared,
        "communication": 0.0,
    }


@dataclass(frozen=True)
class Activations:
    """Activation bytes of one micro-batch.

    saved: saved bytes of one layer, by region.
    peak: peak of one layer's backward pass with its inputs and saved values, by region.
    head_saved, head_peak: the same for the head, which includes the loss.
    logits: bytes of the largest block of logits that exists only inside an op.
    """

    saved: Mapping[str, float]
    peak: Mapping[str, float]
    head_saved: float
    head_peak: float
    logits: float


@dataclass(frozen=True)
class _RegionBytes:
    """Bytes of a region: saved values, peaks of both passes, materialised attention scores.

    recomputed: whether attention is recomputed, so that scores are not saved.
    """

    saved: float
    peak: float
    scores: float
    recomputed: bool


_region_cache: WeakKeyDictionary[fx.GraphModule, dict[tuple[object, ...], _RegionBytes]]
_region_cache = WeakKeyDictionary()


def _region_bytes(region: Region, symbols: Mapping[str, int]) -> _RegionBytes:
    """Return a region's bytes by liveness; cached by graphs and micro-batch sizes."""
    assert region.backward is not None
    known = _region_cache.setdefault(region.backward, {})
    key = (region.saved, *symbols.items())
    if key not in known:
        forward_peak = peak_bytes(region.forward.graph, region.saved, symbols)
        backward_peak = peak_bytes(region.backward.graph, (), symbols)
        scores = _scores(region.forward.graph, symbols)
        recomputed = any(is_op(node, attention) for node in ops_in(region.backward.graph))
        known[key] = _RegionBytes(
            saved_bytes(region, symbols), max(forward_peak, backward_peak), scores, recomputed
        )
    return known[key]


def activations(
    program: Program, scores_saved: bool = False, logit_bytes: float | None = None
) -> Activations:
    """Return the activation bytes of one micro-batch, by liveness over the scheduled graphs.

    scores_saved: whether attention scores that a kernel materialises are also saved.
    logit_bytes: peak bytes per logit over all copies; None takes those of llamac's fused loss.
    """
    symbols = program.symbols
    own = {
        name: _region_bytes(program.regions[name], symbols)
        for name in dict.fromkeys(program.layers)
    }
    saved = {
        name: one.saved + (one.scores if scores_saved and not one.recomputed else 0.0)
        for name, one in own.items()
    }
    head = program.regions["head"]
    whole, logits = _region_bytes(head, symbols), _logits(head.forward.graph, symbols, logit_bytes)
    peak = {name: one.peak + one.scores for name, one in own.items()}
    return Activations(saved, peak, whole.saved, whole.peak, logits)


def _scores(graph: fx.Graph, symbols: Mapping[str, int]) -> float:
    """Return bytes of attention scores, softmax and mask that a kernel materialises (5as²b)."""
    total = 0.0
    for node in ops_in(graph):
        if node.kwargs.get("kernel") == "math":
            query = type_of(node.args[0])  # type: ignore[arg-type]
            length, width = symbols[str(query.shape[1])], int(query.shape[3])
            total += 5 * query.elements(symbols) / width * length
    return total


def _logits(graph: fx.Graph, symbols: Mapping[str, int], nbytes: float | None = None) -> float:
    """Return bytes of the largest block of logits that exists only inside an op.

    Logits are counted in the compute dtype and in fp32, unless `nbytes` gives bytes per logit.
    """
    for node in ops_in(graph):
        if op_of(node).is_loss and "chunk" not in node.kwargs and nbytes:
            # The graph already counts the logits and their gradients.
            logits = next(type_of(v) for v in operands_of(node) if len(type_of(v).shape) == 3)
            return max(0.0, nbytes * logits.elements(symbols) - 2 * logits.nbytes(symbols))
        if "chunk" in node.kwargs:
            x, weight = (type_of(operand) for operand in node.args[:2])  # type: ignore[arg-type]
            tokens = x.elements(symbols) // int(x.shape[-1])
            rows = min(int(node.kwargs["chunk"]), tokens)  # type: ignore[arg-type]
            return rows * int(weight.shape[0]) * (nbytes or DTYPES[weight.dtype].itemsize + 4)
    return 0.0


def micro_batches_in_flight(stage: int, ranks: int, virtual: int, micro_batches: int) -> float:
    """Return the peak number of micro-batches whose activations a pipeline rank stores.

    1F1B stores min(micro_batches, ranks - rank). Interleaved 1F1B stores more (Narayanan et al.
    2021); a micro-batch in one of `virtual` stages counts as 1 / virtual.

    stage: pipeline rank, from 0. ranks: number of pipeline ranks. virtual: stages per rank.
    micro_batches: micro-batches per step.
    """
    if virtual == 1:
        return min(micro_batches, ranks - stage)
    each = micro_batches_per_round(micro_batches, ranks)
    warm = 2 * (ranks - stage - 1) + (virtual - 1) * each + 1
    return min(micro_batches, warm / virtual)


@dataclass(frozen=True)
class StepGradients:
    """Bytes of gradients that are allocated during each step and freed by the optimizer's update.

    layer: of one layer. embedding: of the embedding. total: of all trained parameters.
    """

    layer: float = 0.0
    embedding: float = 0.0
    total: float = 0.0


def step_gradients(
    program: Program, own: StageParameters, dtype: str, sharding: Sharding, micro_batches: int
) -> StepGradients:
    """Return the bytes of gradients that are allocated during each step and freed by its update.

    Zero unless `dtype` is fp32, `sharding` is none and a step has one micro-batch; in all other
    cases gradients are counted as allocated before the backward pass.

    program: gives the size of the embedding. The other arguments are those of `training_state`.
    """
    if dtype != "fp32" or sharding != "none" or micro_batches > 1:
        return StepGradients()
    embedding = stage_parameters(program, 0, first=True, last=False).trained.total
    return StepGradients(4.0 * own.trained.layer, 4.0 * embedding, 4.0 * own.trained.total)


def peak_activation_bytes(
    memory: Activations,
    runs: Iterable[tuple[str, int]],
    in_flight: float,
    last: bool,
    gradients: StepGradients | None = None,
) -> float:
    """Return the peak activation bytes on one pipeline rank, excluding logits.

    While the backward pass of a layer runs, the layers before it still hold their saved
    activations, and those after it have freed theirs.

    Args:
        memory: Activation bytes of one micro-batch.
        runs: (region, number of consecutive layers) for each run of equal layers, in order.
        in_flight: Micro-batches in flight, see `micro_batches_in_flight`.
        last: Whether the rank computes the loss.
        gradients: Gradients allocated during the step; None means none.
    """
    runs, gradients = list(runs), gradients or StepGradients()
    alive = in_flight * sum(memory.saved[name] * count for name, count in runs)
    layers = sum(count for _, count in runs)
    most = max(0.0, alive + memory.head_peak - gradients.total) if last else 0.0
    for name, count in reversed(runs):
        own, needed = memory.saved[name], memory.peak[name] - memory.saved[name]
        for below in {
            0,
            count - 1,
        }:  # layers of the run whose backward pass has begun: the last, or all
            lacking = gradients.embedding + gradients.layer * (layers - below)
            most = max(most, alive - own * below + needed - lacking)
        alive -= own * count
        layers -= count
    return most
