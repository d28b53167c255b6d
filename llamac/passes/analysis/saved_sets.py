"""Search for the Pareto-optimal saved sets of a region.

A candidate has a reader for each of its values, and no other set is better in saved bytes,
recomputation time and peak. Peaks equal those of `passes/analysis/liveness.py` over the graphs that
`checkpoint` would build, but are computed without building them, as a block has hundreds of sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import fsum

from torch import fx

from llamac.ir.graph import ops_in, output_of, placeholders, producer, type_of
from llamac.ir.program import Region
from llamac.ir.values import base_of, operands_of, values_of
from llamac.passes.analysis.timing import TimingModel

Step = tuple[list[fx.Node], list[fx.Node]]
"""The values that an op reads and those that it produces, with views replaced by their bases."""


@dataclass(frozen=True)
class SavedSet:
    """A choice of forward values to save, and its cost.

    names: names of the saved values, without the region's inputs.
    nbytes: bytes of all saved values, inputs included.
    seconds: recomputation time.
    transient: peak bytes of the forward and backward passes minus `nbytes`.
    """

    names: frozenset[str]
    nbytes: int
    seconds: float
    transient: int

    def dominates(self, other: SavedSet) -> bool:
        """Return whether this set is no worse than `other` in bytes, seconds and transient."""
        return (
            self.nbytes <= other.nbytes
            and self.seconds <= other.seconds
            and self.transient <= other.transient
        )


def candidate_sets(region: Region, timing: TimingModel) -> list[SavedSet]:
    """Return the saved sets of a region that no other dominates, by ascending saved bytes.

    region: a region after `differentiate`. timing: estimates the seconds of recomputation.
    """
    simulation = _CostSimulation(region, timing)
    best: list[SavedSet] = []
    # No set has a lower transient than the one that saves everything, since others add their
    # recomputed values: a lower bound for incomplete sets.
    floor = simulation.cost_of(simulation.save_all()).transient

    def is_dominated(choice: _Choice) -> bool:
        nbytes, seconds = choice.nbytes, choice.seconds
        return any(
            one.nbytes <= nbytes
            and one.seconds <= seconds * (1 + 1e-12)
            and one.transient <= floor + nbytes - one.nbytes
            for one in best
        )

    for choice in simulation.choices(is_dominated):
        candidate = simulation.cost_of(choice)
        if not any(one.dominates(candidate) for one in best):
            best = [one for one in best if not candidate.dominates(one)] + [candidate]
    return sorted(best, key=lambda one: (one.nbytes, one.seconds, one.transient))


def all_saved_sets(region: Region, timing: TimingModel) -> Iterator[SavedSet]:
    """Yield every saved set of a region whose values are all read by the backward pass.

    Unlike `candidate_sets`, this includes dominated sets; the arguments are the same.
    """
    simulation = _CostSimulation(region, timing)
    return map(simulation.cost_of, simulation.choices(lambda _: False))


@dataclass(frozen=True)
class _Choice:
    """A partial choice, decided for all values after the pending ones in forward order.

    recomputed: recomputed values. ops: the ops that recompute them.
    """

    pending: frozenset[fx.Node]
    saved: frozenset[fx.Node] = frozenset()
    recomputed: frozenset[fx.Node] = frozenset()
    inputs: frozenset[fx.Node] = frozenset()
    nbytes: int = 0
    seconds: float = 0.0


class _CostSimulation:
    """A region's two graphs as lists of steps (values read, values produced), without views."""

    def __init__(self, region: Region, timing: TimingModel) -> None:
        assert region.backward is not None
        forward, backward = region.forward.graph, region.backward.graph
        self.known = {node.name: node for node in forward.nodes}
        self.order = {node: index for index, node in enumerate(forward.nodes)}
        self.inputs = placeholders(forward, "input")
        self.result = base_of(output_of(forward))
        self.reads = {node: self._reads(node) for node in ops_in(forward)}
        self.forward = [(reads, _produced(node)) for node, reads in self.reads.items()]
        self.source = {value: producer(value)[0] for value in forward.nodes}
        # Reads of forward values refer to the forward graph's nodes.
        self.backward = [(self._reads(node), _produced(node)) for node in ops_in(backward)]
        self.returned = {base_of(value) for value in output_of(backward).values()}
        values = [*self.inputs, *(value for steps in self._steps() for value in steps[1])]
        self.size = {value: type_of(value).nbytes(timing.symbols) for value in values}
        cotangents = placeholders(backward, "cotangent")
        self.cotangent_bytes = sum(type_of(value).nbytes(timing.symbols) for value in cotangents)
        self.seconds = {node: timing.seconds(node) for node in ops_in(forward)}

    def _steps(self) -> Sequence[Step]:
        return [*self.forward, *self.backward]

    def _reads(self, node: fx.Node) -> list[fx.Node]:
        """Return the distinct bases of an op's activation operands, in order."""
        return list(dict.fromkeys(base for one in operands_of(node) if (base := self._base(one))))

    def _base(self, value: fx.Node) -> fx.Node | None:
        base = base_of(value)
        if base.meta.get("role") == "saved":
            base = base_of(self.known[base.name])
        return None if base.meta.get("role") in ("param", "constant", "cotangent") else base

    def requested_values(self) -> frozenset[fx.Node]:
        return frozenset(v for reads, _ in self.backward for v in reads if v in self.order)

    def save_all(self) -> _Choice:
        """Return the choice that recomputes nothing."""
        requested = self.requested_values()
        inputs = frozenset(value for value in requested if value.op == "placeholder")
        nbytes = sum(self.size[value] for value in requested)
        return _Choice(frozenset(), requested - inputs, inputs=inputs, nbytes=nbytes)

    def choices(self, is_dominated: Callable[[_Choice], bool]) -> Iterator[_Choice]:
        """Yield every choice of saved and recomputed values, pruned by `is_dominated`.

        Each choice provides all values that the backward pass reads. Values are decided last to
        first, since recomputing one needs its operands, which come before it.
        """
        left = [_Choice(self.requested_values())]
        while left:
            choice = left.pop()
            if is_dominated(choice):
                continue
            if not choice.pending:
                yield choice
                continue
            value = max(choice.pending, key=self.order.__getitem__)
            left += self._branches(choice, value)

    def _branches(self, choice: _Choice, value: fx.Node) -> Iterator[_Choice]:
        rest, nbytes = choice.pending - {value}, choice.nbytes + self.size[value]
        if value.op == "placeholder":
            yield replace(choice, pending=rest, inputs=choice.inputs | {value}, nbytes=nbytes)
            return
        yield replace(choice, pending=rest, saved=choice.saved | {value}, nbytes=nbytes)
        source = self.source[value]
        ran = any(self.source[other] is source for other in choice.recomputed)
        yield replace(
            choice,
            pending=rest.union(self.reads[source]),
            recomputed=choice.recomputed | {value},
            seconds=choice.seconds + (0.0 if ran else self.seconds[source]),
        )

    def cost_of(self, choice: _Choice) -> SavedSet:
        ops = {self.source[value] for value in choice.recomputed}
        return SavedSet(
            names=frozenset(value.name for value in choice.saved),
            nbytes=choice.nbytes,
            seconds=fsum(self.seconds[op] for op in ops),
            transient=self.peak(choice.saved, choice.inputs) - choice.nbytes,
        )

    def peak(self, saved: frozenset[fx.Node], inputs: frozenset[fx.Node]) -> int:
        """Return the peak of live bytes over the forward and backward passes."""
        entering = sum(self.size[value] for value in self.inputs)
        forward_peak = self._live_peak(entering, self._forward_steps(saved), saved | {self.result})
        saved_bytes = sum(self.size[value] for value in saved | inputs)
        backward_peak = self._live_peak(
            self.cotangent_bytes + saved_bytes, self._backward_steps(saved), self.returned | saved
        )
        return max(forward_peak, backward_peak)

    def _forward_steps(self, saved: frozenset[fx.Node]) -> list[Step]:
        """Return the steps of the forward pass, without values that nothing reads."""
        needed = {self.result, *saved}
        steps: list[Step] = []
        for reads, makes in reversed(self.forward):
            if used := [value for value in makes if value in needed]:
                needed.update(reads)
                steps.append((reads, used))
        return steps[::-1]

    def _backward_steps(self, saved: frozenset[fx.Node]) -> list[Step]:
        """Return the steps of the backward pass, recomputation placed before its first reader."""
        steps: list[Step] = []
        available = set(saved)
        recomputed: dict[fx.Node, list[fx.Node]] = {}  # op → results that are read

        def provide(value: fx.Node) -> None:
            if value in available or value.op == "placeholder" or value not in self.order:
                return
            available.add(value)
            source = self.source[value]
            if source in recomputed:
                recomputed[source].append(value)
                return
            reads, recomputed[source] = self.reads[source], [value]
            for one in reads:
                provide(one)
            steps.append((reads, recomputed[source]))

        for reads, makes in self.backward:
            for value in reads:
                provide(value)
            steps.append((reads, makes))
        return steps

    def _live_peak(
        self, alive: int, steps: list[Step], live_out: set[fx.Node] | frozenset[fx.Node]
    ) -> int:
        last = {value: number for number, (reads, _) in enumerate(steps) for value in reads}
        most = alive
        for number, (reads, makes) in enumerate(steps):
            alive += sum(self.size[value] for value in makes)
            most = max(most, alive)
            for value in reads:
                if last[value] == number and value not in live_out and value.op != "placeholder":
                    alive -= self.size[value]
        return most


def _produced(node: fx.Node) -> list[fx.Node]:
    return [value for value in values_of(node) if base_of(value) is value]
