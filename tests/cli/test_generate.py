"""`llamac generate RUN`: which directories it refuses, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamac.cli import main


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("gone", "there is no run directory gone; create one with `llamac train`"),
        ("tiny", "there is no run directory tiny; did you mean runs/tiny?"),
        ("thesis", "thesis is not a run directory"),
        ("thesis/generate.py", "is not a run directory"),
        ("elsewhere", "python TRAINER/generate.py --run elsewhere"),
    ],
)
def test_what_is_not_a_run_directory_exits_with_2(
    run: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for directory in ("runs/tiny", "thesis", "elsewhere/checkpoints"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "thesis/generate.py").write_text("raise SystemExit('code of others was run')")
    monkeypatch.chdir(tmp_path)
    assert main(["generate", run, "--prompt", "x"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/tiny"], "give --prompt TEXT or --prompts FILE"),
        (["--prompt", "x"], "Missing argument 'RUN'"),
        (["runs/tiny", "--prompt", "x", "--tokens", "many"], "'--tokens'"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *arguments]) == 2
    assert message in capsys.readouterr().err
