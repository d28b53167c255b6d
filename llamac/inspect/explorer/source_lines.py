"""Texts whose lines map to nodes: the spec's files, the IR, and the emitted Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx

from llamac.emit.functions import PLAIN
from llamac.emit.model import node_lines, render_model
from llamac.emit.sizes import Sizes
from llamac.inspect.explorer.keys import graphs
from llamac.inspect.source import stage_source
from llamac.ir.printer import graph_lines, print_program
from llamac.ir.program import Program
from llamac.passes.pass_list import NAMES
from llamac.spec import Spec

ELSEWHERE = "not in a file"
"""Title of what `--set` and defaults say."""


def spec_data(spec: Spec, places: Iterable[str]) -> list[dict[str, Any]]:
    """Return the spec's files, and the places that are in none of them, as texts of lines.

    places: of nodes, such as `65b.toml:14`, `default` or `--set model.dim=512`.
    """
    found: list[dict[str, Any]] = []
    for path in spec.files:
        text = path.read_text(encoding="utf-8", errors="replace")
        found.append({"file": path.name, "lines": text.splitlines()})
    numbered = {f"{one['file']}:{n}" for one in found for n in range(1, len(one["lines"]) + 1)}
    rest = sorted({place for place in places if place and place not in numbered})
    return [*found, {"file": ELSEWHERE, "lines": rest}] if rest else found


def ir_data(program: Program, keys: Mapping[fx.Node, str]) -> list[tuple[str, str]]:
    """Return the lines of a printed program, each with the key of its node or an empty text."""
    body: list[tuple[str, str]] = []
    for region, direction, _ in graphs(program):
        body.append(("", ""))
        body += [
            (line, keys[node] if node is not None else "")
            for line, node in graph_lines(region, direction)
        ]
    header = print_program(program).splitlines()
    return [(line, "") for line in header[: len(header) - len(body)]] + body


def emitted_data(
    program: Program, stage: str, spec: Spec, keys: Mapping[fx.Node, str]
) -> dict[str, Any]:
    """Return the emitted model.py, or functions of an earlier stage. lines: number → key."""
    if stage == NAMES[-1]:
        fsdp = spec.parallel.fsdp
        name, source, sizes = "model.py", render_model(program, fsdp), Sizes.of(program)
    else:
        name, source, sizes = f"after {stage}", stage_source(program, stage), PLAIN
    linked = node_lines(program, source, sizes)
    return {
        "file": name,
        "lines": source.splitlines(),
        "nodes": {str(number): keys[node] for number, node in sorted(linked.items())},
    }
