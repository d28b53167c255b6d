"""How long the ops of a graph take on a device: `llamac.passes.timing` with a device's own rates.

A matmul runs in tiles, so many at once: half a round of them is lost at the end of it, and each
tile takes a while to fill its pipeline. What only moves bytes is bound by memory. Every kernel has
a cost of its own. A collective is a ring: a latency for each step of it, and its bytes over the
slowest link that it crosses (Thakur et al. 2005).
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
from llamac.ops.context import context_attention, context_attention_backward
from llamac.ops.linear import linear, linear_input_gradient, linear_weight_gradient
from llamac.ops.overlapped import is_collective, is_start, is_wait
from llamac.passes.timing import Clock
from llamac.plan.device import Device
from llamac.plan.style import Style

FORWARD = (attention, context_attention)
BACKWARD = (attention_backward, context_attention_backward)
LINEAR = (linear, linear_input_gradient, linear_weight_gradient)
TILE = 128  # rows and columns of a matmul's tile
GPU = 8  # as few units are no GPU's: cores take any shape alike


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

    def seconds(self, node: fx.Node) -> float:
        if is_wait(node) or op_of(node).cost == "view":
            return 0.0
        if is_start(node) or is_collective(node):
            ranks = self.mesh[attributes(node)["axis"]]
            sent = self.wire_bytes(node)
            return self.collective(sent, ranks, self.strides[attributes(node)["axis"]])
        flops = operation_count(node, self.symbols)
        if op_of(node) in (*FORWARD, *BACKWARD):
            return self._attention(node, flops)
        if flops:
            under = 0.0
            if transfers(node):
                axis = attributes(node)["axis"]
                under = self.collective(self.wire_bytes(node), self.mesh[axis], self.strides[axis])
            inner = self._inner(node)
            fp8 = self.fp8 and op_of(node) in LINEAR
            return max(self.matmul(flops, inner, flops / 2 / inner, fp8), under)
        traffic = {value: self._nbytes(value) for value in (*operands_of(node), *values_of(node))}
        return self.moved(sum(traffic.values()) * self.style.traffic, self.style.kernels)

    def kernels(self, node: fx.Node) -> float:
        """How many kernels the host starts for an op."""
        if is_wait(node) or op_of(node).cost == "view":
            return 0.0
        if op_of(node) in (*FORWARD, *BACKWARD):
            return 1.0 if self.style.flash else 6.0
        if is_collective(node) or is_start(node) or operation_count(node, self.symbols):
            return 1.0
        return self.style.kernels

    def matmul(self, flops: float, inner: float, outer: float, fp8: bool = False) -> float:
        """Of `flops` operations, sums over `inner` elements; outer: elements of the result."""
        device, efficiency = self.device, self.device.efficiency
        rate = device.flops(self.dtype) * efficiency.matmul
        if fp8:
            rate = max(rate, device.flops("fp8") * efficiency.fp8)
        if device.units <= GPU:
            return flops / rate + efficiency.kernel
        rounds = outer / TILE**2 / device.units
        lost = (rounds + 0.5) / rounds * (inner + efficiency.fill) / inner
        return flops / rate * lost + efficiency.kernel

    def moved(self, nbytes: float, kernels: float = 1.0) -> float:
        efficiency = self.device.efficiency
        return nbytes / self.device.memory_bandwidth / efficiency.memory + kernels * (
            efficiency.kernel
        )

    def collective(self, sent: float, ranks: int, stride: int = 1) -> float:
        """`ranks` neighbours, `stride` apart, each of which sends so many bytes, round a ring."""
        link, network = self.device.link, self.device.network
        within = max(1, self.device.gpus_per_node // stride)  # of this group in one node
        if ranks <= within:
            return link.latency * (1 + (ranks - 1) / 4) + sent / link.bandwidth
        # Every GPU of a node has a network port of its own, and a ring crosses one of them; all
        # the rings of a node share them.
        bandwidth = min(link.bandwidth, network.bandwidth * within)
        return network.latency * (ranks - 1) ** 0.75 + sent / bandwidth

    def _attention(self, node: fx.Node, flops: float) -> float:
        forward = op_of(node) in FORWARD
        device, efficiency = self.device, self.device.efficiency
        peak = device.flops(self.dtype)
        if self.style.flash:
            share = efficiency.attention if forward else efficiency.attention_backward
            again = 0.0 if forward or not self.core_again else flops / 2.5 / peak
            return flops / peak / share + again / efficiency.attention + efficiency.kernel
        # Scores written out: the whole square is computed; softmax, mask and dropout move it.
        query = type_of(operands_of(node)[0 if forward else 1])
        batch, length, heads, width = map(self._size, query.shape)
        scores = batch * heads * length * length
        products, passes = (2, 3) if forward else (4, 4)  # over the scores, 2 bytes, there and back
        if self.core_again and not forward:
            products, passes = products + 2, passes + 3
        flops = 2.0 * products * scores * width
        return self.matmul(flops, width, scores) + self.moved(2 * 2 * passes * scores, passes)

    def _inner(self, node: fx.Node) -> float:
        """Over how many elements a matmul's sums go."""
        name = op_of(node).name
        one, other = (type_of(value) for value in operands_of(node)[:2])
        if name == linear_weight_gradient.name:
            return one.elements(self.symbols) / self._size(one.shape[-1])
        if "input_gradient" in name:
            return self._size(other.shape[0])
        return self._size(one.shape[-1])

    def _size(self, dim: Dim) -> int:
        return self.symbols[dim] if isinstance(dim, str) else dim
