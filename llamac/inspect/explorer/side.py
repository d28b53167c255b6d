"""The explorer's data of one compiled spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamac.inspect.drawing.svg import PARTS, region_svg
from llamac.inspect.explorer.keys import keys_of
from llamac.inspect.explorer.lines import LineTable
from llamac.inspect.explorer.nodes import node_data
from llamac.inspect.explorer.passes import pass_data
from llamac.inspect.explorer.source_lines import emitted_data, ir_data, spec_data
from llamac.inspect.memory import program_memory, stream_bytes
from llamac.ir.program import Program
from llamac.passes.pass_list import Stage
from llamac.spec import Spec


@dataclass(frozen=True)
class CompiledSpec:
    """A compiled spec to explore.

    title: the spec's name; its layout when two layouts of one spec are compared.
    spec: the spec that was compiled.
    stages: the Program after each pass, from the first.
    step: the predicted training step as JSON values; None if not all passes have run.
    """

    title: str
    spec: Spec
    stages: Sequence[Stage]
    step: dict[str, Any] | None = None

    @property
    def program(self) -> Program:
        """The Program after the last pass that has run."""
        return self.stages[-1].program


def side_data(side: CompiledSpec, lines: LineTable) -> dict[str, Any]:
    """Return the data of all panes of the explorer for one compiled spec as JSON values.

    lines: table to which the lines of IR, Python and resolved spec are added; the result refers to
    them by number.
    """
    program, stage = side.program, side.stages[-1].name
    keys = keys_of(program)
    nodes = node_data(program, side.spec)
    emitted = emitted_data(program, stage, side.spec, keys)
    ir = ir_data(program, keys)
    return {
        "title": side.title,
        "name": program.name,
        "stage": stage,
        "about": _about(side),
        "notes": list(program.notes),
        "layers": _layers(program),
        "regions": list(program.regions),
        "passes": pass_data(side.stages, lines),
        "nodes": nodes,
        "spec": spec_data(side.spec, (node["where"] for node in nodes.values())),
        "resolved": lines.add(side.spec.to_toml().splitlines()),
        "ir": {"lines": lines.add(line for line, _ in ir), "nodes": [key for _, key in ir]},
        "emitted": {**emitted, "lines": lines.add(emitted["lines"])},
        "drawings": _drawings(program),
        "step": side.step,
    }


def _about(side: CompiledSpec) -> dict[str, Any]:
    """Return sizes of the model, and a layer's saved bytes."""
    program, memory = side.program, program_memory(side.program)
    return {
        "parameters": program.parameter_count,
        "symbols": dict(program.symbols),
        "mesh": {axis: ranks for axis, ranks in side.spec.parallel.mesh.items() if ranks > 1},
        "ranks": side.spec.parallel.ranks,
        "policy": side.spec.recompute.policy,
        "sbh": stream_bytes(program),
        "kept": {
            region.name: {"saved": region.saved, "everything": region.without_recomputation}
            for region in memory.regions
        },
    }


def _drawings(program: Program) -> dict[str, dict[str, str]]:
    """Return the drawings of each region: whole, and of one direction where there are two."""
    return {
        name: {
            part: region_svg(program, region, part)
            for part in (PARTS if region.backward is not None else ("all",))
        }
        for name, region in program.regions.items()
    }


def _layers(program: Program) -> dict[str, Any]:
    """Return runs of layers with one region, and how many layers each pipeline stage has."""
    return {"runs": program.layer_runs, "stages": list(program.stages)}
