"""Decision files with one segment of bytes per part, so that a judge reads its part only."""

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


def write(decision: Path, segments: Iterable[bytes]) -> None:
    """Write a decision file: the segments, then the offset of each one's end and their number.

    Offsets and number are little-endian int64.
    """
    ends = []
    with durable_files.atomic_write(decision) as file:
        for segment in segments:
            file.write(segment)
            ends.append(file.tell())
        file.write(np.array([*ends, len(ends)], "<i8").tobytes())


def read(decision: Path, part: int) -> bytes:
    """Return the segment of a part. Raises RunError if the file has fewer segments."""
    size = os.path.getsize(decision)
    with open(decision, "rb") as file:
        file.seek(max(size - 8, 0))
        parts = int.from_bytes(file.read(8), "little", signed=True)
        table = size - 8 * (parts + 1)
        if not 0 <= part < parts or table < 0:
            raise RunError(f"{decision} covers {parts} parts, so part {part} is missing: run again")
        file.seek(table + 8 * max(part - 1, 0))
        ends = np.frombuffer(file.read(8 if part == 0 else 16), "<i8").tolist()
        begin, end = [0, *ends] if part == 0 else ends
        file.seek(begin)
        return file.read(end - begin)


class Spill:
    """Temporary records on disk that are written in any order and read by part.

    folder: created, and emptied if it exists. dtype: structured dtype of the records.
    """

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run
        folder.mkdir(parents=True)

    def add(self, parts: NDArray[np.integer], records: NDArray) -> None:
        """Append records of any parts; order within a part is kept.

        parts: number of each record's part, integer [n]. records: structured array [n].
        """
        if not len(parts):
            return
        order = np.argsort(parts, kind="stable")
        parts, records = parts[order], records[order]
        distinct, starts = np.unique(parts, return_index=True)
        for part, chunk in zip(distinct, np.split(records, starts[1:]), strict=True):
            with open(self.folder / str(part), "ab") as file:
                chunk.tofile(file)

    def read_part(self, part: int) -> NDArray:
        """Return the records of a part, in the order of `add`; empty if there are none."""
        path = self.folder / str(part)
        return np.fromfile(path, self.dtype) if path.exists() else np.empty(0, self.dtype)

    def remove(self) -> None:
        """Delete the folder and all records."""
        shutil.rmtree(self.folder)


def write_dropped(decision: Path, parts: Iterable[Mapping[int, str]]) -> None:
    """Record the documents that a survey drops, for `drop` to reject.

    decision: file to write. parts: for each part, a map from the document's index in the part to
    the explanation in its `Rejected`.
    """
    segments = (
        json.dumps({str(number): details[number] for number in sorted(details)}).encode()
        for details in parts
    )
    write(decision, segments)


def drop(decision: Path, part: int, reason: str) -> Filter:
    """Return a filter that rejects the documents of a part that `write_dropped` recorded.

    reason: that of the rejections. The filter must be called on the part's documents once, in
    order.
    """
    details: dict[str, str] = json.loads(read(decision, part))
    numbers = count()

    def judge(document: Document) -> Document | Rejected:
        detail = details.get(str(next(numbers)))
        return document if detail is None else Rejected(reason, detail)

    return judge


def places(documents: Iterable[str]) -> dict[str, NDArray]:
    """Encode the positions of documents, as "file:line", in two arrays for `place`.

    They identify the kept document in messages about its dropped duplicates.
    """
    encoded = [place.encode(errors="surrogateescape") for place in documents]
    ends = np.cumsum([len(place) for place in encoded], dtype=np.int64)
    return {"places": np.frombuffer(b"".join(encoded), np.uint8), "place_ends": ends}


def place(arrays: Mapping[str, NDArray], number: int) -> str:
    """Return the position "file:line" of document `number` from the arrays of `places`."""
    begin = arrays["place_ends"][number - 1] if number else 0
    return bytes(arrays["places"][begin : arrays["place_ends"][number]]).decode(errors="replace")


def duplicates_of_part(
    pairs: NDArray, parts: list[dict[str, NDArray]]
) -> Iterator[tuple[int, str]]:
    """Yield (number of a dropped document, position of the kept one), for documents of one part.

    pairs: records (document, part, first): a dropped document, and the kept document `first` of
    `part`. parts: the arrays of `places` of each part. Positions are "file:line".
    """
    for pair in pairs:
        yield int(pair["document"]), place(parts[int(pair["part"])], int(pair["first"]))
