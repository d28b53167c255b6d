"""Nobody waits without a word, and what is there already is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamac.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("build tiny -o {tmp}/b", "building tiny into {tmp}/b …"),
        ("inspect tiny --region block", "compiling tiny …"),
        ("verify tiny", "compiling a small twin of tiny …"),
        ("train tiny --set tokenizer.path={tmp}/gone -o {tmp}/r", "building tiny into {tmp}/r …"),
    ],
)
def test_a_word_comes_before_what_takes_long(
    words: str, first: str, tmp_path: Path, capsys: Captured
) -> None:
    main(words.format(tmp=tmp_path).split())
    assert capsys.readouterr().err.splitlines()[0] == first.format(tmp=tmp_path)


def test_a_preparation_says_what_is_there_the_first_time_and_the_next(
    tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"Words of {n}." for n in range(900)))
    (tmp_path / "run.toml").write_text(
        'extends = "tiny"\n[model]\nvocab_size = 320\n[data]\nvalidation = 0.5\n'
        '[[data.source]]\nname = "a"\nkind = "files"\npaths = ["*.txt", "*.md"]\nshare = 1\n'
        '[[data.source.stage]]\nstage = "length"\nmin_chars = 1\n'
    )
    for n in range(40):
        (tmp_path / f"{n}.md").write_text(f"Many words about {n} and what comes after it.")
    command = ["data", "prepare", str(tmp_path / "run.toml"), "--run", str(tmp_path / "run")]
    for state in ("", ", prepared before"):
        assert main([*command, "--workers", "1"]) == 0
        said = capsys.readouterr().out
        assert f"{tmp_path}/run/data holds " in said
        assert f" tokens of 1 sources{state}: a " in said
        assert said.endswith(" held out\n")
