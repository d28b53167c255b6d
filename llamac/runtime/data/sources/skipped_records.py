"""Count the records and files that readers skip, by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ...errors import SourceError

EXAMPLES = 20  # number of skipped records and files whose places are kept


@dataclass(frozen=True)
class Skipped:
    """Counts of skipped records and files by reason.

    examples: "place: reason" of the first `EXAMPLES`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, reason: str, where: str) -> None:
        """Count a skipped record or file.

        reason: a few words without values, the key of `counts`. where: file and line; bytes of a
        file's name that are not UTF-8 are escaped.
        """
        self.counts[reason] += 1
        if len(self.examples) < EXAMPLES:
            shown = where.encode("utf-8", "backslashreplace").decode()
            self.examples.append(f"{shown}: {reason}")

    def no_documents_error(self, source: str, held_out: int) -> SourceError:
        """Return the error for a source without training documents, which says why.

        source: its name. held_out: number of its documents in the validation split; 0 if all were
        skipped.
        """
        why = ", ".join(f"{count} × {reason}" for reason, count in self.counts.items())
        if held_out:
            lower = "" if held_out == 1 else "lower data.validation or "
            why = f"all {held_out} were held out for validation: {lower}add documents"
        examples = "".join(f"\n  {example}" for example in self.examples[:3])
        return SourceError(
            f"source {source!r} has no document to train on ({why or 'empty'}){examples}"
        )
