"""Eager execution of a Program at any stage, to check passes against plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from llamac.ir.graph import output_of, placeholders
from llamac.ir.program import Program, Region
from llamac.ir.shards import SINGLE_RANK, Coordinates, canonical_gradients, local_parameter
from llamac.runtime.kernels.documents import document_starts


def run_graph(graph: fx.Graph, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Run a graph and return the values of all its nodes by name.

    values: inputs by placeholder name. A multi-result op's value is a tuple.
    """
    env: dict[str, Any] = {}

    def value(node: fx.Node) -> Any:
        return env[node.name]

    for node in graph.nodes:
        if node.op == "placeholder":
            env[node.name] = values[node.name]
        elif node.op == "call_function":
            args = fx.map_arg(node.args, value)
            env[node.name] = node.target(*args, **node.kwargs)
    return env


def loss_and_gradients(
    program: Program,
    weights: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    tokens: Tensor,
    labels: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients, by canonical name, of a one-rank differentiated Program.

    The loss is as in `loss_and_local_gradients`, whose arguments these are.
    """
    loss, gradients = loss_and_local_gradients(program, weights, buffers, tokens, labels)
    return loss, canonical_gradients(program, [(SINGLE_RANK, gradients)])


def loss_cotangent(loss: Tensor) -> Tensor:
    """Return the cotangent of the loss with which checks start the backward pass.

    It has the loss's shape and dtype: 1 for a scalar loss; 1, …, B for log-probabilities [B], so
    that a permuted row shows.
    """
    return torch.arange(1, loss.numel() + 1).to(loss).view_as(loss)


def loss_and_local_gradients(
    program: Program,
    weights: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    tokens: Tensor,
    labels: Tensor,
    coordinates: Coordinates = SINGLE_RANK,
) -> tuple[Tensor, dict[tuple[str, int | None], Tensor]]:
    """Return one rank's loss, and its local gradients by (parameter, layer number or None).

    The loss is a scalar, or the log-probabilities [B] that DPO compares. Gradients are those of its
    dot product with `loss_cotangent`, not yet summed over mesh axes (`Program.reduction_axes`).
    Each backward graph receives only its region's saved set, so a value that is missing there is an
    error.

    Args:
        program: Differentiated Program.
        weights: Full weights by canonical name, all of one floating dtype.
        buffers: The rank's constant tables by name.
        tokens: The rank's token ids, int64 [B, S].
        labels: The rank's labels, int64 [B, S].
        coordinates: The rank's coordinates in the mesh.
    """
    run = _Run(program, weights, _constants(program, buffers, tokens), coordinates)
    x, tape = tokens.clamp(min=0), []  # padding gets any valid id
    for name, layer in _sequence(program):
        region = program.regions[name]
        extra = {"labels": labels} if name == "head" else {}
        x, saved = run.forward(region, x, layer, extra)
        tape.append((region, layer, saved))
    loss, cotangent = x, loss_cotangent(x)
    for region, layer, saved in reversed(tape):
        if not program.needs_backward(region):
            break  # no earlier region needs a gradient: the embedding is frozen
        cotangent = run.backward(region, cotangent, layer, saved)
    return loss, run.gradients


def logits(
    program: Program,
    weights: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    tokens: Tensor,
    coordinates: Coordinates = SINGLE_RANK,
) -> Tensor:
    """Return the logits [B, S, V] of tokens, computed by the forward graphs alone.

    Arguments are those of `loss_and_local_gradients`.
    """
    run = _Run(program, weights, _constants(program, buffers, tokens), coordinates)
    return _forward(run, tokens, "logits", {})


def evaluate(
    program: Program,
    weights: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    tokens: Tensor,
    labels: Tensor,
    coordinates: Coordinates = SINGLE_RANK,
) -> Tensor:
    """Return one rank's loss, computed by the forward graphs alone.

    The Program may come from any pass. Arguments are those of `loss_and_local_gradients`.
    """
    head = "evaluate" if "evaluate" in program.regions else "head"
    run = _Run(program, weights, _constants(program, buffers, tokens), coordinates)
    return _forward(run, tokens, head, {"labels": labels})


def _constants(
    program: Program, buffers: Mapping[str, Tensor], tokens: Tensor
) -> Mapping[str, Tensor]:
    """Return the constants that layers read: tables, and the positions where documents begin."""
    if program.eos is None:
        return buffers
    return {**buffers, "starts": document_starts(tokens, program.eos)}


def _forward(run: _Run, tokens: Tensor, head: str, extra: Mapping[str, Tensor]) -> Tensor:
    """Run the forward graphs from `embed` to the region `head`, saving nothing."""
    x = tokens.clamp(min=0)
    for name, layer in _sequence(run.program):
        last = name == "head"
        region = run.program.regions[head if last else name]
        x, _ = run.forward(region, x, layer, extra if last else {})
    return x


def _sequence(program: Program) -> list[tuple[str, int | None]]:
    layers: list[tuple[str, int | None]] = [(name, i) for i, name in enumerate(program.layers)]
    return [("embed", None), *layers, ("head", None)]


class _Run:
    def __init__(
        self,
        program: Program,
        weights: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        coordinates: Coordinates,
    ) -> None:
        self.program, self.weights, self.buffers = program, weights, buffers
        self.coordinates = coordinates
        self.gradients: dict[tuple[str, int | None], Tensor] = {}

    def _parameters(self, graph: fx.Graph, layer: int | None) -> dict[str, Tensor]:
        table, mesh = self.program.parameters, self.program.mesh
        return {
            node.name: local_parameter(
                table[node.meta["param"]], self.weights, layer, mesh, self.coordinates
            )
            for node in placeholders(graph, "param")
        }

    def forward(
        self, region: Region, x: Tensor, layer: int | None, extra: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        graph = region.forward.graph
        first = placeholders(graph, "input")[0].name
        values = {first: x, **extra, **self.buffers, **self._parameters(graph, layer)}
        env = run_graph(graph, values)
        return env[output_of(graph).name], {name: env[name] for name in region.saved}

    def backward(
        self, region: Region, cotangent: Tensor, layer: int | None, saved: dict[str, Tensor]
    ) -> Tensor:
        assert region.backward is not None, f"{region.name} is not differentiated yet"
        graph = region.backward.graph
        values = {**saved, **self.buffers, **self._parameters(graph, layer)}
        values[placeholders(graph, "cotangent")[0].name] = cotangent
        env = run_graph(graph, values)
        for name, node in output_of(graph).items():
            if name in self.program.parameters:
                key = (name, layer if self.program.parameters[name].per_layer else None)
                so_far = self.gradients.get(key)
                found = env[node.name]
                self.gradients[key] = found if so_far is None else so_far + found
            else:
                cotangent = env[node.name]
        return cotangent
