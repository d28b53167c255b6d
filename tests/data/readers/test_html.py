"""Pages: in which encoding they are read, what is no page, and how long reading may take."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamac.data.formats import charsets, html
from llamac.runtime.data.sources.skipped_records import Skipped
from tests.data.readers import assert_linear, read, write

CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy."
RUSSIAN = "Привет, мир! Это проверка того, как читаются страницы без метки."
JAPANESE = "①株式会社㈱髙島屋のⅢ番窓口で受付します。"
KOREAN = "오늘은 날씨가 좋아서 정원에서 차를 마셨다. 똠방각하 펲시콜라"


def page(body: str, head: str = "") -> str:
    return f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>"


def text_of(data: bytes, charset: str | None = None) -> str | None:
    found = html.page_text(data, charset, False, "page", Skipped())
    return None if found is None else found[0]


# --- Encodings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "label", "text"),
    [
        ("iso-8859-2", "ISO-8859-2", CZECH),
        ("cp1250", " cp1250 ", CZECH),
        ("koi8-r", "koi", RUSSIAN),
        ("cp932", "shift_jis", JAPANESE),
        ("cp932", "x-sjis", JAPANESE),
        ("cp949", "euc-kr", KOREAN),
        ("cp949", "ks_c_5601-1987", KOREAN),
        ("gb18030", "gb2312", "朱镕基的镕字，와 4 bytes: 㐀"),
        ("big5hkscs", "big5", "香港嘅啲嘢"),
        ("cp874", "tis-620", "“สวัสดี” …"),
        ("mac_cyrillic", "x-mac-cyrillic", RUSSIAN),
        ("cp1255", "logical", "שלום"),
        ("latin-1", "ascii", "café"),
    ],
)
@pytest.mark.parametrize("where", ["http", "meta", "http-equiv", "xml"])
def test_a_label_means_what_browsers_take_it_for(
    codec: str, label: str, text: str, where: str
) -> None:
    head, charset = {
        "http": ("<meta charset=utf-8>", label),
        "meta": (f"<META\r\n content='x'  ChArSeT = \"{label}\" />", None),
        "http-equiv": (
            f"<meta content='text/html;charset=\"{label}\"' http-equiv=CONTENT-type>",
            None,
        ),
        "xml": ("", None),
    }[where]
    data = page(f"<p>{text}</p>", head)
    if where == "xml":
        data = f'<?xml version="1.0" encoding="{label}"?>\n{data}'
    assert text_of(data.encode(codec), charset) == text


@pytest.mark.parametrize(
    "label", ["win-1251", "cp932", "utf8mb4", "none", "ISO 8859-1", "UTF-7", "\0", "charset", ""]
)
def test_an_unknown_label_declares_nothing(label: str) -> None:
    data = page(f"<p>{RUSSIAN}</p>", f'<meta charset="{label}"><meta charset="windows-1251">')
    assert text_of(data.encode("cp1251"), label) == RUSSIAN
    assert text_of(data.replace("windows-1251", "none").encode("cp1251"), label) == RUSSIAN


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_or_wide_markup_comes_before_any_label(codec: str) -> None:
    data = page(f"<p>{CZECH} 😀</p>", "<meta charset=windows-1252>").encode(codec)
    assert text_of(data, "iso-8859-1") == f"{CZECH} 😀"


@pytest.mark.parametrize("label", ["utf-16", "UTF-16BE", "unicode", "csunicode"])
def test_a_page_in_bytes_is_never_utf_16(label: str) -> None:
    data = page(f"<p>{CZECH}</p>", f"<meta charset={label}>").encode()
    assert text_of(data) == text_of(data, label) == CZECH


def test_declarations_that_are_none() -> None:
    for head in (
        "<!-- <meta charset=koi8-r> -->",
        "<meta name=description content='charset=koi8-r'>",
        "<meta data-charset=koi8-r>",
        "<metadata charset=koi8-r>",
        "<meta http-equiv=refresh content='0; charset=koi8-r'>",
    ):
        assert charsets.encoding_of(page(RUSSIAN, head).encode(), None) == "utf-8"


def test_bytes_that_codecs_leave_undefined_are_read_as_browsers_do() -> None:
    assert charsets.decode(b"It\x92s \x81\x9d", "windows-1252") == "It’s \x81\x9d"
    assert charsets.decode(b"\xff\xaa", "windows-1253") == "\ufffd\ufffd"
    assert charsets.decode(b"\x80a", "gbk") == "€a"
    assert charsets.decode(b"\x83<p>", "shift_jis") == "\ufffd<p>"
    assert (
        charsets.decode(b"\xad\xa1\xf9\xa9\xa4\xa2\xa4<p>\x8e\xb1", "euc-jp") == "①棈あ\ufffd<p>ｱ"
    )
    assert charsets.decode(b'\x1b$B-!$"\x1b(Bx\x1b(I12\x1b(B', "iso-2022-jp") == "①あxｱｲ"
    assert charsets.decode(b"x\xf0", "x-user-defined") == "x\uf7f0"


def test_iso_2022_jp_is_told_from_ascii() -> None:
    text = "日本語の文書です。今日は良い天気ですね。"
    assert text_of(page(f"<p>{text}</p>").encode("iso2022_jp")) == text


def test_what_browsers_refuse_to_decode_is_counted(tmp_path: Path) -> None:
    for label in ("iso-2022-kr", "hz-gb-2312", "replacement"):
        data = page("<p>text</p>", f"<meta charset={label}>")
        assert read("c4", write(tmp_path / "a.html", data)) == ([], {"invalid encoding": 1})


def test_a_page_in_another_encoding_than_declared_is_counted(tmp_path: Path) -> None:
    data = page("<p>" + "é" * 300 + "</p>", "<meta charset=utf-8>").encode("latin-1")
    assert read("c4", write(tmp_path / "a.html", data)) == ([], {"invalid encoding": 1})


def test_a_page_cut_off_inside_a_character_is_still_utf_8() -> None:
    data = ("<p>" + "příliš " * 40 + "ů").encode()
    for charset in (None, "utf-8"):
        assert text_of(data[:-1], charset) == ("příliš " * 40).strip()


def test_line_ends_and_control_characters_are_no_reason_to_lose_a_page() -> None:
    assert text_of(b"<p>one\r\ntwo\rthree\x0b</p>\r\n<p>\x0cfour\0\x1f</p>") is not None
    assert text_of(("<p>\r\n" + "a" * 5000 + "\x01" * 100).encode()) is not None


# --- What is no page ---------------------------------------------------------------------------


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.html", "<p>text</p>" * 50)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(1000))
    return file.getvalue()


BINARY = {
    "zip": zipped(),
    "npy": array(),
    "mo": b"\xde\x12\x04\x95" + bytes(24) + b"hello there\0how are you\0" * 40,
    "pdf": b"%PDF-1.4\n1 0 obj << /Type /Catalog >> endobj\n" * 9,
    "lz4": b"\x04\x22\x4d\x18\x44\x40\x5e" + b"\x01WARC/1.0\r\n" * 90,
    "nul": bytes(5000),
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\x06\0\0\0",
}


@pytest.mark.parametrize("kind", BINARY)
def test_bytes_that_are_no_text_are_no_page_whatever_they_are_called(
    kind: str, tmp_path: Path
) -> None:
    for name in (f"a.{kind}", "a.html", "a"):
        found = read("commoncrawl", write(tmp_path / name, BINARY[kind]))
        assert found == ([], {"not a page": 1})


@pytest.mark.parametrize("text", ['{"a": "b"}', "a,b\n1,2\n", "x = a<b>c\n", "body { color: red }"])
def test_a_file_that_is_not_called_a_page_must_look_like_one(text: str, tmp_path: Path) -> None:
    assert read("c4", write(tmp_path / "a.txt", text)) == ([], {"not a page": 1})
    (document,), _ = read("c4", write(tmp_path / "page.php", "\ufeff <!-- x --> <P>seen</P>"))
    assert document.text == "seen"


# --- Time --------------------------------------------------------------------------------------

HOSTILE: dict[str, Callable[[int], str]] = {
    "deep": lambda n: "<div>" * n + "x",
    "deep behind comments": lambda n: "<div><!--</div>-->" * n + "x",
    "links": lambda n: "<a><div>" * n,
    "attributes": lambda n: "<p " + " ".join(f"a{i}=1" for i in range(2 * n)) + ">x",
    "names alone": lambda n: "<p " + " ".join(f"a{i}" for i in range(2 * n)) + ">x",
    "names and slashes": lambda n: "<p" + "".join(f"/a{i}" for i in range(2 * n)) + ">x",
    "quoted ends": lambda n: "<p x='>' " + " ".join(f'a{i}="<p>"' for i in range(2 * n)) + ">x",
    "formatting": lambda n: "<p>" + "".join(f"<b a={i}>" for i in range(n)) + "<p>x" * n,
    "formatting never closed": lambda n: (
        "<p>" + "".join(f"<FONT a='>{i}'><table><td></font></table>" for i in range(n)) + "<p>x" * n
    ),
    "formatting closed in comments": lambda n: (
        "<p>" + "".join(f"<i a={i}><!--</i>-->" for i in range(n)) + "<p>x" * n
    ),
    "tags in tags": lambda n: "<a" * 8 * n,
    "unclosed quotes": lambda n: "<p a='" * n + '<p a="' * n,
    "signs": lambda n: "<p " + "=" * 8 * n,
    "comments": lambda n: "<!--" * 4 * n,
    "metas": lambda n: "<meta " * n + "charset" * n + "<!--",
    "spaces": lambda n: "<?xml " + " " * 8 * n + "<meta charset" + " " * 8 * n,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("wide", [False, True], ids=["utf-8", "utf-16"])
@pytest.mark.timeout(60)
def test_time_does_not_grow_with_the_square_of_a_page(case: str, wide: bool) -> None:
    """Refused, or read in time in proportion to the length: else each step is 4 times the last."""

    def work(size: int) -> None:
        data = HOSTILE[case](size).encode("utf-16" if wide else "utf-8")
        html.page_text(data, None, True, "page", Skipped())

    assert_linear(work, 10_000)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_pages_made_to_take_forever_are_counted(tmp_path: Path) -> None:
    for case in list(HOSTILE)[:10]:
        data = page(HOSTILE[case](20_000))
        assert read("commoncrawl", write(tmp_path / "a.html", data)) == (
            [],
            {"page too intricate": 1},
        )


@pytest.mark.timeout(60)
def test_long_pages_are_read(tmp_path: Path) -> None:
    rows = "".join(f"<tr><td><b class=c{i}>a</b><td><i id=i{i}>x</i>" for i in range(4_000))
    wide = "<p " + " ".join(f"data-a{i}='{i}'" for i in range(300)) + ">x"
    for body in (
        "<p>x</p>" * 20_000,
        f"<table>{rows}</table>",
        wide * 20,
        "<font color=1><p>a" * 3000,
    ):
        documents, counts = read("commoncrawl", write(tmp_path / "b.html", page(body)))
        assert (len(documents), counts) == (1, {})
