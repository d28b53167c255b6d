"""Read text files, JSON, CSV and parquet as records.

Both `llamac data prepare` and trainers that prepare their own data use this module.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ...errors import InputError
from .decompress import LINE_BYTES, lines, utf8_chunks
from .input_files import ENDINGS, format_of, unknown_name
from .parquet import column_names, nested_rows, rows
from .skipped_records import Skipped

PART_BYTES = 1 << 18  # a longer text file is cut into documents of about this size
# Fields of a record that are kept besides its text.
META = ("url", "title", "language", "licence", "score", "site")
META_CHARS = 4096  # longest string that is kept in a record's meta
TABLES = ("csv", "tsv")  # all records of a file have the same fields
NESTED = ("meta", "metadata")  # objects whose fields are treated as the record's own


class Record(NamedTuple):
    """A text with its position in the file and its metadata.

    text: valid Unicode, not blank. line: number of its first line, or of its record, from 1. meta:
    fields named in `META` that are finite numbers or strings of at most `META_CHARS`.
    """

    text: str
    line: int
    meta: dict[str, Any]


def read_file(
    path: str, text_field: str, skipped: Skipped, with_meta: bool = True
) -> Iterator[Record]:
    """Yield the records of a file in one of `input_files.FORMATS`, compressed or not.

    text_field: field or column that holds the text; unused for plain text. with_meta: whether to
    read the records' meta. Records without usable text are counted in `skipped`. Raises InputError
    if the file's name has no ending of a known format.
    """
    meta_fields = META if with_meta else ()
    kind = format_of(path)
    if kind is None:
        raise unknown_name(path, "files", ENDINGS, "paths")
    if kind == "text":
        yield from _text(path, skipped)
        return
    for number, record in _records(kind, path, text_field, meta_fields, skipped):
        if not isinstance(record, dict) or text_field not in record:
            has = f" (has {_names(record)})" if isinstance(record, dict) else ""
            if kind in TABLES:  # the other rows lack it too
                return skipped.add(f"no column {text_field!r}", f"{path}{has}")
            skipped.add(f"no field {text_field!r}", f"{path}:{number}{has}")
            continue
        text = record.pop(text_field)
        if accept_text(text, f"{path}:{number}", skipped):
            yield Record(text, number, _meta(record) if meta_fields else {})


def read_records(path: str, columns: Sequence[str], skipped: Skipped) -> Iterator[tuple[int, Any]]:
    """Yield (line or record number from 1, parsed value) of a file of records.

    columns: columns to read from parquet, with nested values; other formats yield all fields.
    Damaged records are counted in `skipped`.
    """
    if (kind := str(format_of(path))) == "parquet":
        return nested_rows(path, columns, skipped)
    return _records(kind, path, "", (), skipped)


def _records(
    kind: str, path: str, text_field: str, meta_fields: Sequence[str], skipped: Skipped
) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, record) of a file of records; broken ones are counted as skipped.

    meta_fields: fields to read from parquet besides the text; other formats give all fields.
    """
    if kind == "parquet":
        return rows(path, text_field, meta_fields, NESTED, skipped)
    pieces = utf8_chunks(path, skipped)
    if kind == "json lines":
        return _json_lines(pieces, path, skipped)
    if kind == "json":
        return _json(pieces, path, skipped)
    return _csv(pieces, "\t" if kind == "tsv" else ",", path, text_field, skipped)


def decode_utf8(data: bytes, where: str, skipped: Skipped) -> str | None:
    """Decode UTF-8, dropping a byte order mark; if invalid, count it in `skipped`, return None.

    where: file and line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return skipped.add("invalid UTF-8", where)


def accept_text(text: Any, where: str, skipped: Skipped) -> bool:
    """Return whether `text` is a non-blank string of valid Unicode without NULs.

    If not, counts the reason in `skipped`. where: file and line.
    """
    if not isinstance(text, str):
        reason = "not text"
    elif not text or text.isspace():
        reason = "empty"
    elif "\0" in text:
        reason = "NUL in text"
    else:
        try:
            text.encode()
            return True
        except UnicodeEncodeError:  # JSON can contain half a surrogate pair, UTF-8 cannot
            reason = "invalid Unicode"
    skipped.add(reason, where)
    return False


def _meta(record: dict[str, Any]) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    for fields in (record.get(NESTED[0]), record.get(NESTED[1]), record):
        if isinstance(fields, dict):
            for key in META:
                if key in fields and _is_plain(fields[key]):
                    meta[key] = fields[key]
    return meta


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= META_CHARS
    return (isinstance(value, float) and math.isfinite(value)) or (
        isinstance(value, int) and abs(value) < 1 << 63
    )


def _names(record: dict[str, Any]) -> str:
    """Return the record's field names, for a message."""
    names = ", ".join(repr(str(name))[1:-1][:40] for name in itertools.islice(record, 12))
    return names + (", …" if len(record) > 12 else "") or "none"


