"""Time of each op of a graph on a device, as a model for `passes/analysis/timing.py`.

Matmuls run in tiles (`cost/tiles.py`). Other ops are bound by memory bandwidth. Every kernel has a
fixed overhead on the device, and one on the host that launches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from llamac.ir.graph import attributes, op_of, type_of
from llamac.ir.types import Dim
from llamac.ir.values import operands_of, operation_count, values_of
from llamac.ops.async_collectives import BY_START, is_collective, is_start, is_wait
from llamac.ops.async_tensor import is_fused_collective
from llamac.ops.attention import attention, attention_backward
from llamac.ops.collectives import all_reduce
from llamac.ops.context import context_attention, context_attention_backward
from llamac.ops.linear import linear, linear_input_gradient, linear_weight_gradient
from llamac.ops.norm import (
    head_rms_norm,
    head_rms_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from llamac.ops.rope import rope
from llamac.passes.analysis.timing import TimingModel
from llamac.plan.cost.collective import collective_seconds
from llamac.plan.cost.framework import FrameworkProfile
from llamac.plan.cost.tiles import tile_overhead
from llamac.plan.device.device import Device
from llamac.spec.precision import ITEM_SIZE

FORWARD = (attention, context_attention)
BACKWARD = (attention_backward, context_attention_backward)
NORM = (rms_norm, head_rms_norm)
NORM_BACKWARD = (rms_norm_backward, head_rms_norm_backward)
LINEAR = (linear, linear_input_gradient, linear_weight_gradient)
HEAD = 128  # features of a head, and
BLOCK = 128  # positions of a block, that attention's efficiencies are given for


@dataclass(frozen=True)
class DeviceCost(TimingModel):
    """Timing model of ops on a device under a framework.

    Attributes:
        device: Device that runs the ops.
        dtype: Compute dtype, such as "bf16".
        strides: Difference of the global ranks of two neighbours, by mesh axis.
        profile: Differences of the framework from the emitted trainer.
        fp8: Whether linear layers multiply in fp8.
        recomputes_attention: Whether attention is recomputed in its backward pass.
    """

    device: Device = field(kw_only=True)
    dtype: str = field(kw_only=True)
    strides: Mapping[str, int] = field(kw_only=True)
    profile: FrameworkProfile = field(kw_only=True, default_factory=FrameworkProfile)
    fp8: bool = field(kw_only=True, default=False)
    recomputes_attention: bool = field(kw_only=True, default=False)

    @property
    def key(self) -> tuple[object, ...]:
        """Return a hashable key of everything that the costs depend on."""
        sizes = (tuple(mapping.items()) for mapping in (self.symbols, self.mesh, self.strides))
        options = (self.device, self.dtype, self.profile, self.fp8, self.recomputes_attention)
        return (*sizes, *options)

    # -- an op -------------------------------------------------------------------------------------

    def seconds(self, node: fx.Node) -> float:
        """Return an op's seconds on the device, or a collective's; 0 for views and waits."""
        if is_wait(node) or op_of(node).cost == "view":
            return 0.0
        if is_start(node) or is_collective(node):
            return self._transfer(node)
        flops = operation_count(node, self.symbols)
        if op_of(node) in (*FORWARD, *BACKWARD):
            return self._attention(node, flops)
        if flops:
            transfer = self._transfer(node) if is_fused_collective(node) else 0.0
            fp8 = self.fp8 and op_of(node) in LINEAR
            rows, columns, inner = self._shape(node)
            count = flops / (2 * rows * columns * inner)
            matmul_seconds = self.matmul(rows, columns, inner, fp8)
            return max(count * matmul_seconds, transfer) + self._loss(node, rows * columns)
        if op_of(node).is_loss:
            logits = next(v for v in operands_of(node) if len(type_of(v).shape) == 3)
            return self._loss(node, type_of(logits).elements(self.symbols))
        return self.memory_seconds(self._traffic(node), self.profile.kernels)

    def _traffic(self, node: fx.Node) -> float:
        """Return bytes that a memory-bound op moves under the framework."""
        op, profile = op_of(node), self.profile
        if op in (*NORM, *NORM_BACKWARD) and profile.norm is not None:
            bytes_per_element = profile.norm.forward if op in NORM else profile.norm.backward
            bytes_per_element /= profile.norm.bandwidth
            return bytes_per_element * type_of(operands_of(node)[0]).elements(self.symbols)
        if op is rope and profile.rope is not None:
            is_backward = bool(attributes(node).get("inverse"))
            bytes_per_element = profile.rope.backward if is_backward else profile.rope.forward
            bytes_per_element /= profile.rope.bandwidth
            return bytes_per_element * type_of(operands_of(node)[0]).elements(self.symbols)
        traffic = {value: self._nbytes(value) for value in (*operands_of(node), *values_of(node))}
        return sum(traffic.values()) * profile.traffic

    def host_seconds(self, node: fx.Node) -> float:
        """Return the seconds that the host needs to launch an op's kernels; 0 for views, waits."""
        if is_wait(node) or op_of(node).cost == "view":
            return 0.0
        profile = self.profile
        if is_collective(node) or is_start(node):
            return profile.host + profile.collective_host
        kernels = profile.kernels
        if op_of(node) in (*FORWARD, *BACKWARD):
            kernels = 2.0 if profile.scores is None else profile.scores.kernels
        elif operation_count(node, self.symbols):
            kernels = 1.0
        return profile.host * kernels

    def matmul(self, rows: float, columns: float, inner: float, fp8: bool = False) -> float:
        """Return the seconds of a matmul [rows, inner] × [inner, columns] in the compute dtype.

        fp8: whether it is in fp8 instead, which includes the casts of both operands.
        """
        device, efficiency = self.device, self.device.efficiency
        flops = 2 * rows * columns * inner
        rate = device.flops(self.dtype) * efficiency.matmul_of(self.profile.newer_cublas)
        casts = 0.0
        if fp8:
            rate = device.flops("fp8") * efficiency.fp8 * self.profile.fp8
            casts = self.memory_seconds(self.profile.cast_bytes * (rows + columns) * inner, 4.0)
        size = ITEM_SIZE[self.dtype]
        moved = size * (rows * columns + rows * inner + inner * columns)
        memory_bound = moved / device.memory_bandwidth / efficiency.memory
        overhead = 1.0
        if device.is_gpu:  # a CPU's cores take any shape alike
            overhead = tile_overhead(
                round(rows), round(columns), round(inner), device.units, efficiency.fill
            )
        return max(flops / rate * overhead, memory_bound) + efficiency.kernel + casts

    def memory_seconds(self, nbytes: float, kernels: float = 1.0) -> float:
        """Return the seconds in which `kernels` kernels move `nbytes` in device memory."""
        efficiency = self.device.efficiency
        return nbytes / self.device.memory_bandwidth / efficiency.memory + kernels * (
            efficiency.kernel
        )

    def collective(self, sent: float, ranks: int, stride: int = 1, rounds: float = 1.0) -> float:
        """Return the seconds of a collective on this device, as `collective_seconds` does."""
        return collective_seconds(self.device, sent, ranks, stride, rounds)

    # -- parts -------------------------------------------------------------------------------------

    def _transfer(self, node: fx.Node) -> float:
        axis = attributes(node)["axis"]
        op = BY_START[op_of(node)].synchronous if is_start(node) else op_of(node)
        rounds = 2.0 if op is all_reduce else 1.0
        return self.collective(self.wire_bytes(node), self.mesh[axis], self.strides[axis], rounds)

    def _attention(self, node: fx.Node, flops: float) -> float:
        forward, scores = op_of(node) in FORWARD, self.profile.scores
        device, efficiency = self.device, self.device.efficiency
        peak = device.flops(self.dtype)
        query = type_of(operands_of(node)[0 if forward else 1])
        batch, length, heads, width = map(self._size, query.shape)
        if scores is None:
            share = efficiency.attention if forward else efficiency.attention_backward
            # Blocks on the diagonal and on a window's edge are computed without regard to the mask;
            # narrow heads have less work per softmax.
            visible = min(attributes(node).get("window", length), length)
            masking = (1 + BLOCK / visible) * max(1.0, HEAD / width) ** efficiency.narrow
            rate = peak * min(1.0, share * self.profile.attention)
            recomputed = 0.0 if forward or not self.recomputes_attention else flops / 2.5
            return (flops + recomputed) * masking / rate + efficiency.kernel
        # The whole square is computed, though half of it is masked.
        products, bytes_per_score = (2, scores.forward) if forward else (4, scores.backward)
        if self.recomputes_attention and not forward:
            products, bytes_per_score = products + 2, bytes_per_score + scores.forward
        matmul_seconds = self.matmul(length, length, width)  # of one head, on a share of the device
        rate = peak * efficiency.matmul_of(self.profile.newer_cublas)
        compute_bound = 2 * length * length * width * batch * heads / rate
        memory_bound = 2 * length * (2 * width + length) * batch * heads / device.memory_bandwidth
        product = max(
            min(compute_bound / 0.8, matmul_seconds * batch * heads),
            memory_bound / efficiency.memory,
        )
        count = batch * heads * length * length
        return products * product + self.memory_seconds(bytes_per_score * count, scores.kernels)

    def _loss(self, node: fx.Node, logits: float) -> float:
        """Return the seconds of a loss's memory traffic for logits, without its matmuls."""
        if not op_of(node).is_loss:
            return 0.0
        # Both passes in one op, or half of it in each.
        share = 1.0 if "with_gradients" in op_of(node).name else 0.5
        return self.memory_seconds(
            share * self.profile.loss_bytes * logits, 4 * self.profile.kernels
        )

    def _shape(self, node: fx.Node) -> tuple[float, float, float]:
        """Return (rows, columns, inner size) of one matmul of an op."""
        name = op_of(node).name
        first, second = (type_of(value) for value in operands_of(node)[:2])
        tokens = first.elements(self.symbols) / self._size(first.shape[-1])
        if "weight_gradient" in name:
            return self._size(first.shape[-1]), self._size(second.shape[-1]), tokens
        if "input_gradient" in name:
            return tokens, self._size(second.shape[-1]), self._size(second.shape[0])
        return tokens, self._size(second.shape[0]), self._size(first.shape[-1])

    def _size(self, dim: Dim) -> int:
        return self.symbols[dim] if isinstance(dim, str) else dim
