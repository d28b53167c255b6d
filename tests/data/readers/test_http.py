"""HTTP responses in archives: headers and codings that servers and crawlers get wrong."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest
import zstandard

from llamac.data.formats import http
from tests.data.readers import assert_linear, read, write
from tests.data.readers.test_crawl import record

TEXT = "The kettle stood on the iron stove until the visitors came in from the garden. " * 12
PAGE = f"<p>{TEXT}é</p>".encode()
SHOWN = f"{TEXT}é"


def chunked(
    data: bytes, size: str = "%x", after: str = "", end: bytes = b"\r\n", last: bytes = b"0\r\n\r\n"
) -> bytes:
    parts = [data[at : at + 100] for at in range(0, len(data), 100)]
    heads = [(size % len(part) + after).encode() + end for part in parts]
    return b"".join(head + part + end for head, part in zip(heads, parts, strict=True)) + last


def raw(data: bytes) -> bytes:
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return machine.compress(data) + machine.flush()


def response_of(
    headers: bytes, body: bytes, status: bytes = b"HTTP/1.1 200 OK\r\n"
) -> http.Response:
    return http.response(status + headers + b"\r\n" + body)


def decoded(encoding: str, body: bytes, transfer: str = "") -> tuple[bytes, bool]:
    lines = [f"Content-Encoding: {part}\r\n" for part in encoding.split("|")]
    if transfer:
        lines.append(f"Transfer-Encoding: {transfer}\r\n")
    found = response_of("".join(lines).encode(), body)
    return found.body, found.complete


# --- Chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        chunked(PAGE),
        chunked(PAGE, "%X"),
        chunked(PAGE, "%08x", last=b"00000000\r\n\r\n"),
        chunked(PAGE, "%-8x"),
        chunked(PAGE, "0x%x"),
        chunked(PAGE, "+%x"),
        chunked(PAGE, "%6x", " \t"),
        chunked(PAGE, "%x", ';name="value"; other'),
        chunked(PAGE, "%x", " ;a=b"),
        chunked(PAGE, end=b"\n", last=b"0\n\n"),
        chunked(PAGE, last=b"0\r\nExpires: never\r\nX-Checksum: 1\r\n\r\n"),
        chunked(PAGE, last=b"000\r\n\r\n\r\n"),
        PAGE,
    ],
)
def test_chunks_are_joined_however_their_sizes_are_written(body: bytes) -> None:
    assert decoded("identity", body, "Chunked") == (PAGE, True)


def test_a_chunked_body_that_is_cut_off_keeps_what_came_before(tmp_path: Path) -> None:
    whole = chunked(PAGE)
    for cut in (len(whole) - 5, len(whole) - 20, 300, 105, 104):
        body, complete = decoded("", whole[:cut], "chunked")
        assert PAGE.startswith(body)
        assert len(body) >= cut * 0.9 - 6
        assert not complete
    wrong = chunked(PAGE[:200], last=b"") + b"no size\r\n" + chunked(PAGE[200:])
    assert decoded("", wrong, "chunked") == (PAGE[:200], False)
    data = record(whole[:300], b"Content-Type: text/html\r\nTransfer-Encoding: chunked")
    (document,), counts = read("c4", write(tmp_path / "a.warc", data))
    assert SHOWN.startswith(document.text)
    assert counts == {"truncated HTTP body": 1}


def test_line_ends_before_the_status_line_are_no_part_of_it() -> None:
    found = response_of(b"Content-Type: text/html\r\n", PAGE, b"\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert (found.status, found.body) == (200, PAGE)


# --- Content codings ---------------------------------------------------------------------------

ENCODED: list[tuple[str, bytes]] = [
    ("gzip", gzip.compress(PAGE)),
    ("x-gzip", gzip.compress(PAGE)),
    ("GZip", gzip.compress(PAGE)),
    ("deflate", zlib.compress(PAGE)),
    ("deflate", raw(PAGE)),
    ("deflate", gzip.compress(PAGE)),
    ("gzip", zlib.compress(PAGE)),
    ("br", brotli.compress(PAGE)),
    ("zstd", zstandard.compress(PAGE)),
    ("gzip", gzip.compress(PAGE[:99]) + gzip.compress(b"") + gzip.compress(PAGE[99:])),
    ("zstd", zstandard.compress(PAGE[:99]) + zstandard.compress(PAGE[99:])),
    ("gzip", gzip.compress(PAGE) + b"\r\n\r\ntrailing"),
    ("gzip, gzip", gzip.compress(gzip.compress(PAGE))),
    ("gzip, gzip", gzip.compress(PAGE)),
    ("gzip|gzip", gzip.compress(PAGE)),
    ("gzip, br", brotli.compress(gzip.compress(PAGE))),
    ("gzip;q=1.0", gzip.compress(PAGE)),
    ("identity, gzip", gzip.compress(PAGE)),
]


@pytest.mark.parametrize(("encoding", "body"), ENCODED)
def test_content_codings_are_undone(encoding: str, body: bytes) -> None:
    assert decoded(encoding, body) == (PAGE, True)


@pytest.mark.parametrize("encoding", ["none", "UTF-8", "text/html", "gzip, utf-8", "", "8bit"])
def test_codings_that_are_none_are_passed_over(encoding: str) -> None:
    body = gzip.compress(PAGE) if "gzip" in encoding else PAGE
    assert decoded(encoding, body) == (PAGE, True)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, br", "compress"])
@pytest.mark.parametrize(
    "plain",
    [PAGE, b"", b"Plain text.", TEXT.encode(), b"\r\n <p>caf\xe9</p>", b"x=1", b"Cats", b"{[3;#}"],
)
def test_what_crawlers_undid_is_as_it_is(encoding: str, plain: bytes) -> None:
    assert decoded(encoding, plain) == (plain, True)


def test_transfer_codings_come_in_a_list() -> None:
    body = chunked(gzip.compress(PAGE))
    assert decoded("", body, "gzip, chunked") == (PAGE, True)
    assert decoded("gzip", body, "chunked") == (PAGE, True)
    assert decoded("br", chunked(gzip.compress(brotli.compress(PAGE))), "gzip, chunked")[0] == PAGE
    undone = b"Transfer-Encoding: chunked\r\nX-Crawler-Content-Encoding: gzip\r\n"
    assert response_of(undone, PAGE).body == PAGE


@pytest.mark.parametrize("codec", ["gzip", "deflate", "deflate raw", "br", "zstd"])
def test_a_compressed_body_that_is_cut_off_keeps_what_came_before(codec: str) -> None:
    text = b"<p>" + b" ".join(b"%d" % (number * number) for number in range(4000))
    pack = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "deflate raw": raw,
        "br": lambda data: brotli.compress(data, quality=5),
        "zstd": lambda data: b"".join(map(zstandard.compress, (data[:20_000], data[20_000:]))),
    }[codec]
    packed = pack(text)
    found, complete = decoded(codec.partition(" ")[0], packed[: len(packed) * 9 // 10])
    assert text.startswith(found)
    assert len(found) > len(text) // 3
    assert not complete


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_what_cannot_be_decoded_is_counted_and_left_out(encoding: str, tmp_path: Path) -> None:
    good = dict(ENCODED)[encoding] if encoding != "deflate" else zlib.compress(PAGE)
    noise = bytes(range(256)) * 4
    data = b"".join(
        record(body, f"Content-Type: text/html\r\nContent-Encoding: {encoding}".encode())
        for body in (good[:30] + noise, noise, good)
    )
    documents, counts = read("c4", write(tmp_path / "a.warc", data))
    assert [document.text for document in documents] == [SHOWN]
    assert counts == {"broken HTTP response": 2}


def test_compressed_bytes_under_an_unknown_name_are_no_page(tmp_path: Path) -> None:
    import bz2

    head = b"Content-Type: text/html\r\nContent-Encoding: bzip2"
    found = read("c4", write(tmp_path / "a.warc", record(bz2.compress(PAGE), head)))
    assert found == ([], {"not a page": 1})


BOMBS: dict[str, Callable[[int], bytes]] = {
    "gzip": lambda n: gzip.compress(bytes(n)),
    "deflate": lambda n: zlib.compress(bytes(n)),
    "br": lambda n: brotli.compress(bytes(n), quality=5),
    "zstd": lambda n: zstandard.compress(bytes(n)),
    "gzip, gzip": lambda n: gzip.compress(gzip.compress(bytes(n))),
}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", BOMBS)
def test_a_bomb_is_left_where_it_shows(encoding: str) -> None:
    body, _ = decoded(encoding, BOMBS[encoding](1 << 28))
    assert html_limit() < len(body) < 4 * http.BODY_BYTES


def html_limit() -> int:
    from llamac.data.formats.html import PAGE_BYTES

    return PAGE_BYTES


def test_codings_without_end_are_refused() -> None:
    with pytest.raises(http.ResponseError):
        decoded(", ".join(["gzip"] * 2000), gzip.compress(PAGE))


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        lambda n: b"1\r\na\r\n" * n,
        lambda n: b" " * 6 * n,
        lambda n: b"1;" + b";" * 6 * n,
        lambda n: gzip.compress(b"") * (n // 3),
    ],
)
@pytest.mark.timeout(60)
def test_time_grows_with_the_length_of_a_body(body: Callable[[int], bytes]) -> None:
    assert_linear(lambda size: decoded("gzip", body(size), "chunked"), 30_000)


# --- Headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: text/html;\r\n\tcharset=cp1250\r\n",
        b"content-type : text/html\r\n ; charset=cp1250\r\n \r\nX: y\r\n",
        b"no colon here\r\nCONTENT-TYPE:text/html;charset='cp1250'\r\n: no name\r\n",
        b"Content-Type: text/html; charset=cp1250\nX-Line-Feeds: only\n",
        b"Content-Type: text/plain\r\nContent-Type: text/html; charset=cp1250\r\n",
        b"Content-Type: text/html; charset=cp1250\r\nContent-Type: text/html\r\n",
        b'Content-Type: Text/HTML ;boundary=x; Charset = "cp1250" \r\n',
        b"X-Bytes: \xff\xfe\x80\r\n folded\r\nContent-Type: text/html; charset=cp1250\r\n",
        b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Type: text/html; charset=cp1250\r\n",
    ],
)
def test_headers_are_read_as_leniently_as_browsers_read_them(headers: bytes) -> None:
    found = response_of(headers, b"text")
    assert (found.content_type, found.charset, found.body) == ("text/html", "cp1250", b"text")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (b"HTTP/1.1 200\r\n", 200),
        (b"HTTP/2 200 \n", 200),
        (b"http/1.0  404 Not Found\r\n", 404),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 301 Moved\n", 301),
    ],
)
def test_status_lines(status: bytes, code: int) -> None:
    assert response_of(b"A: b\r\n", b"text", status).status == code


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n",
        b"ICY 200 OK\r\n\r\n",
    ],
)
def test_what_is_no_response(data: bytes) -> None:
    with pytest.raises(http.ResponseError):
        http.response(data)


def test_a_page_of_no_stated_type_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    data = b"".join(
        record(body, b"Server: x")
        for body in (b"<!doctype html><p>one", b'{"a": "<p>"}', b"%PDF-1.4", b"\xff\xd8\xff\xe0")
    )
    documents, counts = read("c4", write(tmp_path / "a.warc", data))
    assert [document.text for document in documents] == ["one"]
    assert counts == {"neither HTML nor text": 3}


# --- Archives ----------------------------------------------------------------------------------


def arc(version: int, end: str, *pages: tuple[str, bytes]) -> bytes:
    fields = " 200 - - 0 a.arc" if version == 2 else ""
    note = f"{version} 0 Example{end}URL IP-address Archive-date Content-type Archive-length{end}"
    blocks = [
        ("filedesc://a.arc", "text/plain", note.encode()),
        ("dns:a.example", "text/dns", b"1"),
    ]
    blocks += [(url, "text/html", block) for url, block in pages]
    return b"".join(
        f"{url} 192.0.2.1 20100101000000 {kind}{fields} {len(block)}{end}".encode() + block + b"\n"
        for url, kind, block in blocks
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_arc_file_is_read_as_an_archive(version: int, end: str, tmp_path: Path) -> None:
    http_head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    pages = [
        ("http://a.example/?q=two words and 20100101000000", http_head + b"<p>one"),
        ("https://a.example/gone", b"HTTP/1.0 404 Not Found\n\n<p>gone"),
        ("ftp://a.example/x.html", b"<p>three"),
    ]
    data = arc(version, end, *pages)
    for name, written in (("a.arc.gz", gzip.compress(data)), ("a.arc", data), ("named", data)):
        documents, counts = read("c4", write(tmp_path / name, written))
        assert [(d.text, d.line, d.meta["url"]) for d in documents] == [
            ("one", 3, pages[0][0]),
            ("three", 5, pages[2][0]),
        ]
        assert counts == {"HTTP status": 1}
    broken = data.replace(b"gone 192.0.2.1 2010", b"gone 192.0.2.1 0010")
    documents, counts = read("c4", write(tmp_path / "b.arc", broken[:-4]))
    assert [document.text for document in documents] == ["one"]
    assert counts == {"broken ARC record": 1, "truncated ARC record": 1}


def test_warc_headers_may_be_folded_or_lack_a_colon(tmp_path: Path) -> None:
    good = record(b"<p>text</p>")
    for odd in (
        good.replace(b"WARC-Target-URI: ", b"WARC-Target-URI:\r\n "),
        good.replace(b"WARC-Target-URI", b"nonsense\r\nWARC-TARGET-URI "),
        good.replace(b"http://example.org/", b"<http://example.org/>"),
        good.replace(b"WARC/1.0\r\n", b"WARC/1.1 \n"),
        good.replace(b"WARC-Type: response", b"warc-type:Response"),
    ):
        (document,), counts = read("c4", write(tmp_path / "a.warc", odd))
        assert (document.text, document.meta["url"], counts) == ("text", "http://example.org/", {})


def test_an_archive_without_pages_says_so(tmp_path: Path) -> None:
    wat = record(b"{}", None, WARC_Type="metadata", Content_Type="application/json")
    for name in ("a.wat.gz", "a.warc.gz", "other"):
        found = read("c4", write(tmp_path / name, gzip.compress(wat)))
        assert found == ([], {"no pages in archive": 1})


def test_resources_and_conversions_have_their_own_charset(tmp_path: Path) -> None:
    data = record(
        "dvě".encode("cp1250"), None, WARC_Type="resource", Content_Type="text/html; charset=cp1250"
    ) + record("tři řádky".encode(), None, WARC_Type="conversion", Content_Type="text/plain")
    documents, counts = read("c4", write(tmp_path / "a.warc", data))
    assert ([document.text for document in documents], counts) == (["dvě", "tři řádky"], {})


def test_a_directory_may_mix_archives_and_pages(tmp_path: Path) -> None:
    write(tmp_path / "in" / "1.warc", record(b"<p>one"))
    write(tmp_path / "in" / "2.arc", arc(1, "\n", ("gopher://b.example/", b"<p>two")))
    write(tmp_path / "in" / "3.HTML", "<p>three")
    write(tmp_path / "in" / "4.zip", b"PK\3\4")
    documents, counts = read("c4", tmp_path / "in")
    assert ([document.text for document in documents], counts) == (["one", "two", "three"], {})
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(tmp_path / "in", arcname="in")
    assert [document.text for document in read("c4", tmp_path / "in.tar")[0]] == ["three"]
