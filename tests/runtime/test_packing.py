"""Best-fit packing: every token predicted once, nothing cropped, little padding."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.runtime import packing
from llamac.runtime.mixture import PERIOD, Mixture
from llamac.runtime.packing import best_fit, pack, pack_documents
from llamac.runtime.prepared import KEYS, ShardWriter, token_dtype, write_json
from llamac.runtime.streams import PADDING

EOS, LENGTH = 2, 8
documents = st.lists(st.integers(1, 40), max_size=60)


def one_by_one(sizes: list[int], room: int) -> list[int]:
    """Best-fit decreasing as textbooks have it: the room left in each bin, sorted."""
    left: list[int] = []
    for size in sorted(sizes, reverse=True):
        fits = [free for free in left if free >= size]
        free = min(fits) if fits else room
        if fits:
            left.remove(free)
        left.append(free - size)
    return sorted(left)


@given(st.integers(1, 30).flatmap(lambda room: st.tuples(
    st.just(room), st.lists(st.integers(1, room), max_size=60))))  # fmt: skip
@settings(deadline=None)
def test_bins_are_as_full_as_one_item_at_a_time_makes_them(drawn: tuple[int, list[int]]) -> None:
    room, sizes = drawn
    bins = best_fit(np.array(sizes, dtype=np.int64), room)
    held = np.bincount(bins, weights=sizes) if sizes else np.zeros(0)
    assert sorted((room - held).astype(int).tolist()) == one_by_one(sizes, room)


@given(documents)
@settings(deadline=None)
def test_every_token_of_a_document_is_predicted_once(lengths: list[int]) -> None:
    """But for the first of one that begins a sequence, which nothing stands before."""
    pieces, sequences = pack_documents(np.array(lengths, dtype=np.int64), LENGTH)
    assert sequences[0] == 0
    assert sequences[-1] == len(pieces)
    covered = [t for start, n in pieces.tolist() for t in range(start, start + n)]
    firsts = {sum(lengths[:i]) for i in range(len(lengths))}
    once = [
        t for start, n in pieces.tolist() for t in range(start + (start not in firsts), start + n)
    ]
    assert sorted(set(covered)) == list(range(sum(lengths)))
    assert sorted(once) == list(range(sum(lengths)))
    for begin, end in itertools.pairwise(sequences):
        assert 0 < pieces[begin:end, 1].sum() <= LENGTH + 1


def test_blocks_of_documents_give_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 100)
    whole, _ = pack_documents(lengths, LENGTH)
    monkeypatch.setattr(packing, "BLOCK", 7)
    pieces, sequences = pack_documents(lengths, LENGTH)
    assert sorted(map(tuple, pieces.tolist())) == sorted(map(tuple, whole.tolist()))
    assert sequences[-1] == len(pieces)


def prepared(root: Path, sources: dict[str, tuple[float, list[int]]]) -> dict:
    """Each source's share and documents' lengths; token values tell the document, from 10 on."""
    parts = []
    for name, (share, lengths) in sources.items():
        (root / name).mkdir(parents=True)
        part: dict = {"name": name, "share": share}
        for split in ("train", "validation"):
            writer = ShardWriter(root / name / split, token_dtype(1 << 20), 37)
            for number, n in enumerate(lengths):
                writer.add(np.array([10 + number] * (n - 1) + [EOS]), n)
            part[split] = writer.close()
        parts.append(part)
    manifest = dict.fromkeys(KEYS) | {"dtype": token_dtype(1 << 20).str, "sources": parts}
    manifest["tokenizer"] = {"eos": EOS}
    write_json(root / "manifest.json", manifest)
    return manifest


def test_sequences_hold_whole_documents_then_padding(tmp_path: Path) -> None:
    manifest = prepared(tmp_path, {"a": (1.0, [3, 5, 4, 2, 20, 9, 6])})
    pack(tmp_path, manifest, LENGTH)
    mixture = Mixture(tmp_path, "train", LENGTH, seed=0, packing="best_fit")
    rows = mixture.sequences(0, int(mixture.windows[0])).tolist()
    for row in rows:
        text = [token for token in row if token != PADDING]
        assert text == row[: len(text)]  # padding stands at the end
    whole = [10 + number for number, n in enumerate([3, 5, 4, 2, 20, 9, 6]) if n <= LENGTH + 1]
    for token in whole:
        (home,) = (row for row in rows if token in row)
        at = home.index(token)
        count = [3, 5, 4, 2, 20, 9, 6][token - 10] - 1
        assert home[at : at + count + 1] == [token] * count + [EOS]


def test_packing_is_made_once_and_for_each_length(tmp_path: Path) -> None:
    manifest = prepared(tmp_path, {"a": (1.0, [3, 5, 4])})
    pack(tmp_path, manifest, LENGTH)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.npy")}
    assert len(files) == 4
    pack(tmp_path, manifest, LENGTH)
    pack(tmp_path, manifest, 2 * LENGTH)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert len(list((tmp_path / "a").glob("*.npy"))) == 8


def test_shares_are_of_tokens_whatever_the_padding(tmp_path: Path) -> None:
    """Half of b's sequences is padding, so it gets twice as many of them."""
    manifest = prepared(tmp_path, {"a": (0.5, [LENGTH + 1] * 20), "b": (0.5, [5] * 20)})
    manifest["sources"][1]["train"]["documents"] = 20
    pack(tmp_path, manifest, 7)
    mixture = Mixture(tmp_path, "train", 7, seed=0, packing="best_fit")
    source, _, _ = mixture.locate(0, PERIOD)
    rows = mixture.sequences(0, PERIOD)
    labels = [(rows[source == s][:, 1:] != PADDING).sum() for s in range(2)]
    assert abs(labels[0] / sum(labels) - 0.5) < 0.001
