"""Tables of activation memory: the status and bytes of each forward value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from llamac.inspect.memory import (
    ProgramMemory,
    RegionMemory,
    ValueMemory,
    program_memory,
    readable_bytes,
)
from llamac.ir.program import Program
from llamac.look.text_table import Cell, TextTable

STATUS_STYLES = {"saved": "kept", "recomputed": "again"}  # styles of llamac.look.console


def memory_tables(
    program: Program, stage: str, region_name: str | None = None
) -> Iterator[str | TextTable]:
    """Yield text and tables of activation memory: values of each region, then totals of the model.

    stage: name of the last pass, for the heading.
    region_name: region to show, without the totals; None shows all.
    """
    memory = program_memory(program)
    yield f"{program.name} after {stage}: activations saved for the backward pass"
    yield _units(program, memory)
    for region in memory.regions:
        if region_name in (None, region.name):
            yield from _region(region, memory)
    if region_name is None:
        yield from _total(program, memory)


def memory_json(program: Program, stage: str, region_name: str | None = None) -> dict[str, Any]:
    """Return activation and parameter memory as JSON values, in bytes and in sbh.

    sbh is the size of batch·seq·dim elements, as `stream_bytes` counts them. Keys that begin with
    `everything` say what would be saved if nothing were recomputed.

    stage: name of the last pass. region_name: region to list, None for all; the totals are those of
    the model in any case.
    """
    memory = program_memory(program)
    return {
        "program": program.name,
        "stage": stage,
        "symbols": dict(program.symbols),
        "sbh_bytes": memory.unit,
        "regions": [
            {
                "name": region.name,
                "count": region.count,
                "saved_bytes": region.saved,
                "saved_sbh": memory.sbh(region.saved),
                "everything_bytes": region.without_recomputation,
                "everything_sbh": memory.sbh(region.without_recomputation),
                "values": [_value_json(value) for value in region.values],
            }
            for region in memory.regions
            if region_name in (None, region.name)
        ],
        "total": {
            "saved_bytes": memory.saved,
            "saved_sbh": memory.sbh(memory.saved),
            "everything_bytes": memory.without_recomputation,
            "everything_sbh": memory.sbh(memory.without_recomputation),
            "parameters": memory.parameters,
            "parameter_bytes": memory.parameter_bytes,
        },
    }


def status_text(value: ValueMemory) -> str:
    """Return the status of a value as text, with the base of a view: `view of qkv`."""
    return f"view of {value.base}" if value.status == "view" else value.status


def times(region: RegionMemory) -> str:
    """Format a region with its number of runs, `block × 80`; the name alone if it runs once."""
    return region.name if region.count == 1 else f"{region.name} × {region.count}"


def _units(program: Program, memory: ProgramMemory) -> str:
    sizes = program.symbols
    return (
        f"B = {sizes['B']:,} sequences of S = {sizes['S']:,} positions; "
        f"1 sbh = batch·seq·dim elements = {readable_bytes(memory.unit)}"
    )


def _region(region: RegionMemory, memory: ProgramMemory) -> Iterator[str | TextTable]:
    each = " a layer" if region.count > 1 else ""
    rows: list[tuple[Cell, ...]] = []
    so_far = 0
    for value in region.values:
        so_far += value.saved_bytes
        rows.append(
            (
                value.name,
                str(value.type),
                readable_bytes(value.nbytes),
                f"{memory.sbh(value.nbytes):.2f}",
                readable_bytes(so_far),
                Text(status_text(value), STATUS_STYLES.get(value.status, "note")),
            )
        )
    head = ("value", "type", "bytes" + each, "sbh", "saved so far", "")
    yield TextTable(times(region), head, rows, "<<>>><")
    yield f"  saved{each}: {_both(region.saved, memory)}"
    yield f"  without recomputation: {_both(region.without_recomputation, memory)}"


def _total(program: Program, memory: ProgramMemory) -> Iterator[str | TextTable]:
    rows = [
        (
            times(region),
            *_sizes(region.saved, region, memory),
            *_sizes(region.without_recomputation, region, memory),
        )
        for region in memory.regions
    ]
    whole = (
        readable_bytes(memory.saved),
        f"{memory.sbh(memory.saved):.1f}",
        readable_bytes(memory.without_recomputation),
        f"{memory.sbh(memory.without_recomputation):.1f}",
    )
    head = ("region", "saved", "sbh", "without recomputation", "sbh")
    yield TextTable("the model", head, [*rows, ("total", *whole)], "<>>>>", total=True)
    dtype = next(iter(program.parameters.values())).type.dtype
    size = readable_bytes(memory.parameter_bytes)
    yield f"  parameters: {memory.parameters:,} of {dtype}, {size}"


def _sizes(nbytes: int, region: RegionMemory, memory: ProgramMemory) -> tuple[str, str]:
    total = nbytes * region.count
    return readable_bytes(total), f"{memory.sbh(total):.1f}"


def _both(nbytes: int, memory: ProgramMemory) -> str:
    return f"{readable_bytes(nbytes)} = {memory.sbh(nbytes):.2f} sbh"


def _value_json(value: ValueMemory) -> dict[str, Any]:
    return {
        "name": value.name,
        "dtype": value.type.dtype,
        "shape": list(value.type.shape),
        "bytes": value.nbytes,
        "status": value.status,
        "base": value.base,
        "kept_bytes": value.saved_bytes,
    }
