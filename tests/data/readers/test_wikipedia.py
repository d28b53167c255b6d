"""Wikipedia: wikitext → text, what of a dump is an article, what articles cite."""

from __future__ import annotations

import bz2
import re
from html import escape
from pathlib import Path

import mwparserfromhell
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamac.data.formats.wikitext import plain
from llamac.data.readers.wikipedia import cited_addresses, references
from tests.data.readers import read, write

DROPPED = frozenset(("file", "image", "category", "bild"))

LABELLED = [
    # links
    ("A [[town]] on [[the Rhine|the river]].", "A town on the river."),
    ("[[Paris (Texas)|]] and [[:Category:Towns]]", "Paris and Category:Towns"),
    ("a[[File:A.jpg|thumb|A [[cat]] of [http://a.org b]]]b", "ab"),
    ("a[[Bild:A.jpg]]b\n[[Category:Towns]]\n[[de:Stadt]]", "ab"),
    ("See [https://a.org/b the site] or [//c.org].", "See the site or."),
    # templates, tables, comments, references
    ("a{{infobox\n| x = {{y|[[z]]}}\n}}b", "ab"),
    ("before\n{| class=a\n|-\n| b || {{c}}\n{|\n| inner\n|}\n|}\nafter", "before\n\nafter"),
    ("a<!-- b -->c<!-- never closed", "ac never closed"),
    ("One.<ref>x</ref> Two.<ref name=a /> Three.<ref name=\"b\">{{cite|url=u}}</ref>",
     "One. Two. Three."),
    ("It is {{convert|5|km}} from {{lang|fr|Nancy}} ({{coord|1|2}}).", "It is 5 km from Nancy."),
    # form
    ("'''Bold''' and ''italic'', l'eau", "Bold and italic, l'eau"),
    ("intro\n== One ==\ntext\n=== Empty ===\n== [[Two]] ==\nmore\n== End ==\n{{reflist}}",
     "intro\n\nOne\n\ntext\n\nTwo\n\nmore"),
    ("* one\n** two\n# three\n: four\n*\n----", "- one\n- two\n- three\nfour"),
    ("a<br/>b <small>c</small> H<sub>2</sub>O &amp; d&nbsp;e", "a\nb c H2O & d e"),
    ("a <math>x^2</math> b <nowiki>[[c]] ''d''</nowiki> __NOTOC__", "a x^2 b [[c]] ''d''"),
    ("<syntaxhighlight lang=c>\nif (a) {\n    b['c'];\n}\n</syntaxhighlight>",
     "if (a) {\n    b['c'];\n}"),
    # what is not closed takes nothing with it
    ("a [[b\n== c ==\nd", "a b\n\nc\n\nd"),
    ("a ]] b }} c |} d", "a  b  c |} d".replace("  ", " ")),
    ("words such as {{sfn|a}}, {{sfn|e}}, {{sfn|i}}, and o", "words such as, and o"),
]  # fmt: skip


@pytest.mark.parametrize(("wikitext", "text"), LABELLED)
def test_labelled_wikitext(wikitext: str, text: str) -> None:
    assert plain(wikitext, DROPPED) == text


