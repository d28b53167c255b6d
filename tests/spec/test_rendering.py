"""What a user reads, to the letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from llamac.spec import SpecError, load_spec
from tests.spec.conftest import VALID

Errors = Callable[..., str]


def text(expected: str) -> str:
    return dedent(expected).strip()


def test_everything_at_once_in_order(errors: Errors) -> None:
    broken = VALID.replace("n_heads = 4", "n_head = 4").replace('kind = "files"', 'kind = "file"')
    broken += '\n[eval]\nevery = "10"\nlr = 1\n'
    assert errors(broken, "model.dmi=3", "log.every=true") == text(
        """
        run.toml:1:1: error: `n_heads` is required in [model]
          [model]
          ^^^^^^^
          help: Query heads per layer.

        run.toml:4:1: error: `n_head` is not a key of [model]
          n_head = 4
          ^^^^^^
          help: did you mean `n_heads`?

        run.toml:14:8: error: `kind` must be "python-docs", "python-source", "files", \
"commoncrawl", "c4", "github", "wikipedia", "books", "arxiv", "stackexchange", "tokens", \
"supervised" or "preferences", not the string "file"
          kind = "file"
                 ^^^^^^
          help: did you mean "files"?

        run.toml:31:9: error: `every` must be a whole number, not the string "10"
          every = "10"
                  ^^^^
          help: write 10 without quotes

        run.toml:32:1: error: `lr` is not a key of [eval]
          lr = 1
          ^^
          help: `lr` belongs in [optimizer]

        --set:1:1: error: `dmi` is not a key of [model]
          model.dmi=3
          ^^^^^^^^^
          help: did you mean `dim`?

        --set:1:11: error: `every` must be a whole number, not the boolean true
          log.every=true
                    ^^^^
        """
    )


def test_missing_sections_say_what_they_need(errors: Errors) -> None:
    assert errors("seed = 1\n") == text(
        """
        run.toml: error: the section [model] is missing
          help: it needs `dim` and `n_layers` and `n_heads`

        run.toml: error: the section [data] is missing
          help: it needs one [[data.source]] or more

        run.toml: error: the section [optimizer] is missing
          help: it needs `lr`

        run.toml: error: the section [schedule] is missing
          help: it needs `steps` or `tokens`

        run.toml: error: the section [batch] is missing
          help: it needs `tokens` or `sequences`
        """
    )


def test_syntax_errors(errors: Errors) -> None:
    assert errors("[model]\ndim = 64\nn_layers = two\n") == text(
        """
        run.toml:3:12: error: not valid TOML: invalid value
          n_layers = two
                     ^
          help: quote strings, put table names in [brackets], leave numbers and true/false unquoted
        """
    )


def test_tabs_wide_characters_and_control_characters_keep_the_caret_in_place(
    errors: Errors,
) -> None:
    broken = VALID + '\n[eval]\n\tprompt = "漢字", # \n'
    assert '  \tprompt = "漢字", # \n  \t               ^' in errors(broken)
    hostile = VALID + '\n["\\u001b[31m"]\n'
    assert "\x1b" not in errors(hostile)
    assert r'`"\u001b[31m"` is not a section or key of a spec' in errors(hostile)
    assert "\x1b" not in errors(VALID + "x = '\x1b[31m'\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run.toml: error: cannot read the spec: no such file or directory"),
        (b"\xff\xfe[\x00", "run.toml:1:1: error: not a text file in UTF-8: byte 0xff here"),
        (b"[model]\ndim = 1 # caf\xe9\n", "run.toml:2:14: error: not a text file in UTF-8"),
        (b"x = " + b"[" * 5000, "run.toml: error: nested too deeply to be a spec"),
        (b"x = " + b"9" * 5000, "run.toml:1:5: error: not valid TOML: this number has too many"),
        (b"#" * 2**21, "run.toml: error: larger than 1048576 bytes"),
        (b"a" + b".a" * 5000 + b" = 1", "run.toml:1:1: error: `a` is not a section or key"),
        (b"model = 3", "[model] must be a table, not 3"),
    ],
)
def test_files_that_are_no_specs(here: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (here / "run.toml").write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_spec("run.toml")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "a\0b", "x" * 5000, "run.toml/inside", "/"])
def test_paths_that_are_no_files(here: Path, name: str) -> None:
    (here / "run.toml").write_text(VALID)
    with pytest.raises(SpecError, match=r"cannot read the spec"):
        load_spec(name)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(here: Path) -> None:
    (here / "run.toml").write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())
    assert load_spec("run.toml").where("model.dim") == "run.toml:2"


def test_a_name_that_cannot_be_a_directory(here: Path) -> None:
    (here / "my run!.toml").write_text(VALID)
    with pytest.raises(SpecError, match='give a name at its top: name = "my-run"'):
        load_spec("my run!.toml")
    (here / "my run!.toml").write_text('name = "my-run"\n' + VALID)
    assert load_spec("my run!.toml").name == "my-run"


def test_a_licence_that_does_not_exist(errors: Errors) -> None:
    stage = (
        '\n[[data.source.stage]]\nstage = "licence"\nallowed = ["MIT", "GLP", "LicenseRef-own"]\n'
    )
    head, found, tail = VALID.partition('kind = "files"')
    section = next(line for line in tail.split("\n\n") if line)
    broken = head + found + section + "\n" + stage + tail[len(section) :]
    message = errors(broken)
    assert '`allowed` has the string "GLP", which is not an SPDX licence identifier' in message
    assert "help: did you mean `GPL`?" in message
    assert message.count("error:") == 1
