"""Run the inference Program, or the emitted inference.py, on a prompt: prefill, then decoding.

Rows of the batch have prompts of different lengths. Shorter prompts are padded, and decoding
overwrites the padding's entries in the cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from llamac.emit.importing import import_emitted
from llamac.ir.execute import run_graph
from llamac.ir.graph import output_of, placeholders, type_of
from llamac.ir.program import Program
from llamac.ir.shards import SINGLE_RANK, local_parameter
from llamac.runtime.kernels.documents import document_starts
from llamac.runtime.kernels.rope import rope_tables
from llamac.runtime.parameters import canonical_views


def prompt_lengths(rows: int, positions: int) -> Tensor:
    """Return a prompt length for each row, int64 [B], spread evenly from 1 to positions - 1.

    The rest of each row is decoded. With one position all lengths are 1.

    rows: B. positions: number of columns P of the prompt, padding included.
    """
    return torch.linspace(1, max(1, positions - 1), rows).long()


@torch.no_grad()
def run_inference(program: Program, weights: Mapping[str, Tensor], prompt: Tensor) -> Tensor:
    """Return the logits, float64 [B, P, V], of a prompt, int64 [B, P]: prefill, then decoding.

    program: Program after the pass `cache`. weights: float64 tensors by canonical name.
    """
    return _read(_Program(program, weights, prompt.shape), prompt)


@torch.no_grad()
def run_emitted_inference(
    files: Mapping[str, str], weights: Mapping[str, Tensor], prompt: Tensor
) -> Tensor:
    """Return the logits, float64 [B, P, V], of an emitted inference.py for a prompt, int64 [B, P].

    files: text of the emitted files by relative path. weights: float64 tensors by canonical name.
    """
    with import_emitted(files, "inference") as module:
        if hasattr(module, "rope_tables"):  # call the emitted code, but with float64 tables
            module.rope_tables = partial(module.rope_tables, dtype=torch.float64)
        holder = sys.modules[module.Model.__module__]  # model.py, or whole_model.py
        model = holder.Model(dtype=torch.float64)
        for name, parameter in model.named_parameters():
            for canonical, view in canonical_views(name, parameter, holder.PACKED):
                view.copy_(weights[canonical])
        return _read(_Emitted(module.Inference(model, *prompt.shape)), prompt)


class _Program:
    """Runs the inference Program with caches, as the generator would."""

    def __init__(
        self, program: Program, weights: Mapping[str, Tensor], shape: Sequence[int]
    ) -> None:
        self.program, self.weights, self.eos = program, weights, program.eos
        rows, self.positions = shape
        symbols = {**program.symbols, "B": rows, "C": self.positions}
        caches = placeholders(program.regions["decode"].forward.graph, "cache")
        self.caches = [
            {
                node.name: torch.full(
                    [symbols[n] if isinstance(n, str) else n for n in type_of(node).shape],
                    7.0,  # entries not yet written must have no effect
                    dtype=torch.float64,
                )
                for node in caches
            }
            for _ in program.layers
        ]
        self.tables: dict[str, Tensor] = {}
        if program.buffers:
            arguments = dict(next(iter(program.buffers.values())).arguments)
            arguments |= {"positions": self.positions, "dtype": torch.float64}
            cos, sin = rope_tables(**arguments)  # type: ignore[arg-type]
            self.tables = {"rope_cos": cos, "rope_sin": sin}

    def prefill(self, tokens: Tensor) -> Tensor:
        rows, length = tokens.shape
        constants = {name: table[:length] for name, table in self.tables.items()}
        constants["positions"] = torch.arange(length).expand(rows, -1)
        if self.eos is not None:
            constants["starts"] = document_starts(tokens, self.eos)
        return self._run("prefill", tokens, constants)

    def decode(self, before: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the logits of one token per row.

        before: int64 [B, P], each row's tokens; those up to its position are used.
        """
        at = positions.unsqueeze(1)
        constants = {name: table[at] for name, table in self.tables.items()}
        constants |= {"positions": at, "slots": torch.arange(self.positions)}
        if self.eos is not None:
            constants["starts"] = document_starts(before, self.eos).gather(1, at)
        visible = self.program.regions["visible"].forward.graph
        constants["seen"] = run_graph(visible, constants)[output_of(visible).name]
        return self._run("decode", tokens.unsqueeze(1), constants)[:, 0]

    def _run(self, phase: str, tokens: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
        regions = self.program.regions
        x = self._graph(regions["embed"].forward.graph, None, {**constants, "tokens": tokens})
        for layer, cache in enumerate(self.caches):
            given = {**constants, **cache, "x": x}
            x = self._graph(regions[phase].forward.graph, layer, given)
        return self._graph(regions["logits"].forward.graph, None, {"x": x})

    def _graph(self, graph: fx.Graph, layer: int | None, given: Mapping[str, Tensor]) -> Tensor:
        table = self.program.parameters
        own = {
            node.name: local_parameter(
                table[node.meta["param"]], self.weights, layer, {}, SINGLE_RANK
            )
            for node in placeholders(graph, "param")
        }
        return run_graph(graph, {**given, **own})[output_of(graph).name]


class _Emitted:
    """Runs the class Inference of an emitted inference.py."""

    def __init__(self, inference: Any) -> None:
        self.inference = inference

    def prefill(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        rows = [self.inference.prefill(tokens, at.expand(len(tokens))) for at in places]
        return torch.stack(rows, 1)

    def decode(self, before: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.inference.decode(tokens, positions, int(positions.max()) + 1)


def _read(runner: _Program | _Emitted, prompt: Tensor) -> Tensor:
    """Prefill each row's beginning, decode the rest token by token; return logits [B, P, V]."""
    rows, positions = prompt.shape
    lengths = prompt_lengths(rows, positions)
    longest = int(lengths.max())
    tokens = prompt[:, :longest].clone()
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0  # padding
    found = list(runner.prefill(tokens).unbind(1))
    logits = torch.stack(found + [found[0]] * (positions - longest), 1)
    for at in _steps(lengths, positions):
        step = runner.decode(prompt, prompt.gather(1, at.unsqueeze(1))[:, 0], at)
        logits[torch.arange(rows), at] = step
    return logits


def _steps(lengths: Tensor, positions: int) -> Iterator[Tensor]:
    """Yield each step's positions, int64 [B]; a finished row repeats its last position."""
    at = lengths
    while True:
        yield at.clamp(max=positions - 1)
        at = at + 1
        if bool((at >= positions).all()):
            return
