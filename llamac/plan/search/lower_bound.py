"""Lower bounds on step time without graphs: ideal matmuls and unavoidable transfers."""

from __future__ import annotations

from collections.abc import Iterator

from llamac.plan.cost.device_cost import DeviceCost
from llamac.plan.search.layout_enumeration import ModelSplit
from llamac.plan.setting import Setting
from llamac.spec.model import Model

ROWS = 2**20
"""Tokens of a matmul that is large enough for its shape not to matter."""


def lower_bound_seconds(setting: Setting, gpus: int, shape: ModelSplit, policy: str) -> float:
    """Return a lower bound on the seconds of a step of any layout with this model split.

    It assumes a pipeline without bubble and overlapped data-parallel traffic. In the forward pass,
    each matmul waits for the gather before it and each scatter for its matmul, so transfers are
    exposed. In the backward pass only weight gradients overlap them. If tensor parallelism is
    asynchronous, all work may overlap them; if the framework's profile states a share, that is
    hidden.

    Under tensor parallelism a layer gathers and scatters hidden states twice per pass, or
    all-reduces them, which is as much (Korthikanti et al. 2022); under context parallelism keys and
    values are gathered, and their gradients scattered.

    policy: checkpointing policy.
    """
    spec = setting.spec
    cost = DeviceCost(
        {},
        {},
        device=setting.device,
        dtype=spec.precision.compute,
        strides={},
        profile=setting.profile,
    )
    # Tokens per rank, as if it had all layers.
    tokens = spec.batch.tokens * shape.tensor / gpus

    def seconds_of(rows: int, columns: int, inner: int) -> float:
        return cost.matmul(rows, columns, inner, setting.fp8) / ROWS * tokens

    forward = inputs = weights = 0.0
    for inputs_size, outputs_size, count in _linears(spec.model, shape.tensor):
        forward += count * seconds_of(ROWS, outputs_size, inputs_size)
        inputs += count * seconds_of(ROWS, inputs_size, outputs_size)
        weights += count * seconds_of(outputs_size, inputs_size, ROWS)
    recomputed = forward if policy == "full" else 0.0
    transfers = _transfers(setting, cost, shape, tokens) / 2  # of each way
    computed = forward + inputs + weights + recomputed
    hides = setting.profile.hides
    if hides is not None:
        return computed + 2 * transfers * (1 - hides)
    if spec.parallel.async_tensor:
        return max(computed, 2 * transfers)
    return forward + transfers + max(inputs + weights + recomputed, inputs + transfers)


def _linears(model: Model, ranks: int) -> Iterator[tuple[int, int, int]]:
    """Yield (inputs, outputs, count) of the matmuls on a tensor rank, without the head's.

    With a pipeline only the last rank has the head.
    """
    heads = -(-model.n_heads // ranks) + 2 * -(-model.n_kv_heads // ranks)
    gates = 2 if model.gated else 1
    wide = model.ffn_dim // ranks
    yield model.dim, heads * model.head_dim, model.n_layers
    yield model.n_heads // ranks * model.head_dim, model.dim, model.n_layers
    yield model.dim, gates * wide, model.n_layers
    yield wide, model.dim, model.n_layers


def _transfers(setting: Setting, cost: DeviceCost, shape: ModelSplit, tokens: float) -> float:
    """Return seconds of tensor and context ranks' transfers, latencies left out."""
    model = setting.spec.model
    size = setting.spec.precision.item_size
    stream = 8 * size * model.dim * tokens * model.n_layers
    heads = -(-model.n_kv_heads // shape.tensor)
    keys = 2 * 2 * size * heads * model.head_dim * tokens * shape.context * model.n_layers
    total = 0.0
    for nbytes, ranks, stride in ((stream, shape.tensor, 1), (keys, shape.context, shape.tensor)):
        total += cost.collective(nbytes * (ranks - 1) / ranks, ranks, stride, rounds=0.0)
    return total
