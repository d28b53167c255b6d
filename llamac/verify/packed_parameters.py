"""Check that packing and unpacking parameters loses, duplicates or moves no element."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from llamac.ir.program import Program
from llamac.ir.shards import SINGLE_RANK, local_parameter

Views = Callable[[str, Tensor], Iterator[tuple[str, Tensor]]]
"""Function (name, packed tensor) → canonical names and views of the tensor."""


def packing_problem(program: Program, weights: Mapping[str, Tensor]) -> str:
    """Return what is wrong with a Program's parameter table as a sentence, or "".

    weights: the expected canonical parameters by name.
    """
    stored: list[str] = []
    for parameter in program.parameters.values():
        for layer in range(program.copies(parameter)):
            names = [piece.name.replace("*", str(layer)) for piece in parameter.pieces]
            stored += names
            if strange := [name for name in names if name not in weights]:
                return f"{parameter.name} contains {strange[0]}, which the model does not have"
            packed = local_parameter(parameter, weights, layer, {}, SINGLE_RANK)
            if packed.shape != parameter.type.shape:
                return f"{parameter.name} is {parameter.type}, its pieces {list(packed.shape)}"
            parts = packed.split([piece.rows for piece in parameter.pieces])
            for name, part in zip(names, parts, strict=True):
                if not torch.equal(part, weights[name]):
                    return f"{name} changes when packed into {parameter.name}"
    return _coverage_problem(stored, weights)


def module_packing_problem(
    module: torch.nn.Module, views: Views, weights: Mapping[str, Tensor]
) -> str:
    """Return what is wrong with an emitted model's packing table as a sentence, or "".

    Each parameter is unpacked and packed again with its elements numbered. Parameters are
    overwritten: with `weights` on success, with test values if a problem is found.

    module: the emitted model, in a dtype that represents the number of every element exactly.
    views: returns the canonical names and views of a packed tensor. weights: the expected canonical
    parameters by name.
    """
    with torch.no_grad():
        stored: list[str] = []
        for name, parameter in module.named_parameters():
            numbered = torch.arange(parameter.numel(), dtype=parameter.dtype).view_as(parameter)
            unpacked = [(key, view.clone()) for key, view in views(name, numbered)]
            stored += [key for key, _ in unpacked]
            if strange := [key for key, _ in unpacked if key not in weights]:
                return f"{name} contains {strange[0]}, which the model does not have"
            parameter.fill_(torch.nan)
            for (key, view), (_, values) in zip(views(name, parameter), unpacked, strict=True):
                if view.shape != weights[key].shape:
                    return f"{name} contains {key} as {list(view.shape)}"
                view.copy_(values)
            if not torch.equal(parameter, numbered):
                return f"{name} changes when unpacked and packed again"
            for key, view in views(name, parameter):
                view.copy_(weights[key])
        for name, parameter in module.named_parameters():
            for key, view in views(name, parameter):
                if not torch.equal(view, weights[key].to(view.dtype)):
                    return f"{key} changes when packed into {name}"
    return _coverage_problem(stored, weights)


def _coverage_problem(stored: Sequence[str], weights: Mapping[str, Tensor]) -> str:
    if lost := weights.keys() - set(stored):
        return f"no parameter contains {min(lost)}"
    if twice := sorted(name for name in set(stored) if stored.count(name) > 1):
        return f"{twice[0]} is contained twice"
    return ""
