"""Map token positions of a source to the documents, files and lines they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from llamac.data.tokenization.token_parts import INDEX, RECORD
from llamac.runtime.data.prepared import (
    ANEW,
    PreparedDataError,
    document_end,
    load_manifest,
    token_ids,
)
from llamac.runtime.durable_files import Damaged, check
from llamac.runtime.tokenizers.loading import load_tokenizer_file


@dataclass(frozen=True)
class DocumentSpan:
    """Position of a document in a split and in the raw data.

    document: index in the split. begin, end: token range [begin, end) in the split, including EOS.
    file, line: position of its text in the raw data, as in `Document`.
    """

    document: int
    begin: int
    end: int
    file: str
    line: int


def documents_at(
    root: Path, source: str, begin: int, end: int, split: str = "train"
) -> Iterator[DocumentSpan]:
    """Yield the documents that contain the tokens [begin, end) of a source's split, in order.

    root: directory of the prepared data. Raises PreparedDataError if the source is unknown, the
    range is empty or out of bounds, or the document index is missing or damaged.
    """
    parts = _index(root, source, split)
    starts = [0, *accumulate(part["tokens"] for part in parts)]
    if not 0 <= begin < end <= starts[-1]:
        raise PreparedDataError(
            f"tokens {begin:,} to {end - 1:,} are out of range: source {source!r} has tokens 0 to "
            f"{starts[-1] - 1:,} in {split}"
        )
    before = 0
    for part, start in zip(parts, starts, strict=False):
        if start < end and begin < start + part["tokens"]:
            yield from _in_part(root, part, begin - start, end - start, before, start)
        before += part["documents"]


def span_text(root: Path, source: str, begin: int, end: int, split: str = "train") -> str:
    """Decode the tokens [begin, end) of a source's split, with a newline between documents.

    root: directory of the prepared data. The source must exist, and its split contain the range.
    """
    manifest = load_manifest(root)
    entry = next(entry for entry in manifest["sources"] if entry["name"] == source)
    shards = entry[split]["shards"]
    starts = accumulate((shard["tokens"] for shard in shards), initial=0)
    pieces = [
        np.memmap(root / shard["file"], manifest["dtype"], "r")[max(begin - start, 0) : end - start]
        for shard, start in zip(shards, starts, strict=False)
        if start < end and begin < start + shard["tokens"]
    ]
    model, tokens = load_tokenizer_file(root / "tokenizer.model"), np.concatenate(pieces)
    end = document_end(manifest)
    documents = np.split(tokens, np.flatnonzero(tokens == end) + 1)
    texts = (token_ids(document[document != end]) for document in documents if len(document))
    return "\n".join(map(model.decode, texts))


def _in_part(
    root: Path, part: dict[str, Any], begin: int, end: int, before: int, start: int
) -> Iterator[DocumentSpan]:
    """Yield the documents that contain the tokens [begin, end) of a part.

    before, start: numbers of documents and of tokens in all earlier parts.
    """
    docs, texts = (_verified_path(root, part, kind) for kind in INDEX)
    records = np.memmap(docs, RECORD, "r")
    ends = records["end"]
    number = int(np.searchsorted(ends, max(begin, 0), side="right"))
    with texts.open("rb") as names:
        while number < len(records) and (number == 0 or ends[number - 1] < end):
            names.seek(int(records["name"][number]))
            name = _read_until_nul(names)
            first = int(ends[number - 1]) if number else 0
            line = int(records["line"][number])
            last = int(ends[number])
            yield DocumentSpan(before + number, start + first, start + last, name, line)
            number += 1


def _verified_path(root: Path, part: dict[str, Any], kind: str) -> Path:
    """Return the path of a part's index file, after verifying its sha256."""
    try:
        return check(root / f"{part['file']}.{kind}", part["sha256"][kind])
    except Damaged as error:
        raise PreparedDataError(f"{error}: {ANEW.format(root)}") from error


def _read_until_nul(names: IO[bytes]) -> str:
    data = b""
    while b"\0" not in data and (block := names.read(256)):
        data += block
    return data.partition(b"\0")[0].decode(errors="surrogateescape")


def _index(root: Path, source: str, split: str) -> list[dict[str, Any]]:
    manifest = load_manifest(root)
    sources = {entry["name"]: entry for entry in manifest["sources"]}
    if source not in sources:
        raise PreparedDataError(f"unknown source {source!r} in {root}; known: {', '.join(sources)}")
    if "index" not in sources[source][split]:
        raise PreparedDataError(
            f"{root} was prepared by a trainer, which writes no document index: prepare it with "
            "`llamac data prepare` to trace tokens to documents"
        )
    return sources[source][split]["index"]
