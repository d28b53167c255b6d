"""Nodes of the last stage: types, layouts, users, saved values and backward nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from llamac.inspect.drawing.sheet import kind_of
from llamac.inspect.explorer.keys import Direction, graphs, keys_of
from llamac.inspect.explorer.meaning import TensorKind, chips, reason
from llamac.inspect.memory import ValueMemory, region_memory
from llamac.inspect.origin import origins
from llamac.ir.graph import is_op, op_of, output_of, producer, recomputed_ops, type_of
from llamac.ir.program import Program, Region
from llamac.ir.values import values_of
from llamac.spec import Spec


def node_data(program: Program, spec: Spec) -> dict[str, dict[str, Any]]:
    """Return a description of every node of a compiled program as JSON values, by `node_key`.

    values: a node's results, each with type, placements and, in forward graphs, memory status.
    reads, users: keys of the nodes that it reads and that read it.
    origin: of a backward node, the key of the forward node that it recomputes or differentiates;
        `backward` lists the inverse. Both are left out if there is none.
    again: true for ops that the backward graph recomputes, otherwise left out.
    """
    keys = keys_of(program)
    found: dict[str, dict[str, Any]] = {}
    for region, direction, graph in graphs(program):
        about = _About(program, spec, region, direction)
        for node in graph.nodes:
            if node.op in ("placeholder", "output") or is_op(node):
                found[keys[node]] = about.node(node, keys)
        if direction == "backward":
            _link(region, keys, found)
    return found


class _About:
    """Describes the nodes of one graph."""

    def __init__(self, program: Program, spec: Spec, region: Region, direction: Direction) -> None:
        self.program, self.spec = program, spec
        self.region, self.direction = region, direction
        self.memory: Mapping[str, ValueMemory] = {}
        self.recomputed: frozenset[fx.Node] = frozenset()
        self.gradients: set[str] = set()
        if region.backward is None:
            return
        if direction == "forward":
            values = region_memory(region, program.symbols).values
            self.memory = {value.name: value for value in values}
        else:
            graph = region.backward.graph
            self.recomputed = recomputed_ops(graph)
            returned = output_of(graph).items()
            self.gradients = {v.name for name, v in returned if name in program.parameters}

    def node(self, node: fx.Node, keys: Mapping[fx.Node, str]) -> dict[str, Any]:
        read = dict.fromkeys(producer(one)[0] for one in node.all_input_nodes)
        found: dict[str, Any] = {
            "region": self.region.name,
            "direction": self.direction,
            "name": node.name,
            "reads": [keys[one] for one in read],
            "where": node.meta.get("where", ""),
            "kind": "end",
        }
        if node.op == "output":
            return found | {"op": "return", "name": "return", "values": [], "users": []}
        if is_op(node):
            found |= {"op": op_of(node).name, "kind": kind_of(node, self.program)}
            found["attributes"] = {key: repr(value) for key, value in node.kwargs.items()}
            found |= {"again": True} if node in self.recomputed else {}
        else:
            found |= {"op": node.meta["role"], "parameter": node.meta.get("param", "")}
        made = values_of(node)
        users = dict.fromkeys(user for value in made for user in value.users)
        return found | {
            "values": [self._value(value) for value in made],
            "users": [keys[user] for user in users],
        }

    def _value(self, value: fx.Node) -> dict[str, Any]:
        kind, symbols = type_of(value), self.program.symbols
        found: dict[str, Any] = {
            "name": value.name,
            "dtype": kind.dtype,
            "shape": list(kind.shape),
            "type": str(kind),
            "bytes": kind.nbytes(symbols),
            "chips": list(
                chips(
                    kind,
                    self._tensor_kind(value),
                    self.spec.parallel.mesh,
                    self.program.mesh,
                    symbols,
                )
            ),
        }
        if (memory := self.memory.get(value.name)) is not None:
            found["status"] = memory.status
            found["why"] = reason(value, memory, self.spec.recompute.policy)
        return found

    def _tensor_kind(self, value: fx.Node) -> TensorKind:
        if value.meta.get("role") == "param":
            return "parameter"
        return "gradient" if value.name in self.gradients else "value"


def _link(region: Region, keys: Mapping[fx.Node, str], found: dict[str, dict[str, Any]]) -> None:
    """Join a region's backward nodes with the forward nodes they come from."""
    assert region.backward is not None
    forward = {node.name: node for node in region.forward.graph.nodes}
    pairs = list(origins(region).items())
    for node in region.backward.graph.nodes:
        if node.op == "placeholder" and node.name in forward:  # a saved value, a parameter
            found[keys[node]]["origin"] = keys[forward[node.name]]
    for node, origin in pairs:
        found[keys[node]]["origin"] = keys[origin]
        found[keys[origin]].setdefault("backward", []).append(keys[node])
