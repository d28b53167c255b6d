"""Keep documents whose length is within limits."""

from __future__ import annotations

from llamac.data.document import Document, Filter, Rejected
from llamac.spec.stages import Length


def build(stage: Length) -> Filter:
    """Return the filter by characters: at least `min_chars`, and at most `max_chars` if given."""

    def judge(document: Document) -> Document | Rejected:
        length = len(document.text)
        if length < stage.min_chars:
            return Rejected("short document", f"{length} < {stage.min_chars} characters")
        if stage.max_chars is not None and length > stage.max_chars:
            return Rejected("long document", f"{length} > {stage.max_chars} characters")
        return document

    return judge
