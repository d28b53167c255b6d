"""Lower bounds on a layout's step time without a graph: ideal matmuls and exposed transfers."""

from __future__ import annotations

from collections.abc import Iterator

from llamac.plan.cost.device_cost import DeviceCost
from llamac.plan.search.layout_enumeration import ModelSplit
from llamac.plan.setting import Setting
from llamac.spec.model import Model

ROWS = 2**20
"""Tokens of a matmul large enough to have no losses from its shape."""


def least_seconds(setting: Setting, gpus: int, shape: ModelSplit, policy: str) -> float:
    """Return a lower bound of step seconds: a full pipeline, hidden data-parallel traffic.

    In the forward pass each matmul waits for the gather before it and each scatter for its matmul,
    so transfers are exposed. In the backward pass only weight gradients overlap them. Under tensor
    parallelism a layer gathers and scatters the stream twice each way, or reduces it, which is both
    (Korthikanti et al. 2022); under context parallelism keys and values are gathered, and their
    gradients scattered.
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
    # A rank has a part of the positions and of the layers: as if all layers, of so many tokens.
    tokens = spec.batch.tokens * shape.tensor / gpus

    def each(rows: int, columns: int, inner: int) -> float:
        return cost.matmul(rows, columns, inner, setting.fp8) / ROWS * tokens

    forward = inputs = weights = 0.0
    for into, out, times in _linears(spec.model, shape.tensor):
        forward += times * each(ROWS, out, into)
        inputs += times * each(ROWS, into, out)
        weights += times * each(out, into, ROWS)
    again = forward if policy == "full" else 0.0
    transfers = _transfers(setting, cost, shape, tokens) / 2  # of each way
    computed = forward + inputs + weights + again
    hides = setting.profile.hides
    if hides is not None:
        return computed + 2 * transfers * (1 - hides)
    if spec.parallel.async_tensor:
        return max(computed, 2 * transfers)
    return forward + transfers + max(inputs + weights + again, inputs + transfers)


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
