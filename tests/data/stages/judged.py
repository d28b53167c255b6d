"""What a stage makes of documents, whatever its form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llamac.data.document import Document, Rejected
from llamac.data.stages import build

Outcome = str | Rejected
"""The text that is kept, or why none is."""


def outcomes(documents: Iterable[Document | Rejected]) -> list[Outcome]:
    return [made.text if isinstance(made, Document) else made for made in documents]


def filtered(stage: Any, *texts: str, **meta: Any) -> list[Outcome]:
    """What a stage that judges each document alone makes of these."""
    judge = build(stage)
    assert callable(judge)
    return outcomes(judge(Document(text, "file", 1, dict(meta))) for text in texts)


def surveyed(stage: Any, folder: Path, *parts: Sequence[str]) -> list[list[Outcome]]:
    """What a survey makes of the texts of several parts; part n is the file `n`."""
    survey = build(stage)
    assert not callable(survey)
    folder.mkdir(parents=True, exist_ok=True)
    found = [folder / f"found{number}" for number, _ in enumerate(parts)]
    for number in reversed(range(len(parts))):  # no order of scanning is promised
        survey.scan(_documents(number, parts[number]), found[number])
    survey.merge(found, folder / "decided")
    judged = []
    for number, texts in enumerate(parts):
        judge = survey.judge(folder / "decided", number)
        judged.append(outcomes(map(judge, _documents(number, texts))))
    left = {path.name for path in folder.iterdir()}
    assert left == {"decided", *(path.name for path in found)}, "files left over"
    return judged


def _documents(part: int, texts: Sequence[str]) -> list[Document]:
    return [Document(text, str(part), line) for line, text in enumerate(texts, start=1)]


def reasons(judged: Iterable[Outcome]) -> list[str]:
    """The reason of each that is rejected, `kept` for the others."""
    return [made.reason if isinstance(made, Rejected) else "kept" for made in judged]
