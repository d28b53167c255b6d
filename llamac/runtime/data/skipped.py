"""Counts of what readers leave out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

EXAMPLES = 20


@dataclass(frozen=True)
class Skipped:
    """What a reader left out: how often, by reason, and where the first few were."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, reason: str, where: str) -> None:
        """reason: a few words without values, by which it is counted. where: file and line.

        Bytes of a file's name that are not UTF-8 are escaped, so that examples can be written.
        """
        self.counts[reason] += 1
        if len(self.examples) < EXAMPLES:
            shown = where.encode("utf-8", "backslashreplace").decode()
            self.examples.append(f"{shown}: {reason}")
