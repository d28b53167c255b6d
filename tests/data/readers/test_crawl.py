"""CommonCrawl and C4: pages, archives of them, and what is wrong with both."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.data.formats import html, http, warc
from llamac.runtime.data.sources.skipped_records import Skipped
from tests.data.readers import read, write

PROSE = [
    "The bridge was built of stone from the quarry behind the church.",
    "It took the masons eleven years, and two of them did not see it done.",
    "Today it carries nothing heavier than cyclists.",
]
CLUTTER = ["Home", "Subscribe to our newsletter", "Copyright 2021 The Valley Post", "Log in"]
PARAGRAPHS = "".join(f"<p>{sentence}</p>" for sentence in PROSE)
# Pages as sites build them: each has all of PROSE in its content and all of CLUTTER around it.
PAGES = {
    "semantic": f"<nav><a href=/>{CLUTTER[0]}</a><a href=/l>{CLUTTER[3]}</a></nav>"
    f"<main><article>{PARAGRAPHS}</article></main>"
    f"<aside>{CLUTTER[1]}</aside><footer>{CLUTTER[2]}</footer>",
    "classes": f'<div class="navbar"><ul><li><a href=/>{CLUTTER[0]}</a></li><li><a href=/l>'
    f'{CLUTTER[3]}</a></li></ul></div><div id="content" class="post">{PARAGRAPHS}</div>'
    f'<div class="sidebar">{CLUTTER[1]}</div><div id="footer">{CLUTTER[2]}</div>',
    "roles": f'<div role="navigation"><a href=/>{CLUTTER[0]}</a> <a href=/l>{CLUTTER[3]}</a></div>'
    f'<div role="main">{PARAGRAPHS}</div><div role="complementary" class="sidebar">{CLUTTER[1]}'
    f'</div><div role="contentinfo" class="footer">{CLUTTER[2]}</div>',
}


def page(body: str, head: str = "<title>The old  bridge</title>") -> str:
    return f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>"


def record(body: bytes, http: bytes | None = b"Content-Type: text/html", **headers: str) -> bytes:
    """A WARC record: an HTTP response, unless http is None."""
    block = body if http is None else b"HTTP/1.1 200 OK\r\n" + http + b"\r\n\r\n" + body
    fields = {
        "WARC-Type": "response",
        "WARC-Target-URI": "http://example.org/",
        "Content-Length": str(len(block)),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return b"WARC/1.0\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n"


def test_main_content_is_found_and_what_is_around_it_is_not(tmp_path: Path) -> None:
    """Recall of the content's sentences, precision against the clutter's."""
    kept = wrong = 0
    for name, body in PAGES.items():
        (document,), _ = read("commoncrawl", write(tmp_path / f"{name}.html", page(body)))
        kept += sum(sentence in document.text for sentence in PROSE)
        wrong += sum(text in document.text for text in CLUTTER)
    assert kept / (len(PROSE) * len(PAGES)) == 1
    assert kept / (kept + wrong) >= 0.9


def test_c4_keeps_every_line_of_a_page(tmp_path: Path) -> None:
    path = write(tmp_path / "a.html", page(PAGES["semantic"]))
    (document,), _ = read("c4", path)
    assert all(text in document.text for text in (*PROSE, *CLUTTER))


def test_what_a_browser_does_not_show_is_no_text(tmp_path: Path) -> None:
    hidden = "<script>var a = 'script text';</script><style>.x{}</style><!-- a comment -->"
    (document,), _ = read("c4", write(tmp_path / "a.html", page(hidden + PARAGRAPHS)))
    assert document.text.split("\n\n") == PROSE


def test_preformatted_text_and_lists_keep_their_form(tmp_path: Path) -> None:
    body = "<pre>if x &lt; 3:\n    return</pre><ul><li>one</li><li>two</li></ul>"
    (document,), _ = read("c4", write(tmp_path / "a.html", page(body)))
    assert "if x < 3:\n    return" in document.text
    assert [line.strip() for line in document.text.split("\n")[-2:]] == ["• one", "• two"]


def test_a_page_says_its_title_and_address(tmp_path: Path) -> None:
    head = '<title>The old  bridge</title><link rel="canonical" href="https://a.example/bridge">'
    (document,), _ = read("commoncrawl", write(tmp_path / "a.html", page(PARAGRAPHS, head)))
    assert document.meta == {"title": "The old bridge", "url": "https://a.example/bridge"}


def test_a_tree_or_archive_of_pages_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b/2.html", "a/1.htm", "c.txt"):
        write(tmp_path / "tree" / name, page(f"<p>{name}</p>"))
    with tarfile.open(tmp_path / "tree.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "tree", arcname=".")
    for path in (tmp_path / "tree", tmp_path / "tree.tar.gz"):
        documents, counts = read("c4", path)
        assert [document.text for document in documents] == ["a/1.htm", "b/2.html"]
        assert not counts


# --- Archives ----------------------------------------------------------------------------------


def test_an_archive_gives_a_document_for_each_page(tmp_path: Path) -> None:
    data = (
        record(b"software: test", None, WARC_Type="warcinfo")
        + record(page("<p>one</p>").encode())
        + record(b"GET /", None, WARC_Type="request")
        + record("dvě".encode("cp1250"), b"Content-Type: text/plain; charset=utf-8")
        + record("<p>tři</p>".encode("cp1250"), b"Content-Type: text/html; charset=windows-1250")
        + record(b"%PDF", b"Content-Type: application/pdf")
        + record(b"text of a WET file", None, WARC_Type="conversion", Content_Type="text/plain")
    )
    packed = b"".join(gzip.compress(part) for part in (data[:500], data[500:]))
    for path in (write(tmp_path / "a.warc", data), write(tmp_path / "a.warc.gz", packed)):
        documents, counts = read("c4", path)
        found = [(document.text, document.line) for document in documents]
        assert found == [("one", 2), ("tři", 5), ("text of a WET file", 7)]
        assert documents[0].meta["url"] == "http://example.org/"
        assert counts == {"invalid encoding": 1, "neither HTML nor text": 1}


def test_other_statuses_and_broken_responses_are_counted(tmp_path: Path) -> None:
    good = record(b"<p>text</p>")
    gone = good.replace(b"200 OK", b"404 NO")
    data = gone + good.replace(b"HTTP/1.1", b"SPDY/1.1") + good
    documents, counts = read("c4", write(tmp_path / "a.warc", data))
    assert [document.line for document in documents] == [3]
    assert counts == {"HTTP status": 1, "broken HTTP response": 1}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"garbage\r\n\r\nand more of it\r\n", "broken WARC record"),
        (b"\0" * 1000 + b"\n", "broken WARC record"),
        (record(b"x").replace(b"Content-Length: ", b"Content-Length: -"), "broken WARC record"),
        (record(b"x").replace(b"Content-Length", b"Content-Width"), "broken WARC record"),
        (b"WARC/1.0\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", "broken WARC record"),
        (record(b"x" * (warc.RECORD_BYTES + 1)), "page too long"),
    ],
)
def test_reading_goes_on_after_a_broken_record(broken: bytes, reason: str, tmp_path: Path) -> None:
    data = record(b"<p>before</p>") + broken + record(b"<p>after</p>")
    documents, counts = read("c4", write(tmp_path / "a.warc", data))
    assert [document.text for document in documents] == ["before", "after"]
    assert list(counts) == [reason]


def test_a_truncated_record_is_not_taken_for_whole(tmp_path: Path) -> None:
    data = record(b"<p>one</p>") + record(b"<p>two</p>" * 10)
    documents, counts = read("c4", write(tmp_path / "a.warc", data[:-30]))
    assert [document.text for document in documents] == ["one"]
    assert counts == {"truncated WARC record": 1}


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_are_an_error(data: bytes) -> None:
    skipped = Skipped()
    found = html.page_text(data, None, True, "page", skipped)
    assert found is not None or skipped.counts
    for head in (b"", b"HTTP/1.1 200 OK\r\nContent-Encoding: br, gzip, zstd, deflate\r\n\r\n"):
        with contextlib.suppress(http.ResponseError):
            http.response(head + data)


def test_tar_headers_cannot_ask_for_memory(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("x" * 200 + ".html"), io.BytesIO())
    data = bytearray(file.getvalue())
    member = tarfile.TarInfo("long")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    data[:512] = member.tobuf(tarfile.GNU_FORMAT)
    found = read("c4", write(tmp_path / "a.tar", bytes(data)))
    assert found == ([], {"broken tar": 1})
