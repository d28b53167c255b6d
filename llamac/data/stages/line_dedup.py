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

_FOUND = np.dtype([("key", "<u8"), ("again", "?")])
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
    return Repeats(stage.min_chars, stage.keep == "first", line_keys, _without_lines)


def line_keys(text: str) -> Keys:
    """Return a key for each line; 0 for a blank one, which is never dropped.

    Lines of punctuation only have equal keys, as in CCNet.
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
    """Return the normalised text whose lines are compared, UTF-8, line for line."""
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
    """Remove repeated pieces of documents, such as lines, by their keys.

    keys(text): uint64, one for each piece, 0 for those that are never dropped.
    without(text, mask): the text without the pieces that `mask`, bool, one for each, marks.
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

    def scan(self, documents: Iterable[Document], found: Path) -> None:
        """Write to `found` a part's sorted keys, and which of them occur in it more than once."""
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
        records["again"] = ~first[1:][first[:-1]]
        arrays.save(found, {"keys": records})

    def merge(self, found: Sequence[Path], decided: Path) -> None:
        """Write for each part its sorted repeated keys, and those of which it keeps the first."""
        runs = [arrays.load(path)["keys"] for path in found]
        spill = segments.Spill(decided.with_name(decided.name + ".spill"), _FOUND)
        for cut in arrays.ranges([run["key"] for run in runs]):
            taken = [run[piece] for run, piece in zip(runs, cut, strict=True)]
            records = np.concatenate(taken) if taken else np.empty(0, _FOUND)
            parts = np.repeat(np.arange(len(taken)), [len(piece) for piece in taken])
            order = np.argsort(records["key"], kind="stable")
            records, parts = records[order], parts[order]
            first = np.r_[True, records["key"][1:] != records["key"][:-1]][: len(records)]
            begins = np.flatnonzero(first)
            times = np.diff(np.r_[begins, len(records)])
            repeated = records["again"] | np.repeat(times > 1, times)
            # From here on, `again` marks the part that has the occurrence to keep.
            records["again"] = first & self.keep_first
            spill.add(parts[repeated], records[repeated])
        segments.write(decided, (spill.of(part).tobytes() for part in range(len(runs))))
        spill.remove()

    def judge(self, decided: Path, part: int) -> Filter:
        records = np.frombuffer(segments.read(decided, part), _FOUND)
        repeated, keep_once = records["key"].copy(), records["again"].copy()

        def judge(document: Document) -> Document | Rejected:
            text = document.text
            if len(text) < self.min_chars:
                return Rejected("short document", f"{len(text)} < {self.min_chars} characters")
            keys = self.keys(text)
            again = repeats(keys, repeated, keep_once)
            if again.any():
                document.text = self.without(text, again)
            left = len(document.text)
            if left < max(self.min_chars, 1):
                detail = f"{again.sum()} of {len(keys)} {self.unit}s, {left} characters left"
                return Rejected(f"repeated {self.unit}s", detail)
            return document

        return judge


def repeats(keys: Keys, repeated: Keys, keep_once: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark a document's repeated keys; keys to keep once are used up, in place."""
    if not len(repeated):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    again = repeated[at] == keys
    for index in np.flatnonzero(again & keep_once[at]):  # rare: once per key of the source
        if keep_once[at[index]]:
            keep_once[at[index]] = again[index] = False
    return again
