"""Differences between two stages: ops, nodes, bytes, and the IR line by line."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from llamac.inspect.memory import activation_bytes, readable_bytes
from llamac.ir.graph import op_of, ops_in
from llamac.ir.printer import print_program, print_region
from llamac.ir.program import Program, Region
from llamac.ir.values import layer_count, values_of
from llamac.look.text_table import TextTable
from llamac.passes.analysis.liveness import saved_bytes

DIFF_STYLES = (("(?m)^\\+.*", "added"), ("(?m)^-.*", "removed"), ("(?m)^@@.*", "place"))
"""Styles of the lines of a unified diff, for `llamac.look.console.show_marked`."""


@dataclass(frozen=True)
class GraphChange:
    """Difference between two versions of one graph; false if nodes and saved set are the same.

    Nodes are matched by the names of their values.

    direction: `forward` or `backward`.
    counts: op → (number before, number after), for ops whose number of nodes changed.
    added, removed: `value = op` of each node that only the later, only the earlier version has.
    changed: a description of each node whose op, operands or attributes changed.
    newly_saved, no_longer_saved: names of values added to and removed from the region's saved set;
        empty for a backward graph.
    """

    region: str
    direction: str
    counts: dict[str, tuple[int, int]]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    newly_saved: tuple[str, ...]
    no_longer_saved: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(
            self.added or self.removed or self.changed or self.newly_saved or self.no_longer_saved
        )


def graph_changes(
    before: Program, after: Program, region_name: str | None = None
) -> list[GraphChange]:
    """Return the differences of each graph that two programs do not share, by region.

    A region's forward graph precedes its backward graph. A graph that only one program has is
    compared with an empty graph.

    region_name: region to compare; None compares all.
    """
    names = [name for name in {**before.regions, **after.regions} if region_name in (None, name)]
    changes = (
        _change(before.regions.get(name), after.regions.get(name), direction)
        for name in names
        for direction in ("forward", "backward")
    )
    return [change for change in changes if change]


def diff_text(
    before: Program, after: Program, names: tuple[str, str], region_name: str | None = None
) -> str:
    """Return bytes of activations, changed nodes and the unified IR diff of two stages as text.

    names: names of the stages' passes (before, after), for headings.
    region_name: region to compare; None compares all.
    """
    lines = [
        f"{after.name}: {names[0]} → {names[1]}",
        "",
        *_bytes(before, after, names, region_name),
    ]
    changes = graph_changes(before, after, region_name)
    for change in changes:
        lines += ["", *_graph_lines(change, names)]
    if not changes:
        lines += ["", "no node was added, removed or changed"]
    lines += ["", *ir_diff(_text(before, region_name), _text(after, region_name), names)]
    return "\n".join(lines).rstrip() + "\n"


def diff_json(
    before: Program, after: Program, names: tuple[str, str], region_name: str | None = None
) -> dict[str, Any]:
    """Return the differences of two stages as JSON values; each pair is [before, after].

    `bytes` has the computed and saved activations of one run of each region; `graphs` has a
    `GraphChange` for each graph that differs.

    names: names of the stages' passes. region_name: region to compare; None compares all.
    """
    return {
        "program": after.name,
        "stages": list(names),
        "bytes": {
            name: {"count": count, "activations": list(computed), "saved": list(saved)}
            for name, count, computed, saved in _byte_rows(before, after, region_name)
        },
        "graphs": [
            {
                "region": change.region,
                "direction": change.direction,
                "ops": {op: list(pair) for op, pair in change.counts.items()},
                "added": list(change.added),
                "removed": list(change.removed),
                "changed": list(change.changed),
                "newly_kept": list(change.newly_saved),
                "no_longer_kept": list(change.no_longer_saved),
            }
            for change in graph_changes(before, after, region_name)
        ],
    }


def ir_diff(before: str, after: str, names: tuple[str, str]) -> list[str]:
    """Return the lines of the unified diff of two IR texts, with two lines of context.

    names: names of the two texts, for the diff's first lines.
    """
    return list(
        difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="", n=2)
    )


def op_counts(graph: fx.Graph | None) -> Counter[str]:
    """Count the nodes of each op in a graph, by the op's name; empty for None."""
    return Counter(op_of(node).name for node in ops_in(graph)) if graph else Counter()


