"""Mapping from packed parameters to canonical ones, and their initialisation.

A pattern is a parameter's name with `*` in place of the layer's number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

Pieces = tuple[tuple[str, int], ...]
"""(canonical name, rows) of each parameter in a packed one, in order along dim 0."""


def expand_layers(packs: Mapping[str, Pieces], layers: int) -> dict[str, Pieces]:
    """Return packed parameter → its pieces, with an entry for each layer.

    packs: pattern of a packed parameter → its pieces, whose names are patterns too. layers: number
    of layers.
    """
    expanded: dict[str, Pieces] = {}
    for name, pieces in packs.items():
        for layer in range(layers) if "*" in name else (0,):
            number = str(layer)
            expanded[name.replace("*", number)] = tuple(
                (piece.replace("*", number), rows) for piece, rows in pieces
            )
    return expanded


def canonical_views(
    name: str, tensor: Tensor, packed: Mapping[str, Pieces]
) -> Iterator[tuple[str, Tensor]]:
    """Yield (canonical name, view) of each canonical parameter in a tensor.

    name: the model's name of the parameter. tensor: its weights, or its gradient, master or state;
    the views share its memory. packed: name of a packed parameter → its pieces; others are
    canonical.
    """
    if name not in packed:
        yield name, tensor
        return
    names, rows = zip(*packed[name], strict=True)
    yield from zip(names, tensor.split(rows), strict=True)


@torch.no_grad()
def initialise_parameters(
    model: nn.Module,
    init: Mapping[str, tuple[str, float]],
    packed: Mapping[str, Pieces],
    seed: int,
) -> None:
    """Initialise all parameters of a model in place.

    init: pattern of a canonical parameter → ("normal" or "uniform", standard deviation) or ("ones"
    or "zeros", 0). packed: as in `canonical_views`. seed: with the canonical name, it determines
    the values, which depend on neither packing nor device.
    """
    for name, parameter in model.named_parameters():
        for canonical, view in canonical_views(name, parameter, packed):
            view.copy_(initial_value(canonical, view.shape, init, seed))


def initial_value(
    canonical: str, shape: Sequence[int], init: Mapping[str, tuple[str, float]], seed: int
) -> Tensor:
    """Return the initial values of a canonical parameter, float32 on the CPU.

    Each parameter has its own random generator, seeded by `seed` and its canonical name. shape: of
    the full parameter. init: as in `initialise_parameters`.
    """
    kind, std = init[pattern(canonical)]
    if kind in ("ones", "zeros"):
        return torch.full(tuple(shape), {"ones": 1.0, "zeros": 0.0}[kind])
    digest = hashlib.sha256(f"{seed}:{canonical}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    if kind == "uniform":
        return (torch.rand(tuple(shape), generator=generator) * 2 - 1) * (3**0.5 * std)
    return torch.randn(tuple(shape), generator=generator) * std


def pattern(name: str) -> str:
    """Return the pattern of a parameter's name: `layers.3.ffn_norm` → `layers.*.ffn_norm`."""
    parts = name.split(".")
    if parts[0] == "layers":
        parts[1] = "*"
    return ".".join(parts)
