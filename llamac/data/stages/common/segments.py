"""Decision file with one segment per part; a judge reads the segment of its part."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Document, Filter, Rejected
from llamac.runtime import durable_files
from llamac.runtime.errors import RunError


def write(decided: Path, segments: Iterable[bytes]) -> None:
    """Write the segments, then where each ends, then their number; int64, little-endian."""
    ends = []
    with durable_files.whole(decided) as file:
        for segment in segments:
            file.write(segment)
            ends.append(file.tell())
        file.write(np.array([*ends, len(ends)], "<i8").tobytes())


def read(decided: Path, part: int) -> bytes:
    """Read one part's segment."""
    size = os.path.getsize(decided)
    with open(decided, "rb") as file:
        file.seek(max(size - 8, 0))
        parts = int.from_bytes(file.read(8), "little", signed=True)
        table = size - 8 * (parts + 1)
        if not 0 <= part < parts or table < 0:
            raise RunError(f"{decided} covers {parts} parts, so part {part} is missing: run again")
        file.seek(table + 8 * max(part - 1, 0))
        ends = np.frombuffer(file.read(8 if part == 0 else 16), "<i8").tolist()
        begin, end = [0, *ends] if part == 0 else ends
        file.seek(begin)
        return file.read(end - begin)


class Spill:
    """Records on disk, added in any order and read part by part."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run
        folder.mkdir(parents=True)

    def add(self, parts: NDArray[np.integer], records: NDArray) -> None:
        """Add records; parts: the part of each. The order within a part is kept."""
        if not len(parts):
            return
        order = np.argsort(parts, kind="stable")
        parts, records = parts[order], records[order]
        found, starts = np.unique(parts, return_index=True)
        for part, chunk in zip(found, np.split(records, starts[1:]), strict=True):
            with open(self.folder / str(part), "ab") as file:
                chunk.tofile(file)

    def of(self, part: int) -> NDArray:
        """Return a part's records."""
        path = self.folder / str(part)
        return np.fromfile(path, self.dtype) if path.exists() else np.empty(0, self.dtype)

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def write_dropped(decided: Path, parts: Iterable[Mapping[int, str]]) -> None:
    """Write which documents of each part are dropped, by number, each with its detail."""
    segments = (
        json.dumps({str(number): details[number] for number in sorted(details)}).encode()
        for details in parts
    )
    write(decided, segments)


def drop(decided: Path, part: int, reason: str) -> Filter:
    """Return a filter that rejects the documents named by `write_dropped` for this part."""
    details: dict[str, str] = json.loads(read(decided, part))
    numbers = count()

    def judge(document: Document) -> Document | Rejected:
        detail = details.get(str(next(numbers)))
        return document if detail is None else Rejected(reason, detail)

    return judge


def places(documents: Iterable[str]) -> dict[str, NDArray]:
    """Encode places (`file:line`) as arrays for `place`: UTF-8 bytes, and the end of each.

    They name the kept document where another is dropped as its duplicate.
    """
    encoded = [place.encode(errors="surrogateescape") for place in documents]
    ends = np.cumsum([len(place) for place in encoded], dtype=np.int64)
    return {"places": np.frombuffer(b"".join(encoded), np.uint8), "place_ends": ends}


def place(found: Mapping[str, NDArray], number: int) -> str:
    """Return the place of document `number`, `file:line`, from the arrays of `places`."""
    begin = found["place_ends"][number - 1] if number else 0
    return bytes(found["places"][begin : found["place_ends"][number]]).decode(errors="replace")


def kept_first(pairs: NDArray, found: list[dict[str, NDArray]]) -> Iterator[tuple[int, str]]:
    """Yield (number, place of the document kept instead) of records (document, part, first)."""
    for pair in pairs:
        yield int(pair["document"]), place(found[int(pair["part"])], int(pair["first"]))
