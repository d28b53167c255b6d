"""Counts of what readers leave out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..errors import SourceError

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

    def nothing_left(self, source: str, held_out: int) -> SourceError:
        """The error of a source without a document to train on. held_out: how many validate."""
        why = ", ".join(f"{count} × {reason}" for reason, count in self.counts.items())
        if held_out:
            lower = "" if held_out == 1 else "lower data.validation or "
            why = f"all {held_out} were held out: {lower}give it more documents"
        examples = "".join(f"\n  {example}" for example in self.examples[:3])
        return SourceError(
            f"source {source!r} has no document to train on ({why or 'empty'}){examples}"
        )