# --- Plain text ------------------------------------------------------------------------------


def _text(path: str, skipped: Skipped) -> Iterator[Record]:
    """Yield a text file as one document, or, if it is long, as several.

    It is cut at blank lines or line ends, so that memory is bounded and a one-file corpus can have
    documents held out.
    """
    pending, line = b"", 1
    for chunk in utf8_chunks(path, skipped):
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


def cut(data: bytes, start: int = 0) -> int:
    """Return the end of the next document of about `PART_BYTES` from `start` on, an index.

    It is after a blank line if possible, else after a line, else after a UTF-8 character.
    """
    low, high = start + PART_BYTES // 2, start + PART_BYTES
    for separator in (b"\n\n", b"\n"):
        position = data.rfind(separator, low, high)
        if position >= 0:
            return position + len(separator)
    end = high
    while end > high - 4 and data[end] & 0xC0 == 0x80:  # inside a UTF-8 character
        end -= 1
    return end


def _part(data: bytes, path: str, line: int, skipped: Skipped) -> Iterator[Record]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        at = line + data.count(b"\n", 0, error.start)
        return skipped.add("invalid UTF-8", f"{path}:{at}")
    if accept_text(text, f"{path}:{line}", skipped):
        yield Record(text, line, {})


# --- JSON ------------------------------------------------------------------------------------


def _json_lines(pieces: Iterator[bytes], path: str, skipped: Skipped) -> Iterator[tuple[int, Any]]:
    for number, line in lines(pieces, path, skipped):
        if not line.isspace():
            record = _parsed(line, path, number, skipped)
            if record is not _BROKEN:
                yield number, record


_BROKEN = object()


def _parsed(data: bytes, path: str, number: int, skipped: Skipped) -> Any:
    """Return the parsed value, or count it as skipped and return `_BROKEN`."""
    try:
        return _loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        skipped.add("invalid UTF-8", f"{path}:{number}")
    except (ValueError, RecursionError):
        skipped.add("invalid JSON", f"{path}:{number}")
    return _BROKEN


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # such as an integer longer than Python's limit, which JSON allows
        return json.loads(text, parse_int=lambda digits: float(digits))


def _json(pieces: Iterator[bytes], path: str, skipped: Skipped) -> Iterator[tuple[int, Any]]:
    """Yield the values of a JSON file: JSON lines, arrays, or values one after the other.

    The beginning of the file decides which.
    """
    head = b""
    while (start := head.lstrip()).count(b"\n") < 2 and len(head) < LINE_BYTES:
        if start[:1] == b"[" or not (piece := next(pieces, b"")):
            break
        head += piece
    pieces = itertools.chain([head], pieces)
    if _begins_lines(start):
        yield from _json_lines(pieces, path, skipped)
        return
    for number, value in enumerate(_values(pieces), 1):
        if value is None:
            skipped.add("record too long", f"{path}:{number}")
            continue
        record = _parsed(value, path, number, skipped)
        if record is not _BROKEN:
            yield number, record


def _begins_lines(start: bytes) -> bool:
    """Return whether the file is JSON lines: its first or second line is a complete object."""
    first, _, rest = start.partition(b"\n")
    if start[:1] != b"{" or not rest.strip():
        return start[:1] == b"{" and not rest.strip()
    return any(
        line[:1] == b"{" and _is_json(line) for line in (first, rest.lstrip().partition(b"\n")[0])
    )


def _is_json(line: bytes) -> bool:
    try:
        _loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


_OPENING_OR_CLOSING = re.compile(rb'["{}\[\]]')
_END_OF_STRING = re.compile(rb'["\\]')


