"""Run a survey over a source: scan each part, then merge the findings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from llamac.data import chunks
from llamac.data.clean import chunks_of
from llamac.data.source_plan import Part, SourcePlan
from llamac.data.stages import build
from llamac.data.state import folder_lock
from llamac.runtime import durable_files


def scan_part(plan: SourcePlan, number: int, part: Part) -> None:
    """Scan a part for the survey of pass `number`, and write its findings unless that is done."""
    findings = plan.findings_path(number, part.number)
    with folder_lock(findings.with_name(f"{findings.name}.scan")):
        if not is_scanned(plan, number, part):
            documents = chunks.read_all(chunks_of(plan, part, number - 1))
            _survey(plan, number).scan(documents, _temporary(findings))
            durable_files.commit_file(_temporary(findings), findings)


def merge(plan: SourcePlan, number: int) -> None:
    """Merge the findings of all parts into the decision of pass `number`, then delete them."""
    decision = plan.decision_path(number)
    with folder_lock(decision.with_name("merge")):
        if not durable_files.is_undamaged(decision):
            findings = [
                durable_files.check(plan.findings_path(number, part.number)) for part in plan.parts
            ]
            _survey(plan, number).merge(findings, _temporary(decision))
            durable_files.commit_file(_temporary(decision), decision)
        shutil.rmtree(plan.findings_path(number, 0).parent, ignore_errors=True)


def is_scanned(plan: SourcePlan, number: int, part: Part) -> bool:
    """Return whether a part's findings, or already the decision of pass `number`, are complete."""
    findings = plan.findings_path(number, part.number)
    return any(map(durable_files.is_undamaged, (findings, plan.decision_path(number))))


def is_merged(plan: SourcePlan, number: int) -> bool:
    """Return whether the decision of pass `number` is complete and the findings are deleted."""
    return (
        durable_files.is_undamaged(plan.decision_path(number))
        and not plan.findings_path(number, 0).parent.exists()
    )


def _survey(plan: SourcePlan, number: int) -> Any:
    survey = plan.passes[number].survey
    assert survey is not None
    return build(plan.source.stage[survey], plan.source)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".new")
