"""Read the main content of the pages in WARC, WET, ARC or HTML files.

meta: url and title, where the page names them; content_type.
"""

from __future__ import annotations

from collections.abc import Iterator

from llamac.data.document import Document
from llamac.data.formats import http
from llamac.data.formats.html import PAGE_BYTES, decode_page, page_text
from llamac.data.formats.sniff import is_markup
from llamac.data.formats.trees import files, is_tar, members
from llamac.data.formats.warc import WarcRecord, arc_records, warc_records
from llamac.runtime.data.sources.decompress import stem, stream
from llamac.runtime.data.sources.records import accept_text
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source

WARC, ARC = (".warc", ".wet"), (".arc",)  # endings of file names
PAGES = (".html", ".htm", ".xhtml", ".xht", ".shtml")
ENDINGS = (*WARC, *ARC, *PAGES, ".tar", ".tgz")
HTML_TYPES = ("text/html", "application/xhtml+xml")
# Content types with which a page is recognised by its beginning.
UNKNOWN_TYPES = ("", "*/*", "unknown/unknown", "application/unknown")
PAGE_RECORDS = frozenset(("response", "resource", "conversion"))  # types of record with a page


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield the pages in a file or directory, reduced to their main content; see `pages`.

    source: unused. skipped: counts what is left out.
    """
    return pages(path, True, skipped)


def pages(path: str, main: bool, skipped: Skipped) -> Iterator[Document]:
    """Yield the pages in an archive, an HTML file, a directory of these, or a tar of HTML files.

    The format of a file of another name is detected from its first bytes. main: extract the main
    content only.
    """
    if is_tar(path):
        for entry in members(path, skipped, lambda name: stem(name).endswith(PAGES)):
            where = f"{entry.file}:{entry.line}"
            yield from _page(entry.data, None, main, path, entry.line, {}, where, skipped)
        return
    for file in files(path):
        if file == path or stem(file).endswith(WARC + ARC + PAGES):
            yield from _file(file, main, skipped)


def _file(path: str, main: bool, skipped: Skipped) -> Iterator[Document]:
    name = stem(path)
    with stream(path, skipped) as file:
        start = file.peek(16)
        if name.endswith(WARC) or start.startswith(b"WARC/"):
            yield from _archive(
                warc_records(file, path, PAGE_RECORDS, skipped), path, main, skipped
            )
        elif name.endswith(ARC) or start.startswith(b"filedesc:"):
            yield from _archive(arc_records(file, path, PAGE_RECORDS, skipped), path, main, skipped)
        elif data := file.read(PAGE_BYTES + 1):
            where = f"{path}:1"
            if name.endswith(PAGES) or is_markup(data):
                yield from _page(data, None, main, path, 1, {}, where, skipped)
            else:
                skipped.add("not a page", where)


def _archive(
    records: Iterator[WarcRecord], path: str, main: bool, skipped: Skipped
) -> Iterator[Document]:
    record = None
    for record in records:
        where = f"{path}:{record.number}"
        (kind, charset), body = http.mime_type(record.content_type), record.body
        if record.kind == "response":
            try:
                answer = http.response(body)
            except http.ResponseError:
                skipped.add("broken HTTP response", where)
                continue
            if answer.status != 200:
                skipped.add("HTTP status", where)
                continue
            kind, charset, body = answer.content_type, answer.charset, answer.body
            if not answer.complete:  # the text before the cut is used
                skipped.add("truncated HTTP body", where)
        if kind in UNKNOWN_TYPES and is_markup(body):
            kind = HTML_TYPES[0]
        meta = {"url": record.url[:4096], "content_type": kind}
        if kind == "text/plain":
            text = decode_page(body, charset, where, skipped)
            if text is not None and accept_text(text, where, skipped):
                yield Document(text, path, record.number, meta)
        elif kind in HTML_TYPES:
            yield from _page(body, charset, main, path, record.number, meta, where, skipped)
        else:
            skipped.add("neither HTML nor text", where)
    if record is None:
        skipped.add("no pages in archive", path)


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
    extracted = page_text(data, charset, main, where, skipped)
    if extracted is not None and accept_text(extracted[0], where, skipped):
        yield Document(extracted[0], file, line, extracted[1] | meta)
