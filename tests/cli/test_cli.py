"""The command line: exit codes, messages, and that help imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from llamac import __version__
from llamac.cli import VERBS, main


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`verb(function)`: runs `llamac probe` with this body, and returns the exit code."""

    def run(body: Any) -> int:
        app = typer.Typer()
        app.command()(lambda: body())
        monkeypatch.setitem(VERBS, "probe", "a verb for tests")
        monkeypatch.setitem(sys.modules, "llamac.cli.probe", SimpleNamespace(app=app))
        return main(["probe"])

    return run


def raises(error: BaseException) -> Any:
    def body() -> None:
        raise error

    return body


def test_check_says_what_a_spec_comes_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "llama2-70b"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("llama2-70b is valid\n")
    assert "80 layers of 8,192, 64 heads of 128 sharing 8 of keys and values, ffn 28,672" in out
    assert "common_crawl 67.0%" in out
    assert "4,194,304 tokens = 1,024 sequences of 4,096, 4 at a time" in out
    assert "476,838 steps = 2T tokens, cosine after 2,000 steps of warm-up" in out
    assert main(["check", "65b"]) == 0
    ranks = "  ranks       2,048 = data_shard 256 × tensor 8, on 256 nodes of 8\n"
    assert ranks in capsys.readouterr().out


def test_set_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tiny", "--set", "name=mine", "--set=model.dim=512"]) == 0
    out = capsys.readouterr().out
    assert "mine is valid" in out
    assert "6 layers of 512" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "tiny", "--set", "model.n_head=3"], "--set:1:1: error: `n_head` is not a key"),
        (["check", "gone.toml"], "gone.toml: error: cannot read the spec"),
        (["check"], "llamac check: Missing argument 'SPEC'"),
        (["check", "tiny", "--sett", "x"], "llamac check: No such option"),
        (["check", "tiny", "65b"], "llamac check: Got unexpected extra argument"),
        (["chek", "tiny"], "there is no command 'chek'; did you mean `check`?"),
        (["\x1b[31m"], "there is no command"),
        (["--verbose"], "there is no command '--verbose'"),
    ],
)
def test_usage_and_spec_errors_exit_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert "\x1b" not in captured.err
    assert captured.out == ""


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert all(f"\n  {name} " in out for name in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"llamac {__version__}\n"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"llamac {name}" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from llamac.cli import main; main(['--help'])\n"
        "sys.exit(bool({'torch', 'numpy', 'pydantic', 'typer', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_check_does_without_torch() -> None:
    program = (
        "import sys; from llamac.cli import main; main(['check', 'tiny'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["title"] == "llamac spec"
    assert main(["schema", "-o", str(tmp_path / "schema.json")]) == 0
    written = json.loads((tmp_path / "schema.json").read_text(encoding="utf-8"))
    assert written.pop("$comment").startswith("made by llamac ")
    assert written == json.loads(printed)


def test_an_interrupt_exits_with_130_and_one_line(
    verb: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "llamac: interrupted\n"


def test_a_verb_chooses_its_exit_code(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Missed(Exception):
        exit_code = 3

    assert verb(raises(Missed("the gradients differ"))) == 3
    assert capsys.readouterr().err == "llamac probe: the gradients differ\n"
    assert verb(raises(typer.Exit(3))) == 3
    assert verb(lambda: None) == 0


def test_a_fault_of_llamac_itself_keeps_its_traceback(verb: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        verb(raises(ZeroDivisionError()))


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m llamac.cli schema | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == '{\n  "$sche'
    assert done.stderr == ""


def test_a_poor_terminal_gets_escapes_instead_of_a_traceback() -> None:
    command = [sys.executable, "-m", "llamac.cli", "check", "tiny", "--set", "eval.é=1"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 2
    assert b"\\xe9" in done.stderr
