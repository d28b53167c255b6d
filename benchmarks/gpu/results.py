"""A result file, written after every row: what was measured survives what follows."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any]:
    """Return what an earlier call has left in `path`; {"rows": {}} if there is none."""
    return json.loads(path.read_text()) if path.is_file() else {"rows": {}}


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    os.replace(beside, path)


class Deadline:
    """The moment after which no further row is begun."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, 0 at least."""
        return max(0.0, self.end - time.monotonic())
