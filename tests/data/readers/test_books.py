"""Books: Project Gutenberg's notices go, the book stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.readers import read, write

BOOK = "CHAPTER I\n\nIt was a dark and stormy night.\n\nTHE END\n"
HEAD = "The Project Gutenberg eBook of A Night\n\nTitle: A Night\n\nLanguage: English\n\n"
FORMS = {
    "today": (
        f"{HEAD}*** START OF THE PROJECT GUTENBERG EBOOK A NIGHT ***\n\nProduced by A. Reader and\n"
        "the Distributed Proofreaders\n\n\n",
        "\n\n*** END OF THE PROJECT GUTENBERG EBOOK A NIGHT ***\n\nUpdated editions will replace\n",
    ),
    "earlier": (
        f"{HEAD}***START OF THIS PROJECT GUTENBERG EBOOK A NIGHT***\n\n",
        "\nEnd of Project Gutenberg's A Night, by A. Writer\n\n*** END OF THIS PROJECT GUTENBERG\n",
    ),
    "two lines": (
        f"{HEAD}*** START OF THE PROJECT GUTENBERG EBOOK A NIGHT\nIN TWO VOLUMES ***\n\n",
        "\n*** END OF THE PROJECT GUTENBERG EBOOK A NIGHT\nIN TWO VOLUMES ***\nLicence\n",
    ),
    "oldest": (
        f"{HEAD}*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n",
        "\nEnd of the Project Gutenberg Etext of A Night\n",
    ),
    "none": ("", ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_only_the_book_is_left(form: str, tmp_path: Path) -> None:
    before, after = FORMS[form]
    (document,), counts = read("books", write(tmp_path / "night.txt", before + BOOK + after))
    assert document.text == BOOK
    assert document.meta["title"] == ("night" if form == "none" else "A Night")
    assert not counts


def test_a_book_that_speaks_of_gutenberg_is_not_cut(tmp_path: Path) -> None:
    text = "The end of Project Gutenberg is to give books away.\n\n" + BOOK
    (document,), _ = read("books", write(tmp_path / "a.txt", text))
    assert document.text == text


def test_the_encoding_a_book_declares_is_used(tmp_path: Path) -> None:
    text = "Character set encoding: ISO-8859-1\n\n*** START OF THE PROJECT GUTENBERG X ***\nCafé.\n"
    (document,), _ = read("books", write(tmp_path / "a.txt", text.encode("latin-1")))
    assert document.text == "Café.\n"


@pytest.mark.parametrize(
    ("declared", "codec", "text"),
    [
        ("ASCII", "cp1252", "Café “là”.\n"),
        ("ISO-646-US (US-ASCII)", "latin-1", "Café.\n"),
        ("KOI8-R", "koi8-r", "Привет мир.\n"),
        ("", "cp1252", "Un café, où « là ».\n"),
        ("", "utf-8-sig", "Привет мир.\n"),
        ("", "koi8-r", None),
        ("Klingon-8", "koi8-r", None),
    ],
)
def test_books_in_other_encodings_are_read_or_counted(
    declared: str, codec: str, text: str | None, tmp_path: Path
) -> None:
    head = f"Character set encoding: {declared}\n\n*** START OF THE PROJECT GUTENBERG X ***\n"
    data = (head if declared else "") + (text or "Привет мир.\n")
    data = data.replace("\n", "\r\n")
    documents, counts = read("books", write(tmp_path / "a.txt", data.encode(codec)))
    if text is None:
        assert (documents, counts) == ([], {"unknown encoding": 1})
    else:
        assert [document.text for document in documents] == [text]


def test_a_folder_gives_a_document_for_each_book(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "cover.jpg"):
        write(tmp_path / "shelf" / name, f"{name}\n")
    documents, counts = read("books", tmp_path / "shelf")
    assert [document.meta["title"] for document in documents] == ["a", "b"]
    assert not counts
