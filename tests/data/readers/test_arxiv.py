"""arXiv: from the first section, no comments, no bibliography, the author's macros written out."""

from __future__ import annotations

import gzip
import io
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamac.data.formats.tex import Verbatim, remove_comments, remove_r_code
from llamac.data.formats.tex_macros import expand_macros
from llamac.data.readers.arxiv import paper_body
from tests.data.readers import read, write


def uncommented(text: str) -> str:
    verbatim = Verbatim()
    return verbatim.restore(remove_comments(text, verbatim))


# --- Comments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        ("a% comment\nb", "ab"),
        ("a % comment\n  b", "a b"),  # RedPajama's took the character before the sign as well
        ("a\n% whole line\nb", "a\nb"),
        ("a % comment\n\nb", "a \n\nb"),
        ("5\\% of it % comment", "5\\% of it "),
        ("a\\\\% comment\nb", "a\\\\b"),
        ("a\\\\\\% no comment", "a\\\\\\% no comment"),
        ("%first\n%second\na", "a"),
        ("\\verb|50% off| % c", "\\verb|50% off| "),
        ("\\begin{verbatim}\n% kept\n\\end{verbatim}% c", None),
        ("\\begin{lstlisting}\na % b\n\\end{lstlisting}", None),
        ("a\\begin{comment}\nb\n\\end{comment}c", "ac"),
        ("\\begin{verbatim} never closed % c", "\\begin{verbatim} never closed "),
    ],
)
def test_comments_go_and_nothing_else(tex: str, text: str | None) -> None:
    expected = tex.removesuffix("% c") if text is None else text
    assert uncommented(tex) == expected


PIECE = st.text("ab \\{}$", max_size=8).map(lambda text: text.replace("\\", "\\%"))


@given(st.lists(st.tuples(PIECE, st.text("ab%\\ {}", max_size=6)), max_size=6))
def test_of_lines_with_comments_the_text_is_left(lines: list[tuple[str, str]]) -> None:
    tex = "".join(f"x{text}%{comment}\n" for text, comment in lines)
    assert uncommented(tex) == "".join(f"x{text}" for text, _ in lines)


# --- Macros ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        ("\\newcommand{\\R}{\\mathbb{R}}$\\R^n$", "$\\mathbb{R}^n$"),
        ("\\newcommand\\R{\\mathbb R} % trailing\n$\\R$", "$\\mathbb R$"),
        ("\\renewcommand*{\\vec}[1]{\\mathbf{#1}}$\\vec{x}\\vec y$", "$\\mathbf{x}\\mathbf{y}$"),
        ("\\newcommand{\\d}[2][t]{d#2/d#1}$\\d{x},\\d[s]{x}$", "$dx/dt,dx/ds$"),
        ("\\def\\half{\\frac12}\\half", "\\frac12"),
        ("\\def\\pair#1#2{(#1,#2)}\\pair ab", "(a,b)"),
        ("\\DeclareMathOperator*{\\argmin}{arg\\,min}$\\argmin_x$",
         "$\\operatorname{arg\\,min}_x$"),
        ("\\newcommand{\\a}{\\b{1}}\\newcommand{\\b}[1]{<#1>}\\a", "<1>"),
        ("\\newcommand{\\x}{1}\\x\\renewcommand{\\x}{2}\\x", "12"),
        ("\\newcommand{\\al}{\\alpha}\\al x, \\al{}x", "\\alpha x, \\alpha x"),
        ("\\newcommand{\\sc}[1]{\\mathcal#1}\\sc{A}", "\\mathcal A"),
        ("\\newcommand{\\etal}{et al.\\xspace}Lee \\etal say", "Lee et al. say"),
        ("\\newcommand{\\p}[1]{[#1]}\\p{a{b}\\}c}", "[a{b}\\}c]"),
        # left alone: what never ends, what is TeX's own business
        ("\\def\\x{\\x}\\x", "\\x"),
        ("\\newcommand{\\a}{\\b}\\newcommand{\\b}{\\a}\\a", "\\a"),
        ("\\def\\until#1.{#1}\\until a.", "\\def\\until#1.{#1}\\until a."),
        ("\\newcommand{\\a}[1]{#1}\\a{never closed", "\\a{never closed"),
        ("\\newcommand{\\section}{\\@start}\\section{A}", "\\section{A}"),
    ],
)  # fmt: skip
def test_macros_are_written_out(tex: str, text: str) -> None:
    assert expand_macros(uncommented(tex)).strip() == text


