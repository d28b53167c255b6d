"""What a reader makes of files written by hand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from llamac.data.document import Document
from llamac.data.readers import reader_for
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source


def read(kind: str, path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    """(documents, how often what was skipped)."""
    skipped = Skipped()
    source = Source.model_validate(
        {"name": "test", "kind": kind, "share": 1, "paths": [str(path)], **options}
    )
    return list(reader_for(kind)(str(path), source, skipped)), skipped.counts


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """Of inputs of 1, 2 and 4 times a size, the largest takes about 4 times as long as the
    smallest, not 16 times. The limits leave room for a busy machine."""

    def seconds(times: int) -> float:
        began = time.process_time()
        work(size * times)
        return time.process_time() - began

    one, two, four = (min(seconds(times) for _ in range(2)) for times in (1, 2, 4))
    assert two < 4 * one + 0.1, (one, two, four)
    assert four < 9 * one + 0.2, (one, two, four)
