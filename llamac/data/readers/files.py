"""Text files, JSON lines and parquet; and what makes a text a document, for all readers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from llamac.data.document import Document
from llamac.data.formats.streams import chunks, lines, package, stem
from llamac.runtime.data.sources import PART_BYTES, Skipped, cut
from llamac.spec.data import Source

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """A text file as one document or, when it is long, as several cut at a blank line or a line
    end: memory stays bounded, and a one-file corpus can have documents held out."""
    pending, line = b"", 1
    for chunk in chunks(path, skipped):
        pending += chunk
        start = 0
        while len(pending) - start >= 2 * PART_BYTES:
            end = cut(pending, start)
            yield from _part(pending[start:end], path, line, skipped)
            line += pending.count(b"\n", start, end)
            start = end
        pending = pending[start:]
    if pending:
        yield from _part(pending, path, line, skipped)


def _part(data: bytes, path: str, line: int, skipped: Skipped) -> Iterator[Document]:
    where = f"{path}:{line}"
    text = utf8(data, where, skipped)
    if text is not None and accepted(text, where, skipped):
        yield Document(text, path, line)


def utf8(data: bytes, where: str, skipped: Skipped) -> str | None:
    """The text without a byte order mark; None, and counted, if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return skipped.add("invalid UTF-8", where)


def accepted(text: Any, where: str, skipped: Skipped) -> bool:
    """Whether it can be a document's text: a string of valid Unicode, not blank, without NULs."""
    if not isinstance(text, str):
        reason = "not a text"
    elif not text or text.isspace():
        reason = "empty"
    elif "\0" in text:
        reason = "NUL in text"
    else:
        try:
            text.encode()
            return True
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair, UTF-8 cannot
            reason = "invalid Unicode"
    skipped.add(reason, where)
    return False


# --- Text that comes as a table --------------------------------------------------------------


def is_table(path: str) -> bool:
    return stem(path).endswith(JSON_LINES) or path.lower().endswith(PARQUET)


def tables(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """A document for each record of a JSON lines or parquet file, its text in
    `source.text_field`. Fields that are a string or number become the document's meta, as do
    those of an object called `meta` or `metadata`."""
    records = _parquet if path.lower().endswith(PARQUET) else _json_lines
    for number, record in records(path, skipped):
        where = f"{path}:{number}"
        if not isinstance(record, dict) or source.text_field not in record:
            skipped.add(f"no field {source.text_field!r}", where)
            continue
        text = record.pop(source.text_field)
        if accepted(text, where, skipped):
            yield Document(text, path, number, _meta(record))


def _meta(record: dict[str, Any]) -> dict[str, Any]:
    nested = [record[key] for key in ("meta", "metadata") if isinstance(record.get(key), dict)]
    return {
        key: value
        for fields in (*nested, record)
        for key, value in fields.items()
        if isinstance(value, str | int | float)
        and len(str(value)) <= 4096
        and (isinstance(value, str) or math.isfinite(value))
    }


def _json_lines(path: str, skipped: Skipped) -> Iterator[tuple[int, Any]]:
    for number, line in lines(path, skipped):
        if line.isspace():
            continue
        where = f"{path}:{number}"
        text = utf8(line, where, skipped)
        if text is not None:
            try:
                yield number, json.loads(text)
            except (ValueError, RecursionError):
                skipped.add("invalid JSON", where)


def _parquet(path: str, skipped: Skipped) -> Iterator[tuple[int, Any]]:
    arrow, parquet = package("pyarrow", path), package("pyarrow.parquet", path)
    row = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (OSError, ValueError, arrow.ArrowException):
        skipped.add("broken parquet", f"{path}:{row + 1}")
