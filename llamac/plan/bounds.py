"""What no layout can be faster than, without a graph: its matmuls at the device's best, and the
bytes that its ranks must pass each other, at the link's."""

from __future__ import annotations

from llamac.plan.clock import DeviceClock
from llamac.plan.layouts import Shape
from llamac.plan.predict import Setting
from llamac.plan.shape import matmul_weights

AGAIN = {"full": 4 / 3}
"""Matmuls that a policy runs, beside one forward and two for its backward pass."""


def least_seconds(setting: Setting, gpus: int, shape: Shape, policy: str) -> float:
    """Of a step: the longest of matmuls, tensor ranks' transfers and context ranks'.

    Under tensor parallelism a layer gathers and scatters the stream twice each way, or reduces it,
    which is both (Korthikanti et al. 2022); under context parallelism keys and values are gathered,
    and their gradients scattered.
    """
    spec, device = setting.spec, setting.device
    model, batch = spec.model, spec.batch
    rate = device.flops(spec.precision.compute) * device.efficiency.matmul
    if setting.fp8:
        rate = max(rate, device.flops("fp8") * device.efficiency.fp8)
    weights = matmul_weights(model)
    head = model.vocab_size * model.dim
    flops = 6 * ((weights - head) * AGAIN.get(policy, 1.0) + head) * batch.tokens
    clock = DeviceClock({}, {}, device=device, dtype=spec.precision.compute, strides={})
    size = 4 if spec.precision.compute == "fp32" else 2
    layers = batch.tokens * model.n_layers / gpus  # × tokens that a rank sees, if nothing is shared

    def moved(nbytes: float, ranks: int, stride: int) -> float:
        return clock.collective(nbytes * (ranks - 1) / ranks, ranks, stride, rounds=0.0)

    stream = 8 * size * model.dim * shape.tensor * layers
    heads = -(-model.n_kv_heads // shape.tensor)
    keys = 2 * 2 * size * heads * model.head_dim * shape.tensor * shape.context * layers
    hidden = setting.style.hides or 0.0
    tensor = moved(stream, shape.tensor, 1) * (1 - hidden)
    context = moved(keys, shape.context, shape.tensor) * (1 - hidden)
    return max(flops / gpus / rate, tensor, context)
