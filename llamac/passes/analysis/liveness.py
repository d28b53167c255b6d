"""Liveness: bytes allocated while a graph runs op by op, each value freed after its last reader.

Views have no memory of their own; parameters and constant tables are not counted. Inputs and saved
values stay allocated throughout, as the caller holds them. The operand and result of a collective
stay allocated from its start to its wait, since the transfer reads and writes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import fx

from llamac.ir.graph import ops_in, output_of, placeholders, type_of
from llamac.ir.program import Region
from llamac.ir.values import base_of, forward_by_name, operands_of, values_of
from llamac.ops.async_collectives import is_start


class LiveMemory:
    """Simulated allocator that counts live bytes while a graph's ops run, in any valid order.

    live_out: names of values that outlive the graph in addition to its output.
    symbols: size of each symbolic dimension, such as S/tp.
    nbytes: live bytes after the ops that have run.
    """

    def __init__(
        self, graph: fx.Graph, live_out: Collection[str], symbols: Mapping[str, int]
    ) -> None:
        self.symbols = symbols
        self.readers: dict[fx.Node, set[fx.Node]] = {}  # base → ops that have yet to read it
        for node in ops_in(graph):
            for operand in operands_of(node):
                readers = self.readers.setdefault(base_of(operand), set())
                readers.add(node)
                if is_start(node):
                    readers.update(node.users)
        returned = output_of(graph)
        ends = returned.values() if isinstance(returned, dict) else [returned]
        named = [node for node in graph.nodes if node.name in live_out]
        self.live_to_end = {base_of(node) for node in [*ends, *named]}
        self.live_to_end.update(placeholders(graph))
        arguments = placeholders(graph, "input", "saved", "cotangent")
        self.nbytes = sum(type_of(node).nbytes(symbols) for node in arguments)

    def bytes_during(self, node: fx.Node) -> int:
        """Return the live bytes while an op runs, its operands and results included."""
        return self.nbytes + sum(self._size(value) for value in values_of(node))

    def run(self, node: fx.Node) -> None:
        """Run an op: add its results to `nbytes`, then subtract values that need no longer live."""
        self.nbytes = self.bytes_during(node)
        for base, readers in self._read(node):
            readers.discard(node)
            if not readers and base not in self.live_to_end:
                self.nbytes -= type_of(base).nbytes(self.symbols)

    def _size(self, value: fx.Node) -> int:
        return type_of(value).nbytes(self.symbols) if base_of(value) is value else 0

    def _read(self, node: fx.Node) -> list[tuple[fx.Node, set[fx.Node]]]:
        bases = dict.fromkeys(base_of(operand) for operand in operands_of(node))
        for start in filter(is_start, operands_of(node)):
            bases.update(dict.fromkeys(base_of(operand) for operand in operands_of(start)))
        return [(base, self.readers[base]) for base in bases]


def peak_bytes(
    graph: fx.Graph,
    live_out: Collection[str],
    symbols: Mapping[str, int],
    order: Sequence[fx.Node] | None = None,
) -> int:
    """Return the peak of live bytes if the ops run in `order`; None is the graph's order.

    live_out, symbols: as for `LiveMemory`.
    """
    live = LiveMemory(graph, live_out, symbols)
    peak = live.nbytes
    for node in ops_in(graph) if order is None else order:
        peak = max(peak, live.bytes_during(node))
        live.run(node)
    return peak


def live_values(
    graph: fx.Graph, live_out: Collection[str], symbols: Mapping[str, int]
) -> Iterator[tuple[fx.Node, int, list[fx.Node]]]:
    """Yield (op, live bytes, live values) for each op in order, as they are while it runs.

    Values are nodes with memory of their own: neither views nor parameters nor constant tables.

    live_out, symbols: as for `LiveMemory`.
    """
    live = LiveMemory(graph, live_out, symbols)
    values = placeholders(graph, "input", "saved", "cotangent")
    for node in ops_in(graph):
        values += [value for value in values_of(node) if base_of(value) is value]
        yield node, live.bytes_during(node), list(values)
        live.run(node)
        values = [value for value in values if value in live.live_to_end or live.readers.get(value)]


def saved_bytes(region: Region, symbols: Mapping[str, int]) -> int:
    """Return the bytes of a region's saved set, inputs included; 0 before `differentiate`."""
    forward = forward_by_name(region)
    bases = {base_of(forward[name]) for name in region.saved}
    return sum(type_of(base).nbytes(symbols) for base in bases)
