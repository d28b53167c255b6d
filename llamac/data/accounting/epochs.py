"""Compute how many epochs of each source a run draws: planned by the spec, and consumed so far."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamac.runtime.data.mixture import Mixture
from llamac.runtime.data.preference_pairs import Pairs
from llamac.runtime.data.prepared import PreparedDataError
from llamac.runtime.durable_files import read_note_or_empty
from llamac.spec import Spec

TAIL = 1 << 16  # bytes at the end of metrics.jsonl that contain its last row


@dataclass(frozen=True)
class Epochs:
    """Tokens and epochs that a run draws from one source.

    share: fraction of the mixture in the first phase. unique: training tokens of the source; None
    if unknown. prepared: whether `unique` was counted in prepared data rather than declared in the
    spec. planned, consumed: tokens drawn by the whole run, and up to its last logged step, without
    padding. epochs, epochs_consumed: `planned` and `consumed` as epochs of the source; None if
    unknown.
    """

    name: str
    share: float
    unique: int | None
    prepared: bool
    planned: float
    consumed: float
    epochs: float | None
    epochs_consumed: float | None


def epochs(spec: Spec, directory: Path, run: Path) -> list[Epochs]:
    """Count the tokens and epochs that a run draws from each source, in the spec's order.

    If the prepared data is ready to train on, the run's actual sequences are counted; otherwise
    tokens are estimated from the shares. Counted tokens take precedence over the spec's
    `unique_tokens`.
    directory: of the prepared data. run: run directory, whose metrics give the tokens so far.
    """
    total = run_tokens(spec)
    done = min(tokens_done(run), total)
    counted = {
        source["name"]: source["train"]["tokens"]
        for source in read_note_or_empty(directory / "manifest.json").get("sources", [])
    }
    unique = {s.name: counted.get(s.name, s.unique_tokens) for s in spec.data.source}
    mixture = _mixture(spec, directory)

    def drawn(name: str, tokens: int) -> tuple[float, float | None]:
        """Return (tokens, epochs) of a source within the run's first `tokens` tokens."""
        if mixture is not None:
            index = tokens // spec.batch.sequence_length
            return mixture.tokens_at(index)[name], mixture.epochs_at(index)[name]
        of_source, available = _by_share(spec, name, tokens), unique[name]
        return of_source, of_source / available if available else None

    rows = []
    for name, unique_tokens in unique.items():
        (planned, run_epochs), (consumed, epochs_so_far) = drawn(name, total), drawn(name, done)
        share, prepared = _by_share(spec, name, 1), name in counted
        rows.append(
            Epochs(
                name, share, unique_tokens, prepared, planned, consumed, run_epochs, epochs_so_far
            )
        )
    return rows


def _mixture(spec: Spec, directory: Path) -> Mixture | None:
    """Return the mixture that a run of the spec draws from; None if data is not prepared."""
    shares = {source.name: source.share for source in spec.data.source}
    phases = [{"at": 0, "shares": shares}, *(phase.model_dump() for phase in spec.data.phase)]
    length, packing = spec.batch.sequence_length, spec.data.packing
    prepared = read_note_or_empty(directory / "manifest.json").get("sources", [])
    if {source["name"] for source in prepared} != shares.keys():
        return None
    try:
        if packing == "pairs":
            return Pairs(directory, "train", length, spec.seed).mixture
        return Mixture(directory, "train", length, spec.seed, packing, phases)
    except PreparedDataError:  # too few tokens, or not packed yet
        return None


def run_tokens(spec: Spec) -> int:
    """Return the number of tokens that the whole run draws, padding included."""
    return spec.total_steps * spec.batch.sequences * spec.batch.sequence_length


def tokens_done(run: Path) -> int:
    """Return the tokens trained on, from the last complete row of metrics.jsonl; 0 if none."""
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
            continue  # still being written, or cut off
    return 0


def _by_share(spec: Spec, name: str, tokens: int) -> float:
    """Estimate a source's tokens among the run's first `tokens`, from its share per phase."""
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
