"""The examples that help shows work as they stand, one after another in one directory."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from llamac.cli import VERBS, main
from llamac.cli.common.typer_command import EXAMPLES, command_of
from tests.forked_trainer import train

# What makes a training short, for those examples that train or look at what was trained.
SHORT = [
    *("schedule.steps=6", "schedule.warmup_steps=2", "checkpoint.every=6", "eval.every=6"),
    *("eval.batches=1", "eval.sample_tokens=4", "model.dim=32", "model.n_layers=1"),
    *("model.n_heads=2", "model.vocab_size=400", "batch.sequence_length=32"),
    *("batch.sequences=2", "batch.micro_batch=2", "tokenizer.train_bytes=100KB"),
    *("kernels.compile=never", "log.tensorboard=false"),
]
SHORTENED = ("train", "data", "tokenizer train")
NO_EXAMPLE = {"data classifier", "data questions"}  # want a spec or files of one's own


def paths() -> list[str]:
    """Every command: a verb, or a verb and its subcommand."""
    found = []
    for verb in VERBS:
        inner = getattr(command_of(verb), "commands", {})
        found += [f"{verb} {name}" for name in inner] or [verb]
    return found


def test_every_command_has_an_example():
    assert EXAMPLES.keys() == set(paths()) - NO_EXAMPLE


@pytest.mark.parametrize("path", paths())
def test_help_shows_the_examples_whole(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*path.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "..." not in printed.partition("\n")[2]  # but in the usage, of lists
    for line in EXAMPLES.get(path, ()):
        assert f"    llamac {line}\n" in printed


def test_lists_of_subcommands_are_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for verb in ("data", "tokenizer"):
        assert main([verb, "--help"]) == 0
        words = " ".join(capsys.readouterr().out.split())
        for command in command_of(verb).commands.values():
            assert command.short_help in words
            assert command.short_help.endswith(".")


TRAINED = ("train", "data", "report", "export", "import", "generate", "eval", "tokenizer")


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [line for path in EXAMPLES if path.split()[0] not in TRAINED for line in EXAMPLES[path]]
)
def test_examples_that_need_no_run(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_examples_of_a_run_work_one_after_another(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in ("data", "train", "tokenizer", "report", "generate", "eval", "export", "import"):
        for name, lines in EXAMPLES.items():
            if name.split()[0] != path:
                continue
            for line in lines:
                words = shlex.split(line)
                if name.startswith(SHORTENED) and "65b" not in words:
                    words += [word for one in SHORT for word in ("--set", one)]
                if path == "train":
                    train(tmp_path, *words[1:])
                else:
                    assert main(words) == 0, f"{line}\n{capsys.readouterr()}"
