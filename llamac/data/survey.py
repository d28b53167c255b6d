"""A survey over a source: each part is scanned, then all that was found is merged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from llamac.data import chunks
from llamac.data.plan import Part, SourcePlan
from llamac.data.stages import build
from llamac.data.state import locked


def scan(plan: SourcePlan, number: int, part: Part) -> None:
    """What a part adds to the survey that pass `number` begins with."""
    found = plan.found(number, part.number)
    with locked(found.with_name(f"{found.name}.scan")):
        if not is_scanned(plan, number, part):
            documents = chunks.read_all(chunks.paths_in(plan.folder(number - 1, part.number)))
            _survey(plan, number).scan(documents, _aside(found))
            os.replace(_aside(found), found)


def merge(plan: SourcePlan, number: int) -> None:
    """The decision. What the parts found is then no longer needed, and deleted."""
    decided = plan.decided(number)
    with locked(decided.with_name("merge")):
        if not decided.exists():
            found = [plan.found(number, part.number) for part in plan.parts]
            _survey(plan, number).merge(found, _aside(decided))
            os.replace(_aside(decided), decided)
        shutil.rmtree(plan.found(number, 0).parent, ignore_errors=True)


def is_scanned(plan: SourcePlan, number: int, part: Part) -> bool:
    return plan.found(number, part.number).exists() or plan.decided(number).exists()


def is_merged(plan: SourcePlan, number: int) -> bool:
    return plan.decided(number).exists() and not plan.found(number, 0).parent.exists()


def _survey(plan: SourcePlan, number: int) -> Any:
    survey = plan.passes[number].survey
    assert survey is not None
    return build(plan.source.stage[survey], plan.source)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".new")
