"""Keep the sites with most documents, such as the 28 largest of StackExchange (LLaMA, 2.1)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from llamac.data.document import Document, Filter, Rejected, Survey
from llamac.spec.stages import LargestSites


def build(stage: LargestSites) -> Survey:
    return _LargestSites(stage.sites)


class _LargestSites:
    def __init__(self, sites: int) -> None:
        self.sites = sites

    def scan(self, documents: Iterable[Document], found: Path) -> None:
        sites = Counter(_site(document) for document in documents)
        found.write_text(json.dumps(sites, sort_keys=True), encoding="utf-8")

    def merge(self, found: Sequence[Path], decided: Path) -> None:
        """Write the largest sites; ties are broken by name."""
        sites: Counter[str] = Counter()
        for path in found:
            sites.update(json.loads(path.read_text(encoding="utf-8")))
        largest = sorted(sites, key=lambda site: (-sites[site], site))[: self.sites]
        decided.write_text(json.dumps(sorted(largest)), encoding="utf-8")

    def judge(self, decided: Path, part: int) -> Filter:
        kept = set(json.loads(decided.read_text(encoding="utf-8")))

        def judge(document: Document) -> Document | Rejected:
            site = _site(document)
            return document if site in kept else Rejected("small site", site)

        return judge


def _site(document: Document) -> str:
    """Return the site that the reader gives, else the name of the dump's folder."""
    return str(document.meta.get("site") or Path(document.file).parent.name)
