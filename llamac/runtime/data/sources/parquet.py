"""Read rows of parquet files, decoding only the requested columns.

Other columns are never decoded, so that an unsupported type in them does not matter.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

from .decompress import SUFFIXES, is_bomb, package, read_decompressed
from .skipped_records import Skipped

BATCH_ROWS = 1024  # most rows of a batch
BATCH_BYTES = 1 << 28  # most bytes of a batch if each row repeats the longest value of a dictionary

_TEXT = {"string", "large_string", "string_view", "binary", "large_binary", "binary_view"}
_PLAIN = {"string", "large_string", "string_view", "bool", "float", "double", "halffloat"}
_PLAIN |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def column_names(path: str) -> list[str]:
    """Return the names of a parquet file's top-level columns; [] if it is damaged or unreadable.

    Raises SourceError if pyarrow is not installed.
    """
    arrow, parquet = package("pyarrow", path), package("pyarrow.parquet", path)
    try:
        with _opened(path, Skipped()) as (_, native), parquet.ParquetFile(native) as table:
            return list(table.schema_arrow.names)
    except (OSError, ValueError, arrow.ArrowException):
        return []


def rows(
    path: str, text: str, plain: Sequence[str], nested: Sequence[str], skipped: Skipped
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, column → value) of each row of a parquet file.

    text: column that holds the text; invalid UTF-8 in it becomes lone surrogates. plain: columns to
    read if they exist as strings, numbers or booleans, at the top level or within the structs
    `nested`. Rows from a damaged batch to the end of its row group are left out. Damage, and a file
    without the text column, are counted in `skipped`. Raises SourceError without pyarrow.
    """
    arrow, parquet = package("pyarrow", path), package("pyarrow.parquet", path)
    try:
        with _opened(path, skipped) as (file, native), parquet.ParquetFile(native) as table:
            if columns := _columns(table.schema_arrow, text, plain, nested, path, skipped):
                convert = partial(_records, text=columns[0])
                yield from _rows(file, table, columns, path, skipped, convert)
    except (OSError, ValueError, arrow.ArrowException) as error:
        skipped.add("broken parquet", f"{path} ({_why(error)})")


def nested_rows(
    path: str, columns: Sequence[str], skipped: Skipped
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, column → value) of each row, with lists and structs as Python objects.

    columns: top-level columns to read, where they exist. Rows from a batch with damage or invalid
    UTF-8 to the end of its row group are left out, and the damage is counted in `skipped`. Raises
    SourceError if pyarrow is not installed.
    """
    arrow, parquet = package("pyarrow", path), package("pyarrow.parquet", path)
    try:
        with _opened(path, skipped) as (file, native), parquet.ParquetFile(native) as table:
            existing = [name for name in columns if name in table.schema_arrow.names]
            yield from _rows(file, table, existing, path, skipped, _whole)
    except (OSError, ValueError, arrow.ArrowException) as error:
        skipped.add("broken parquet", f"{path} ({_why(error)})")


@contextmanager
def _opened(path: str, skipped: Skipped) -> Iterator[tuple[IO[bytes], str | IO[bytes]]]:
    """Open a file, or a temporary unpacked copy of one that is compressed as a whole.

    Yields the file and what pyarrow should open: the path, which is faster, unless pyarrow cannot
    spell it.
    """
    if not path.lower().endswith(SUFFIXES):
        spelled = path.encode("utf-8", "ignore").decode() == path
        with open(path, "rb") as file:
            yield file, path if spelled else file
        return
    with tempfile.TemporaryFile() as file:
        for piece in read_decompressed(path, skipped):
            file.write(piece)
        yield file, file


def _columns(
    schema: Any,
    text: str,
    plain: Sequence[str],
    nested: Sequence[str],
    path: str,
    skipped: Skipped,
) -> list[str]:
    """Return the columns to read, the text's first; if there is no text, count it and return []."""
    names = schema.names
    if text not in names:
        has = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        skipped.add(f"no column {text!r}", f"{path} (has {has})")
        return []
    if names.count(text) > 1:
        skipped.add(f"several columns {text!r}", path)
        return []
    if _type(schema.field(names.index(text)).type) not in _TEXT:
        skipped.add("not text", path)
        return []
    columns = [text]
    for field in schema:
        inner = field.type if field.name in nested and _type(field.type) == "struct" else ()
        columns += [
            f"{field.name}.{inner_field.name}"
            for inner_field in inner
            if _is_plain(inner_field, plain)
        ]
        if field.name != text and _is_plain(field, plain):
            columns.append(field.name)
    return columns


