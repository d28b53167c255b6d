"""HTML → text, by resiliparse."""

from __future__ import annotations

import codecs
import re

from llamac.runtime.data.decompress import package
from llamac.runtime.data.skipped import Skipped

PAGE_BYTES = 1 << 23
# Time to find a page's main content grows with the square of these; no page comes near them.
DEPTH = 2048
ATTRIBUTES = 4096

_CHARSET = re.compile(
    rb"""<meta\s[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{1,40})""", re.I
)
_LONG_TAG = re.compile(rb"<[A-Za-z][^>]{8192}[^>]*")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CANONICAL = 'link[rel="canonical"]'


def text_of(
    data: bytes, charset: str | None, main: bool, where: str, skipped: Skipped
) -> tuple[str, dict[str, str]] | None:
    """(text, meta) of a page; None, and counted, where there is no sense in it.

    charset: what HTTP declares. main: without navigation, headers and footers.
    meta: title, url and language, as far as the page itself names them.
    """
    if len(data) > PAGE_BYTES:
        return skipped.add("page too long", where)
    if any(_attributes(tag) > ATTRIBUTES for tag in _LONG_TAG.findall(data)):
        return skipped.add("page too intricate", where)
    decoded = decode(data, charset)
    if decoded is None:
        return skipped.add("invalid encoding", where)
    html = package("resiliparse.parse.html", where)
    tree = html.HTMLTree.parse(decoded)
    if data.count(b"<") > DEPTH and _deep(html, tree):
        return skipped.add("page too intricate", where)
    extract = package("resiliparse.extract.html2text", where).extract_plain_text
    text = extract(tree, main_content=main, alt_texts=False)
    return text, _meta(tree)


def _attributes(tag: bytes) -> int:
    return len(tag.split()) + tag.count(b"=")


def decode(data: bytes, charset: str | None) -> str | None:
    """By byte order mark, by what HTTP or the page declares, as UTF-8, or as it looks; None where
    more than one character in a hundred is none. NULs, which HTML has not, are left out."""
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _sane(data[len(mark) :].decode(name, "replace"))
    declared = _CHARSET.search(data, 0, 4096)
    for name in (charset, declared and declared[1].decode("ascii")):
        if name and (python := _python_name(name)):
            return _sane(data.decode(python, "replace"))
    try:
        return _sane(data.decode())
    except UnicodeDecodeError:
        guess = package("resiliparse.parse.encoding", "html").detect_encoding(data)
        return _sane(data.decode(_python_name(guess) or "cp1252", "replace"))


def _python_name(label: str) -> str | None:
    """Python's name of what browsers understand by a label: Latin-1 is Windows-1252, for one."""
    standard = package("resiliparse.parse.encoding", "html").map_encoding_to_html5(label)
    try:
        return codecs.lookup(standard or label).name if "\0" not in label else None
    except LookupError:
        return None


def _sane(text: str) -> str | None:
    if text.count("\ufffd") * 100 > len(text):
        return None
    return text.replace("\0", "")


def _deep(html, tree) -> bool:
    deepest = 0

    def visit(context) -> None:
        nonlocal deepest
        deepest = max(deepest, context.depth)

    html.traverse_dom(tree.document, visit)
    return deepest > DEPTH


def _meta(tree) -> dict[str, str]:
    meta = {}
    if title := " ".join((tree.title or "").split())[:1000]:
        meta["title"] = title
    head = tree.head
    link = head.query_selector(_CANONICAL) if head else None
    if link and (url := (link.getattr("href") or "").strip()).startswith(("http://", "https://")):
        meta["url"] = url[:4096]
    return meta
