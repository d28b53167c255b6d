"""Programs written out as IR text: what a pass is given, and what it must make of it."""

from __future__ import annotations

from textwrap import dedent

import llamac.ops  # noqa: F401 - defines the ops the text names
from llamac.ir.parser import parse_program
from llamac.ir.printer import print_region
from llamac.ir.program import Program
from llamac.ir.verifier import verify

HEADER = """\
program example
symbols B=2 S=4
"""


def program(graphs: str, header: str = "") -> Program:
    """A verified Program of these graphs; header: its parameters and layers."""
    parsed = parse_program(HEADER + dedent(header) + "\n" + dedent(graphs))
    verify(parsed)
    return parsed


def text(program: Program, region: str = "block") -> str:
    """A region as text, after verifying the whole Program."""
    verify(program)
    return print_region(program.regions[region]).strip()


def same(found: str, wanted: str) -> None:
    assert found == dedent(wanted).strip(), f"found:\n{found}"
