"""Near-duplicates: found, verified, and of each set the first is kept."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from llamac.data.document import Rejected
from llamac.data.stages.common import arrays
from llamac.data.stages.common.disjoint_sets import find_roots, union
from llamac.data.stages.common.words import ngrams, words
from llamac.data.stages.near_dedup import bands, minhash
from llamac.spec.stages import NearDedup
from tests.data.stages.judged import surveyed

VOCABULARY = [f"word{number}" for number in range(5000)]


def text(seed: int, length: int = 300) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=length))


def edited(original: str, words: int, seed: int) -> str:
    """The text with so many of its words replaced, spread over it."""
    draw, split = random.Random(seed), original.split()
    for at in draw.sample(range(len(split)), words):
        split[at] = draw.choice(VOCABULARY)
    return " ".join(split)


def jaccard(one: str, other: str, size: int = 5) -> float:
    first, second = (
        {tuple(text.split()[at : at + size]) for at in range(len(text.split()) - size + 1)}
        for text in (one, other)
    )
    return len(first & second) / len(first | second)


def test_of_near_duplicates_the_first_of_all_parts_is_kept(tmp_path: Path) -> None:
    original = text(0)
    close, closer = edited(original, 3, 1), edited(original, 2, 2)
    parts = [[text(1), original], [], [closer, text(2), close], [original.upper() + "!"]]
    judged = surveyed(NearDedup(), tmp_path, *parts)
    assert judged[0] == parts[0]
    assert judged[2][1] == parts[2][1]
    for rejected in (judged[2][0], judged[2][2], judged[3][0]):
        assert isinstance(rejected, Rejected)
        assert rejected.reason == "near-duplicate"
        assert rejected.detail.endswith(" like 0:2")
    assert judged[3][0] == Rejected("near-duplicate", "1.00 like 0:2")


def test_documents_without_words_are_no_duplicates(tmp_path: Path) -> None:
    assert surveyed(NearDedup(), tmp_path, ["", "", "!!", "word", "word"])[0][:4] == [
        "",
        "",
        "!!",
        "word",
    ]


@pytest.mark.slow
def test_what_is_found_on_a_labelled_set(tmp_path: Path) -> None:
    """40 texts with copies at similarities on either side of the threshold, and 200 strangers."""
    texts, labels = [], []
    for seed in range(40):
        original = text(seed)
        texts.append(original)
        labels.append(0.0)
        for changed in (1, 3, 20, 60):
            copy = edited(original, changed, 1000 * seed + changed)
            texts.append(copy)
            labels.append(jaccard(original, copy))
    texts += [text(10_000 + seed) for seed in range(200)]
    labels += [0.0] * 200
    (judged,) = surveyed(NearDedup(threshold=0.8), tmp_path, texts)
    dropped = [isinstance(made, Rejected) for made in judged]
    alike = [drop for drop, label in zip(dropped, labels, strict=True) if label >= 0.88]
    apart = [drop for drop, label in zip(dropped, labels, strict=True) if label <= 0.7]
    assert len(alike) >= 70
    assert np.mean(alike) >= 0.95
    assert not any(apart)


def test_estimates_are_those_of_datasketch_and_no_less_exact() -> None:
    datasketch = pytest.importorskip("datasketch", reason="the oracle of MinHash")
    mine, theirs = [], []
    for seed in range(60):
        one = text(seed, 150)
        other = edited(one, 1 + seed % 12, seed)
        truth = jaccard(one, other)
        ours = [minhash(ngrams(words(text), 5), 256) for text in (one, other)]
        mine.append(float((ours[0] == ours[1]).mean()) - truth)
        hashes = [datasketch.MinHash(num_perm=256, seed=seed) for _ in range(2)]
        for sketch, text_ in zip(hashes, (one, other), strict=True):
            split = text_.split()
            sketch.update_batch(
                [" ".join(split[at : at + 5]).encode() for at in range(len(split) - 4)]
            )
        theirs.append(hashes[0].jaccard(hashes[1]) - truth)
    bound = 0.5 / np.sqrt(256)  # one standard deviation at similarity 1/2, where it is largest
    assert np.sqrt(np.mean(np.square(theirs))) < 1.3 * bound
    assert np.sqrt(np.mean(np.square(mine))) < 1.3 * bound
    assert abs(np.mean(mine)) < bound / 2


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_bands_let_pairs_at_the_threshold_meet(threshold: float) -> None:
    count, rows = bands(threshold, 128)
    assert count * rows <= 128
    assert 1 - (1 - threshold**rows) ** count >= 0.95
    assert 1 - (1 - (threshold - 0.4) ** rows) ** count < 0.25


def test_merging_in_small_cuts_decides_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [edited(text(seed % 7), seed % 3, seed) for seed in range(60)]
    parts = texts[:25], texts[25:26], texts[26:]
    whole = surveyed(NearDedup(), tmp_path / "whole", *parts)
    monkeypatch.setattr(arrays.ranges, "__defaults__", (16,))
    monkeypatch.setattr(arrays, "IN_MEMORY", 16)
    assert surveyed(NearDedup(), tmp_path / "cut", *parts) == whole
    assert (tmp_path / "cut/decided").read_bytes() == (tmp_path / "whole/decided").read_bytes()


def test_sets_are_joined_to_their_first_in_whatever_order() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 200, (2, 150))
    labels = np.arange(200)
    union(labels, first, second)
    shuffled, one_by_one = draw.permutation(150), np.arange(200)
    for edge in shuffled:
        union(one_by_one, second[edge : edge + 1], first[edge : edge + 1])
    everyone = np.arange(200)
    expected = _components(200, first, second)
    assert find_roots(labels, everyone).tolist() == expected
    assert find_roots(one_by_one, everyone).tolist() == expected


def _components(size: int, first: np.ndarray, second: np.ndarray) -> list[int]:
    """The least member of each one's component, by spreading minima until nothing changes."""
    least = list(range(size))
    while True:
        before = list(least)
        for one, other in zip(first, second, strict=True):
            least[one] = least[other] = min(least[one], least[other])
        if least == before:
            return least
