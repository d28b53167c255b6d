"""CommonCrawl: WARC, WET, or HTML files → the text of their main content.

meta: url, title where the page names them; content_type.
"""

from __future__ import annotations

from collections.abc import Iterator

from llamac.data.document import Document
from llamac.data.formats.html import text_of
from llamac.data.formats.trees import entries, files, is_tar
from llamac.data.formats.warc import records, response
from llamac.runtime.data.decompress import stem
from llamac.runtime.data.records import accepted, utf8
from llamac.runtime.data.skipped import Skipped
from llamac.spec.data import Source

ARCHIVES = (".warc", ".wet")
PAGES = (".html", ".htm", ".xhtml")
ENDINGS = (*ARCHIVES, ".arc", *PAGES, ".tar", ".tgz")
HTML_TYPES = ("text/html", "application/xhtml+xml")


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    return pages(path, True, skipped)


def pages(path: str, main: bool, skipped: Skipped) -> Iterator[Document]:
    """Documents of an archive, a page, or a directory or tar of pages. main: see
    `html.text_of`."""
    if is_tar(path):
        yield from _files(path, main, skipped)
        return
    for file in files(path):
        if stem(file).endswith(ARCHIVES):
            yield from _archive(file, main, skipped)
        elif file == path or stem(file).endswith(PAGES):
            yield from _files(file, main, skipped)


def _files(path: str, main: bool, skipped: Skipped) -> Iterator[Document]:
    for entry in entries(path, skipped, lambda name: stem(name).endswith(PAGES)):
        where = f"{entry.file}:{entry.line}"
        yield from _page(entry.data, None, main, entry.file, entry.line, {}, where, skipped)


def _archive(path: str, main: bool, skipped: Skipped) -> Iterator[Document]:
    kinds = frozenset(("response", "resource", "conversion"))
    for record in records(path, kinds, skipped):
        where = f"{path}:{record.number}"
        meta = {"url": record.headers.get("warc-target-uri", "")[:4096]}
        kind, body, charset = record.headers.get("content-type", ""), record.body, None
        if record.headers["warc-type"].lower() == "response":
            answer = response(record.body)
            if answer is None or answer.status != 200:
                skipped.add("HTTP status" if answer else "broken HTTP response", where)
                continue
            kind, body, charset = answer.content_type, answer.body, answer.charset
        kind = kind.partition(";")[0].strip().lower()
        meta["content_type"] = kind
        if kind == "text/plain":
            text = utf8(body, where, skipped)
            if text is not None and accepted(text, where, skipped):
                yield Document(text, path, record.number, meta)
        elif kind in HTML_TYPES:
            yield from _page(body, charset, main, path, record.number, meta, where, skipped)
        else:
            skipped.add("neither HTML nor text", where)


def _page(
    data: bytes,
    charset: str | None,
    main: bool,
    file: str,
    line: int,
    meta: dict[str, str],
    where: str,
    skipped: Skipped,
) -> Iterator[Document]:
    found = text_of(data, charset, main, where, skipped)
    if found is not None and accepted(found[0], where, skipped):
        yield Document(found[0], file, line, found[1] | meta)
