"""Hash words and word n-grams to 64 bits.

A word is a run of letters, digits and non-ASCII characters, in lower case.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from llamac.data.stages.common.need import need

Hashes = NDArray[np.uint64]
"""64-bit hashes, uint64 [n]."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SPACES = bytes(ord(" ") if not chr(b).isalnum() and b < 128 else b for b in range(256))
_PUNCTUATION = re.compile(
    "[\x80-\xa0、。，„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►·•‘‚‹›\u2000-\u200b]"
)


def normalised_words(text: str) -> bytes:
    """Return the text in lower case as UTF-8, with ASCII and common other punctuation as spaces."""
    text = text.lower()
    if not text.isascii():
        text = _PUNCTUATION.sub(" ", text)
    return text.encode().translate(_SPACES)


def words(text: str) -> Hashes:
    """Return the hashes of a text's words in order, uint64 [words]."""
    return hash_texts(normalised_words(text).split())


def hash_texts(texts: list[bytes]) -> Hashes:
    """Return the xxh3 hash of each text, uint64 [texts]. Raises StageError without xxhash."""
    digests = b"".join(map(need("xxhash").xxh3_64_digest, texts))
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def ngrams(hashes: Hashes, size: int) -> Hashes:
    """Return the hash of each run of `size` words, uint64 [runs]; a shorter text is one run.

    hashes: of the words in order, uint64 [words].
    """
    size = min(size, len(hashes))
    if size == 0:
        return hashes
    count = len(hashes) - size + 1
    combined = hashes[:count].copy()
    for at in range(1, size):
        combined *= _FACTOR
        combined += hashes[at : at + count]
    return mix_bits(combined)


def mix_bits(hashes: Hashes) -> Hashes:
    """Mix the bits of 64-bit values with MurmurHash3's finalizer, a bijection."""
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes *= np.uint64(0xFF51AFD7ED558CCD)
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))
