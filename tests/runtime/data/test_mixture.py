"""The mixture: which tokens the n-th sequence is made of."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.runtime.data.mixture import PERIOD, Mixture, permute
from llamac.runtime.data.prepared import (
    KEYS,
    SPLITS,
    PreparedDataError,
    ShardWriter,
    token_dtype,
)
from llamac.runtime.durable_files import write_note
from llamac.runtime.kernels.padding import PADDING

LENGTH = 8
VOCAB = 1 << 20


def prepared(
    root: Path,
    sources: dict[str, tuple[float, int, int]],
    shard_tokens: int = 1000,
    documents: tuple[int, int] = (90, 10),
) -> Path:
    """Prepared data of which each source holds (share, train tokens, validation tokens).

    A token tells where it is: source number · 100,000 + position in the source's stream.
    """
    parts = []
    for number, (name, (share, *sizes)) in enumerate(sources.items()):
        (root / name).mkdir(parents=True)
        part = {"name": name, "share": share}
        for split, size, count in zip(SPLITS, sizes, documents, strict=True):
            writer = ShardWriter(root / name / split, token_dtype(VOCAB), shard_tokens)
            writer.add(number * 100_000 + np.arange(size), size)
            part[split] = writer.close() | {"documents": count}
        parts.append(part)
    manifest = {key: {} for key in KEYS} | {"dtype": token_dtype(VOCAB).str, "sources": parts}
    write_note(root / "manifest.json", manifest)
    return root


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """a: 3 of 4 sequences, 62 windows; b: 1 of 4, 25 windows."""
    return prepared(tmp_path, {"a": (0.75, 500, 100), "b": (0.25, 201, 100)}, shard_tokens=37)


def test_a_sequence_is_a_window_of_one_source_even_across_shards(two: Path) -> None:
    mixture = Mixture(two, "train", LENGTH, seed=1)
    sources, _, windows = mixture.locate(0, 80)  # the first epoch of both
    batch = mixture.sequences(0, 80)
    assert batch.dtype == np.int64
    assert batch.shape == (80, LENGTH + 1)
    first = sources * 100_000 + windows * LENGTH
    np.testing.assert_array_equal(batch, first[:, None] + np.arange(LENGTH + 1))


def test_an_epoch_predicts_every_token_once(two: Path) -> None:
    mixture = Mixture(two, "train", LENGTH, seed=1)
    batch = mixture.sequences(0, 400)
    sources, epochs, _ = mixture.locate(0, 400)
    labels = batch[(sources == 0) & (epochs == 0), 1:]
    np.testing.assert_array_equal(np.sort(labels.ravel()), np.arange(1, 62 * LENGTH + 1))


def test_an_epoch_begins_where_the_one_before_ended(two: Path) -> None:
    """The four tokens of a that 62 windows leave over come first in its second epoch."""
    mixture = Mixture(two, "train", LENGTH, seed=1)
    sources, epochs, _ = mixture.locate(0, 400)
    labels = mixture.sequences(0, 400)[(sources == 0) & (epochs == 1), 1:]
    ring = (np.arange(62 * LENGTH) + 62 * LENGTH + 1) % 500
    np.testing.assert_array_equal(np.sort(labels.ravel()), np.sort(ring))


def phased(root: Path, at: int = 3 * PERIOD * LENGTH - 60) -> Mixture:
    shares = {"a": 0.0, "b": 1.0}
    third = {"a": 1.0, "b": 3.0}
    phases = [{"at": at, "shares": shares}, {"at": at + PERIOD * LENGTH, "shares": third}]
    return Mixture(root, "train", LENGTH, seed=1, phases=phases)


def test_shares_change_at_the_token_that_is_given(two: Path) -> None:
    mixture, begin = phased(two), 3 * PERIOD - 7  # at / LENGTH, rounded up
    sources, _, _ = mixture.locate(0, begin + 2 * PERIOD)
    first, second, third = np.split(sources, [begin, begin + PERIOD])
    assert abs((first == 0).mean() - 0.75) < 0.001
    assert (second == 1).all()
    assert abs((third == 0).mean() - 0.25) < 0.001


def test_a_source_goes_on_where_the_phase_before_left_it(two: Path) -> None:
    mixture, end = phased(two), 5 * PERIOD
    sources, epochs, windows = mixture.locate(0, end)
    for source, n in enumerate(mixture.windows.tolist()):
        own = sources == source
        k = np.arange(own.sum())
        np.testing.assert_array_equal(epochs[own], k // n)
        whole = windows[own][: len(k) // n * n].reshape(-1, n)
        np.testing.assert_array_equal(np.sort(whole), np.broadcast_to(np.arange(n), whole.shape))
        assert mixture.epochs_at(end)[mixture.names[source]] == len(k) / n


def test_phases_do_not_touch_validation(two: Path) -> None:
    shares = [{"at": LENGTH, "shares": {"a": 0.0, "b": 1.0}}]
    with_phases = Mixture(two, "validation", LENGTH, seed=1, phases=shares)
    assert len(with_phases) == len(Mixture(two, "validation", LENGTH, seed=1))


@pytest.mark.slow
@given(
    shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    windows=st.lists(st.integers(1, 40), min_size=4, max_size=4),
    seed=st.integers(0, 2**64),
)
@settings(max_examples=25, deadline=None)
def test_each_window_comes_once_per_epoch(
    shares: list[float], windows: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    drawn = enumerate(zip(shares, windows, strict=False))
    names = {f"s{i}": (share, n * LENGTH + 1, 0) for i, (share, n) in drawn}
    root = prepared(tmp_path_factory.mktemp("mixture"), names)
    sources, epochs, places = Mixture(root, "train", LENGTH, seed).locate(0, 3000)
    for source, n in enumerate(windows[: len(shares)]):
        for epoch in range(int(epochs[sources == source].max())):  # the last may be unfinished
            here = places[(sources == source) & (epochs == epoch)]
            assert sorted(here.tolist()) == list(range(n))


def test_any_part_is_the_same_however_it_is_asked_for(two: Path) -> None:
    mixture, start = Mixture(two, "train", LENGTH, seed=1), PERIOD - 5
    whole = mixture.sequences(start, 12)
    singly = [Mixture(two, "train", LENGTH, seed=1).sequences(start + i, 1)[0] for i in range(12)]
    np.testing.assert_array_equal(whole, np.stack(singly))
    assert mixture.sequences(10**15, 2).shape == (2, LENGTH + 1)
    assert mixture.sequences(7, 0).shape == (0, LENGTH + 1)


def test_the_seed_and_the_epoch_change_the_order(two: Path) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sources, epochs, windows = Mixture(two, "train", LENGTH, seed).locate(0, 400)
        return windows[(sources == 0) & (epochs == epoch)].tolist()

    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert order(1, 0) != sorted(order(1, 0))


@pytest.mark.slow
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=7))
@settings(max_examples=10, deadline=None)
def test_shares_are_exact_per_period_and_close_from_the_start(
    tmp_path_factory: pytest.TempPathFactory, weights: list[float]
) -> None:
    root = tmp_path_factory.mktemp("shares")
    prepared(root, {f"s{i}": (weight, 100, 0) for i, weight in enumerate(weights)})
    sources, _, _ = Mixture(root, "train", LENGTH, seed=0).locate(0, 2 * PERIOD)
    shares = np.array(weights) / sum(weights)
    seen = np.cumsum(sources[:, None] == np.arange(len(shares)), axis=0)
    due = np.arange(1, 2 * PERIOD + 1)[:, None] * shares
    assert np.abs(seen - due).max() <= len(shares) + 1
    np.testing.assert_array_equal(seen[PERIOD - 1] * 2, seen[-1])
    assert np.abs(seen[PERIOD - 1] - due[PERIOD - 1]).max() < 1


@given(n=st.integers(1, 500), key=st.text(max_size=9))
@settings(deadline=None)
def test_permute_is_a_bijection(n: int, key: str) -> None:
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


def test_permute_needs_no_table_and_stays_in_range() -> None:
    n = 10**12 + 39
    out = permute(np.arange(n - 1000, n), n, "key")
    assert len(set(out.tolist())) == 1000
    assert 0 <= out.min() < n // 100
    assert n - n // 100 < out.max() < n


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 8, 100])
def test_permute_sends_an_index_anywhere_equally_often(n: int) -> None:
    """Over many keys, χ² of where index 1 goes, and of the step to where index 2 goes."""
    keys, pair = 200 * n, np.array([1, 2])
    ends = np.stack([permute(pair, n, f"{key}") for key in range(keys)])
    for values, cells in ((ends[:, 0], n), ((ends[:, 1] - ends[:, 0]) % n - 1, n - 1)):
        counts, expected = np.bincount(values, minlength=cells), keys / cells
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < cells + 6 * (2 * cells) ** 0.5


def test_epochs_at_counts_what_was_consumed(two: Path) -> None:
    mixture = Mixture(two, "train", LENGTH, seed=1)
    for index in (0, 1, 777, PERIOD + 3):
        seen = Counter(mixture.locate(0, index)[0].tolist())
        assert mixture.epochs_at(index) == {"a": seen[0] / 62, "b": seen[1] / 25}


def test_validation_is_finite_in_order_and_in_the_same_proportions(two: Path) -> None:
    mixture = Mixture(two, "validation", LENGTH, seed=1)
    sources, epochs, windows = mixture.locate(0, len(mixture))
    assert len(mixture) == 16  # a has 12 windows; its 13th would be the 17th of 3 a : 1 b
    assert set(epochs.tolist()) == {0}
    assert windows[sources == 0].tolist() == list(range(12))
    assert windows[sources == 1].tolist() == list(range(4))
    beyond = mixture.sequences(14, 4)
    assert (beyond[:2] == mixture.sequences(14, 2)).all()
    assert (beyond[2:] == PADDING).all()
    assert (mixture.sequences(20, 2) == PADDING).all()


def test_training_has_no_length(two: Path) -> None:
    with pytest.raises(TypeError, match="infinite"):
        len(Mixture(two, "train", LENGTH, seed=1))


def test_a_source_without_held_out_windows_is_left_out_of_validation(tmp_path: Path) -> None:
    root = prepared(tmp_path, {"a": (0.5, 100, 100), "b": (0.5, 100, LENGTH)})
    mixture = Mixture(root, "validation", LENGTH, seed=1)
    assert mixture.left_out == ("b",)
    assert mixture.names == ("a",)
    assert len(mixture) == 12


def test_too_little_text_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    root = prepared(tmp_path, {"a": (0.5, 100, 0), "b": (0.5, LENGTH, 0)})
    with pytest.raises(PreparedDataError, match=r"'b' has fewer than 9 tokens .*sequence_length"):
        Mixture(root, "train", LENGTH, seed=1)
    with pytest.raises(PreparedDataError, match=r"raise data\.validation"):
        Mixture(root, "validation", LENGTH, seed=1)


def test_too_few_documents_ask_for_more_of_them(tmp_path: Path) -> None:
    """With one document, no fraction held out gives both splits one."""
    root = prepared(tmp_path, {"a": (1, 100, 0)}, documents=(1, 0))
    with pytest.raises(
        PreparedDataError, match=r"got 0 of the source.s 1 documents; add"
    ) as caught:
        Mixture(root, "validation", LENGTH, seed=1)
    assert "data.validation" not in str(caught.value)


def test_a_share_below_one_in_a_period_is_an_error(tmp_path: Path) -> None:
    root = prepared(tmp_path, {"a": (1.0, 100, 0), "b": (1e-6, 100, 0)})
    with pytest.raises(PreparedDataError, match=r"'b': its share is below the minimum of 1/10,000"):
        Mixture(root, "train", LENGTH, seed=1)


def test_unfinished_and_truncated_data_are_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(PreparedDataError, match="no prepared data"):
        Mixture(tmp_path / "a", "train", LENGTH, seed=1)
    shard = two / "a" / "train-00003.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(PreparedDataError, match=r"train-00003\.bin has 147 bytes, not 148"):
        Mixture(two, "train", LENGTH, seed=1)
    shard.unlink()
    with pytest.raises(PreparedDataError, match="is missing"):
        Mixture(two, "train", LENGTH, seed=1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting"),
        ("", "Expecting"),
        ("[]", "not a JSON object"),
        ("3", "not a JSON object"),
        ("\xff", "can't decode"),
        ("{}", "checksum"),
        ('{"sources": [{}], "dtype": "<u2"}', "checksum"),
        ('{"a":' * 100_000, "nested"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(two: Path, text: str, why: str) -> None:
    (two / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(PreparedDataError, match=rf"{two}/manifest\.json is damaged: .*{why}"):
        Mixture(two, "train", LENGTH, seed=1)


@pytest.mark.parametrize("key", ["train", "shards", "tokens", "file", "sha256", "share"])
def test_a_manifest_that_lacks_a_part_is_refused_by_name(two: Path, key: str) -> None:
    text = (two / "manifest.json").read_text()
    write_note(two / "manifest.json", json.loads(text.replace(f'"{key}"', '"other"')))
    with pytest.raises(PreparedDataError, match=rf"{two}/manifest\.json .*lacks '{key}'"):
        Mixture(two, "train", LENGTH, seed=1)


@pytest.mark.parametrize(
    "value", [{"sources": []}, {"settings": []}, {"dtype": "<q9"}, {"sources": 3}]
)
def test_a_manifest_of_wrong_values_is_refused_by_name(two: Path, value: dict) -> None:
    write_note(two / "manifest.json", json.loads((two / "manifest.json").read_text()) | value)
    with pytest.raises(PreparedDataError, match=rf"{two}/manifest\.json is not a manifest"):
        Mixture(two, "train", LENGTH, seed=1)


@pytest.mark.parametrize("share", ["x", None, 0, -1.0, True, float("nan")])
def test_a_share_that_is_none_is_refused_by_name(two: Path, share: Any) -> None:
    manifest = json.loads((two / "manifest.json").read_text())
    manifest["sources"][0]["share"] = share
    write_note(two / "manifest.json", manifest)
    with pytest.raises(PreparedDataError, match=rf"{two}/manifest\.json is not a manifest.*share"):
        Mixture(two, "train", LENGTH, seed=1)


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp", "", ".hidden", 3])
def test_a_source_lies_in_the_directory_of_its_name(two: Path, name: Any) -> None:
    """Packings are written beside its shards."""
    manifest = json.loads((two / "manifest.json").read_text())
    manifest["sources"][0]["name"] = name
    write_note(two / "manifest.json", manifest)
    with pytest.raises(PreparedDataError, match="is not a manifest"):
        Mixture(two, "train", LENGTH, seed=1)


@pytest.mark.parametrize("file", ["../a/train-00000.bin", "/etc/passwd", "b/train-00000.bin", None])
def test_a_shard_lies_with_its_source(two: Path, file: Any) -> None:
    manifest = json.loads((two / "manifest.json").read_text())
    manifest["sources"][0]["train"]["shards"][0]["file"] = file
    write_note(two / "manifest.json", manifest)
    with pytest.raises(PreparedDataError, match="is not a manifest"):
        Mixture(two, "train", LENGTH, seed=1)