def _is_plain(field: Any, names: Sequence[str]) -> bool:
    return field.name in names and _type(field.type) in _PLAIN


def _type(arrow_type: Any) -> str:
    """Return the name of an Arrow type; of a dictionary, that of its values."""
    name = str(arrow_type)
    return str(arrow_type.value_type if name.startswith("dictionary") else name).partition("<")[0]


def _rows(
    file: IO[bytes],
    table: Any,
    columns: list[str],
    path: str,
    skipped: Skipped,
    convert: Convert,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, record) of each row. convert: reads a batch of rows."""
    import pyarrow as arrow

    size, before, text_bytes = os.fstat(file.fileno()).st_size, 0, 0
    for group in range(table.metadata.num_row_groups):
        described = table.metadata.row_group(group)
        stored = [described.column(number) for number in range(described.num_columns)]
        stored = [column for column in stored if _is_of(column.path_in_schema, columns)]
        if is_bomb(sum(column.total_uncompressed_size for column in stored), size):
            return skipped.add("expands too far", path)
        row = before
        try:
            batch_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // _longest(file, stored)))
            for batch in table.iter_batches(batch_rows, [group], columns):
                for record, length in convert(batch):
                    row += 1
                    text_bytes += length
                    yield row, record
                if is_bomb(text_bytes, size):
                    return skipped.add("expands too far", f"{path}:{row}")
        except (OSError, ValueError, arrow.ArrowException) as error:
            skipped.add("broken parquet", f"{path}:{row + 1} ({_why(error)})")
        before += described.num_rows


def _is_of(path: str, columns: Sequence[str]) -> bool:
    """Return whether a stored column is one of those, or nested in one."""
    return path in columns or path.partition(".")[0] in columns


Convert = Callable[[Any], Iterator[tuple[dict[str, Any], int]]]
"""Function from a batch of pyarrow to (record, its size in characters or bytes) of each row."""


def _whole(batch: Any) -> Iterator[tuple[dict[str, Any], int]]:
    size = batch.nbytes // max(batch.num_rows, 1)
    return ((record, size) for record in batch.to_pylist())


def _records(batch: Any, text: str) -> Iterator[tuple[dict[str, Any], int]]:
    number = batch.schema.names.index(text)
    values, others = batch.column(number), batch.drop_columns([text])
    values = values.dictionary_decode() if hasattr(values, "dictionary_decode") else values
    # As bytes, because one invalid string must not lose the whole batch.
    binary = _type(values.type).replace("string", "binary")
    rest = _plain_records(others) if others.num_columns else None
    for row, data in enumerate(values.cast(binary).to_pylist()):
        record = rest[row] if rest else {}
        record[text] = data if data is None else data.decode(errors="surrogateescape")
        yield record, len(record[text] or "")


def _plain_records(batch: Any) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # invalid UTF-8 in one of them; the texts are still read
        return [{} for _ in range(batch.num_rows)]


def _longest(file: IO[bytes], columns: list[Any]) -> int:
    """Return the most bytes that one row may expand to: the largest first page of the columns.

    That page holds a column's dictionary. pyarrow relies on its size, not on the others declared.
    """
    longest = 1
    for column in columns:
        at = column.data_page_offset
        if column.has_dictionary_page and column.dictionary_page_offset:
            at = min(at, column.dictionary_page_offset)
        file.seek(at)
        longest = max(longest, _page_bytes(file.read(24)))
    return longest


def _page_bytes(header: bytes) -> int:
    """Return the `uncompressed_page_size` of a Thrift PageHeader; `BATCH_BYTES` if it is malformed.

    It is the second field of the compact form, where each i32 is a byte 0x15 and a zigzag varint.
    """
    at = 0
    numbers = []
    for _ in range(2):
        if header[at : at + 1] != b"\x15":
            return BATCH_BYTES
        value, shift = 0, 0
        while (at := at + 1) < len(header):
            value |= (header[at] & 0x7F) << shift
            shift += 7
            if header[at] < 0x80:
                break
        at += 1
        numbers.append(value >> 1)
    return numbers[1]


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
