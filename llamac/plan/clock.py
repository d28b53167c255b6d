"""How long the ops of a graph take on a device: `llamac.passes.timing` with a device's own rates.

A matmul runs in tiles (`llamac.plan.tiles`). What only moves bytes is bound by memory. Every kernel
has a cost of its own on the device, and a larger one on the host that starts it. A collective is a
ring: a latency, one for each step of it, and its bytes over the slowest link that it crosses
(Thakur et al. 2005).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from llamac.ir.graph import attributes, op_of, type_of
from llamac.ir.types import Dim
from llamac.ir.values import operands_of, operation_count, values_of
from llamac.ops.async_tensor import transfers
from llamac.ops.attention import attention, attention_backward
from llamac.ops.collectives import all_reduce
from llamac.ops.context import context_attention, context_attention_backward
from llamac.ops.linear import linear, linear_input_gradient, linear_weight_gradient
from llamac.ops.overlapped import BY_START, is_collective, is_start, is_wait
from llamac.passes.timing import Clock
from llamac.plan.device import Device
from llamac.plan.style import Style
from llamac.plan.tiles import waste

FORWARD = (attention, context_attention)
BACKWARD = (attention_backward, context_attention_backward)
LINEAR = (linear, linear_input_gradient, linear_weight_gradient)
GPU = 8  # as few units are no GPU's: cores take any shape alike
HEAD = 128  # elements of a head, and
BLOCK = 128  # positions of a block, that attention's efficiencies are given for


@dataclass(frozen=True)
class DeviceClock(Clock):
    """strides: for each axis of the mesh, how many ranks lie between neighbours on it. fp8: do
    linear layers multiply in it? core_again: is attention computed again for its backward?"""

    device: Device = field(kw_only=True)
    dtype: str = field(kw_only=True)
    strides: Mapping[str, int] = field(kw_only=True)
    style: Style = field(kw_only=True, default_factory=Style)
    fp8: bool = field(kw_only=True, default=False)
    core_again: bool = field(kw_only=True, default=False)

    @property
    def key(self) -> tuple[object, ...]:
        """All that its answers depend on, hashable."""
        sizes = (tuple(one.items()) for one in (self.symbols, self.mesh, self.strides))
        rest = (self.device, self.dtype, self.style, self.fp8, self.core_again)
        return (*sizes, *rest)

    def seconds(self, node: fx.Node) -> float:
        if is_wait(node) or op_of(node).cost == "view":
            return 0.0
        if is_start(node) or is_collective(node):
            return self._transfer(node)
        flops = operation_count(node, self.symbols)
        if op_of(node) in (*FORWARD, *BACKWARD):
            return self._attention(node, flops)
        if flops:
            under = self._transfer(node) if transfers(node) else 0.0
            fp8 = self.fp8 and op_of(node) in LINEAR
            rows, columns, inner = self._shape(node)
            times = flops / (2 * rows * columns * inner)
            one = self.matmul(rows, columns, inner, fp8)
            return max(times * one, under) + self._loss(node, rows * columns)
        if "cross_entropy" in op_of(node).name:
            logits = next(v for v in operands_of(node) if len(type_of(v).shape) == 3)
            return self._loss(node, type_of(logits).elements(self.symbols))
        traffic = {value: self._nbytes(value) for value in (*operands_of(node), *values_of(node))}
        return self.moved(sum(traffic.values()) * self.style.traffic, self.style.kernels)

    def kernels(self, node: fx.Node) -> float:
        """How many kernels the host starts for an op."""
        if is_wait(node) or op_of(node).cost == "view":
            return 0.0
        if op_of(node) in (*FORWARD, *BACKWARD):
            return 2.0 if self.style.flash else self.style.core_kernels
        if is_collective(node) or is_start(node) or operation_count(node, self.symbols):
            return 1.0
        return self.style.kernels

    def matmul(self, rows: float, columns: float, inner: float, fp8: bool = False) -> float:
        """Seconds of a product [rows, inner] × [inner, columns]."""
        device, efficiency = self.device, self.device.efficiency
        flops = 2 * rows * columns * inner
        rate = device.flops(self.dtype) * efficiency.matmul
        casts = 0.0
        if fp8:
            rate = device.flops("fp8") * efficiency.fp8 * self.style.fp8
            casts = self.moved(self.style.cast_bytes * (rows + columns) * inner, 4.0)
        size = 4 if self.dtype == "fp32" else 2
        moved = size * (rows * columns + rows * inner + inner * columns)
        least = moved / device.memory_bandwidth / efficiency.memory
        lost = 1.0
        if device.units > GPU:
            lost = waste(round(rows), round(columns), round(inner), device.units, efficiency.fill)
        return max(flops / rate * lost, least) + efficiency.kernel + casts

    def moved(self, nbytes: float, kernels: float = 1.0) -> float:
        efficiency = self.device.efficiency
        return nbytes / self.device.memory_bandwidth / efficiency.memory + kernels * (
            efficiency.kernel
        )

    def collective(self, sent: float, ranks: int, stride: int = 1, rounds: float = 1.0) -> float:
        """`ranks` neighbours, `stride` apart, each of which sends so many bytes, round a ring.
        rounds: how often round it; an all-reduce goes twice."""
        if ranks <= 1:
            return 0.0
        link, network = self.device.link, self.device.network
        within = max(1, self.device.gpus_per_node // stride)  # of this group in one node
        if ranks <= within:
            # Few ranks leave some of their links idle (nccl-tests on 2 to 8 GPUs).
            bandwidth = link.bandwidth * (1 - 0.3 / ranks)
            return rounds * (link.latency + (ranks - 1) * link.hop) + sent / bandwidth
        # Every GPU of a node has a network port of its own, and a ring crosses one of them; all
        # the rings of a node share them.
        bandwidth = min(link.bandwidth, network.bandwidth * within)
        nodes = ranks / within
        hops = (nodes - 1) * network.hop + (ranks - nodes) * link.hop
        return rounds * (network.latency + hops) + sent / bandwidth

    def _transfer(self, node: fx.Node) -> float:
        axis = attributes(node)["axis"]
        op = BY_START[op_of(node)].whole if is_start(node) else op_of(node)
        rounds = 2.0 if op is all_reduce else 1.0
        return self.collective(self.wire_bytes(node), self.mesh[axis], self.strides[axis], rounds)

    def _attention(self, node: fx.Node, flops: float) -> float:
        forward = op_of(node) in FORWARD
        device, efficiency = self.device, self.device.efficiency
        peak = device.flops(self.dtype)
        query = type_of(operands_of(node)[0 if forward else 1])
        batch, length, heads, width = map(self._size, query.shape)
        if self.style.flash:
            share = efficiency.attention if forward else efficiency.attention_backward
            # Blocks on the diagonal are computed whole; narrow heads do less between softmaxes.
            whole = (1 + BLOCK / length) * max(1.0, HEAD / width) ** efficiency.narrow
            rate = peak * min(1.0, share * self.style.attention)
            again = 0.0 if forward or not self.core_again else flops / 2.5
            return (flops + again) * whole / rate + efficiency.kernel
        # Scores written out: the whole square is computed; softmax with its mask and dropout move
        # it there and back, 2 bytes each way, and softmax's backward reads two.
        scores = batch * heads * length * length
        products, passes = (2, 2.0) if forward else (4, 2.5)
        if self.core_again and not forward:
            products, passes = products + 2, passes + 2
        one = self.matmul(length, length, width)  # of one head, on a share of the device
        fair = 2 * length * length * width * batch * heads / peak / efficiency.matmul
        wide = 2 * length * (2 * width + length) * batch * heads / device.memory_bandwidth
        product = max(min(fair / 0.8, one * batch * heads), wide / efficiency.memory)
        return products * product + self.moved(2 * 2 * passes * scores, self.style.core_kernels)

    def _loss(self, node: fx.Node, logits: float) -> float:
        """What a loss moves of its logits, beside the matmuls that make and take them."""
        name = op_of(node).name
        if "cross_entropy" not in name:
            return 0.0
        # Both ways in one op, or each way half.
        share = 1.0 if "with_gradients" in name else 0.5
        return self.moved(share * self.style.loss_bytes * logits, 4 * self.style.kernels)

    def _shape(self, node: fx.Node) -> tuple[float, float, float]:
        """(rows, columns, elements of a sum) of the product that an op is, once or more often."""
        name = op_of(node).name
        one, other = (type_of(value) for value in operands_of(node)[:2])
        tokens = one.elements(self.symbols) / self._size(one.shape[-1])
        if "weight_gradient" in name:
            return self._size(one.shape[-1]), self._size(other.shape[-1]), tokens
        if "input_gradient" in name:
            return tokens, self._size(other.shape[-1]), self._size(other.shape[0])
        return tokens, self._size(other.shape[0]), self._size(one.shape[-1])

    def _size(self, dim: Dim) -> int:
        return self.symbols[dim] if isinstance(dim, str) else dim
