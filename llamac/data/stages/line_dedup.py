"""Drop lines that are repeated anywhere in the source (CCNet: Wenzek et al. 2019, section 3.1).

Repeated lines of web pages are mostly navigation, cookie notices and contact details. A line's key
is a 64-bit hash of its lower case, without punctuation and control characters, digits replaced by
0.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Document, Filter, Rejected, Survey
from llamac.data.stages.common import arrays, segments
from llamac.data.stages.common.need import need
from llamac.spec.stages import LineDedup

Keys = NDArray[np.uint64]
"""Keys of the pieces of a text, uint64 [pieces]."""

_FOUND = np.dtype([("key", "<u8"), ("repeated", "?")])
_ASCII = bytes.maketrans(b"123456789", b"000000000")
_CONTROL = [code for code in range(32) if code != 10]
_DELETED = bytes([*_CONTROL, 127]) + string.punctuation.encode()
# Digits of common scripts, and full-width ones; the pattern `\d` takes three times as long.
# fmt: off
_ZEROS = (
    0x660, 0x6F0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xE50, 0xED0,
    0xF20, 0x1040, 0x17E0, 0x1810, 0xFF10,
)
# fmt: on
_DIGIT = re.compile(f"[{''.join(f'{chr(zero)}-{chr(zero + 9)}' for zero in _ZEROS)}]")
_PUNCTUATION = re.compile(
    "[\x80-\x9f、。，„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►·•‘‚‹›]"
)


def build(stage: LineDedup) -> Survey:
    """Return the survey that drops repeated lines, all or (`keep = "first"`) all but the first."""
    return Repeats(stage.min_chars, stage.keep == "first", line_keys, _without_lines)


def line_keys(text: str) -> Keys:
    """Return a key for each line, uint64 [lines]; 0 for blank lines, which are never dropped.

    All lines of punctuation only have the same key, as in CCNet.
    """
    hash64 = need("xxhash").xxh3_64_digest
    lines = [line.strip() for line in normalised_lines(text).split(b"\n")]
    keys = np.frombuffer(b"".join(map(hash64, lines)), ">u8").astype(np.uint64)
    if not all(lines):
        for number, line in enumerate(text.split("\n")):
            if not lines[number] and not line.strip():
                keys[number] = 0
    return keys


def normalised_lines(text: str) -> bytes:
    """Return the text as UTF-8 with its lines normalised for comparison.

    In lower case, with digits as 0, and without punctuation and control characters.
    """
    text = text.lower()
    if not text.isascii():
        text = _PUNCTUATION.sub("", _DIGIT.sub("0", text))
    return text.encode().translate(_ASCII, _DELETED)


def _without_lines(text: str, repeated_mask: NDArray[np.bool_]) -> str:
    """Remove lines, and all but one of the blank lines around a removed one."""
    remaining: list[str] = []
    for line, drop in zip(text.split("\n"), repeated_mask, strict=True):
        if not drop and (line.strip() or (remaining and remaining[-1])):
            remaining.append(line if line.strip() else "")
    return "\n".join(remaining).strip("\n")


class Repeats:
    """Survey that removes repeated pieces of documents, such as lines, identified by keys.

    min_chars: documents that are shorter, before or after, are rejected. keep_first: keep the first
    occurrence of a piece.
    keys(text): function that returns a key for each piece, uint64 [pieces]. Pieces with equal keys
    are repeats, except those with key 0, which are never removed.
    without(text, mask): function that removes the pieces with a true `mask`, bool [pieces].
    unit: what messages call a piece.
    """

    def __init__(
        self,
        min_chars: int,
        keep_first: bool,
        keys: Callable[[str], Keys],
        without: Callable[[str, NDArray[np.bool_]], str],
        unit: str = "line",
    ) -> None:
        self.min_chars, self.keep_first = min_chars, keep_first
        self.keys, self.without, self.unit = keys, without, unit

    def scan(self, documents: Iterable[Document], findings: Path) -> None:
        """Write a part's sorted distinct keys, and whether each occurs in it more than once."""
        batches = [
            self.keys(document.text)
            for document in documents
            if len(document.text) >= self.min_chars
        ]
        keys = np.concatenate([np.empty(0, np.uint64), *batches])
        batches.clear()
        keys.sort()
        keys = keys[np.searchsorted(keys, 1) :]
        first = np.ones(len(keys) + 1, bool)
        np.not_equal(keys[1:], keys[:-1], out=first[1:-1])
        records = np.empty(np.count_nonzero(first[:-1]), _FOUND)
        records["key"] = keys[first[:-1]]
        records["repeated"] = ~first[1:][first[:-1]]
        arrays.save(findings, {"keys": records})

    def merge(self, findings: Sequence[Path], decision: Path) -> None:
        """Write each part's sorted repeated keys, and whether it has the occurrence to keep."""
        runs = [arrays.load(path)["keys"] for path in findings]
        spill = segments.Spill(decision.with_name(decision.name + ".spill"), _FOUND)
        for cut in arrays.ranges([run["key"] for run in runs]):
            pieces = [run[piece] for run, piece in zip(runs, cut, strict=True)]
            records = np.concatenate(pieces) if pieces else np.empty(0, _FOUND)
            parts = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
            order = np.argsort(records["key"], kind="stable")
            records, parts = records[order], parts[order]
            first = np.r_[True, records["key"][1:] != records["key"][:-1]][: len(records)]
            begins = np.flatnonzero(first)
            times = np.diff(np.r_[begins, len(records)])
            repeated = records["repeated"] | np.repeat(times > 1, times)
            # From here on, `repeated` marks the part that has the occurrence to keep.
            records["repeated"] = first & self.keep_first
            spill.add(parts[repeated], records[repeated])
        segments.write(decision, (spill.read_part(part).tobytes() for part in range(len(runs))))
        spill.remove()

    def judge(self, decision: Path, part: int) -> Filter:
        """Return a filter that removes a part's repeated pieces; it rejects what is too short."""
        records = np.frombuffer(segments.read(decision, part), _FOUND)
        repeated, keep_once = records["key"].copy(), records["repeated"].copy()

        def judge(document: Document) -> Document | Rejected:
            text = document.text
            if len(text) < self.min_chars:
                return Rejected("short document", f"{len(text)} < {self.min_chars} characters")
            keys = self.keys(text)
            drop = find_repeats(keys, repeated, keep_once)
            if drop.any():
                document.text = self.without(text, drop)
            left = len(document.text)
            if left < max(self.min_chars, 1):
                detail = f"{drop.sum()} of {len(keys)} {self.unit}s, {left} characters left"
                return Rejected(f"repeated {self.unit}s", detail)
            return document

        return judge


def find_repeats(keys: Keys, repeated: Keys, keep_once: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask of a document's keys to drop, bool [keys]; update `keep_once` in place.

    keys: hashes of the document's lines or paragraphs in order, uint64 [keys]. repeated: sorted
    keys of this shard of the source that occur more than once in the source. keep_once: whether the
    first occurrence of each is still to be kept, bool [repeated]; set to False once it is.
    """
    if not len(repeated):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    drop = repeated[at] == keys
    for index in np.flatnonzero(drop & keep_once[at]):  # rare: once per key of the source
        if keep_once[at[index]]:
            keep_once[at[index]] = drop[index] = False
    return drop
