"""overlap: reorders ops so that collectives run concurrently with computation.

A collective starts as soon as its operand exists, and is waited for just before its first reader;
other ops run in between. In the backward pass, a column-parallel linear computes its input's
gradient first, and its weight's gradient while the former is reduced; all-gathers for recomputation
run under other ops (Narayanan et al. 2021; Korthikanti et al. 2022). A collective that nothing can
hide stays synchronous, and a graph that would not gain is left unchanged.

Starts and waits of collectives on one axis keep their order. A graph's simulated peak memory may
grow by `headroom` bytes: by default three times the operand and result of its largest collective,
since one may run while the next is ready.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx

from llamac.ir.graph import (
    Builder,
    attributes,
    copy_graph,
    finish,
    is_result,
    op_of,
    operands,
    ops_in,
    output_of,
    placeholders,
    producer,
    rename,
    type_of,
)
from llamac.ir.program import Program
from llamac.ir.values import operands_of, values_of
from llamac.ops.async_collectives import BY_COLLECTIVE, BY_START, is_collective, is_start, is_wait
from llamac.ops.collectives import broadcast, place_part, take_part
from llamac.ops.context import context_attention, context_attention_backward
from llamac.ops.vocab_parallel import parallel_embedding, parallel_embedding_gradient
from llamac.passes.analysis.liveness import LiveMemory, peak_bytes
from llamac.passes.analysis.timing import TimingModel, timeline

# Ops that name an axis but transfer nothing. All others that name one keep their order on it.
LOCAL = (
    broadcast,
    take_part,
    place_part,
    parallel_embedding,
    parallel_embedding_gradient,
    context_attention,
    context_attention_backward,
)

# Factor by which scheduling assumes transfers to be slower than estimated, so that they stay
# hidden on shared or slow links.
SLACK = 2.0


@dataclass(frozen=True)
class Overlap:
    """Pass that reorders ops so that collectives run while other ops compute.

    enabled: False leaves the Program unchanged.
    headroom: bytes by which it may raise a graph's peak memory; None: `default_headroom`.
    """

    enabled: bool = True
    headroom: int | None = None
    name: str = "overlap"

    def apply(self, program: Program) -> Program:
        timing = TimingModel(program.symbols, program.mesh)
        for region in program.regions.values() if self.enabled else ():
            forward = overlap_collectives(region.forward, region.saved, timing, self.headroom)
            backward = region.backward and overlap_collectives(
                region.backward, (), timing, self.headroom
            )
            if forward is not region.forward or backward is not region.backward:
                program = program.with_region(replace(region, forward=forward, backward=backward))
        return program


def overlap_collectives(
    module: fx.GraphModule,
    live_out: Collection[str],
    timing: TimingModel,
    headroom: int | None = None,
) -> fx.GraphModule:
    """Return the graph with asynchronous collectives, in the fastest of three scheduled orders.

    If none is faster within the headroom, `module` itself is returned.

    live_out: names of values that outlive the graph in addition to its output.
    timing: estimates the time of ops. headroom: as for `Overlap`.
    """
    if not any(map(is_collective, ops_in(module.graph))):
        return module
    before = peak_bytes(module.graph, live_out, timing.symbols)
    headroom = default_headroom(module.graph, timing.symbols) if headroom is None else headroom
    graph = copy_graph(module)
    _split(graph)
    best, least_seconds = None, timeline(ops_in(module.graph), timing).seconds
    for limit in (before + headroom, before, None):
        order = _Scheduler(graph, live_out, timing, limit).run()
        done = timeline(order, timing).seconds
        peak = peak_bytes(graph, live_out, timing.symbols, order)
        if done < least_seconds * (1 - 1e-9) and peak <= before + headroom:
            best, least_seconds = order, done
    return module if best is None else finish(_rebuild(graph, best), live_out=live_out)


def default_headroom(graph: fx.Graph, symbols: Mapping[str, int]) -> int:
    """Return the default of `Overlap.headroom`, bytes by which a graph's peak memory may grow.

    It is three times the operands and result of the largest collective, or 0 without collectives.

    symbols: value of each symbolic dimension.
    """
    moved = (
        sum(type_of(value).nbytes(symbols) for value in (node, *operands_of(node)))
        for node in ops_in(graph)
        if is_collective(node)
    )
    return 3 * max(moved, default=0)


def _split(graph: fx.Graph) -> None:
    """Replace every collective by a start and a wait."""
    build = Builder(graph)
    for node in [node for node in ops_in(graph) if is_collective(node)]:
        halves, options = BY_COLLECTIVE[op_of(node)], attributes(node)
        with graph.inserting_before(node):
            build.where = node.meta["where"]
            started = build.op(
                halves.start, *operands(node), name=f"{node.name}_started", **options
            )
            options.pop("size", None)
            wait = build.op(halves.wait, started, name=node.name, **options)
        node.replace_all_uses_with(wait)
        graph.erase_node(node)
        rename(wait, node.name)


def _is_lazy(node: fx.Node) -> bool:
    """Return whether an op takes no time and runs just before its first reader: views, waits."""
    return is_wait(node) or op_of(node).cost == "view"


class _Scheduler:
    """List scheduler that repeatedly takes the op that can begin soonest.

    Ties go to an op that the next collective depends on, then to the first in program order.
    limit: live bytes above which it follows program order; None follows it from the beginning.
    """

    def __init__(
        self, graph: fx.Graph, live_out: Collection[str], timing: TimingModel, limit: int | None
    ) -> None:
        self.graph, self.timing, self.limit = graph, timing, limit
        self.live = LiveMemory(graph, live_out, timing.symbols)
        self.pending = [node for node in ops_in(graph) if not _is_lazy(node)]
        self.index = {node: index for index, node in enumerate(self.pending)}
        self.needs = {node: frozenset(_sources(node)) for node in self.pending}
        self.queues: dict[str, list[fx.Node]] = {}  # axis → collectives still to be scheduled on it
        for node in self.pending:
            if (axis := _axis(node)) is not None:
                self.queues.setdefault(axis, []).append(node)
        self.urgent = self._urgent()
        self.waits: dict[str, list[fx.Node]] = {axis: [] for axis in self.queues}  # of the started
        self.scheduled: set[fx.Node] = set()
        self.order: list[fx.Node] = []
        self.done: dict[fx.Node, float] = {}  # op → time at which its result is available
        self.now = 0.0
        self.free = dict.fromkeys(self.queues, 0.0)  # axis → time at which it is free

    def run(self) -> list[fx.Node]:
        while self.pending:
            self._schedule(self._next())
        for node in ops_in(self.graph):  # values that only the caller reads
            self._schedule_lazy(node)
        return self.order

    def _next(self) -> fx.Node:
        if self.limit is None:
            return self.pending[0]
        ready = sorted(filter(self._is_ready, self.pending), key=self._preference)
        fitting = (node for node in ready if self.live.bytes_during(node) <= self.limit)
        return next(fitting, self.pending[0])

    def _is_ready(self, node: fx.Node) -> bool:
        queue = self.queues.get(_axis(node) or "", [node])
        return self.needs[node] <= self.scheduled and queue[0] is node

    def _preference(self, node: fx.Node) -> tuple[float, bool, bool, int]:
        begin = self._begin(node)
        return begin, not is_start(node), node not in self.urgent, self.index[node]

    def _begin(self, node: fx.Node) -> float:
        return max([self.now, *(self.done[source] for source in self.needs[node])])

    def _schedule(self, node: fx.Node) -> None:
        self.now = self._begin(node)
        for operand in operands_of(node):
            self._schedule_lazy(producer(operand)[0])
        self._append(node)
        self.pending.remove(node)
        seconds, axis = self.timing.seconds(node), _axis(node)
        if is_start(node):
            assert axis is not None
            self.done[node] = self.free[axis] = max(self.now, self.free[axis]) + SLACK * seconds
            self.waits[axis] += list(node.users)
        else:
            self.now = self.done[node] = self.now + seconds
        if axis is not None:
            self.queues[axis].pop(0)
            self.urgent = self._urgent()

    def _schedule_lazy(self, node: fx.Node) -> None:
        """Schedule a view or wait, after the views and waits it reads, unless already scheduled."""
        if node.op == "placeholder" or node in self.scheduled:
            return
        for operand in operands_of(node):
            self._schedule_lazy(producer(operand)[0])
        if is_wait(node):  # first in, first out
            waits = self.waits[attributes(node)["axis"]]
            while waits and node in waits:
                self._append(waits.pop(0))
        else:
            self._append(node)

    def _append(self, node: fx.Node) -> None:
        self.order.append(node)
        self.scheduled.add(node)
        self.live.run(node)

    def _urgent(self) -> set[fx.Node]:
        """Return the ops on which the next collective of each axis depends."""
        found: set[fx.Node] = set()
        ahead = [queue[0] for queue in self.queues.values() if queue]
        while ahead:
            node = ahead.pop()
            if node not in found:
                found.add(node)
                ahead += self.needs[node]
        return found


def _axis(node: fx.Node) -> str | None:
    """Return the mesh axis on which an op must keep its order, or None."""
    return None if op_of(node) in LOCAL or is_wait(node) else node.kwargs.get("axis")  # type: ignore[return-value]


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the ops whose results an op reads, looking through views and waits."""
    for operand in operands_of(node):
        source, _ = producer(operand)
        if source.op != "placeholder":
            yield from _sources(source) if _is_lazy(source) else (source,)


