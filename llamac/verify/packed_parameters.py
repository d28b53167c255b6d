"""Packed parameters and canonical ones: each way and back, nothing is lost, doubled or moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from llamac.ir.parts import ALONE, gather
from llamac.ir.program import Program

Views = Callable[[str, Tensor], Iterator[tuple[str, Tensor]]]
"""(name, tensor) → the canonical parameters it holds: `runtime.parameters.canonical_views`."""


def packing_problem(program: Program, weights: Mapping[str, Tensor]) -> str:
    """Return what is wrong with a Program's parameter table, or nothing.

    weights: canonical name → tensor, what the table must hold.
    """
    held: list[str] = []
    for parameter in program.parameters.values():
        for layer in range(program.copies(parameter)):
            names = [piece.name.replace("*", str(layer)) for piece in parameter.pieces]
            held += names
            if strange := [name for name in names if name not in weights]:
                return f"{parameter.name} holds {strange[0]}, which the model has not"
            packed = gather(parameter, weights, layer, {}, ALONE)
            if packed.shape != parameter.type.shape:
                return f"{parameter.name} is {parameter.type}, its pieces {list(packed.shape)}"
            parts = packed.split([piece.rows for piece in parameter.pieces])
            for name, part in zip(names, parts, strict=True):
                if not torch.equal(part, weights[name]):
                    return f"{name} does not come back out of {parameter.name}"
    return _coverage_problem(held, weights)


def module_packing_problem(
    module: torch.nn.Module, views: Views, weights: Mapping[str, Tensor]
) -> str:
    """Return what is wrong with an emitted model's packing table, or ""; fills its parameters.

    Canonical → packed → canonical, and packed → canonical → packed, with values that tell every
    element apart.
    """
    with torch.no_grad():
        held: list[str] = []
        for name, parameter in module.named_parameters():
            numbered = torch.arange(parameter.numel(), dtype=parameter.dtype).view_as(parameter)
            unpacked = [(key, view.clone()) for key, view in views(name, numbered)]
            held += [key for key, _ in unpacked]
            if strange := [key for key, _ in unpacked if key not in weights]:
                return f"{name} holds {strange[0]}, which the model has not"
            parameter.fill_(torch.nan)
            for (key, view), (_, values) in zip(views(name, parameter), unpacked, strict=True):
                if view.shape != weights[key].shape:
                    return f"{name} holds {key} as {list(view.shape)}"
                view.copy_(values)
            if not torch.equal(parameter, numbered):
                return f"{name} does not come back out of its canonical parameters"
            for key, view in views(name, parameter):
                view.copy_(weights[key])
        for name, parameter in module.named_parameters():
            for key, view in views(name, parameter):
                if not torch.equal(view, weights[key].to(view.dtype)):
                    return f"{key} does not come back out of {name}"
    return _coverage_problem(held, weights)


def _coverage_problem(held: Sequence[str], weights: Mapping[str, Tensor]) -> str:
    if lost := weights.keys() - set(held):
        return f"no parameter holds {min(lost)}"
    if twice := sorted(name for name in set(held) if held.count(name) > 1):
        return f"{twice[0]} is held twice"
    return ""