BODY = st.lists(st.sampled_from(["a", "+", "#1", "#2"]), min_size=1, max_size=5).map("".join)
ARGUMENT = st.text("xyz", min_size=1, max_size=3)


@given(st.lists(BODY, min_size=1, max_size=4), ARGUMENT, ARGUMENT)
def test_macros_within_macros_come_out_as_substitution_says(
    bodies: list[str], first: str, second: str
) -> None:
    """Macro n hands its arguments on to macro n - 1, in exchanged order."""
    tex, expected = "", ""
    for number, content in enumerate(bodies):
        call = f"\\m{chr(96 + number)}{{#2}}{{#1}}" if number else ""
        tex += f"\\newcommand{{\\m{chr(97 + number)}}}[2]{{{content}{call}}}% defined\n"
    for number, content in enumerate(reversed(bodies)):
        pair = (first, second) if number % 2 == 0 else (second, first)
        expected += content.replace("#1", pair[0]).replace("#2", pair[1])
    use = f"\\m{chr(96 + len(bodies))}{{{first}}}{{{second}}}"
    assert expand_macros(uncommented(tex + use)).strip() == expected


@given(st.text("\\{}[]#1%\nab@", max_size=120))
def test_no_tex_is_an_error(text: str) -> None:
    prefix = "\\newcommand{\\a}[2][b]{#1#2\\b}\\def\\b#1{\\a#1}"
    paper_body(expand_macros(uncommented(remove_r_code(prefix + text))))


@pytest.mark.slow
def test_macros_that_double_forever_are_bounded() -> None:
    names = "abcdefghijklmnopqrstuvwx"
    bomb = "".join(f"\\def\\x{one}{{\\x{two}\\x{two}}}" for one, two in pairwise(names))
    assert len(expand_macros(bomb + "\\def\\xx{laugh}\\xa")) < 1 << 24


# --- What of a paper is kept -------------------------------------------------------------------


@pytest.mark.parametrize(
    "heading",
    ["\\section{A}", "\\section*{A}", "\\chapter[a]{A}", "\\paragraph{A}", "\\subparagraph{A}"],
)
def test_a_paper_begins_with_its_first_heading(heading: str) -> None:
    tex = f"\\title{{T}}\\begin{{document}}Abstract. {heading} Text.\\end{{document}} After."
    assert paper_body(tex) == f"{heading} Text."


def test_without_headings_nothing_vanishes() -> None:
    assert paper_body("\\begin{document}Letter.\\end{document}") == "Letter."
    assert paper_body("A part that another file inputs.") == "A part that another file inputs."


def test_the_bibliography_goes_and_what_follows_stays() -> None:
    entries = "\\begin{thebibliography}{9}\\bibitem{a} A.\\end{thebibliography}"
    tex = f"\\section{{A}}Text.\\section*{{References}}\n{entries}\\section{{Appendix}}More."
    assert paper_body(tex) == "\\section{A}Text.\\section{Appendix}More."
    tex = "\\section{A}Text.\\bibliographystyle{plain}\\bibliography{a,b}\\nocite{*}"
    assert paper_body(tex) == "\\section{A}Text."
    assert (
        paper_body("\\section{A}Text.\\begin{thebibliography}{9}\\bibitem cut")
        == "\\section{A}Text."
    )


# --- A paper's files ---------------------------------------------------------------------------

MAIN = (
    "\\documentclass{article}\\newcommand{\\N}{\\mathbb{N}}\\title{On \\emph{numbers}}\n"
    "\\begin{document}\\maketitle\\input{intro}\n\\include{parts/two} % \\input{not}\n"
    "\\end{document}"
)
FILES = {
    "intro.tex": "\\section{Introduction}\nOf $\\N$.",
    "main.tex": MAIN,
    "not.tex": "\\section{Not} input",
    "parts/two.tex": "\\section{Two}\n\\input{deep}",
    "parts/deep.tex": "Deep. \\input{parts/two}",
    "fig.eps": "%!PS",
}
PAPER = "\\section{Introduction}\nOf $\\mathbb{N}$.\n\\section{Two}\nDeep. \\input{parts/two}\n"


