"""Write a Program as JSON.

Format version 1; incompatible changes increase the version:

    {"format": "llamac-program", "version": 1, "program": NAME, "stage": PASS,
     "symbols": {"B": 8, "S": 256},
     "parameters": [{"name", "dtype", "shape", "count", "where",
                     "pieces": [{"name", "rows", "init": {"kind", "std"}}]}],
     "buffers": [{"name", "dtype", "shape", "arguments": {}}],
     "layers": [{"region": NAME, "count": 6}],          runs of equal layers, in order
     "notes": [TEXT],
     "regions": [{"name", "saved": [VALUE], "forward": GRAPH, "backward": GRAPH or null}]}

    GRAPH: {"inputs": [{"name", "role", "dtype", "shape", "parameter" or null, "where"}],
            "nodes": [{"op", "operands": [VALUE or null], "attributes": {}, "where",
                       "results": [{"name" or null (unused), "dtype", "shape", "saved"}]}],
            "returns": VALUE (forward) or {INPUT OR PARAMETER: VALUE of its gradient} (backward)}

A VALUE is a name within its graph. A shape holds sizes and the symbols "B" and "S". `*` in a
parameter's name stands for the layer's number, and `count` says how many there are.
"""

from __future__ import annotations

import json
from typing import Any

from torch import fx

from llamac.ir.graph import op_of, ops_in, output_of, placeholders, results, type_of
from llamac.ir.program import Parameter, Program, Region
from llamac.ir.types import TensorType


def program_json(program: Program, stage: str, region_name: str | None = None) -> dict[str, Any]:
    """Return a Program as JSON values in the format at the top of this file.

    stage: name of the last pass.
    region_name: the only region to include; None includes all. Parameters, buffers and layers are
        always those of the whole program.
    """
    return {
        "format": "llamac-program",
        "version": 1,
        "program": program.name,
        "stage": stage,
        "symbols": dict(program.symbols),
        "parameters": [_parameter(program, entry) for entry in program.parameters.values()],
        "buffers": [
            {"name": one.name, **_type(one.type), "arguments": dict(one.arguments)}
            for one in program.buffers.values()
        ],
        "layers": [{"region": name, "count": count} for name, count in program.layer_runs],
        "notes": list(program.notes),
        "regions": [_region(r) for r in program.regions.values() if region_name in (None, r.name)],
    }


def dump(value: Any) -> str:
    """Return JSON values as indented text that ends in a newline, with keys in insertion order."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _type(kind: TensorType) -> dict[str, Any]:
    return {"dtype": kind.dtype, "shape": list(kind.shape)}


def _parameter(program: Program, entry: Parameter) -> dict[str, Any]:
    return {
        "name": entry.name,
        **_type(entry.type),
        "count": program.copies(entry),
        "where": entry.where,
        "pieces": [
            {
                "name": piece.name,
                "rows": piece.rows,
                "init": {"kind": piece.init.kind, "std": piece.init.std},
            }
            for piece in entry.pieces
        ],
    }


def _region(region: Region) -> dict[str, Any]:
    backward = region.backward
    return {
        "name": region.name,
        "saved": list(region.saved),
        "forward": _graph(region.forward.graph, set(region.saved)),
        "backward": None if backward is None else _graph(backward.graph, set()),
    }


def _graph(graph: fx.Graph, saved: set[str]) -> dict[str, Any]:
    returned = output_of(graph)
    return {
        "inputs": [
            {
                "name": node.name,
                "role": node.meta["role"],
                **_type(type_of(node)),
                "parameter": node.meta.get("param") or None,
                "where": node.meta["where"],
            }
            for node in placeholders(graph)
        ],
        "nodes": [_node(node, saved) for node in ops_in(graph)],
        "returns": returned.name
        if isinstance(returned, fx.Node)
        else {name: value.name for name, value in returned.items()},
    }


def _node(node: fx.Node, saved: set[str]) -> dict[str, Any]:
    kinds = node.meta["type"]
    kinds = (kinds,) if isinstance(kinds, TensorType) else kinds
    made = [
        {
            "name": value.name if value is not None else None,
            **_type(kind),
            "saved": value is not None and value.name in saved,
        }
        for value, kind in zip(results(node), kinds, strict=True)
    ]
    return {
        "op": op_of(node).name,
        "operands": [one.name if isinstance(one, fx.Node) else None for one in node.args],
        "attributes": dict(node.kwargs),
        "where": node.meta["where"],
        "results": made,
    }
