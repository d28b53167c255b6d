"""Iterate over the files of a directory, a tar archive or a single file, in a fixed order."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llamac.runtime.data.sources.decompress import read_decompressed, stem, stream
from llamac.runtime.data.sources.skipped_records import Skipped

ENTRY_BYTES = 1 << 24  # longest file: longer ones are data, not written text
HEADER_BYTES = 1 << 20  # longest name or extended header of a tar member


@dataclass(frozen=True, slots=True)
class Entry:
    """File of a tree or archive, with its decompressed content.

    name: path in the tree, with slashes. file: path on disk, of the archive if it is in one. line:
    number of the archive's member, from 1.
    """

    name: str
    data: bytes
    file: str
    line: int = 1


NameFilter = Callable[[str], bool]
"""Function that returns whether to read the file of a name, which is a path in the tree."""


def files(path: str) -> Iterator[str]:
    """Yield `path` itself if it is no directory, else the files under it, in sorted order.

    Links are not followed. The files of a folder precede those of its inner folders.
    """
    if not os.path.isdir(path):
        yield path
        return
    for folder, inner, names in os.walk(path):
        inner.sort()
        for name in sorted(names):
            full = os.path.join(folder, name)
            if os.path.isfile(full) and not os.path.islink(full):
                yield full


def is_tar(path: str) -> bool:
    """Return whether a file's name is that of a tar archive, possibly compressed."""
    return stem(path).endswith((".tar", ".tgz"))


def entries(path: str, skipped: Skipped, select: NameFilter = lambda name: True) -> Iterator[Entry]:
    """Yield a single file, or the files of a tree or archive whose names satisfy `select`.

    Files that are empty, damaged or over `ENTRY_BYTES` are counted in `skipped`.
    """
    if is_tar(path):
        yield from members(path, skipped, select)
        return
    for file in files(path):
        name = os.path.basename(path) if file == path else os.path.relpath(file, path)
        if file == path or select(name := name.replace(os.sep, "/")):
            data = contents(file, skipped)
            if data is not None:
                yield Entry(name, data, file)


def contents(path: str, skipped: Skipped) -> bytes | None:
    """Return a file's decompressed bytes; None if it is empty, unreadable or over `ENTRY_BYTES`."""
    pieces, size = [], 0
    for chunk in read_decompressed(path, skipped):
        size += len(chunk)
        if size > ENTRY_BYTES:
            return skipped.add("file too long", path)
        pieces.append(chunk)
    return b"".join(pieces) if size else None


class _Member(tarfile.TarInfo):
    """A tar member whose long name is bounded: tarfile reads one of any claimed length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > HEADER_BYTES:
            raise tarfile.ReadError("header too long")
        return member


_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def members(path: str, skipped: Skipped, select: NameFilter) -> Iterator[Entry]:
    """Yield the members of a tar archive whose names satisfy `select`, without unpacking it.

    Members that are empty, sparse or over `ENTRY_BYTES` are counted in `skipped`, and so is an
    empty or damaged archive.
    """
    number = 0
    try:
        with (
            stream(path, skipped) as file,
            tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as archive,
        ):
            for member in archive:
                # tarfile would keep all members in memory.
                archive.members.clear()  # type: ignore[attr-defined]
                number += 1
                name = member.name.removeprefix("./")
                if not member.isreg() or not select(name):
                    continue
                where = f"{path}:{number}"
                if member.issparse():  # sparse files claim zeros that are not in the archive
                    skipped.add("sparse file", where)
                    continue
                if member.size > ENTRY_BYTES:
                    skipped.add("file too long", where)
                    continue
                content = archive.extractfile(member)
                data = content.read() if content else b""
                if data:
                    yield Entry(name, data, path, number)
                else:
                    skipped.add("empty file", where)
        if not number:  # a file of zeros, for instance, is an empty archive
            skipped.add("empty archive", path)
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        skipped.add("broken tar", f"{path}:{number + 1}")