def packed(files: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return file.getvalue()


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz", "gz"])
def test_a_papers_files_are_joined(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"2301.00001.{form}"
    if form == "folder":
        for name, text in FILES.items():
            write(path / name, text)
    else:
        data = packed(FILES)
        write(path, data if form == "tar" else gzip.compress(data))
    (document,), counts = read("arxiv", path)
    assert document.text == PAPER
    assert document.meta == {"path": "main.tex", "title": "On \\emph{numbers}"}
    assert not counts


def test_a_paper_of_one_file_is_served_gzipped(tmp_path: Path) -> None:
    tex = b"\\documentclass{a}\\begin{document}\\section{A} Text.\\end{document}"
    (document,), _ = read("arxiv", write(tmp_path / "2301.00002.gz", gzip.compress(tex)))
    assert document.text == "\\section{A} Text.\n"


def test_arxivs_bulk_archives_hold_papers(tmp_path: Path) -> None:
    file = io.BytesIO()
    inner = {
        "2301/1.gz": gzip.compress(packed(FILES)),
        "2301/2.gz": gzip.compress(b"\\section{B} b"),
        "2301/3.pdf": b"%PDF",
        "2301/4.gz": gzip.compress(packed(FILES))[:-40],
        "2301/5.gz": gzip.compress(packed({"a.ps": "%!PS"})),
        "2301/6.gz": gzip.compress(b"\\section{C} caf\xe9"),
    }
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in inner.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    documents, counts = read("arxiv", write(tmp_path / "src.tar", file.getvalue()))
    assert [(document.text, document.line) for document in documents] == [
        (PAPER, 1),
        ("\\section{B} b\n", 2),
        ("\\section{C} café\n", 6),
    ]
    assert counts == {"broken gzip": 1, "no TeX in archive": 1}


def test_the_encoding_a_paper_declares_is_used(tmp_path: Path) -> None:
    tex = "\\usepackage[latin1]{inputenc}\n\\section{A} Café.".encode("latin-1")
    (document,), _ = read("arxiv", write(tmp_path / "a.tex", tex))
    assert document.text == "\\section{A} Café.\n"


def test_sweave_files_lose_their_code(tmp_path: Path) -> None:
    tex = (
        "\\section{A}\nOf \\Sexpr{n} we see\n<<echo=FALSE>>=\nx <- '@'\n  @\n@\nthat.\n"
        "<<last>>=\ny <- 1\n"
    )
    (document,), _ = read("arxiv", write(tmp_path / "a.Rnw", tex))
    assert document.text == "\\section{A}\nOf  we see\nthat.\n"
    (same,), _ = read("arxiv", write(tmp_path / "b.tex", "\\section{A}\n<<x>>=\ny"))
    assert same.text == "\\section{A}\n<<x>>=\ny\n"


def test_files_that_input_each_other_are_bounded(tmp_path: Path) -> None:
    files = {f"{n}.tex": f"\\input{{{n + 1}}}" * 50 for n in range(9)}
    files |= {"9.tex": "\\section{A}" + "text " * 200, "0.tex": "\\documentclass{a}\\input{1}" * 50}
    assert read("arxiv", write(tmp_path / "a.tar", packed(files)))[1] == {"paper too long": 1}


def test_an_archive_or_a_directory_without_a_paper_is_counted(tmp_path: Path) -> None:
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper/readme.md").write_text("no TeX")
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(tmp_path / "paper")
    (tmp_path / "zeros.tar").write_bytes(bytes(20480))
    assert read("arxiv", tmp_path / "paper") == ([], {"no TeX in directory": 1})
    assert read("arxiv", tmp_path / "pictures.tar") == ([], {"no TeX in archive": 1})
    assert read("arxiv", tmp_path / "zeros.tar") == ([], {"empty archive": 1})
