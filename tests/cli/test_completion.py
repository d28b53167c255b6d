"""Completion of command lines: the words that may come, and the script in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from llamac.cli import VERBS, main
from llamac.cli.completion import SCRIPTS, Shell, candidates


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pl"], ["plan"]),
        (["data", "st"], ["stats"]),
        (["check", "llama2-7"], ["llama2-70b", "llama2-7b"]),
        (["plan", "tiny", "--framework", "megatron-"], ["megatron-core"]),
        (["inspect", "tiny", "--format", "h"], ["html"]),
        (["inspect", "tiny", "--mem"], ["--memory"]),
        (["check", "tiny", "--set", "model.dim"], ["model.dim="]),
        (["train", "tiny", "--set", "optimizer.weight"], ["optimizer.weight_decay="]),
        (["completion", "z"], ["zsh"]),
        (["train", "tiny", "-o", ""], []),  # a file: the shell knows those
        (["nonsense", ""], []),
        (["data", "nonsense", ""], []),
    ],
)
def test_words_that_may_come(words, expected):
    assert candidates(words) == expected


def test_verbs_come_first():
    assert candidates([""])[: len(VERBS)] == list(VERBS)


@pytest.mark.parametrize("shell", Shell)
def test_a_script_for_each_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]


@pytest.mark.parametrize("shell", Shell)
def test_the_script_is_one_of_its_shell(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell])
    subprocess.run([shell, "-n", str(script)], check=True)


LINE = "llamac check tiny --set model.n_la"
# Shell → what shows its completions of LINE, with what follows them.
COMPLETING = {
    Shell.bash: f"""
        compopt() {{ echo "compopt $1 $2"; }}
        {SCRIPTS[Shell.bash]}
        COMP_WORDS=({LINE}) COMP_CWORD=4
        _llamac
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """,
    Shell.zsh: f"""
        compdef() {{ }}
        _files() {{ }}
        compadd() {{ print -r -- "compadd ${{@[1,-3]}}"; print -rl -- "${{(@P)@[-1]}}" }}
        {SCRIPTS[Shell.zsh]}
        words=({LINE}) CURRENT=5
        _llamac
    """,
    Shell.fish: f"{SCRIPTS[Shell.fish]}\ncomplete -C '{LINE}'",
}
SHOWN = {
    Shell.bash: "compopt -o nospace\nmodel.n_layers=\n",
    Shell.zsh: "compadd -Q -S \nmodel.n_layers=\n",  # an empty suffix: no space
    Shell.fish: "model.n_layers=\n",  # fish adds no space after `=`
}


@pytest.mark.parametrize("shell", Shell)
def test_the_shell_completes_by_it(shell, tmp_path):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "llamac").write_text(f'#!/bin/sh\nexec {sys.executable} -m llamac.cli "$@"\n')
    (tmp_path / "llamac").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    quiet = {Shell.zsh: ["-f"], Shell.fish: ["--no-config"]}.get(shell, [])  # not the user's own
    done = subprocess.run(
        [program, *quiet, "-c", COMPLETING[shell]],
        env=os.environ | {"PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (SHOWN[shell], "")
