"""Texts whose lines map to nodes: the spec's files, the IR, and the emitted Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx

from llamac.emit.functions import PLAIN
from llamac.emit.model import nodes_by_line, render_model
from llamac.emit.sizes import Sizes
from llamac.inspect.explorer.keys import graphs
from llamac.inspect.source import stage_source
from llamac.ir.printer import graph_lines, print_program
from llamac.ir.program import Program
from llamac.passes.pass_list import NAMES
from llamac.spec import Spec

ELSEWHERE = "not in a file"
"""Title of the text that lists values set by `--set` or by default."""


def spec_data(spec: Spec, places: Iterable[str]) -> list[dict[str, Any]]:
    """Return the spec's files as `{"file": name, "lines": [text]}`.

    The last entry lists the places that are in no file, if there are any; its name is `ELSEWHERE`.

    places: origins of nodes, such as `65b.toml:14`, `default` or `--set model.dim=512`.
    """
    found: list[dict[str, Any]] = []
    for path in spec.files:
        text = path.read_text(encoding="utf-8", errors="replace")
        found.append({"file": path.name, "lines": text.splitlines()})
    numbered = {f"{one['file']}:{n}" for one in found for n in range(1, len(one["lines"]) + 1)}
    rest = sorted({place for place in places if place and place not in numbered})
    return [*found, {"file": ELSEWHERE, "lines": rest}] if rest else found


def ir_data(program: Program, keys: Mapping[fx.Node, str]) -> list[tuple[str, str]]:
    """Return (line, key of its node) for each line of the printed program; "" without a node.

    keys: result of `keys_of`.
    """
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
    """Return the source of model.py, or of an earlier stage's functions, as JSON values.

    In the result, `nodes` maps line numbers, from 1 and as text, to the key of the node that the
    line computes.

    stage: name of the last pass; model.py exists only after the last one of the pipeline.
    keys: result of `keys_of`.
    """
    if stage == NAMES[-1]:
        fsdp = spec.parallel.fsdp
        name, source, sizes = "model.py", render_model(program, fsdp), Sizes.from_program(program)
    else:
        name, source, sizes = f"after {stage}", stage_source(program, stage), PLAIN
    linked = nodes_by_line(program, source, sizes)
    return {
        "file": name,
        "lines": source.splitlines(),
        "nodes": {str(number): keys[node] for number, node in sorted(linked.items())},
    }
