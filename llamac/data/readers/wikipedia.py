"""Wikipedia: dumps of pages as XML → articles, and what they cite.

meta: title; language, as the dump's name of its database has it; url.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree import ElementTree

from llamac.data.document import Document
from llamac.data.formats.streams import chunks
from llamac.data.formats.wikitext import plain
from llamac.data.formats.xml import records, utf8_pieces
from llamac.data.readers.files import accepted
from llamac.runtime.data.sources import Skipped
from llamac.spec.data import Source

SITE_BYTES = 1 << 20  # in which a dump's description of its site ends
FILE, CATEGORY, MEDIA = "6", "14", "-2"  # numbers of namespaces, the same in every language

_COMMENT = re.compile(r"<!--.*?-->|<nowiki>.*?</nowiki>", re.S)
_ADDRESS = re.compile(r"""//[^\s|\[\]{}<>"\\^`]+""")  # a literal start is found ten times faster
_ARCHIVE = re.compile(r"https?://web\.archive\.org/(?:web/)?\d{4,14}[a-z_]*\*?/(?=https?://)")


@dataclass(frozen=True, slots=True)
class Site:
    """language: empty if the dump does not say. dropped: see `wikitext.plain`."""

    language: str
    dropped: frozenset[str]


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """The articles: pages of namespace 0 that are no redirects."""
    site = site_of(path)
    for line, title, wikitext in _articles(path, skipped):
        text = plain(wikitext, site.dropped)
        if accepted(text, f"{path}:{line}", skipped):
            meta = {"title": title}
            if site.language:
                host = f"https://{site.language}.wikipedia.org/wiki/"
                meta |= {"language": site.language, "url": host + quote(title.replace(" ", "_"))}
            yield Document(text, path, line, meta)


def references(path: str, skipped: Skipped | None = None) -> Iterator[str]:
    """The addresses that a dump's articles cite, article by article, each once in an article: in
    `<ref>` of any form, in citation templates, and as bare links. An archived copy's is that of
    what it is a copy of."""
    for _, _, wikitext in _articles(path, Skipped() if skipped is None else skipped):
        yield from dict.fromkeys(cited(wikitext))


def cited(wikitext: str) -> Iterator[str]:
    text = _without_comments(wikitext)
    for match in _ADDRESS.finditer(text):
        before = text[max(0, match.start() - 6) : match.start()]
        scheme = next((name for name in ("https:", "http:") if before.endswith(name)), "")
        if scheme or before.endswith("["):
            url = _ARCHIVE.sub("", _trimmed((scheme or "https:") + match[0]))
            if re.match(r"https?://[^/]+\.[^/.]+", url):
                yield url


def _trimmed(url: str) -> str:
    """Without the punctuation of the sentence it stands in."""
    return url.rstrip(".,;:!?'*" if "(" in url else ".,;:!?'*)")


def _without_comments(text: str) -> str:
    if "-->" not in text and "</nowiki>" not in text:
        return text
    # Only up to the last closing mark: an opening one after it would be searched for in vain.
    end = max(text.rfind("-->") + 3, text.rfind("</nowiki>") + 9)
    return _COMMENT.sub("", text[:end]) + text[end:]


def _articles(path: str, skipped: Skipped) -> Iterator[tuple[int, str, str]]:
    """(line, title, wikitext)."""
    for line, page in records(path, b"<page>", b"</page>", skipped):
        where = f"{path}:{line}"
        if page.findtext("ns", "0") != "0":
            skipped.add("not an article", where)
        elif page.find("redirect") is not None:
            skipped.add("redirect", where)
        elif (text := page.findtext("revision/text")) is None or not text.strip():
            skipped.add("empty", where)
        elif _REDIRECT.match(text):
            skipped.add("redirect", where)
        else:
            yield line, page.findtext("title") or "", text


_REDIRECT = re.compile(r"\s*#[^\W\d]{4,20}\s*:?\s*\[\[")  # in any language: `#WEITERLEITUNG [[`


def site_of(path: str) -> Site:
    """What the head of a dump says of its wiki."""
    head = b""
    for piece in utf8_pieces(chunks(path, Skipped())):
        head += piece
        if b"<page>" in head or len(head) > SITE_BYTES:
            break
    head = head.partition(b"<page>")[0][:SITE_BYTES]
    names = {"file", "image", "category", "media"}
    language = ""
    if found := re.search(rb"<siteinfo>.*?</siteinfo>", head, re.S):
        try:
            info = ElementTree.fromstring(found[0])
        except ElementTree.ParseError:
            pass
        else:
            database = re.fullmatch(r"([a-z_]{2,20})wiki", info.findtext("dbname") or "")
            language = database[1].replace("_", "-") if database else ""
            names |= {
                (space.text or "").lower()
                for space in info.iter("namespace")
                if space.get("key") in (FILE, CATEGORY, MEDIA)
            }
    if not language and (
        found := re.search(rb'<mediawiki[^>]{0,2000}xml:lang="([a-z-]{2,20})"', head)
    ):
        language = found[1].decode()
    return Site(language, frozenset(names))
