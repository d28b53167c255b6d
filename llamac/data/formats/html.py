"""Extract text from HTML, with resiliparse."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from llamac.data.formats.charsets import decode, encoding_of
from llamac.data.formats.sniff import is_binary
from llamac.runtime.data.sources.decompress import package
from llamac.runtime.data.sources.skipped_records import Skipped

PAGE_BYTES = 1 << 23  # longest page
# Limit on the steps of each superlinear part of parsing: squared attributes per tag, elements
# reopened in each block, depths of nodes. Corresponds to one to two seconds.
WORK = 1 << 25

_VALUE = r"""=\s*+(?:"[^"]*+"|'[^']*+'|)"""
_TAG = re.compile(rf"<(!--|/?[A-Za-z][^\s/>=]*+)(?:[^>=]++|{_VALUE})*+")
_ATTRIBUTE = re.compile(r"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+))?+""")
# A tag that may have more than a few hundred attributes: 16 `=`, or 64 characters without one.
_LONG = re.compile(rf"<[A-Za-z](?:[^>=]{{0,63}}+{_VALUE}){{0,15}}+(?:[^>=]{{64}}|[^>=]*+=)")
_FORMATTING = "b|big|code|em|font|i|s|small|strike|strong|tt|u"
_FORMATTED = re.compile(rf"<(?=[bcefistuBCEFISTU])(?i:{_FORMATTING})[\s/](?:[^>=]++|{_VALUE})*+")
# Scopes: the parser ignores the end of a formatting element that began outside of them.
_SCOPES = (
    "!--|applet|caption|iframe|marquee|math|noembed|noframes|noscript|object|plaintext|script|select"
    "|style|svg|table|td|template|textarea|th|title|xmp"
)
_CANONICAL = 'link[rel="canonical"]'


def page_text(
    data: bytes, charset: str | None, main: bool, where: str, skipped: Skipped
) -> tuple[str, dict[str, str]] | None:
    """Return (text, meta) of a page, or count the reason in `skipped` and return None.

    charset: label declared by HTTP, or None. main: extract the main content only, without
    navigation, headers and footers. where: position of the page, for `skipped`. meta: title and
    url, where the page itself gives them.
    """
    html = decode_page(data, charset, where, skipped)
    tree = None if html is None else parse_html(html, where, skipped)
    return None if tree is None else (extract_text(tree, main), _meta(tree))


def decode_page(data: bytes, charset: str | None, where: str, skipped: Skipped) -> str | None:
    """Decode a page or plain text, or count the reason in `skipped` and return None.

    charset: label declared by HTTP, or None. where: position of the page, for `skipped`. Data over
    `PAGE_BYTES`, binary data, and text with over 1 % invalid characters are rejected. NULs, which
    HTML does not allow, are removed.
    """
    if len(data) > PAGE_BYTES:
        return skipped.add("page too long", where)
    encoding = encoding_of(data, charset)
    if not encoding.startswith(("utf-16", "utf-32")) and is_binary(data):
        return skipped.add("not a page", where)
    text = decode(data, encoding)
    if text.count("\ufffd") * 100 > len(text):
        return skipped.add("invalid encoding", where)
    # Crawlers may cut a page inside a character.
    return text.removesuffix("\ufffd").replace("\0", "")


def parse_html(html: str, where: str, skipped: Skipped) -> Any | None:
    """Parse HTML as a resiliparse tree, or count it in `skipped` and return None.

    A page whose parsing would exceed `WORK` is not parsed. where: its position, for `skipped`.
    """
    module = package("resiliparse.parse.html", where)
    tags = html.count("<")
    if _attribute_cost(html) > WORK or _reopening_cost(html, tags) > WORK:
        return skipped.add("page too intricate", where)
    tree = module.HTMLTree.parse(html)
    if tags * tags > 2 * WORK and _depth_sum(module, tree) > WORK:
        return skipped.add("page too intricate", where)
    return tree


def extract_text(tree: Any, main: bool) -> str:
    """Return the plain text of a tree from `parse_html`. main: extract the main content only."""
    extract = package("resiliparse.extract.html2text", "html").extract_plain_text
    return extract(tree, main_content=main, alt_texts=False)


# --- Limits --------------------------------------------------------------------------------------


def _attribute_cost(html: str) -> int:
    """Return the cost of parsing attributes, which is quadratic in their number per tag."""
    total = at = 0
    if len(html) ** 2 > 4 * WORK:  # an attribute has at least two characters
        while match := _LONG.search(html, at):
            tag = _TAG.match(html, match.start())
            assert tag is not None
            total, at = total + len(_ATTRIBUTE.findall(tag[0])) ** 2, tag.end()
    return total


def _reopening_cost(html: str, tags: int) -> int:
    """Return an upper bound of the cost of unclosed formatting elements.

    The parser reopens them in every block; the cost is the sum of the resulting depths.
    """
    if tags * (3 * tags) ** 2 <= WORK:
        return 0
    max_open = 3 * len(set(_FORMATTED.findall(html)))  # the parser keeps at most three equal ones
    if tags * max_open * max_open <= WORK:
        return 0
    return tags * min(max_open, _max_open_formatting(html)) ** 2


def _max_open_formatting(html: str) -> int:
    """Return an upper bound of the number of formatting elements open at once.

    A closing tag is only counted within the innermost scope, so the bound is never below what the
    parser leaves open.
    """
    formatting, scopes = frozenset(_FORMATTING.split("|")), frozenset(_SCOPES.split("|"))
    opened: Counter[str] = Counter()
    outside = max_open = 0
    for tag in _TAG.findall(html):
        name = tag.lower()
        if name in formatting:
            opened[name] += 1
            max_open = max(max_open, outside + opened.total())
        elif name in scopes:
            outside += opened.total()
            opened.clear()
        elif opened.get(name[1:]) and name[0] == "/":
            opened[name[1:]] -= 1
    return max_open


def _depth_sum(module: Any, tree: Any) -> int:
    """Return the sum of all nodes' depths, the cost of extraction, which visits all ancestors."""
    total = 0

    def visit(context: Any) -> None:
        nonlocal total
        total += context.depth

    module.traverse_dom(tree.document, visit)
    return total


def _meta(tree: Any) -> dict[str, str]:
    meta = {}
    if title := " ".join((tree.title or "").split())[:1000]:
        meta["title"] = title
    head = tree.head
    link = head.query_selector(_CANONICAL) if head else None
    if link and (url := (link.getattr("href") or "").strip()).startswith(("http://", "https://")):
        meta["url"] = url[:4096]
    return meta