WORD = st.text("abcdefgh", min_size=1, max_size=6)
NESTED = st.recursive(
    WORD,
    lambda inner: st.one_of(
        WORD.map("[[{}]]".format),
        st.tuples(WORD, inner).map("[[{0[0]}|b{0[1]}]]".format),
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        inner.map("'''b{}b'''".format),
        st.tuples(WORD, inner).map("{{{{main|{0[0]}|{0[1]}}}}}".format),
        WORD.map("<!-- {} -->".format),
        WORD.map("<ref>{}</ref>".format),
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.lists(NESTED, max_size=6).map("\n\n".join))
def test_wikitext_that_is_well_formed_reads_as_in_mwparserfromhell(wikitext: str) -> None:
    """Links within links are no wikitext: only the innermost counts there."""
    if re.search(r"\[\[[^\]]*\[\[", wikitext):
        return
    parsed = mwparserfromhell.parse(wikitext)
    for reference in parsed.filter_tags(matches=lambda tag: tag.tag == "ref"):
        if reference in parsed.filter():
            try:
                parsed.remove(reference)
            except ValueError:
                continue  # it went with one around it
    theirs = parsed.strip_code(normalize=True, collapse=True)
    assert plain(wikitext, DROPPED).split() == theirs.split()


@given(st.text("[]{}|<>/ref='!-\n:*# ahtp.", max_size=200))
def test_no_wikitext_is_an_error(wikitext: str) -> None:
    plain(wikitext, DROPPED)
    list(cited_addresses(wikitext))


def page(title: str, text: str, ns: int = 0, more: str = "") -> str:
    return (
        f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>1</id>{more}"
        f'<revision><id>2</id><text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump(*pages: str, database: str = "dewiki") -> str:
    return (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de">\n<siteinfo>'
        f"<dbname>{database}</dbname><namespaces><namespace key='6'>Datei</namespace>"
        "<namespace key='14'>Kategorie</namespace></namespaces></siteinfo>\n"
        + "".join(pages)
        + "</mediawiki>"
    )


GOOD = page("Köln (Stadt)", "'''Köln''' ist eine [[Stadt]].[[Datei:K.jpg|x]][[Kategorie:Orte]]")


@pytest.mark.parametrize("packed", [False, True])
def test_articles_are_read_and_other_pages_counted(packed: bool, tmp_path: Path) -> None:
    data = dump(
        page("Diskussion", "Hallo", ns=1),
        page("Cologne", "#WEITERLEITUNG [[Köln]]"),
        page("Colonia", "x", more='<redirect title="Köln" />'),
        page("Leer", "{{Vorlage}}"),
        GOOD,
    ).encode()
    path = write(tmp_path / ("a.xml" + ".bz2" * packed), bz2.compress(data) if packed else data)
    (document,), counts = read("wikipedia", path)
    assert document.text == "Köln ist eine Stadt."
    assert document.line == 7
    assert document.meta == {
        "title": "Köln (Stadt)",
        "language": "de",
        "url": "https://de.wikipedia.org/wiki/K%C3%B6ln_%28Stadt%29",
    }
    assert counts == {"not an article": 1, "redirect": 2, "empty": 1}


@pytest.mark.slow
def test_a_broken_page_spoils_no_other(tmp_path: Path) -> None:
    broken = [
        page("a", "x").replace("</title>", ""),
        page("b", "x").replace("</page>", ""),
        page("c", "&a;").replace("&amp;", "&"),
        page("d", "x" * (1 << 24)),
    ]
    data = dump(*(part + GOOD for part in broken)).encode()
    data = data.replace(b"<page><title>c", b"<page><title>\xff</title></page><page><title>c")
    documents, counts = read("wikipedia", write(tmp_path / "a.xml", data))
    assert len(documents) == 4
    assert counts == {"broken XML": 3, "invalid UTF-8": 1, "record too long": 1}


def test_a_truncated_dump_gives_what_is_whole(tmp_path: Path) -> None:
    data = dump(GOOD, GOOD)
    documents, counts = read("wikipedia", write(tmp_path / "a.xml", data[: -len(GOOD) // 2]))
    assert (len(documents), counts) == (1, {"truncated XML": 1})
    assert read("wikipedia", write(tmp_path / "b.xml", "no XML")) == ([], {"no records in file": 1})


def test_entities_of_ones_own_are_never_expanded(tmp_path: Path) -> None:
    entities = "".join(
        f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "laughs"}">' for n in range(12)
    )
    bomb = f"<!DOCTYPE mediawiki [{entities}]>" + dump(page("a", "BOMB")).replace("BOMB", "&e11;")
    assert read("wikipedia", write(tmp_path / "a.xml", bomb)) == ([], {"broken XML": 1})


@pytest.mark.parametrize(
    "wikitext",
    [
        "<ref>http://a.org/b</ref>",
        '<ref name="x">[http://a.org/b A page]</ref>',
        "<ref group=n name=x>{{cite web|url=http://a.org/b|title=T}}</ref>",
        "{{Cite news | title = T | url = http://a.org/b }}",
        "{{refn|See http://a.org/b.}}",
        "* [http://a.org/b A page]",
        "See (http://a.org/b), for one.",
        "{{cite|url=https://web.archive.org/web/20090101000000/http://a.org/b}}",
    ],
)
def test_references_of_every_form_are_found(wikitext: str) -> None:
    assert list(cited_addresses(wikitext)) == ["http://a.org/b"]


def test_what_is_not_cited_is_no_reference() -> None:
    assert list(
        cited_addresses("<!-- http://a.org/b --> [[http://x]] // comment http:// [//c.org/d e]")
    ) == ["https://c.org/d"]
    assert list(cited_addresses("[http://a.org/b_(c) x]")) == ["http://a.org/b_(c)"]


def test_each_article_cites_an_address_once(tmp_path: Path) -> None:
    one = page("a", "<ref>http://a.org/b</ref> <ref>http://a.org/b</ref> [http://c.org d]")
    path = write(tmp_path / "a.xml", dump(one, page("t", "http://talk.org", ns=1), one))
    assert list(references(str(path))) == ["http://a.org/b", "http://c.org"] * 2


# --- Revisions, and other dumps ------------------------------------------------------------------


def revision(text: str, time: str = "", number: int = 1, more: str = "") -> str:
    stamp = f"<timestamp>{time}</timestamp>" if time else ""
    return f"<revision><id>{number}</id>{stamp}{more}<text>{escape(text)}</text></revision>"


def history(*revisions: str, head: str = "<title>A</title><ns>0</ns><id>9</id>") -> str:
    return f"<page>{head}{''.join(revisions)}</page>\n"


OLD, NEW, LATER = "2001-01-01T00:00:00Z", "2024-01-01T00:00:00Z", "2044-02-01T00:00:00Z"


@pytest.mark.parametrize(
    ("revisions", "text"),
    [
        ((revision("one", OLD), revision("two", NEW)), "two"),
        ((revision("one", NEW), revision("two", OLD)), "one"),
        ((revision("one"), revision("two")), "two"),
        ((revision("one", NEW, 7), revision("two", NEW, 5)), "one"),
        ((revision("#REDIRECT [[B]]", OLD), revision("two", NEW)), "two"),
        ((revision("one", OLD), revision("#REDIRECT [[B]]", NEW)), {"redirect": 1}),
        ((revision("one", OLD), revision("", NEW)), {"empty": 1}),
        ((revision("one", NEW, more="<model>json</model>"),), {"not wikitext": 1}),
        ((revision("one \xff", OLD), revision("two", NEW)), "two"),
    ],
)
def test_of_a_history_the_newest_revision_is_read(
    revisions: tuple[str, ...], text: str | dict[str, int], tmp_path: Path
) -> None:
    data = dump(history(*revisions)).encode("latin-1")  # one revision is invalid UTF-8
    documents, counts = read("wikipedia", write(tmp_path / "a.xml", data))
    assert (documents[0].text if documents else counts) == text


@pytest.mark.slow
def test_a_history_longer_than_a_record_may_be_is_read(tmp_path: Path) -> None:
    long = [revision("line\n" * 200_000, f"20{n:02}-01-01T00:00:00Z", n) for n in range(1, 40)]
    data = dump(history(*long[:20], revision("newest", LATER, 99), *long[20:]), GOOD)
    documents, counts = read("wikipedia", write(tmp_path / "a.xml", data))
    assert [document.text for document in documents] == ["newest", "Köln ist eine Stadt."]
    assert documents[1].line == data[: data.index("Köln")].count("\n") + 1
    assert not counts


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("#REDIRECT: [[A]] {{R from move}}\nold text", False),
        ("#重定向 [[甲]]", False),
        ("#転送[[乙]]", False),
        ("#पुनर्प्रेषित [[क]]", False),
        ("#XYZ [[A]]\n[[Category:B]]", False),
        ("#First [[item]] of a list\n#Second", True),
    ],
)
def test_redirects_are_known_in_any_language(text: str, kept: bool, tmp_path: Path) -> None:
    documents, counts = read("wikipedia", write(tmp_path / "a.xml", dump(page("T", text))))
    assert (len(documents), counts) == ((1, {}) if kept else (0, {"redirect": 1}))


def test_dumps_without_namespaces_are_sorted_by_title(tmp_path: Path) -> None:
    head = "<title>{}</title><id>1</id>"
    titles = ("Datei:A", "Talk:B", "user talk:C", "Terminator: D")
    pages = [history(revision(f"text of {name}"), head=head.format(name)) for name in titles]
    documents, counts = read("wikipedia", write(tmp_path / "a.xml", dump(*pages)))
    assert [document.meta["title"] for document in documents] == ["Terminator: D"]
    assert counts == {"not an article": 3}


def test_old_names_of_namespaces_are_known_by_language(tmp_path: Path) -> None:
    text = "a[[Bild:b.jpg|c]]d[[Image:e.png|f]] [[Imagen:g|h]]"
    (german,), _ = read("wikipedia", write(tmp_path / "a.xml", dump(page("T", text))))
    assert german.text == "ad h"
    spanish = dump(page("T", text), database="eswiki")
    assert read("wikipedia", write(tmp_path / "b.xml", spanish))[0][0].text == "acd"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "windows-1252"])
def test_dumps_in_other_encodings_are_read(encoding: str, tmp_path: Path) -> None:
    name = "" if "utf-8" in encoding else f' encoding="{encoding}"'
    data = f"<?xml version='1.0'{name}?>{dump(GOOD)}".replace("\n", "\r\n").encode(encoding)
    (document,), counts = read("wikipedia", write(tmp_path / "a.xml", data))
    assert (document.text, counts) == ("Köln ist eine Stadt.", {})


def test_what_its_encoding_does_not_know_costs_the_page(tmp_path: Path) -> None:
    data = f"<?xml version='1.0' encoding='ascii'?>{dump(GOOD, page('T', 'text'))}".encode()
    documents, counts = read("wikipedia", write(tmp_path / "a.xml", data))
    assert ([document.text for document in documents], counts) == (["text"], {"invalid UTF-8": 1})
