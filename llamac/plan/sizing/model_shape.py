"""Shapes of LLaMA-style models, by width and depth or by number of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from llamac.spec.model import Model

HEAD = 128
"""head_dim of every LLaMA."""

ASPECTS = (
    (125e6, 64.0),
    (1.3e9, 85.3),
    (6.738e9, 128.0),
    (13.016e9, 128.0),
    (32.529e9, 110.9),
    (65.286e9, 102.4),
)
"""(parameters, dim / layers): GPT-3 125M and 1.3B (Brown et al. 2020, table 2.1), then LLaMA
(Touvron et al. 2023, table 2). Interpolated linearly in log N; constant beyond the ends."""

NARROWEST, WIDEST = 8, 1024
"""Bounds of dim / layers for the models that `llama_with` considers."""

CLOSE = 0.02
"""Largest deviation of the log of the parameter count that is accepted for LLaMA's proportions."""


@dataclass(frozen=True)
class ModelShape:
    """Width and depth of a model. parameters: total, including embedding, head and norms."""

    dim: int
    n_layers: int
    parameters: int

    @property
    def n_heads(self) -> int:
        """Return the number of attention heads, of `HEAD` features each."""
        return self.dim // HEAD


def matmul_weights(model: Model) -> int:
    """Return the number of weights in a model's linear layers, including the output projection."""
    return model.n_layers * layer_weights(model) + model.vocab_size * model.dim


def layer_weights(model: Model) -> int:
    """Return the number of weights in one layer's linear layers."""
    heads = 2 * model.n_heads + 2 * model.n_kv_heads
    matrices = 3 if model.activation == "swiglu" else 2
    return model.dim * (heads * model.head_dim + matrices * model.ffn_dim)


def llama_shape(dim: int, n_layers: int, vocab_size: int = 32_000) -> ModelShape:
    """Return the shape of a LLaMA with untied embeddings and the default FFN width.

    dim: a multiple of `HEAD`, the head_dim.
    """
    model = Model(dim=dim, n_layers=n_layers, n_heads=dim // HEAD, vocab_size=vocab_size)
    norms = (2 * n_layers + 1) * dim
    return ModelShape(dim, n_layers, matmul_weights(model) + vocab_size * dim + norms)


def llama_with(parameters: float, vocab_size: int = 32_000) -> ModelShape:
    """Return the shape of a LLaMA with about `parameters` parameters.

    Among the models within 2 % (`CLOSE`), it deviates least from LLaMA's ratio of width to depth
    and from `parameters`, in the sum of logs; if there are none, it is the closest in size.
    Raises ValueError if even the smallest model has over 2 % more.
    """
    shapes = list(_shapes(parameters, vocab_size))
    if not shapes:
        minimum = llama_shape(HEAD, 1, vocab_size).parameters
        raise ValueError(
            f"no LLaMA has {parameters:,.0f} parameters with a vocabulary of {vocab_size:,}: the "
            f"smallest has {minimum:,}"
        )
    aspect = _aspect(parameters)

    def size_error(shape: ModelShape) -> float:
        return abs(math.log(shape.parameters / parameters))

    def aspect_error(shape: ModelShape) -> float:
        return abs(math.log(shape.dim / shape.n_layers / aspect))

    close = [shape for shape in shapes if size_error(shape) <= CLOSE]
    return (
        min(close, key=lambda s: (aspect_error(s) + size_error(s), s.dim))
        if close
        else min(shapes, key=size_error)
    )


def _shapes(parameters: float, vocab_size: int) -> Iterator[ModelShape]:
    """Yield, for each width, the depths nearest from below and from above."""
    dim = HEAD
    while (single_layer := llama_shape(dim, 1, vocab_size)).parameters <= parameters * (1 + CLOSE):
        layer = llama_shape(dim, 2, vocab_size).parameters - single_layer.parameters
        below = max(1, int((parameters - single_layer.parameters) / layer) + 1)
        if dim / below > WIDEST:
            return
        if dim / below > NARROWEST:
            yield from (llama_shape(dim, layers, vocab_size) for layers in (below, below + 1))
        # Of large models heads divide among 4 tensor ranks, as LLaMA's do.
        dim += 4 * HEAD if dim >= 16 * HEAD else HEAD


def _aspect(parameters: float) -> float:
    """Return dim / layers for models of this size."""
    points = [(math.log(size), aspect) for size, aspect in ASPECTS]
    x = math.log(parameters)
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]
