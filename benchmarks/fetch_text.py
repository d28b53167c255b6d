"""Fetches real text of seven kinds from Debian and PyPI packages, for specs/llama-mix-small.toml.

    python benchmarks/fetch_text.py [FOLDER]     default: ~/.cache/llamac-text, 400 MB

Packages come by `apt-get download` and `pip download`, which this machine must be set up for, and
are only unpacked: nothing is installed. They stand for dumps that no machine here has:

    commoncrawl     templated pages: C++ reference, SQLite, an installation guide in many languages
    c4              pages of prose: the Python documentation, Debian's handbook
    github          Go and Rust source, with machine-readable licences
    wikipedia       a piece of the English and of the Bulgarian dump (gensim's test data)
    books           Jane Austen's novels
    arxiv           papers on R packages, in LaTeX
    stackexchange   the Perl FAQ, written as a site's Posts.xml

Two come in wrappings that are none of the dumps': the novels are taken out of R's data base, the
FAQ is put into the form of Posts.xml. Run it again to fetch what is missing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from html import escape
from pathlib import Path

R_PACKAGES = (
    *("sandwich", "zoo", "coin", "party", "lme4", "surveillance", "flexmix", "spacetime"),
    *("pscl", "strucchange"),
)
GO = (
    *("spf13-cobra", "pkg-errors", "gorilla-mux", "google-uuid", "stretchr-testify"),
    *("sirupsen-logrus", "prometheus-common", "hashicorp-hcl", "gin-gonic-gin", "go-chi-chi"),
)
RUST = ("serde", "rand", "regex", "clap", "log", "itertools", "rayon", "bytes", "chrono", "nom")
DEBIAN = {
    "commoncrawl": ("cppreference-doc-en-html", "sqlite3-doc", "installation-guide-amd64"),
    "c4": ("python3.11-doc", "debian-handbook"),
    "github": (*(f"golang-github-{n}-dev" for n in GO), *(f"librust-{n}-dev" for n in RUST)),
    "books": ("r-cran-janeaustenr",),
    "arxiv": tuple(f"r-cran-{name}" for name in R_PACKAGES),
    "stackexchange": ("perl-doc",),
}
DUMPS = re.compile(r"gensim/test/test_data/(en|bg)wiki-.*\.xml.*\.bz2")
NOVELS = 50_000  # bytes: what is shorter in R's data base is no novel


def main(folder: Path) -> None:
    for kind, packages in DEBIAN.items():
        for package in packages:
            target = folder / kind / package
            if not target.exists():
                debian(package, target)
    wikipedia(folder / "wikipedia")
    novels(folder / "books")
    faq(folder / "stackexchange")


def debian(package: str, target: Path) -> None:
    """Unpacks a package into `target`. One that this release of Debian lacks is left out."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        files = list(Path(scratch).glob("*.deb"))
        if done.returncode or not files:
            print(f"{package}: {(done.stderr or 'not found').strip().splitlines()[-1]}")
            return
        unpacked = target.with_name(target.name + ".new")
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", str(files[0]), str(unpacked)], check=True)
        unpacked.rename(target)
        print(f"{package}: {target}")


def wikipedia(target: Path) -> None:
    """The dumps in gensim's wheel."""
    if any(target.glob("*.bz2")):
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "gensim"]
        subprocess.run([*command, "--only-binary=:all:", "-d", scratch], check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for name in filter(DUMPS.fullmatch, wheel.namelist()):
                (target / Path(name).name).write_bytes(wheel.read(name))
                print(f"gensim: {target / Path(name).name}")


def novels(target: Path) -> None:
    """R's data base: the length of what follows once it is inflated, then a zlib stream, again and
    again. A novel in it is a vector of strings: each a header, its length, its bytes."""
    number = 0
    for found in sorted(target.glob("*/**/janeaustenr/data/Rdata.rdb")):
        data = found.read_bytes()
        while len(data) > 4:
            inflated = zlib.decompressobj()
            text = "\n".join(_strings(inflated.decompress(data[4:])))
            data = inflated.unused_data
            if len(text) > NOVELS:
                number += 1
                (target / f"novel-{number}.txt").write_text(text + "\n", encoding="utf-8")


def _strings(data: bytes) -> Iterator[str]:
    at = data.find(b"\x00\x00\x00\x10")  # the vector of strings
    while 0 <= (at := data.find(b"\x00\x04\x00\x09", at)) < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "big", signed=True)
        yield data[at + 8 : at + 8 + max(size, 0)].decode("utf-8", "replace")
        at += 8 + max(size, 0)


def faq(target: Path) -> None:
    """Each question of the Perl FAQ as a post, its answer as another."""
    pods = sorted(target.glob("perl-doc/**/perlfaq?.pod"))
    site = target / "perlfaq"
    if not pods:
        return
    site.mkdir(exist_ok=True)
    with (site / "Posts.xml").open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<posts>\n')
        for number, (title, answer) in enumerate(_questions(pods)):
            question, reply = 2 * number + 1, 2 * number + 2
            file.write(
                f'  <row Id="{question}" PostTypeId="1" AcceptedAnswerId="{reply}" Score="1" '
                f'Title="{_attribute(title)}" Body="" />\n'
                f'  <row Id="{reply}" PostTypeId="2" ParentId="{question}" Score="{number % 40}" '
                f'Body="{_attribute(answer)}" />\n'
            )
        file.write("</posts>\n")


def _questions(pods: list[Path]) -> Iterator[tuple[str, str]]:
    """(title, answer as HTML) of each section of the second level."""
    for pod in pods:
        for section in re.split(r"^=head2 ", pod.read_text(encoding="latin-1"), flags=re.M)[1:]:
            title, _, text = section.partition("\n")
            text = re.split(r"^=head1", text, flags=re.M)[0]
            blocks = re.split(r"\n(?:[ \t]*\n)+(?=\S)", text.strip("\n"))
            yield _plain(title), "\n\n".join(filter(None, map(_html, blocks)))


def _html(block: str) -> str:
    """A paragraph of pod, or one with the code that follows it."""
    prose, _, code = re.split(r"(^|\n\n)(?=[ \t])", f"{block}\n\n ", maxsplit=1)
    text = "" if prose.startswith("=") else escape(_plain(prose))
    parts = [f"<p>{text}</p>"] if text else []
    if code.strip():
        parts.append(f"<pre><code>{escape(code.rstrip())}\n</code></pre>")
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Without the markup of pod: `C<code>`, `L<page>`, entries of its index."""
    previous, text = "", re.sub(r"\bX<[^<>]*>|(?<=\bL<)/|\n(?=X<)", "", text)
    text = text.replace("E<lt>", "\0").replace("E<gt>", "\1")
    while previous != text:
        previous, text = text, re.sub(r"\b[A-Z]<+\s?([^<>]*?)\s?>+", r"\1", text)
    return text.replace("\0", "<").replace("\1", ">").strip()


def _attribute(text: str) -> str:
    """As the dumps have it: a line's end that is not escaped would be read as a space."""
    return escape(text).replace("\n", "&#xA;")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "~/.cache/llamac-text").expanduser())
