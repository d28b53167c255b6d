"""Shapes of LLaMA-style models: parameters of a shape, and the shape with a parameter count."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from llamac.spec.model import Model

HEAD = 128
"""Features of a head, in every LLaMA."""

ASPECTS = (
    (125e6, 64.0),
    (1.3e9, 85.3),
    (6.738e9, 128.0),
    (13.016e9, 128.0),
    (32.529e9, 110.9),
    (65.286e9, 102.4),
)
"""(parameters, dim / layers): GPT-3 125M and 1.3B (Brown et al. 2020, table 2.1), then LLaMA
(Touvron et al. 2023, table 2). Between them straight lines over log N; beyond them the last."""

NARROWEST, WIDEST = 8, 1024
"""dim / layers between which models are built."""

CLOSE = 0.02
"""Largest relative deviation from the wanted parameters, in favour of LLaMA's proportions."""


@dataclass(frozen=True)
class ModelShape:
    """Width and depth of a model. parameters: all, including both embeddings and the norms."""

    dim: int
    n_layers: int
    parameters: int

    @property
    def n_heads(self) -> int:
        return self.dim // HEAD


def matmul_weights(model: Model) -> int:
    """Return the number of linear-layer weights, output projection included, without biases."""
    return model.n_layers * layer_weights(model) + model.vocab_size * model.dim


def layer_weights(model: Model) -> int:
    """Return the number of linear-layer weights of one layer."""
    heads = 2 * model.n_heads + 2 * model.n_kv_heads
    matrices = 3 if model.activation == "swiglu" else 2
    return model.dim * (heads * model.head_dim + matrices * model.ffn_dim)


def llama(dim: int, n_layers: int, vocab_size: int = 32_000) -> ModelShape:
    """Return the shape of a LLaMA without biases; SwiGLU's 8·dim/3 is a multiple of 256."""
    model = Model(dim=dim, n_layers=n_layers, n_heads=dim // HEAD, vocab_size=vocab_size)
    norms = (2 * n_layers + 1) * dim
    return ModelShape(dim, n_layers, matmul_weights(model) + vocab_size * dim + norms)


def llama_with(parameters: float, vocab_size: int = 32_000) -> ModelShape:
    """Return the LLaMA with about so many parameters. Raises ValueError.

    Among the models within 2 % (or the closest, if none is), it has the ratio of width to depth
    closest to LLaMA's.
    """
    shapes = list(_shapes(parameters, vocab_size))
    if not shapes:
        least = llama(HEAD, 1, vocab_size).parameters
        raise ValueError(
            f"no LLaMA has {parameters:,.0f} parameters with a vocabulary of {vocab_size:,}: the "
            f"smallest has {least:,}"
        )
    aspect = _aspect(parameters)

    def off(shape: ModelShape) -> float:
        return abs(math.log(shape.parameters / parameters))

    def unlike(shape: ModelShape) -> float:
        return abs(math.log(shape.dim / shape.n_layers / aspect))

    within = [shape for shape in shapes if off(shape) <= CLOSE]
    return (
        min(within, key=lambda s: (unlike(s) + off(s), s.dim)) if within else min(shapes, key=off)
    )


def _shapes(parameters: float, vocab_size: int) -> Iterator[ModelShape]:
    """Yield, for each width, the depths nearest from below and from above."""
    dim = HEAD
    while (one := llama(dim, 1, vocab_size)).parameters <= parameters * (1 + CLOSE):
        layer = llama(dim, 2, vocab_size).parameters - one.parameters
        below = max(1, int((parameters - one.parameters) / layer) + 1)
        if dim / below > WIDEST:
            return
        if dim / below > NARROWEST:
            yield from (llama(dim, layers, vocab_size) for layers in (below, below + 1))
        # Of large models heads divide among 4 tensor ranks, as LLaMA's do.
        dim += 4 * HEAD if dim >= 16 * HEAD else HEAD


def _aspect(parameters: float) -> float:
    """Return dim / layers for models of this size."""
    known = [(math.log(size), aspect) for size, aspect in ASPECTS]
    x = math.log(parameters)
    if x <= known[0][0]:
        return known[0][1]
    for (x0, y0), (x1, y1) in pairwise(known):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return known[-1][1]
