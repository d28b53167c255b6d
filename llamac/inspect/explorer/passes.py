"""Stages of the pipeline: the IR after each pass, and its changes as pairs of lines."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Any

from llamac.inspect.diff import diff_json
from llamac.inspect.explorer.lines import LineTable
from llamac.ir.printer import print_program
from llamac.passes.lower import Lower
from llamac.passes.pass_list import ROWS, Stage

Hunk = tuple[int, int, int, int, list[tuple[int, int]]]
"""(i, j, k, m, pairs): lines [i, j) of the old text are replaced by lines [k, m) of the new one.

Pairs are (old, new) line numbers, from 0, shown side by side; -1 stands for no counterpart.
"""


def pass_data(stages: Sequence[Stage], lines: LineTable) -> list[dict[str, Any]]:
    """Return the IR of each stage, and its differences from the previous stage, as JSON values.

    stages: the Program after each pass. lines: table to which the IR's lines are added; the result
    refers to them by number.
    """
    found = []
    before: Stage | None = None
    text: list[str] = []
    for stage in stages:
        previous, text = text, print_program(stage.program).splitlines()
        one: dict[str, Any] = {
            "name": stage.name,
            "about": about(stage.name),
            "notes": _new_notes(before, stage),
            "lines": lines.add(text),
            "hunks": [],
            "graphs": [],
            "bytes": {},
        }
        if before is not None and text != previous:
            change = diff_json(before.program, stage.program, (before.name, stage.name))
            one["hunks"] = hunks(previous, text)
            one["bytes"] = change["bytes"]
            one["graphs"] = change["graphs"]
        found.append(one)
        before = stage
    return found


def _new_notes(before: Stage | None, stage: Stage) -> list[str]:
    old = before.program.notes if before is not None else ()
    return [note for note in stage.program.notes if note not in old]


def about(name: str) -> str:
    """Return a pass's description, the first line of its module's docstring without the name.

    name: name of a pass of the pipeline.
    """
    kinds = {kind.name: kind for kind in (Lower, *(row.kind for row in ROWS))}
    text = (sys.modules[kinds[name].__module__].__doc__ or "").partition("\n")[0]
    return text.partition(": ")[2] or text


def hunks(before: Sequence[str], after: Sequence[str]) -> list[Hunk]:
    """Return the differences of two texts, pairing rewritten lines of IR with those they replace.

    before, after: lines of the texts.
    """
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return [
        (i, j, k, m, pairs(before[i:j], after[k:m], i, k))
        for tag, i, j, k, m in matcher.get_opcodes()
        if tag != "equal"
    ]


def pairs(
    before: Sequence[str], after: Sequence[str], first: int = 0, second: int = 0
) -> list[tuple[int, int]]:
    """Return pairs (number before, number after) of lines of IR that define the same values.

    A line without a counterpart is paired with -1.

    first, second: line numbers of `before[0]` and `after[0]`.
    """
    keys = [_defined(line) for line in before], [_defined(line) for line in after]
    found: list[tuple[int, int]] = []
    matcher = difflib.SequenceMatcher(None, *keys, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            found += zip(range(first + i, first + j), range(second + k, second + m), strict=True)
        else:
            found += [(number, -1) for number in range(first + i, first + j)]
            found += [(-1, number) for number in range(second + k, second + m)]
    return found


def _defined(line: str) -> str:
    """Return the values that a line of IR defines: the text before its first type."""
    return line.partition(": ")[0]
