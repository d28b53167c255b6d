"""Read articles, and the addresses they cite, from XML dumps of Wikipedia.

meta: title; language, from the name of the dump's database; url.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree import ElementTree

from llamac.data.document import Document
from llamac.data.formats.wikis import NAMESPACES, REDIRECTS
from llamac.data.formats.wikitext import plain
from llamac.data.formats.xml import records, utf8_pieces
from llamac.runtime.data.sources.records import accept_text
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source

ENDINGS = (".xml",)
SITE_BYTES = 1 << 20  # bytes at a dump's beginning that contain its description of the site
FILE, CATEGORY, MEDIA = "6", "14", "-2"  # numbers of namespaces, the same in every language

_HIDDEN = re.compile(r"<!--|<nowiki[ \t]*>")
# A pattern with a literal start is ten times faster.
_ADDRESS = re.compile(r"""//[^\s|\[\]{}<>"\\^`]+""")
_ARCHIVE = re.compile(r"https?://web\.archive\.org/(?:web/)?\d{4,14}[a-z_]*\*?/(?=https?://)")

_REDIRECT = re.compile(r"\s*+#([^\s\[\]#*:{}|<>]{2,30})\s*+:?\s*+\[\[[^\[\]\n]{1,300}\]\]")
_TIME = re.compile(rb"<timestamp>([^<]{0,40})</timestamp>")
_NUMBER = re.compile(rb"<id>([0-9]{1,18})</id>")
_EVERYWHERE = frozenset(NAMESPACES["en"].split(", "))
_TALKED = ("user", "wikipedia", "file", "mediawiki", "template", "help", "category", "portal")
_SPACES = frozenset(
    ("media", "special", "talk", "image", *_TALKED, *(f"{name} talk" for name in _TALKED))
)


@dataclass(frozen=True, slots=True)
class Site:
    """Language and namespaces of the wiki that a dump was made from.

    language: code such as "en"; "" if the dump does not name it. dropped: lower-case names of the
    namespaces whose links show no text (files, categories). spaces: lower-case names of all
    namespaces except that of articles.
    """

    language: str
    dropped: frozenset[str]
    spaces: frozenset[str]


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield a dump's articles: pages of namespace 0 whose newest revision is not a redirect."""
    site = site_of(path)
    for line, title, wikitext in _articles(path, site, skipped):
        text = plain(wikitext, site.dropped, site.language)
        if accept_text(text, f"{path}:{line}", skipped):
            meta = {"title": title}
            if site.language:
                host = f"https://{site.language}.wikipedia.org/wiki/"
                meta |= {"language": site.language, "url": host + quote(title.replace(" ", "_"))}
            yield Document(text, path, line, meta)


def references(path: str, skipped: Skipped | None = None) -> Iterator[str]:
    """Yield the web addresses that a dump's articles cite, each once per article.

    Citations are `<ref>` in any form, citation templates and bare links. The address of an archived
    copy is replaced by that of the original. skipped: counts pages that are not articles.
    """
    skipped = Skipped() if skipped is None else skipped
    for _, _, wikitext in _articles(path, site_of(path), skipped):
        yield from dict.fromkeys(cited_addresses(wikitext))


def cited_addresses(wikitext: str) -> Iterator[str]:
    """Yield the web addresses in a page's wikitext outside comments, in order, with repeats."""
    text = _without_comments(wikitext)
    for match in _ADDRESS.finditer(text):
        before = text[max(0, match.start() - 6) : match.start()]
        scheme = next((name for name in ("https:", "http:") if before.endswith(name)), "")
        if scheme or before.endswith("["):
            url = _ARCHIVE.sub("", _without_punctuation((scheme or "https:") + match[0]))
            if re.match(r"https?://[^/]+\.[^/.]+", url):
                yield url


def _without_punctuation(url: str) -> str:
    """Return the address without the punctuation of the surrounding sentence."""
    return url.rstrip(".,;:!?'*" if "(" in url else ".,;:!?'*)")


def _without_comments(text: str) -> str:
    pieces, at = [], 0
    missing: set[str] = set()  # end marks that do not occur again
    for match in _HIDDEN.finditer(text):
        if match.start() < at:
            continue
        end = "-->" if match[0] == "<!--" else "</nowiki>"
        end_at = -1 if end in missing else text.find(end, match.end())
        if end_at < 0:
            missing.add(end)
        else:
            pieces.append(text[at : match.start()])
            at = end_at + len(end)
    return "".join((*pieces, text[at:]))


# --- Pages -------------------------------------------------------------------------------------


