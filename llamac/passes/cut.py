"""cut: assigns layers to pipeline stages so as to minimise the time of the slowest stage.

The embedding belongs to the first stage, the final norm and the loss to the last. All ranks wait
for the slowest stage at every micro-batch (Narayanan et al. 2021, section 2.2). Times come from
`passes/analysis/timing.py`, recomputation included. An assignment made by `budget` is not changed,
since its saved sets depend on it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from llamac.ir.graph import ops_in
from llamac.ir.program import Program, Region
from llamac.passes.analysis.timing import TimingModel, timeline


@dataclass(frozen=True)
class Cut:
    """Pass that assigns layers to pipeline stages, unless `budget` has assigned them.

    stages: number of stages over all ranks; 1 leaves the Program unchanged.
    """

    stages: int
    name: str = "cut"

    def apply(self, program: Program) -> Program:
        if self.stages == 1 or program.stages:
            return program
        timing = TimingModel(program.symbols, program.mesh)
        seconds = {name: region_seconds(region, timing) for name, region in program.regions.items()}
        layers = [seconds[name] for name in program.layers]
        counts = balance_stages(layers, self.stages, seconds["embed"], seconds["head"])
        return replace(program, stages=counts)


def region_seconds(region: Region, timing: TimingModel) -> float:
    """Return the estimated seconds of a region's forward and backward pass for one micro-batch."""
    graphs = [module.graph for module in (region.forward, region.backward) if module is not None]
    return sum(timeline(ops_in(graph), timing).seconds for graph in graphs)


def balance_stages(
    layers: Sequence[float], stages: int, before: float = 0.0, after: float = 0.0
) -> tuple[int, ...]:
    """Return each stage's number of layers, at least one, minimising the slowest stage's time.

    Among equally slow assignments, the sum of squared stage times is minimised.

    Args:
        layers: Seconds of each layer, in order; not fewer layers than stages.
        stages: Number of stages.
        before: Seconds that the first stage takes in addition to its layers.
        after: Seconds that the last stage takes in addition to its layers.
    """
    if len(set(layers)) == 1:
        return balance_equal_layers(layers[0], len(layers), stages, before, after)
    ends = list(accumulate(layers, initial=0.0))
    ends = [0.0, *(end + before for end in ends[1:-1]), ends[-1] + before + after]
    count = len(layers)

    def best_cuts(worst: float) -> list[dict[int, tuple[float, float, int]]]:
        """Return, by number of stages, the best cut of the first n layers by n.

        No stage takes more than `worst` seconds. With worst = inf, best means the least time of the
        slowest stage; otherwise the least sum of squares. A cut is (seconds of its slowest stage,
        sum of squared seconds, first layer of its last stage).
        """
        rows = [{0: (0.0, 0.0, 0)}]
        for stage in range(1, stages + 1):
            row: dict[int, tuple[float, float, int]] = {}
            for end in range(stage, count - (stages - stage) + 1):
                options = [
                    (max(slowest, own), squares + own * own, begin)
                    for begin, (slowest, squares, _) in rows[-1].items()
                    if begin < end and (own := ends[end] - ends[begin]) <= worst
                ]
                if options:
                    key = None if worst == float("inf") else _squares
                    row[end] = min(options, key=key)
            rows.append(row)
        return rows

    slowest = best_cuts(float("inf"))[-1][count][0]
    rows, end, counts = best_cuts(slowest * (1 + 1e-9)), count, []
    for row in reversed(rows[1:]):
        begin = row[end][2]
        counts.append(end - begin)
        end = begin
    return tuple(reversed(counts))


def balance_equal_layers(
    each: float, count: int, stages: int, before: float = 0.0, after: float = 0.0
) -> tuple[int, ...]:
    """Return the result of `balance_stages` for `count` layers that take `each` seconds.

    stages, before, after: as for `balance_stages`.

    Each layer is added to the stage with the least time. On a tie it is added to the last such
    stage, which saves the activations of the fewest micro-batches.
    """
    counts, loads = [1] * stages, [each] * stages
    loads[0] += before
    loads[-1] += after
    order = [(load, -stage) for stage, load in enumerate(loads)]
    heapq.heapify(order)
    for _ in range(count - stages):
        load, stage = order[0]
        counts[-stage] += 1
        heapq.heapreplace(order, (load + each, stage))
    return tuple(counts)


def _squares(cut: tuple[float, float, int]) -> float:
    return cut[1]
