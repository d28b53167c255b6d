"""How often a run goes through each source: planned from the spec, and what it has done so far."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamac.runtime.prepared import read_json
from llamac.spec import Spec

TAIL = 1 << 16  # bytes at the end of metrics.jsonl in which its last row lies


@dataclass(frozen=True)
class Epochs:
    """Of one source. share: of the first phase. unique: its tokens for training; None: not known.
    prepared: whether they are counted rather than declared. planned, consumed: tokens drawn by
    the whole run, and by its last logged step."""

    name: str
    share: float
    unique: int | None
    prepared: bool
    planned: float
    consumed: float

    @property
    def epochs(self) -> float | None:
        return self.planned / self.unique if self.unique else None

    @property
    def epochs_consumed(self) -> float | None:
        return self.consumed / self.unique if self.unique else None


def epochs(spec: Spec, directory: Path, run: Path) -> list[Epochs]:
    """One for each source. Counted tokens take precedence over `unique_tokens` of the spec."""
    total, done = run_tokens(spec), tokens_done(run)
    counted = {
        source["name"]: source["train"]["tokens"]
        for source in read_json(directory / "manifest.json").get("sources", [])
    }
    return [
        Epochs(
            source.name,
            _drawn(spec, source.name, 1),
            counted.get(source.name, source.unique_tokens),
            source.name in counted,
            _drawn(spec, source.name, total),
            _drawn(spec, source.name, min(done, total)),
        )
        for source in spec.data.source
    ]


def run_tokens(spec: Spec) -> int:
    """Tokens that the whole run draws."""
    return spec.total_steps * spec.batch.sequences * spec.batch.sequence_length


def tokens_done(run: Path) -> int:
    """Tokens that a run has been trained on, by the last whole row of its metrics; 0 if none."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            rows = file.read().splitlines()
    except OSError:
        return 0
    for row in reversed(rows):
        try:
            return int(json.loads(row)["tokens"])
        except (ValueError, KeyError, TypeError):
            continue  # being written, or cut off
    return 0


def _drawn(spec: Spec, name: str, tokens: int) -> float:
    """How many of a run's first tokens are of a source, by its share in each phase."""
    return sum(
        shares[name] / sum(shares.values()) * max(0, min(end, tokens) - begin)
        for begin, end, shares in _phases(spec, tokens)
    )


def _phases(spec: Spec, tokens: int) -> Iterator[tuple[int, int, dict[str, float]]]:
    begin, shares = 0, {source.name: source.share for source in spec.data.source}
    for phase in spec.data.phase:
        yield begin, phase.at, shares
        begin, shares = phase.at, dict(phase.shares)
    yield begin, max(begin, tokens), shares