def _values(pieces: Iterator[bytes]) -> Iterator[bytes | None]:
    """Yield each object of a file as its bytes, and any other text between objects.

    Brackets and commas of enclosing arrays are left out. None stands for a value over `LINE_BYTES`.
    The time is linear in the file's size; memory is bounded by the longest value.
    """
    buffer, at, depth, quoted, long = b"", 0, 0, False, False
    arrays = 0  # nesting depth at the values: 1 within an array
    for piece in itertools.chain(pieces, (b"",)):
        buffer += piece
        start = 0  # bytes of the current value, or of the text between two
        while match := (_END_OF_STRING if quoted else _OPENING_OR_CLOSING).search(buffer, at):
            at, sign = match.end(), match[0]
            if sign == b"\\":
                at += 1  # skips the escaped byte, which may be in the next piece
                continue
            if sign == b'"':
                quoted = not quoted
                continue
            opens, before = sign in b"{[", depth
            if depth or sign == b"{":
                depth += 1 if opens else -1
            else:
                arrays += 1 if opens else -1
            if not (before and depth):  # at a value's first or last byte, or a bracket around
                end = at if before else at - 1
                yield from _value(buffer[start:end], long)
                start, long = (end if sign == b"{" and not before else at), False
        at = max(at, len(buffer))
        if at - start > LINE_BYTES:
            start, long = len(buffer), True
        buffer, at = buffer[start:], at - start
    yield from _value(buffer, long)
    if arrays and not (depth or quoted):
        yield b"["


def _value(data: bytes, long: bool) -> Iterator[bytes | None]:
    if long or len(data) > LINE_BYTES:
        yield None
    elif value := data.strip(b" \t\r\n,"):
        yield value


# --- CSV -------------------------------------------------------------------------------------


def _csv(
    pieces: Iterator[bytes], delimiter: str, path: str, text_field: str, skipped: Skipped
) -> Iterator[tuple[int, Any]]:
    """Yield (line of its beginning, row as a dict) per RFC 4180; the first row names the columns.

    Quoted fields may contain line ends. Invalid UTF-8 makes only its own row unusable.
    """
    csv.field_size_limit(LINE_BYTES)
    text = (line.decode(errors="surrogateescape") for _, line in lines(pieces, path, skipped))
    table = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        number = table.line_num + 1
        try:
            row = next(table, None)
        except csv.Error as error:
            skipped.add("broken CSV", f"{path}:{number} ({error})")
            continue
        if row is None:
            return
        if not row:
            continue
        if not header:
            header = row
            if header.count(text_field) > 1:
                return skipped.add(f"several columns {text_field!r}", path)
        elif len(row) == len(header):
            yield number, dict(zip(header, row, strict=True))
        else:
            where = f"{path}:{number} ({len(row)} of {len(header)})"
            skipped.add("wrong number of fields", where)


# --- Before anything is read -----------------------------------------------------------------

SAMPLED_FILES, SAMPLED_RECORDS = 5, 20  # files, and records of each, that are looked at


def check_field(paths: Iterable[str], text_field: str) -> None:
    """Raise InputError if none of the sampled files of records has the field `text_field`.

    Samples the first records of the first files, which takes milliseconds; text files and files
    without fields do not count. Raises SourceError if a package is not installed.
    """
    samples = [(path, fields) for path, fields in fields_of(paths) if fields]
    if samples and not any(text_field in fields for _, fields in samples):
        path, fields = samples[0]
        raise InputError(
            f"{path} has no field or column {text_field!r}; set the source's text_field to one of "
            f"{_names(fields)}",
            "text_field",
        )


def fields_of(paths: Iterable[str]) -> Iterator[tuple[str, dict[str, None]]]:
    """Yield (path, field names) of the first `SAMPLED_FILES` files of records among `paths`.

    The names are the keys of a dict, in order: a parquet file's columns, or the fields of the first
    `SAMPLED_RECORDS` records. It is empty for an empty or damaged file.
    """
    of_records = (path for path in paths if format_of(path) not in (None, "text"))
    return ((path, _fields(path)) for path in itertools.islice(of_records, SAMPLED_FILES))


def _fields(path: str) -> dict[str, None]:
    """Return the field names of a file's first records; empty if it is empty or broken."""
    kind = str(format_of(path))
    if kind == "parquet":
        return dict.fromkeys(column_names(path))
    records = _records(kind, path, "", (), Skipped())
    first = [record for _, record in itertools.islice(records, SAMPLED_RECORDS)]
    return {str(name): None for record in first if isinstance(record, dict) for name in record}
