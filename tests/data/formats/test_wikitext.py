"""Wikitext: what a reader sees of templates, what odd markup costs, what repetition costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamac.data.formats.wikitext import plain
from llamac.data.readers.wikipedia import _is_redirect, cited_addresses
from tests.data.readers import assert_linear, read, write

DROPPED = frozenset(("file", "image", "category"))

SHOWN = [
    ("en", "The town had {{formatnum:12345}} people in {{As of|2010|lc=y}}.",
     "The town had 12345 people in as of 2010."),
    ("en", "{{As of|2012|12|31}}, it is {{val|5.3|0.2|e=3|u=kg}} or {{frac|2|1|3}} lb.",
     "As of 31 December 2012, it is 5.3±0.2×10^3 kg or 2 1/3 lb."),
    ("en", "From {{convert|5|to|10|km|mi}}, {{convert|6|ft|2|in|m}}, {{Cvt|3|km2}}.",
     "From 5 to 10 km, 6 ft 2 in, 3 km²."),
    ("en", "{{chem|H|2|O}}, {{math|1=''x'' = 2}}, {{IPAc-en|lang|æ|_|ˈ|b}}, {{lang-la|Opus}}",
     "H2O, x = 2, /æ ˈb/, Opus"),
    ("en", "vowels such as {{IPA|a}}, {{IPA|fr|e}}, {{IPA-fr|i}}, and o",
     "vowels such as a, e, [i], and o"),
    ("en", "{{ill|A Person|fr|lt=She}} and {{Interlanguage link|B|de}} ({{circa|1850}})",
     "She and B (c. 1850)"),
    ("en", "({{birth date|1970|5|3|df=y}}) {{birth date and age|1971|6|4}}, {{dts|1999-01-02}}",
     "(3 May 1970) June 4, 1971, January 2, 1999"),
    ("en", "He said:\n{{Blockquote\n| text = One <br> two\n| author = B\n}}\nThen",
     "He said:\n\nOne\ntwo\n\nThen"),
    ("en", "a{{nbsp}}b{{snd}}c{{'s}} {{abbr|CPU|x}} {{USS|Hornet|CV-12}} {{small|d}}",
     "a b – c's CPU USS Hornet d"),
    ("en", "He<sup>a</sup> 10<sup>6</sup> 10<sup>−7</sup> HSO<sub>4</sub><sup>−</sup>",
     "Hea 10^6 10^−7 HSO4−"),
    ("en", "A {{citation|title=x}}{{cite web|url=u}} b{{r|c}}", "A b"),
    ("fr", "Elle culmine à {{unité|2000|m}} au {{s-|XIX|e}}, le {{date|3|mai|1820}}.",
     "Elle culmine à 2000 m au XIXe siècle, le 3 mai 1820."),
    ("fr", "{{citation|Oui}} au {{XIXe siècle}}, XX{{e}}, {{nobr|{{nombre|12345|habitants}}}}",
     "« Oui » au XIXe siècle, XXe, 12345 habitants"),
    ("de", 'Der {{"|Satz}} ({{enS|word}}) {{FormatNum|3}}', "Der „Satz“ (word) 3"),
    ("ru", "Слово ({{lang-en|word}}), {{нп5|А|Б|en|C}}, {{число|12}}", "Слово (word), Б, 12"),
    ("ja", "{{読み仮名|漢字|かな}}と{{仮リンク|甲|en|A|label=乙}}", "漢字（かな）と乙"),
    ("zh", "这是-{zh-hans:计算机;zh-hant:電腦}-。-{H|zh-cn:甲;zh-tw:乙}-"
     "-{丙}--{zh-tw:丁;zh-hk:戊}-",
     "这是计算机。丙丁"),
    ("sr", "-{sr-el:Beograd;sr-ec:Београд}- је -{A|a}-", "Београд је a"),
    # what is not known: within a sentence, an only argument that is a word
    ("xx", "Word {{bqzx|shown}} and {{foo|a|b}} ({{bar|c=d}}) {{baz|12}} {{q|http://a.org/b}}.",
     "Word shown and."),
    ("xx", "Text {{#tag:ref|gone}} {{#if:x|gone}}.", "Text."),
    ("en", "{{lang|fr|{{bqzx|mot}}|italic=no}} ({{transl|ar|ALA|Allāh}}{{langx|fr|}})",
     "mot (Allāh)"),
    ("xx", "{{Hatnote|gone}} Text.{{note|gone}}\n* {{flag|x}} [[B]]", "Text.\n- x B"),
    ("", "{{unité|5|m}} {{citation|a=b|c}} {{convert|5|km}}", "5 m 5 km"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "wikitext", "text"), SHOWN)
def test_what_a_reader_sees_of_templates_is_kept(language: str, wikitext: str, text: str) -> None:
    assert plain(wikitext, DROPPED, language) == text
    assert plain(wikitext.replace("\n", "\r\n"), DROPPED, language) == text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        # an extension's tag ends at the next closing one, whatever it holds
        ("a<ref>b {{c</ref> d", "a d"),
        ("a<ref>b [[c</REF > d", "a d"),
        ("a<ref name = 'a b' / > b<ref name=c/> d<ref group=\"n\" />", "a b d"),
        ("a<ref name=b> c.\n\nd<ref>e</ref> f", "a c.\n\nd f"),
        ("a<ref>b\n== C ==\nd<ref>e</ref>", "ab\n\nC\n\nd"),
        ("a<ref>b", "ab"),
        ("a<references> b", "a b"),
        ("<references>\n<ref name=a>b</ref>\n</references>\nc", "c"),
        ("a <math>b", "a b"),
        ("a <math>\\frac{{b}}{c}\n|x|</math> d", "a \\frac{{b}}{c} |x| d"),
        ("a<gallery>\nFile:A.jpg|b\n</gallery>\nc", "a\nc"),
        ("a<nowiki/>b<nowiki />c", "abc"),
        ("<poem>a\nb</poem>", "a\nb"),
        ("<code>a[i]</code> and <code><nowiki>[[b]]</nowiki></code>", "a[i] and [[b]]"),
        ('<syntaxhighlight lang="x">\na = "{{b|c}}"\n</syntaxhighlight>', 'a = "{{b|c}}"'),
        ("{{nowrap|<nowiki>a=b|c</nowiki>}} {{small|[http://a?b=c d=e]}}", "a=b|c d=e"),
        # brackets that are never closed are text, and hide nothing
        ("a {{b|c\n\nd\n== E ==\nf", "a b|c\n\nd\n\nE\n\nf"),
        ("{{Infobox\n| a = b\n\ntext\n== C ==\nd", "Infobox\n\ntext\n\nC\n\nd"),
        ("a [[File:b.jpg|c\n\nd", "a File:b.jpg|c\n\nd"),
        ("a\n{| class=b\n| c\n\nd", "a\n\nd"),
        # links and switches
        ("[[mw:Help|help]] [[doi:10.1|doi]] [[s:A|b]] [[wikt:c|c]]", "help doi b c"),
        ("a\n__KEIN_INHALTSVERZEICHNIS__\n__目次非表示__\n__TOC__ b __FILE__ c __init__ d",
         "a\n\nb __FILE__ c __init__ d"),
        ("a（{{x}}）b ( ; ) c", "ab c"),
    ],
)  # fmt: skip
def test_odd_markup_costs_itself(wikitext: str, text: str) -> None:
    assert plain(wikitext, DROPPED) == text


REPEATED = (
    "{{", "[[", "<ref>", "<ref name=a>", "\n{|", "[http://a ", "<!--", "<nowiki>", "<math>", "'",
    "-{", "(", ",", ", ", "{{a|", "[[a|", "[[File:a|", "<a ", "-{a;", "{{a\n==b\n", "<sup>", "__A",
    "\n#a",
)  # fmt: skip
PREFIXES = (
    "[[",
    "[[a",
    "{{",
    "<ref",
    "<ref>a</ref",
    "#a",
    "#a [[b]]",
    "-{zh",
    "a,",
    "{{convert|5|",
)


@pytest.mark.slow
@pytest.mark.parametrize("piece", REPEATED)
@pytest.mark.timeout(60)
def test_what_is_repeated_takes_linear_time(piece: str) -> None:
    """Of 100,000 any square would take hours, as mwparserfromhell's of `<ref>` does."""
    for end in ("", "</nowiki>-->", "</ref>"):
        assert_linear(lambda size, end=end: plain(piece * size + end, DROPPED), 3_000)
        assert_linear(lambda size, end=end: list(cited_addresses(piece * size + end)), 3_000)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.timeout(60)
def test_spaces_take_linear_time(prefix: str) -> None:
    assert_linear(lambda size: plain(prefix + " " * size + "x", DROPPED), 20_000)
    assert_linear(lambda size: _is_redirect(prefix + " " * size + "x"), 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["<page>", "<siteinfo>", "<mediawiki ", "<page><revision>"])
@pytest.mark.timeout(60)
def test_a_dumps_tags_repeated_take_linear_time(piece: str, tmp_path: Path) -> None:
    def work(size: int) -> None:
        read("wikipedia", write(tmp_path / "a.xml", piece * size))

    assert_linear(work, 20_000)
