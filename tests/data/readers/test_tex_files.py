"""arXiv: encodings of old papers, files within files, percent signs that begin no comment."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llamac.data.formats.decoding import decode_text
from llamac.data.formats.tex import Verbatim, dialect, remove_comments
from llamac.data.formats.tex_macros import expand_macros
from llamac.data.readers.arxiv import PAPER_CHARS, join_inputs, paper_body
from tests.data.readers import assert_linear, read, write


def uncommented(text: str) -> str:
    verbatim = Verbatim()
    return verbatim.restore(remove_comments(text, verbatim, dialect([text])))


@pytest.mark.parametrize(
    "tex",
    [
        r"\url{https://a.example/my%20code/v1}",
        r"\href{https://b.example/x%2Fy}{our page}",
        r"\href[pdfnewwindow]{https://b.example/x%2Fy}{our page}",
        r"\path{C:/50%/x} and \nolinkurl{a%20b} and \url|c%20d|",
        r"\lstinline|a % b| and \lstinline[language=C]!x % 2! and \lstinline{a % {b}}",
        r"\mintinline{py}{x % 2} and \mintinline[x=y]{c}|x % 2|",
        r"\verb|50% off| and \verb*!%! and \verb@%@",
        r"\url{a%20b{c}d}",
        r"\footnote{\url{a\%20b}}",
    ],
)
def test_a_percent_sign_in_an_address_or_code_begins_no_comment(tex: str) -> None:
    assert uncommented(f"{tex} more % comment\nnext") == f"{tex} more next"
    assert uncommented(f"{tex} more % comment\r\nnext".replace("\r\n", "\n")).endswith("more next")


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        ("\\url{http://a/%\n  b} c", "\\url{http://a/b} c"),
        ("\\url{never closed % c\n\nd", "\\url{never closed \n\nd"),
        ("\\path (0,0) -- (1,1); % c", "\\path (0,0) -- (1,1); "),
        ("\\\\url{a% c\n}", "\\\\url{a}"),
        ("\\verb|never closed % c\n|", "\\verb|never closed |"),
        ("\\lstMakeShortInline[x=y]{\\|}\n|a % b| c% d",
         "\\lstMakeShortInline[x=y]{\\|}\n|a % b| c"),
        ("\\DeclareUrlCommand\\site{}\n\\site{a%b} c% d",
         "\\DeclareUrlCommand\\site{}\n\\site{a%b} c"),
        ("\\newcommand{\\code}{\\lstinline}\n\\code|a % b| c% d",
         "\\newcommand{\\code}{\\lstinline}\n\\code|a % b| c"),
        ("\\lstnewenvironment{prog}{}{}\n\\begin{prog}\n% a\n\\end{prog}% b",
         "\\lstnewenvironment{prog}{}{}\n\\begin{prog}\n% a\n\\end{prog}"),
        ("\\begin{filecontents*}{a.bib}\n\\end{document}\n\\end{filecontents*}b", "b"),
    ],
)  # fmt: skip
def test_what_is_verbatim_and_what_is_not(tex: str, text: str) -> None:
    assert uncommented(tex) == text


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"\urldef{\home}\url{http://a/%7Eb}See \home.", r"See \url{http://a/%7Eb}."),
        (r"\urldef\home\path{http://a/b}See \home{}!", r"See \path{http://a/b}!"),
        (r"\newcommand{\doc}[1]{\url{http://a/#1}}\doc{b}", r"\url{http://a/b}"),
    ],
)
def test_addresses_with_names_are_written_out(tex: str, text: str) -> None:
    verbatim = Verbatim()
    assert verbatim.restore(expand_macros(remove_comments(tex, verbatim))) == text


# --- Encodings ---------------------------------------------------------------------------------

RUSSIAN, CZECH, FRENCH = "Привет мир.", "Příliš žluťoučký kůň.", "Le café de Poincaré, où « là »."


@pytest.mark.parametrize(
    ("options", "codec", "text"),
    [
        ("cp1251", "cp1251", RUSSIAN),
        ("koi8-r", "koi8-r", RUSSIAN),
        ("koi8-u", "koi8-u", RUSSIAN),
        ("cp866", "cp866", RUSSIAN),
        ("maccyr", "mac-cyrillic", RUSSIAN),
        ("cp1250", "cp1250", CZECH),
        ("latin2", "iso8859-2", CZECH),
        ("cp852", "cp852", CZECH),
        ("latin1", "cp1252", FRENCH),
        ("applemac", "mac-roman", FRENCH),
        ("cp850", "cp850", FRENCH),
        ("latin9", "iso8859-15", "cœur, 5 €"),
        ("latin5", "iso8859-9", "Şişli"),
        ("latin10", "iso8859-16", "Știință"),
        ("ansinew", "cp1252", "5 € “là”"),
        ("latin1,utf8", "latin1", FRENCH),
        ("utf8x", "utf-8", RUSSIAN),
        ("utf8,\n  koi8-r % old\n", "koi8-r", RUSSIAN),
    ],
)
def test_every_encoding_that_inputenc_knows_is_read(
    options: str, codec: str, text: str, tmp_path: Path
) -> None:
    head = f"% \\usepackage[cp437]{{inputenc}}\n\\usepackage[{options}]{{fontenc,inputenc}}\n"
    tex = f"{head}\\begin{{document}}\n\\section{{A}} {text}\n\\end{{document}}\n\x1a"
    data = tex.replace("\n", "\r\n").encode(codec)
    (document,), counts = read("arxiv", write(tmp_path / "a.tex", data))
    assert (document.text, counts) == (f"\\section{{A}} {text}\n", {})


@pytest.mark.parametrize("codec", ["cp1252", "mac-roman", "cp850", "utf-16"])
def test_undeclared_latin_letters_are_read(codec: str, tmp_path: Path) -> None:
    text = "\\section{A} Poincaré, Schrödinger, français, où, Erdős".replace("ő", "ö")
    (document,), _ = read("arxiv", write(tmp_path / "a.tex", text.encode(codec)))
    assert document.text == text + "\n"


def test_a_file_may_change_its_encoding_itself(tmp_path: Path) -> None:
    data = b"\\section{A} \\inputencoding{koi8-r}" + RUSSIAN.encode("koi8-r")
    data += b" \\inputencoding{latin1}" + "café".encode("latin1")
    (document,), _ = read("arxiv", write(tmp_path / "a.tex", data))
    assert RUSSIAN in document.text
    assert document.text.endswith("café\n")


def test_a_papers_files_have_the_encoding_it_declares(tmp_path: Path) -> None:
    main = "\\documentclass{a}\\usepackage[cp1251]{inputenc}\\begin{document}\\input{b}"
    write(tmp_path / "paper/main.tex", main)
    write(tmp_path / "paper/b.tex", f"\\section{{A}} {RUSSIAN}".encode("cp1251"))
    (document,), _ = read("arxiv", tmp_path / "paper")
    assert document.text == f"\\section{{A}} {RUSSIAN}\n"


def test_an_odd_byte_costs_itself_and_noise_is_left_out() -> None:
    assert decode_text("naïve café ".encode() * 9 + b"\xe9") == "naïve café " * 9 + "é"
    assert decode_text(b"a\x02 caf\xe9") == "a café"
    assert decode_text(RUSSIAN.encode("koi8-r")) is None
    assert decode_text(bytes(range(1, 256)) * 9) is None
    assert decode_text(b"caf\xe9", ["next"]) is None


def test_what_is_no_tex_is_left_out(tmp_path: Path) -> None:
    for name, data in {
        "ps": b"%!PS-Adobe \\x",
        "html": b"<html>\\x",
        "txt": b"no commands",
    }.items():
        path = write(tmp_path / f"{name}.gz", gzip.compress(data))
        assert read("arxiv", path) == ([], {"not TeX": 1})
    group = write(tmp_path / "a.gz", gzip.compress(b"{\\bf a}"))
    assert read("arxiv", group)[0][0].text == "{\\bf a}\n"
    sweave = gzip.compress(b"<<x>>=\ny\n@\n\\section{A}")
    assert read("arxiv", write(tmp_path / "a.Rnw.gz", sweave))[0][0].text == "\\section{A}\n"
    noise = write(tmp_path / "noise.tex", bytes(range(1, 256)) * 9)
    assert read("arxiv", noise) == ([], {"unknown encoding": 1})


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, None]
)
def test_tars_of_all_ages_are_known(form: int | None, tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form or 0) as archive:
        member = tarfile.TarInfo("main.tex")
        data = b"\\documentclass{a}\\begin{document}\\section{A} b"
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    packed = bytearray(file.getvalue())
    if form is None:  # neither magic nor owners; the checksum is of what is left
        packed[257:500] = bytes(243)
        packed[148:156] = b" " * 8
        packed[148:156] = b"%06o\0 " % sum(packed[:512])
    (document,), _ = read("arxiv", write(tmp_path / "2301.1", gzip.compress(bytes(packed))))
    assert document.text == "\\section{A} b\n"


# --- Files within files ------------------------------------------------------------------------

SUB = "\\documentclass[main]{{subfiles}}\n\\begin{{document}}\n{}\n\\end{{document}}\nAfter."


def whole(files: dict[str, str]) -> str:
    text = join_inputs(files)[1]
    assert text is not None
    return " ".join(paper_body(text).split())


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("\\subfile{ch}", "ch.tex"),
        ("\\subfileinclude{ch}", "ch.tex"),
        ("\\input{ch}", "ch.tex"),
        ('\\input{"ch.tex"}', "ch.tex"),
        ("\\input ch ", "ch.tex"),
        ("\\input{./ch}", "ch.tex"),
        ("\\input{%\nch}".replace("%\n", " "), "ch.tex"),
        ("\\include{part/ch}", "part/ch.tex"),
        ("\\import{part/}{ch}", "part/ch.tex"),
        ("\\import*{part/}{ch.tex}", "part/ch.tex"),
        ("\\subimport{./part/}{ch}", "part/ch.tex"),
        ("\\includefrom{part}{ch}", "part/ch.tex"),
        ("\\includestandalone[width=1cm]{ch}", "ch.tex"),
        ("\\InputIfFileExists{ch.tex}", "ch.tex"),
    ],
)
def test_a_file_is_put_where_it_is_input(call: str, name: str) -> None:
    main = (
        f"\\documentclass{{a}}\\begin{{document}}\\section{{A}} one {call} three\\end{{document}} x"
    )
    for text in (
        "two",
        "two\n\\endinput\nnot",
        SUB.format("two"),
        SUB.format("two").replace("main", ""),
    ):
        assert whole({"main.tex": main, name: text}) == "\\section{A} one two three"


def test_imported_files_name_others_from_their_own_folder() -> None:
    files = {
        "main.tex": "\\documentclass{a}\\begin{document}\\import{a/}{b}\\input{c}\\end{document}",
        "a/b.tex": "\\subimport{d}{e} \\input{c}",
        "a/c.tex": "a-c ",
        "a/d/e.tex": "\\input{c}",
        "a/d/c.tex": "a-d-c",
        "c.tex": "c",
    }
    assert whole(files) == "a-d-c a-c c"
    assert whole({f"deep/{name}": text for name, text in files.items()}) == "a-d-c a-c c"


def test_what_stands_after_a_subfile_stays(tmp_path: Path) -> None:
    main = (
        "\\documentclass{article}\n\\begin{document}\n\\section{A} Before.\n\\subfile{one}\n"
        "\\section{B} Between.\n\\subfile{two}\nAfter.\n\\end{document}\nNot this."
    )
    for name, text in {"main": main, "one": SUB.format("1"), "two": SUB.format("2")}.items():
        write(tmp_path / f"paper/{name}.tex", text.replace("\n", "\r\n"))
    (document,), counts = read("arxiv", tmp_path / "paper")
    assert document.text.split() == (
        ["\\section{A}", "Before.", "1", "\\section{B}", "Between.", "2", "After."]
    )
    assert document.meta["path"] == "main.tex"
    assert not counts


# --- Bounds ------------------------------------------------------------------------------------

WORKS: dict[str, Callable[[int], object]] = {
    "input": lambda size: join_inputs(
        {"a": "\\input{" + " " * size, "b": "\\input{ x" + " " * size}
    ),
    "inputs": lambda size: join_inputs({"a": "\\input{" * size}),
    "imports": lambda size: join_inputs({"a": "\\import{a}" * size}),
    "nocite": lambda size: paper_body("\\nocite" + " " * size),
    "bibliography": lambda size: paper_body("\\bibliography[" * size),
    "section": lambda size: paper_body("\\section*" + " " * size),
    "references": lambda size: paper_body("\\section{references}" + " " * size),
    "begin": lambda size: paper_body("\\begin" + " " * size),
    "verb": lambda size: uncommented(
        "".join(f"\\verb{chr(0x4E00 + n % 9999)}" for n in range(size))
    ),
    "url": lambda size: uncommented("\\url{" * size),
    "braces": lambda size: uncommented("\\url{{}" * size),
    "lstinline": lambda size: uncommented("\\lstinline[" * size),
    "comments": lambda size: uncommented("  %" * size + "\n" + "%" + " " * size),
    "spaces": lambda size: uncommented((" " * 9 + "\n") * size + "\\verb" + " " * size + "%"),
    "environments": lambda size: uncommented("\\begin{verbatim}" * size),
    "commands": lambda size: uncommented("\\newcommand{" * size + "\\let" + " " * size),
    "urldef": lambda size: expand_macros("\\urldef\\a" * size + " " * size),
    "odd bytes": lambda size: decode_text(b"\xe9 " * size),
    "odd runs": lambda size: decode_text(b"\xc3\xa9\xe9" * size),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
@pytest.mark.timeout(60)
def test_repetition_takes_linear_time(name: str) -> None:
    assert_linear(WORKS[name], 10_000)


@pytest.mark.parametrize(
    "tex",
    ["\\title" * 9_000, "\\title{" * 9_000, "\\title{a{" * 9_000, "\\title" + " " * 90_000],
)
@pytest.mark.timeout(60)
def test_titles_take_no_time(tex: str, tmp_path: Path) -> None:
    def work(size: int) -> None:
        read("arxiv", write(tmp_path / "a.tex", tex[: len(tex) * size // 4] + "\\section{A} b"))

    assert_linear(work, 1)


@pytest.mark.parametrize("text", ["", "\\input{empty}"])
def test_inputs_of_nothing_are_bounded_by_the_work_they_make(text: str) -> None:
    """40 ** 8 files of no length are no more to read than one, but would take for ever."""
    files = {f"{n}.tex": f"\\input{{{n + 1}}}" * 40 for n in range(8)}
    files |= {"8.tex": text, "empty.tex": "", "0.tex": "\\documentclass{a}" + "\\input{1}" * 40}
    assert join_inputs(files) == ("0.tex", None)


def test_verbatim_text_that_a_macro_repeats_is_bounded(tmp_path: Path) -> None:
    long = "\\begin{verbatim}" + "x" * (1 << 20) + "\\end{verbatim}"
    tex = f"\\section{{A}}\\newcommand{{\\a}}{{{long}}}" + "\\a " * (PAPER_CHARS >> 19)
    assert read("arxiv", write(tmp_path / "a.tex", tex)) == ([], {"paper too long": 1})
