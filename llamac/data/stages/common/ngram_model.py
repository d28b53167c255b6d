"""N-gram language model over words: interpolated Kneser-Ney (Chen & Goodman 1999, section 2.7).

Words are in lower case, without punctuation, and with digits replaced by 0. Words that occur once
are trained on as the unknown word. Its probability is divided by their number, because otherwise
text of unknown words would be likely. CCNet's 5-grams of word pieces span about as much text as
3-grams of words.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.data.stages.common import arrays, hash_table
from llamac.data.stages.common.words import Hashes, hash_texts, mix_bits, ngrams, normalised_words

UNKNOWN = np.uint64(0x5851F42D4C957F2D)  # hash that stands for the unknown word
_DIGITS = bytes.maketrans(b"123456789", b"000000000")

Floats = NDArray[np.float32]
Model = dict[str, NDArray]
"""Arrays of a language model by name.

`unknown`: number of distinct words trained on as the unknown word, int64 [1]. `slots1`, `values1`,
…: hash table of the n-grams of each size, with (log-probability, log of the backoff weight) as
values.
"""


def model_words(text: str) -> Hashes:
    """Return the hashes of a text's words as the model normalises them, uint64 [words]."""
    return hash_texts(normalised_words(text).translate(_DIGITS).split())


def train(texts: Iterable[str], order: int, max_words: int) -> Model:
    """Train a model on the first `max_words` words, in about 100 bytes of memory per word.

    order: longest n-gram. n-grams of three or more words that occur once are dropped. Raises
    ValueError if the texts have fewer than `order` words in all.
    """
    batches, count = [], 0
    for text in texts:
        batches.append(model_words(text))
        count += len(batches[-1])
        if count >= max_words:
            break
    words = np.concatenate(batches)[:max_words] if batches else np.empty(0, np.uint64)
    if len(words) < order:
        raise ValueError("the text is too small to train a language model")
    known, index, times = np.unique(words, return_inverse=True, return_counts=True)
    words = np.where(times[index] > 1, known[index], UNKNOWN)

    model: Model = {"unknown": np.array([max(int((times == 1).sum()), 1)])}
    lower = _Level(words, 1)
    logs = _unigrams(lower, _Level(words, 2))
    for size in range(1, order + 1):
        higher = _Level(words, size + 1) if size < order else None
        backoff = np.zeros(len(lower.keys))
        frequent = np.ones(len(lower.keys), bool) if size < 3 else lower.times > 1
        if higher is not None:
            after = _Level(words, size + 2) if size + 1 < order else None
            counts = higher.times if after is None else _continuations(higher, after)
            discount = _discount(counts)
            context = lower.index[higher.first]
            totals = np.bincount(context, counts, len(lower.keys))
            distinct = np.bincount(context, minlength=len(lower.keys))
            backoff_mass = np.divide(
                discount * distinct, totals, where=totals > 0, out=np.ones_like(totals)
            )
            backoff = np.log(np.clip(backoff_mass, 1e-12, 1))
            discounted = np.maximum(counts - discount, 0) / np.maximum(totals[context], 1)
            shorter = np.exp(logs[lower.index[higher.first + 1]])
            next_logs = np.log(discounted + backoff_mass[context] * shorter)
        values = np.stack([logs[frequent], backoff[frequent]], 1).astype(np.float32)
        model[f"slots{size}"], model[f"values{size}"] = hash_table.build(
            lower.keys[frequent], values
        )
        if higher is not None:
            lower, logs = higher, next_logs
    return model


def perplexity(model: Model, text: str) -> float:
    """Return the perplexity per word, exp(mean negative log-probability); inf without words."""
    words = model_words(text)
    if not len(words):
        return float("inf")
    unknown = hash_table.find(model["slots1"], mix_bits(words)) < 0
    words = np.where(unknown, UNKNOWN, words)
    logs, backoff = np.zeros(0, np.float32), np.zeros(0, np.float32)
    for size in range(1, min(len(model) // 2, len(words)) + 1):
        at = hash_table.find(model[f"slots{size}"], _grams(words, size))
        entries = model[f"values{size}"][at]
        if size == 1:
            logs = entries[:, 0].copy()
        else:
            logs[size - 1 :] = np.where(at >= 0, entries[:, 0], backoff[:-1] + logs[size - 1 :])
        backoff = np.where(at >= 0, entries[:, 1], 0)
    unknown_penalty = unknown.mean() * np.log(float(model["unknown"][0]))
    return float(np.exp(unknown_penalty - logs.mean(dtype=np.float64)))


def load_model(path: Path) -> Model:
    """Map a saved model into memory, read-only. Raises RunError if the file is damaged."""
    return arrays.load(path)


class _Level:
    """Distinct n-grams of one size: keys, counts, first positions, and each position's n-gram."""

    def __init__(self, words: Hashes, size: int) -> None:
        self.keys, self.first, self.index, self.times = np.unique(
            _grams(words, size), return_index=True, return_inverse=True, return_counts=True
        )


def _grams(words: Hashes, size: int) -> Hashes:
    return mix_bits(words) if size == 1 else ngrams(words, size)


def _continuations(level: _Level, longer: _Level) -> NDArray[np.int64]:
    """Return the number of distinct words that precede each n-gram, at least 1."""
    return np.maximum(np.bincount(level.index[longer.first + 1], minlength=len(level.keys)), 1)


def _discount(counts: NDArray[np.int64]) -> float:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else 0.5


def _unigrams(words: _Level, pairs: _Level) -> NDArray[np.float64]:
    counts = _continuations(words, pairs)
    discount = _discount(counts)
    backoff_mass = discount * len(counts) / counts.sum()
    return np.log((counts - discount) / counts.sum() + backoff_mass / len(counts))