def _change(before: Region | None, after: Region | None, direction: str) -> GraphChange:
    graphs = _graph(before, direction), _graph(after, direction)
    one, two = map(op_counts, graphs)
    was, now = map(_statements, graphs)
    saved = [r.saved if r and direction == "forward" else () for r in (before, after)]
    region = after or before
    assert region is not None
    return GraphChange(
        region.name,
        direction,
        {op: (one[op], two[op]) for op in {**one, **two} if one[op] != two[op]},
        added=tuple(f"{name} = {now[name][0]}" for name in now if name not in was),
        removed=tuple(f"{name} = {was[name][0]}" for name in was if name not in now),
        changed=tuple(
            f"{name} = {_was(was[name], now[name])}"
            for name in now
            if name in was and was[name] != now[name]
        ),
        newly_saved=tuple(name for name in saved[1] if name not in saved[0]),
        no_longer_saved=tuple(name for name in saved[0] if name not in saved[1]),
    )


def _was(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    if before[0] != after[0]:
        return f"{before[0]} → {after[0]}"
    return f"{after[0]}({_only(after, before)}), before ({_only(before, after)})"


def _only(one: tuple[str, ...], other: tuple[str, ...]) -> str:
    return ", ".join(part for part in one[1:] if part not in other[1:]) or "fewer"


def _statements(graph: fx.Graph | None) -> dict[str, tuple[str, ...]]:
    """Map the names of each node's values to its op, operands and attributes."""
    if graph is None:
        return {}
    return {
        ", ".join(value.name for value in values_of(node)): (
            op_of(node).name,
            *("none" if operand is None else str(operand) for operand in node.args),
            *(f"{key}={value!r}" for key, value in node.kwargs.items()),
        )
        for node in ops_in(graph)
    }


def _graph(region: Region | None, direction: str) -> fx.Graph | None:
    module = getattr(region, direction, None)
    return module.graph if module is not None else None


def _graph_lines(change: GraphChange, names: tuple[str, str]) -> Iterator[str]:
    yield f"{change.region}.{change.direction}"
    if change.counts:
        rows = [(op, str(one), str(two)) for op, (one, two) in sorted(change.counts.items())]
        yield from _rows(("op", *names), rows)
    for title, nodes in (
        ("added", change.added),
        ("removed", change.removed),
        ("changed", change.changed),
    ):
        if nodes:
            yield f"  {title}:"
            yield from (f"    {node}" for node in nodes)
    if change.newly_saved:
        yield f"  newly saved: {', '.join(change.newly_saved)}"
    if change.no_longer_saved:
        yield f"  no longer saved: {', '.join(change.no_longer_saved)}"


def _byte_rows(
    before: Program, after: Program, region_name: str | None
) -> Iterator[tuple[str, int, tuple[int, int], tuple[int, int]]]:
    """Yield rows of region, runs per step, bytes computed and bytes saved (before, after)."""
    for name in {**before.regions, **after.regions}:
        if region_name in (None, name):
            pair = [
                _region_bytes(program, program.regions.get(name)) for program in (before, after)
            ]
            computed, saved = zip(*pair, strict=True)
            yield name, layer_count(name, after.layers), computed, saved


def _region_bytes(program: Program, region: Region | None) -> tuple[int, int]:
    if region is None:
        return 0, 0
    return activation_bytes(region, program.symbols), saved_bytes(region, program.symbols)


def _bytes(
    before: Program, after: Program, names: tuple[str, str], region_name: str | None
) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("region", *names, *names)]
    for name, count, computed, saved in _byte_rows(before, after, region_name):
        label = f"{name}, one of {count}" if count > 1 else name
        rows.append((label, *map(readable_bytes, computed), *map(readable_bytes, saved)))
    yield "bytes of activations"
    yield from _rows(("", "computed", "", "saved", ""), rows)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    table = TextTable("", head, rows, "<" + ">" * (len(head) - 1))
    yield from (line.plain for line in table.lines())


def _text(program: Program, region_name: str | None) -> str:
    if region_name is None:
        return print_program(program)
    return print_region(program.regions[region_name]) if region_name in program.regions else ""
