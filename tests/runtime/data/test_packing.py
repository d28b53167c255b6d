"""Best-fit packing: every token predicted once, nothing cropped, little padding."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.runtime.data import packing
from llamac.runtime.data.mixture import PERIOD, Mixture
from llamac.runtime.data.packing import best_fit, pack, pack_documents, packed_paths
from llamac.runtime.data.prepared import (
    KEYS,
    PreparedDataError,
    ShardWriter,
    token_dtype,
)
from llamac.runtime.data.token_streams import PADDING
from llamac.runtime.durable_files import write_note

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


def packed(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(pieces [pieces, 2], sequences [sequences + 1, 2])"""
    blocks = pack_documents([np.array(lengths, dtype=np.int64)], LENGTH)
    pieces, sequences = zip(*blocks, strict=True)
    return np.concatenate(pieces), np.concatenate(sequences)


@given(documents)
@settings(deadline=None)
def test_every_token_of_a_document_is_predicted_once(lengths: list[int]) -> None:
    """But for the first of one that begins a sequence, which nothing stands before."""
    pieces, sequences = packed(lengths)
    assert sequences[0].tolist() == [0, 0]
    assert sequences[-1].tolist() == [len(pieces), pieces[:, 1].sum() - (len(sequences) - 1)]
    covered = [t for start, n in pieces.tolist() for t in range(start, start + n)]
    firsts = {sum(lengths[:i]) for i in range(len(lengths))}
    once = [
        t for start, n in pieces.tolist() for t in range(start + (start not in firsts), start + n)
    ]
    assert sorted(set(covered)) == list(range(sum(lengths)))
    assert sorted(once) == list(range(sum(lengths)))
    for (begin, labels), (end, labels_then) in itertools.pairwise(sequences.tolist()):
        assert pieces[begin:end, 1].sum() - 1 == labels_then - labels
        assert begin < end
        assert labels_then - labels <= LENGTH


def test_blocks_of_documents_give_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 100).tolist()
    whole, _ = packed(lengths)
    monkeypatch.setattr(packing, "BLOCK", 7)
    pieces, sequences = packed(lengths)
    assert sorted(map(tuple, pieces.tolist())) == sorted(map(tuple, whole.tolist()))
    assert sequences[-1].tolist() == [len(pieces), pieces[:, 1].sum() - (len(sequences) - 1)]


def test_packing_does_not_depend_on_shards(tmp_path: Path) -> None:
    """Documents are found across them, and in shards that none ends in."""
    files = []
    for number, shard_tokens in enumerate((7, 37, 1000)):
        root = tmp_path / str(number)
        manifest = prepared(root, {"a": (1.0, [3, 5, 4, 2, 20, 9, 6])}, shard_tokens)
        pack(root, manifest, LENGTH)
        (source,) = manifest["sources"]
        files.append([p.read_bytes() for p in packed_paths(root, source, "train", LENGTH)])
    assert files[0] == files[1] == files[2]


def test_a_packing_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    manifest = prepared(tmp_path, {"a": (1.0, [3, 5, 4])})
    pack(tmp_path, manifest, LENGTH)
    paths = packed_paths(tmp_path, manifest["sources"][0], "train", LENGTH)
    for path in paths:
        before = path.read_bytes()
        for left in (before[:-16], before[:-3], b""):
            path.write_bytes(left)
            with pytest.raises(PreparedDataError, match=f"delete {paths[0].name}"):
                Mixture(tmp_path, "train", LENGTH, seed=0, packing="best_fit")
        path.write_bytes(before)


def test_tokens_prepared_anew_are_packed_anew(tmp_path: Path) -> None:
    """Places in the old stream would cut the new documents anywhere."""
    pack(tmp_path, prepared(tmp_path, {"a": (1.0, [3, 5, 4])}), LENGTH)
    for path in (tmp_path / "a").glob("*.bin"):
        path.unlink()
    manifest = prepared(tmp_path, {"a": (1.0, [4, 3, 5])})
    with pytest.raises(PreparedDataError, match="is not packed"):
        Mixture(tmp_path, "train", LENGTH, seed=0, packing="best_fit")
    pack(tmp_path, manifest, LENGTH)
    mixture = Mixture(tmp_path, "train", LENGTH, seed=0, packing="best_fit")
    rows = mixture.sequences(0, int(mixture.windows[0])).tolist()
    assert sorted(rows) == sorted([[10] * 3 + [EOS, 12, 12, 12, 12, EOS], [11, 11, EOS] + [-1] * 6])


def prepared(
    root: Path, sources: dict[str, tuple[float, list[int]]], shard_tokens: int = 37
) -> dict:
    """Each source's share and documents' lengths; token values tell the document, from 10 on."""
    parts = []
    for name, (share, lengths) in sources.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        part: dict = {"name": name, "share": share}
        for split in ("train", "validation"):
            writer = ShardWriter(root / name / split, token_dtype(1 << 20), shard_tokens)
            for number, n in enumerate(lengths):
                writer.add(np.array([10 + number] * (n - 1) + [EOS]), n)
            part[split] = writer.close()
        parts.append(part)
    manifest = {key: {} for key in KEYS} | {"dtype": token_dtype(1 << 20).str, "sources": parts}
    manifest["tokenizer"] = {"eos": EOS}
    write_note(root / "manifest.json", manifest)
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
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.packed-*")}
    assert len(files) == 8  # with their seals
    pack(tmp_path, manifest, LENGTH)
    pack(tmp_path, manifest, 2 * LENGTH)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert len(list((tmp_path / "a").glob("*.packed-*"))) == 16


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
