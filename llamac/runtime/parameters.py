"""Map packed parameters to their canonical names, and initialise them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

Pieces = tuple[tuple[str, int], ...]  # (canonical name, rows), in order along dim 0


def expand_layers(packs: Mapping[str, Pieces], layers: int) -> dict[str, Pieces]:
    """Expand a table for `layers.*` to every layer."""
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
    """Yield (canonical name, view) of each canonical parameter in the tensor `name`.

    Writing to a view writes to the tensor. Works for anything shaped like the parameter: its
    gradient, its master copy, an optimizer moment.
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
    """Fill every parameter: `normal` or `uniform` with a standard deviation, `ones` or `zeros`.

    Each canonical parameter has its own generator, seeded by `seed` and its name, on the CPU in
    float32, so initial weights depend on neither packing nor device.
    """
    for name, parameter in model.named_parameters():
        for canonical, view in canonical_views(name, parameter, packed):
            view.copy_(initial_value(canonical, view.shape, init, seed))


def initial_value(
    canonical: str, shape: Sequence[int], init: Mapping[str, tuple[str, float]], seed: int
) -> Tensor:
    """Return the initial values of a canonical parameter, float32 on the CPU."""
    kind, std = init[pattern(canonical)]
    if kind in ("ones", "zeros"):
        return torch.full(tuple(shape), {"ones": 1.0, "zeros": 0.0}[kind])
    digest = hashlib.sha256(f"{seed}:{canonical}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    if kind == "uniform":
        return (torch.rand(tuple(shape), generator=generator) * 2 - 1) * (3**0.5 * std)
    return torch.randn(tuple(shape), generator=generator) * std


def pattern(name: str) -> str:
    """Return the pattern of a name: `layers.3.ffn_norm` → `layers.*.ffn_norm`."""
    parts = name.split(".")
    if parts[0] == "layers":
        parts[1] = "*"
    return ".".join(parts)
