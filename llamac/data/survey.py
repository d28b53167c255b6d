"""Run a survey over a source: scan each part, then merge the findings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from llamac.data import chunks
from llamac.data.clean import chunks_of
from llamac.data.source_plan import Part, SourcePlan
from llamac.data.stages import build
from llamac.data.state import locked
from llamac.runtime import durable_files


def scan_part(plan: SourcePlan, number: int, part: Part) -> None:
    """Scan a part for the survey that pass `number` begins with, and write its findings."""
    found = plan.found(number, part.number)
    with locked(found.with_name(f"{found.name}.scan")):
        if not is_scanned(plan, number, part):
            documents = chunks.read_all(chunks_of(plan, part, number - 1))
            _survey(plan, number).scan(documents, _aside(found))
            durable_files.adopt(_aside(found), found)


def merge(plan: SourcePlan, number: int) -> None:
    """Merge the findings of all parts into the survey's decision, then delete them."""
    decided = plan.decided(number)
    with locked(decided.with_name("merge")):
        if not durable_files.is_whole(decided):
            found = [durable_files.check(plan.found(number, part.number)) for part in plan.parts]
            _survey(plan, number).merge(found, _aside(decided))
            durable_files.adopt(_aside(decided), decided)
        shutil.rmtree(plan.found(number, 0).parent, ignore_errors=True)


def is_scanned(plan: SourcePlan, number: int, part: Part) -> bool:
    found = plan.found(number, part.number)
    return any(map(durable_files.is_whole, (found, plan.decided(number))))


def is_merged(plan: SourcePlan, number: int) -> bool:
    return (
        durable_files.is_whole(plan.decided(number)) and not plan.found(number, 0).parent.exists()
    )


def _survey(plan: SourcePlan, number: int) -> Any:
    survey = plan.passes[number].survey
    assert survey is not None
    return build(plan.source.stage[survey], plan.source)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".new")