def _articles(path: str, site: Site, skipped: Skipped) -> Iterator[tuple[int, str, str]]:
    """Yield (line, title, wikitext of the newest revision) of each article."""
    for line, page in records(path, b"<page>", b"</page>", skipped, _newest):
        where = f"{path}:{line}"
        title = page.findtext("title") or ""
        revision = _last(page.findall("revision"))
        if not _is_article(page, title, site):
            skipped.add("not an article", where)
        elif page.find("redirect") is not None:
            skipped.add("redirect", where)
        elif revision is None or not (text := revision.findtext("text") or "").strip():
            skipped.add("empty", where)
        elif revision.findtext("model", "wikitext") != "wikitext":
            skipped.add("not wikitext", where)
        elif _is_redirect(text):
            skipped.add("redirect", where)
        else:
            yield line, title, text


def _is_article(page: ElementTree.Element, title: str, site: Site) -> bool:
    """Return whether the page is in namespace 0.

    Dumps before 2010 do not give the namespace's number; there the title decides.
    """
    number = page.findtext("ns")
    if number is not None:
        return number.strip() == "0"
    space, colon, _ = title.partition(":")
    return not colon or space.strip().lower().replace("_", " ") not in site.spaces


def _is_redirect(text: str) -> bool:
    """Return whether the wikitext is a redirect.

    It is one if it begins with `#WORD [[…]]`, where `REDIRECTS` has the word, or where nothing
    follows the link.
    """
    match = _REDIRECT.match(text)
    if match is None:
        return False
    return match[1].lower() in REDIRECTS or not plain(text[match.end() :], _EVERYWHERE)


def _last(revisions: list[ElementTree.Element]) -> ElementTree.Element | None:
    """Return the newest revision.

    Dumps of full histories begin with the oldest; other dumps need not be ordered.
    """

    def age(revision: ElementTree.Element) -> tuple[str, int]:
        number = revision.findtext("id", "")
        return revision.findtext("timestamp", ""), int(number) if number.isdecimal() else 0

    return max(reversed(revisions), key=age, default=None)


def _newest(page: bytes) -> bytes:
    """Remove all complete revisions but the newest from a page, or from the beginning of one."""
    first, last = page.find(b"<revision>"), page.rfind(b"</revision>")
    if first < 0 or page.find(b"</revision>", first, last) < 0:
        return page

    def age(revision: bytes) -> tuple[bytes, int]:
        time, number = _TIME.search(revision), _NUMBER.search(revision)
        return time[1] if time else b"", int(number[1]) if number else 0

    revisions = page[first:last].split(b"</revision>")
    newest = max(reversed(revisions), key=age)
    return b"".join((page[:first], newest, page[last:]))


# --- Sites -------------------------------------------------------------------------------------


def site_of(path: str) -> Site:
    """Read the wiki's language and namespaces from the beginning of a dump.

    `NAMESPACES` adds the names of file and category namespaces in that language, or in all
    languages if the dump names none.
    """
    head = b""
    for piece in utf8_pieces(path, Skipped()):
        head += piece
        if b"<page>" in head or len(head) > SITE_BYTES:
            break
    head = head.partition(b"<page>")[0][:SITE_BYTES]
    dropped, spaces, language = set(_EVERYWHERE), set(_SPACES), ""
    start = head.find(b"<siteinfo>")
    end = head.find(b"</siteinfo>", start) if start >= 0 else -1
    if end >= 0:
        try:
            info = ElementTree.fromstring(head[start : end + len(b"</siteinfo>")])
        except ElementTree.ParseError:
            pass
        else:
            database = re.fullmatch(r"([a-z_]{2,20})wiki", info.findtext("dbname") or "")
            language = database[1].replace("_", "-") if database else ""
            for space in info.iter("namespace"):
                if name := (space.text or "").strip().lower():
                    spaces.add(name)
                    if space.get("key") in (FILE, CATEGORY, MEDIA):
                        dropped.add(name)
    if not language:
        opened = head.find(b"<mediawiki")
        element = head[opened : head.find(b">", opened)] if opened >= 0 else b""
        attribute = re.search(rb"""\sxml:lang\s*=\s*["']([a-z-]{2,20})["']""", element)
        language = attribute[1].decode() if attribute else ""
    name_lists = (
        [NAMESPACES.get(language.partition("-")[0], "")] if language else NAMESPACES.values()
    )
    dropped.update(name for names in name_lists for name in names.split(", ") if name)
    return Site(language, frozenset(dropped), frozenset(spaces))
