"""The memory table: every forward value, what becomes of it, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamac.inspect.memory import (
    ProgramMemory,
    RegionMemory,
    ValueMemory,
    program_memory,
    readable_bytes,
)
from llamac.inspect.tables import WIDE, paragraph, table
from llamac.ir.program import Program


def memory_text(program: Program, stage: str, only: str | None = None, width: int = WIDE) -> str:
    """Return the table as text.

    only: one region, without the model's total. width: most characters of a line.
    """
    memory = program_memory(program)
    lines = [
        *paragraph(
            f"{program.name} after {stage}: what the forward pass keeps for the backward pass",
            width,
        ),
        *paragraph(_units(program, memory), width),
    ]
    for region in memory.regions:
        if only in (None, region.name):
            lines += ["", *_region(region, memory, width)]
    if only is None:
        lines += ["", *_total(program, memory, width)]
    return "\n".join(lines) + "\n"


def memory_json(program: Program, stage: str, only: str | None = None) -> dict[str, Any]:
    """Return the table as JSON values: bytes, and units of batch·seq·dim elements."""
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
                "everything_bytes": region.everything,
                "everything_sbh": memory.sbh(region.everything),
                "values": [_value_json(value) for value in region.values],
            }
            for region in memory.regions
            if only in (None, region.name)
        ],
        "total": {
            "saved_bytes": memory.saved,
            "saved_sbh": memory.sbh(memory.saved),
            "everything_bytes": memory.everything,
            "everything_sbh": memory.sbh(memory.everything),
            "parameters": memory.parameters,
            "parameter_bytes": memory.parameter_bytes,
        },
    }


def status_text(value: ValueMemory) -> str:
    return f"view of {value.base}" if value.status == "view" else value.status


def times(region: RegionMemory) -> str:
    """Return `block × 80`, or the name alone for a region that runs once."""
    return region.name if region.count == 1 else f"{region.name} × {region.count}"


def _units(program: Program, memory: ProgramMemory) -> str:
    sizes = program.symbols
    return (
        f"B = {sizes['B']:,} sequences of S = {sizes['S']:,} positions; "
        f"1 sbh = batch·seq·dim elements = {readable_bytes(memory.unit)}"
    )


def _region(region: RegionMemory, memory: ProgramMemory, width: int) -> Iterator[str]:
    each = " a layer" if region.count > 1 else ""
    yield times(region)
    rows = [("value", "type", "bytes" + each, "sbh", "kept so far", "")]
    so_far = 0
    for value in region.values:
        so_far += value.kept
        rows.append(
            (
                value.name,
                str(value.type),
                readable_bytes(value.nbytes),
                f"{memory.sbh(value.nbytes):.2f}",
                readable_bytes(so_far),
                status_text(value),
            )
        )
    yield from table(rows, "<<>>><", width)
    yield f"  kept{each}: {_both(region.saved, memory)}"
    yield f"  if nothing were recomputed: {_both(region.everything, memory)}"


def _total(program: Program, memory: ProgramMemory, width: int) -> Iterator[str]:
    yield "the model"
    rows = [
        (
            times(region),
            *_sizes(region.saved, region, memory),
            *_sizes(region.everything, region, memory),
        )
        for region in memory.regions
    ]
    whole = (
        readable_bytes(memory.saved),
        f"{memory.sbh(memory.saved):.1f}",
        readable_bytes(memory.everything),
        f"{memory.sbh(memory.everything):.1f}",
    )
    head = ("region", "kept", "sbh", "if nothing were recomputed", "sbh")
    yield from table([head, *rows, ("total", *whole)], "<>>>>", width)
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
        "kept_bytes": value.kept,
    }
