"""Keep the sites with the most documents (LLaMA paper, section 2.1: 28 of StackExchange)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from llamac.data.document import Document, Filter, Rejected, Survey
from llamac.spec.stages import LargestSites


def build(stage: LargestSites) -> Survey:
    """Return the survey that keeps the `stage.sites` sites with the most documents."""
    return _LargestSites(stage.sites)


class _LargestSites:
    def __init__(self, sites: int) -> None:
        self.sites = sites

    def scan(self, documents: Iterable[Document], findings: Path) -> None:
        sites = Counter(_site(document) for document in documents)
        findings.write_text(json.dumps(sites, sort_keys=True), encoding="utf-8")

    def merge(self, findings: Sequence[Path], decision: Path) -> None:
        """Write the largest sites; ties are broken by name."""
        sites: Counter[str] = Counter()
        for path in findings:
            sites.update(json.loads(path.read_text(encoding="utf-8")))
        largest = sorted(sites, key=lambda site: (-sites[site], site))[: self.sites]
        decision.write_text(json.dumps(sorted(largest)), encoding="utf-8")

    def judge(self, decision: Path, part: int) -> Filter:
        kept = set(json.loads(decision.read_text(encoding="utf-8")))

        def judge(document: Document) -> Document | Rejected:
            site = _site(document)
            return document if site in kept else Rejected("small site", site)

        return judge


def _site(document: Document) -> str:
    """Return the site that the reader gives, else the name of the dump's folder."""
    return str(document.meta.get("site") or Path(document.file).parent.name)
