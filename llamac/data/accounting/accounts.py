"""Collect the counts of each source's preparation, finished or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamac.data.accounting import funnel
from llamac.data.accounting.funnel import StepCounts
from llamac.data.clean import STATE
from llamac.data.finish import FUNNEL
from llamac.data.prepare import WORK
from llamac.runtime.data.prepared import SPLITS, PreparedDataError
from llamac.runtime.durable_files import read_json, read_note_or_empty
from llamac.runtime.errors import RunError
from llamac.spec.data import Data, Source

COUNTS = ("documents", "bytes", "tokens")  # of a split, in the manifest


@dataclass(frozen=True)
class Account:
    """Counts and samples of one source's preparation.

    share: fraction of the mixture; all shares add up to 1. rows: counts of the reader and of each
    stage, in order. splits: documents, bytes of text and tokens of each split; empty until the
    manifest is written. examples: positions in the input that the reader skipped, each with the
    reason.
    """

    source: Source
    share: float
    rows: list[StepCounts]
    splits: dict[str, dict[str, int]]
    examples: list[str]

    @property
    def finished(self) -> bool:
        """Return whether the source is tokenised and in the manifest."""
        return bool(self.splits)

    @property
    def tokens(self) -> int:
        """Return the number of tokens in all splits; 0 until the manifest is written."""
        return sum(split["tokens"] for split in self.splits.values())

    def estimate_tokens(self, size: int) -> float | None:
        """Estimate the tokens in `size` bytes of text from the source's average bytes per token.

        None if nothing has been tokenised yet.
        """
        text = sum(split["bytes"] for split in self.splits.values())
        return size * self.tokens / text if text else None

    def to_json(self) -> dict[str, Any]:
        """Return the account as a JSON object.

        In the reader's step, `entered` is [inputs, bytes on disk] instead of [documents, bytes].
        """
        return {
            "source": self.source.name,
            "kind": self.source.kind,
            "share": self.share,
            "finished": self.finished,
            "steps": funnel.to_json(self.rows),
            "splits": self.splits,
            "left_out_examples": self.examples,
        }


def accounts(data: Data, root: Path) -> list[Account]:
    """Read one account per source, in the spec's order.

    root: directory of the prepared data. Of an unfinished source, the parts are counted as far as
    they have come. Raises PreparedDataError if there is no prepared data, RunError if a file of
    counts is damaged.
    """
    manifest = read_note_or_empty(root / "manifest.json")
    done = {entry["name"]: entry for entry in manifest.get("sources", [])}
    total = sum(source.share for source in data.source)
    per_source = [
        _account(source, source.share / total, root, done.get(source.name, {}))
        for source in data.source
    ]
    if not any(account.rows or account.finished for account in per_source):
        raise PreparedDataError(
            f"{root} has no prepared data: run `llamac data prepare`, or name the run with --run"
        )
    return per_source


def _account(source: Source, share: float, root: Path, entry: dict[str, Any]) -> Account:
    saved = root / source.name / FUNNEL
    if entry and saved.exists():
        try:
            rows = funnel.from_json(read_json(saved))
        except (TypeError, ValueError) as error:
            raise RunError(
                f"{saved} is damaged ({error}): delete {root / 'manifest.json'} and prepare the "
                "data again"
            ) from None
    else:
        rows = funnel.total(list(_unfinished_parts(root / WORK / source.name)))
    splits = {split: {key: entry[split][key] for key in COUNTS} for split in SPLITS if entry}
    return Account(source, share, rows, splits, entry.get("skipped_examples", []))


def _unfinished_parts(work: Path) -> Iterator[list[StepCounts]]:
    """Yield the step counts of each part, from the passes that it has completed or begun."""
    for part in sorted(path.name for path in work.glob("pass-0/*")):
        states = (read_note_or_empty(path / part / STATE) for path in _pass_folders(work))
        yield [row for state in states for row in funnel.from_json(state.get("rows", []))]


def _pass_folders(work: Path) -> list[Path]:
    return sorted(work.glob("pass-*"), key=lambda path: int(path.name.partition("-")[2]))