def _rebuild(graph: fx.Graph, order: Sequence[fx.Node]) -> fx.Graph:
    """Return the graph in this order; collectives that overlap nothing become synchronous again."""
    new, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in placeholders(graph):
        copies[node] = new.node_copy(node)
    unoverlapped = set(_unoverlapped(order))
    for node in order:
        if node in unoverlapped and is_start(node):
            copies[node] = _synchronous(new, node, copies)
        elif node in unoverlapped:
            copies[node] = copies[operands_of(node)[0]]
        else:
            copies[node] = new.node_copy(node, copies.__getitem__)
        for value in values_of(node):
            if is_result(value):
                copies[value] = new.node_copy(value, copies.__getitem__)
    new.output(fx.map_arg(output_of(graph), copies.__getitem__))
    return new


def _unoverlapped(order: Sequence[fx.Node]) -> Iterator[fx.Node]:
    """Yield starts without computation before their waits, and those waits."""
    computed, at = 0, dict[fx.Node, int]()
    for node in order:
        if is_start(node):
            at[node] = computed
        elif is_wait(node):
            (start,) = operands_of(node)
            if at[start] == computed:
                yield from (start, node)
        elif not _is_lazy(node):
            computed += 1


def _synchronous(graph: fx.Graph, start: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    build, halves = Builder(graph), BY_START[op_of(start)]
    (wait,) = start.users
    options = [copies[operand] for operand in operands_of(start)]
    return build.op(
        halves.synchronous, *options, name=wait.name, where=start.meta["where"], **attributes(start)
    )
