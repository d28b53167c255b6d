"""Epochs of prepared data: what is told is what a run draws, sequence by sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llamac.data.accounting.epochs import Epochs, epochs, run_tokens
from llamac.runtime.data.mixture import Mixture
from llamac.runtime.data.packing import pack
from llamac.runtime.data.prepared import load_manifest
from llamac.runtime.data.token_streams import PADDING
from llamac.spec import Spec, load_spec
from tests.data.preparing import hashes, prepared, write_corpus, write_spec

LENGTH, DONE = 32, 700  # of a sequence; sequences that the run has drawn
PHASES = f"[[data.phase]]\nat = {LENGTH * 500}\nshares = {{ web = 0, notes = 1 }}\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("epochs")
    write_corpus(folder / "web")
    write_spec(folder, more=PHASES)
    prepared(folder / "mix.toml", folder / "prepared")
    (folder / "metrics.jsonl").write_text(json.dumps({"tokens": DONE * LENGTH}) + "\n")
    return folder


def spec_of(corpus: Path, *overrides: str) -> Spec:
    return load_spec(corpus / "mix.toml", [f"batch.sequence_length={LENGTH}", *overrides])


def drawn(mixture: Mixture, count: int) -> tuple[list[float], list[int]]:
    """Of each source: epochs and predicted tokens in the first `count` sequences, one by one."""
    source, _, _ = mixture.locate(0, count)
    labels = (mixture.sequences(0, count)[:, 1:] != PADDING).sum(axis=1)
    numbers = range(len(mixture.names))
    often = [(source == s).sum() / mixture.windows[s] for s in numbers]
    return often, [int(labels[source == s].sum()) for s in numbers]


@pytest.mark.slow
def test_epochs_are_of_the_sequences_that_a_run_draws(corpus: Path) -> None:
    spec = spec_of(corpus)
    phases = [phase.model_dump() for phase in spec.data.phase]
    mixture = Mixture(corpus / "prepared", "train", LENGTH, spec.seed, phases=phases)
    often, tokens = drawn(mixture, DONE)
    rows = epochs(spec, corpus / "prepared", corpus)
    assert [row.epochs_consumed for row in rows] == often
    assert [row.consumed for row in rows] == tokens
    assert [row.epochs for row in rows] == list(
        mixture.epochs_at(run_tokens(spec) // LENGTH).values()
    )


@pytest.mark.slow
def test_padding_is_no_token_and_makes_for_more_epochs(corpus: Path) -> None:
    """Best fit: before it is packed, by shares; from then on, its own sequences."""
    spec = spec_of(corpus, "data.packing=best_fit")
    before = told(spec, corpus)
    pack(corpus / "prepared", load_manifest(corpus / "prepared"), LENGTH)
    phases = [phase.model_dump() for phase in spec.data.phase]
    mixture = Mixture(corpus / "prepared", "train", LENGTH, spec.seed, "best_fit", phases)
    often, tokens = drawn(mixture, DONE)
    after = told(spec, corpus)
    assert [row.epochs_consumed for row in after.values()] == often
    # A source's padding is reckoned with by its mean, here over more than one epoch.
    np.testing.assert_allclose([row.consumed for row in after.values()], tokens, rtol=0.02)
    assert sum(row.consumed for row in after.values()) < DONE * LENGTH
    assert before["web"].consumed == 0.75 * 500 * LENGTH


def test_shares_of_the_spec_count_not_those_it_was_prepared_with(corpus: Path) -> None:
    rows = told(spec_of(corpus, "data.source.0.share=1.0"), corpus)
    assert rows["web"].consumed == pytest.approx(0.5 * 500 * LENGTH, rel=0.01)


def told(spec: Spec, corpus: Path) -> dict[str, Epochs]:
    return {row.name: row for row in epochs(spec, corpus / "prepared", corpus)}


def test_other_expectations_of_a_source_leave_what_is_prepared(corpus: Path) -> None:
    before = hashes(corpus / "prepared")
    prepared(corpus / "mix.toml", corpus / "prepared", "data.source.0.unique_tokens=123")
    assert hashes(corpus / "prepared") == before
