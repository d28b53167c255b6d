"""generate.py and `llamac generate`: what a run has learnt, by its own code, only read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import llamac
from llamac.runtime.data.prepared import load_manifest
from llamac.runtime.durable_files import write_note
from tests.emit.test_directory import HIDDEN

from .conftest import Trainer, imported
from .test_resume import damage

PROMPT = "Number 7 went"
SPEED = r"prompt: \d+ tokens, [\d.]+ tokens/s; decode: \d+ tokens, [\d.]+ tokens/s\n"


@cache
def program(directory: Path) -> Any:
    """The module generate.py, imported once."""
    return imported(directory, "generate")


class Generator:
    """The generate.py of an emitted directory."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys, self.module = capsys, program(directory)

    def run(self, run: Path, *arguments: str, prompt: str = PROMPT) -> tuple[int, str, str]:
        """In this process: exit code, stdout, stderr."""
        argv = ["generate.py", "--run", str(run), f"--prompt={prompt}", *arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", argv)
            self.capsys.readouterr()
            try:
                code = self.module.main(self.module.PROGRAM)
            except SystemExit as end:  # argparse's own errors
                code = int(end.code or 0)
        out, err = self.capsys.readouterr()
        return code, out, err

    def text(self, run: Path, *arguments: str, prompt: str = PROMPT) -> str:
        code, out, err = self.run(run, *arguments, prompt=prompt)
        assert code == 0, err
        assert re.fullmatch(SPEED, err), err
        assert out.startswith(prompt)
        assert out.endswith("\n")
        return out[len(prompt) : -1]


def command(generator: Generator) -> Any:
    """The names of the emitted runtime's command line, as its generate.py imported it."""
    return generator.module.main.__globals__


@pytest.fixture
def generator(trainer, capsys) -> Generator:
    return Generator(trainer.directory, capsys)


@pytest.fixture
def fp32_generator(fp32, capsys) -> Generator:
    return Generator(fp32.directory, capsys)


def greedy(trainer: Trainer, run: Path, prompt: str, count: int) -> str:
    """The likeliest continuation, the plain way: whole weights, one argmax after the other."""
    train = trainer.train
    model = train.Model(device="cpu", dtype=train.DTYPE)
    optimizer = trainer.optimizer(model)
    train.checkpoint.load(max((run / "checkpoints").glob("step-*")), optimizer.state_dict())
    optimizer.after_load(1)
    tokenizer = train.load_tokenizer_file(Path(train.DATA_DIRECTORY) / "tokenizer.model")
    tokens = start = [tokenizer.eos, *map(int, tokenizer.encode(prompt))]
    while len(tokens) < len(start) + count and (tokens is start or tokens[-1] != tokenizer.eos):
        logits = model.logits(torch.tensor([tokens[-train.SEQUENCE_LENGTH :]]))
        tokens = [*tokens, int(logits[0, -1].float().argmax())]
    return tokenizer.decode(tokens)[len(prompt) :]


@pytest.mark.slow
def test_temperature_zero_is_the_argmax_of_the_logits_beyond_the_context_too(
    generator, straight, trainer
):
    made = generator.text(straight, "--temperature", "0", "--tokens", "45")
    assert made == greedy(trainer, straight, PROMPT, 45)
    assert made == generator.text(straight, "--temperature=0", "--tokens=45", "--seed=9")
    assert len(made) > trainer.train.SEQUENCE_LENGTH


@pytest.mark.slow
def test_learned_positions_slide_as_well(make_spec, tmp_path, capsys):
    spec = make_spec('model.position="learned"', "schedule.steps=2", "schedule.warmup_steps=1")
    trainer = Trainer(tmp_path, spec)
    assert trainer.run(tmp_path) == 0
    long = PROMPT + " up the hill" * 8
    made = Generator(trainer.directory, capsys).text(
        tmp_path, "--temperature=0", "--tokens=9", prompt=long
    )
    assert made == greedy(trainer, tmp_path, long, 9)


@pytest.mark.slow
def test_a_seed_gives_its_text_every_time(fp32_generator, fp32_straight):
    def text(*arguments: str) -> str:
        return fp32_generator.text(fp32_straight, "--tokens=24", *arguments)

    assert text("--seed=1") == text("--seed=1")
    assert text("--seed=1") != text("--seed=2")
    assert text("--seed=1", "--temperature=0.01") != text("--seed=1")
    assert text("--seed=1", "--top-p=1e-9") == text("--temperature=0")


@pytest.mark.slow
def test_what_is_not_said_is_as_in_the_spec(fp32_generator, fp32_straight, fp32):
    sample = fp32.train.SAMPLE
    assert fp32_generator.text(fp32_straight) == fp32_generator.text(
        fp32_straight,
        f"--tokens={sample['max_new_tokens']}",
        f"--temperature={sample['temperature']}",
        f"--top-p={sample['top_p']}",
        f"--seed={sample['seed']}",
        "--checkpoint=12",
    )


@pytest.mark.slow
def test_any_prompt_is_printed_as_it_is(fp32_generator, fp32_straight):
    for prompt in ("", "--steps", "x" * 500, "naïve 🦙\n\t漢字 \u2581"):
        fp32_generator.text(fp32_straight, "--tokens=3", prompt=prompt)
    assert fp32_generator.text(fp32_straight, "--tokens=0") == ""


def test_nothing_printed_steers_the_terminal(fp32_generator, fp32_straight):
    _, out, err = fp32_generator.run(fp32_straight, "--tokens=4", prompt="a\x1b[31m\x07b")
    assert out.startswith(r"a\x1b[31m\x07b")
    assert not {"\x1b", "\x07"} & set(out + err)


def test_a_checkpoint_is_chosen_by_step_or_by_path(fp32_generator, fp32_straight):
    def text(*arguments: str) -> str:
        return fp32_generator.text(fp32_straight, "--temperature=2", "--tokens=30", *arguments)

    path = fp32_straight / "checkpoints" / "step-00000008"
    assert text("--checkpoint=8") == text(f"--checkpoint={path}") != text()


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    fp32_generator, fp32_straight, tmp_path
):
    wanted = fp32_generator.text(fp32_straight, "--checkpoint=8")
    run = shutil.copytree(fp32_straight, tmp_path / "run")
    damage(run / "checkpoints" / "step-00000012")
    code, out, err = fp32_generator.run(run)
    assert (code, out) == (0, f"{PROMPT}{wanted}\n")
    assert "checkpoint step-00000012 is damaged" in err
    assert fp32_generator.run(run, "--checkpoint=12")[0] == 1  # it was asked for: no other will do
    damage(run / "checkpoints" / "step-00000008")
    code, out, err = fp32_generator.run(run)
    assert (code, out) == (1, "")
    assert "every checkpoint of" in err.splitlines()[-1]


@pytest.mark.slow
def test_only_weights_are_read_and_nothing_is_written(
    generator, straight, trainer, tmp_path, monkeypatch
):
    run = shutil.copytree(straight, tmp_path / "run")
    (run / "checkpoints" / ".writing-step-00000016").mkdir()  # by a trainer that is at it
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    checkpoint = command(generator)["load_run"].checkpoint
    read: list[Any] = []
    load = checkpoint.load
    monkeypatch.setattr(
        checkpoint, "load", lambda path, tensors: read.append(tensors) or load(path, tensors)
    )
    with trainer.train.checkpoint.run_lock(run):
        before[run / ".lock"] = (run / ".lock").stat().st_mtime_ns
        generator.text(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    (tensors,) = read
    assert tensors.keys() == {"model"}
    assert {tensor.dtype for tensor in tensors["model"].values()} == {trainer.train.DTYPE}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens=-1"], "--tokens -1 is not 0 or more"),
        (["--temperature=nan"], "--temperature nan is not"),
        (["--top-p=0"], "--top-p 0.0 is not above 0"),
        (["--seed=99999999999999999999"], "--seed"),
        (["--tokens=many"], "invalid int value"),
        (["--checkpoint=7"], "has no checkpoint 7:"),
        (["--checkpoint=gone"], "has no checkpoint gone:"),
        (["--prompt=\udcff"], "not UTF-8"),
    ],
)
def test_what_cannot_be_had_exits_with_2(fp32_generator, fp32_straight, arguments, message):
    code, out, err = fp32_generator.run(fp32_straight, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_pipe_that_is_not_text_exits_with_2(fp32_generator, fp32_straight, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    code, out, err = fp32_generator.run(fp32_straight, "--prompt=-")
    assert (code, out) == (2, "")
    assert "not UTF-8" in err


def test_a_run_that_has_saved_nothing_exits_with_2(fp32_generator, tmp_path):
    code, _, err = fp32_generator.run(tmp_path)
    assert code == 2
    assert "no checkpoint yet" in err


def test_weights_of_another_model_or_tokenizer_are_refused(
    fp32_generator, fp32_straight, fp32, tmp_path, monkeypatch
):
    module = fp32_generator.module
    with monkeypatch.context() as patch:
        other = {**module.SPEC["model"], "rope_theta": 3.0}  # the shapes would fit
        patch.setattr(
            module, "PROGRAM", replace(module.PROGRAM, spec={**module.SPEC, "model": other})
        )
        code, _, err = fp32_generator.run(fp32_straight)
        assert (code, "another model" in err) == (1, True)
    data = Path(fp32.train.DATA_DIRECTORY)
    for name in ("tokenizer.model", "manifest.json"):
        shutil.copy(data / name, tmp_path)
    monkeypatch.setattr(module, "PROGRAM", replace(module.PROGRAM, data=str(tmp_path)))
    wanted = fp32_generator.text(fp32_straight)
    manifest = load_manifest(data)
    manifest["settings"]["seed"] += 1
    write_note(tmp_path / "manifest.json", manifest)
    code, _, err = fp32_generator.run(fp32_straight)
    assert (code, "prepared again" in err) == (1, True)
    (tmp_path / "manifest.json").unlink()  # carried along without its shards
    assert fp32_generator.text(fp32_straight) == wanted
    (tmp_path / "tokenizer.model").write_bytes(b"\0")
    assert "not a SentencePiece model" in fp32_generator.run(fp32_straight)[2]
    (tmp_path / "tokenizer.model").unlink()
    code, _, err = fp32_generator.run(fp32_straight)
    assert (code, "tokenizer is not at" in err) == (1, True)


def test_a_checkpoint_deleted_while_it_is_read(fp32_generator, fp32_straight, monkeypatch):
    views = command(fp32_generator)["load_run"].canonical_views
    gone = fp32_straight / "checkpoints" / "step-00000012" / "tensors" / "__0_0.distcp"
    assert gone.is_file()
    aside = gone.with_suffix(".aside")

    def delete(*arguments: Any) -> Any:
        if gone.exists():
            gone.rename(aside)
        return views(*arguments)

    monkeypatch.setattr(command(fp32_generator)["load_run"], "canonical_views", delete)
    try:
        code, out, err = fp32_generator.run(fp32_straight)
    finally:
        aside.rename(gone)
    assert (code, out) == (1, "")
    assert "try again" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("place", ["decoding", "loading"])
def test_an_interrupt_exits_with_130(fp32_generator, fp32_straight, monkeypatch, place):
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    if place == "decoding":
        monkeypatch.setitem(command(fp32_generator), "Generation", interrupt)
    else:  # where torch catches everything
        monkeypatch.setattr(torch, "load", interrupt)
    code, _, err = fp32_generator.run(fp32_straight)
    assert (code, err) == (130, "")


class Terminal(io.TextIOWrapper):
    """A terminal that notes what it shows each time."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.shown: list[str] = []

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        super().flush()
        self.shown.append(self.buffer.getvalue().decode())  # type: ignore[attr-defined]


def test_a_terminal_shows_text_as_it_comes(fp32_generator, fp32_straight, monkeypatch):
    whole = fp32_generator.text(fp32_straight, "--tokens=8", "--temperature=0")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal := Terminal())
        assert fp32_generator.run(fp32_straight, "--tokens=8", "--temperature=0")[0] == 0
    shown = list(dict.fromkeys(filter(None, terminal.shown)))
    assert shown[0] == PROMPT
    assert shown[-1] == f"{PROMPT}{whole}\n"
    assert len(shown) > 4


@pytest.fixture(scope="module")
def alone(fp32, fp32_straight, tmp_path_factory) -> Path:
    """A run directory as `llamac train` makes it: trainer and run in one."""
    run = shutil.copytree(fp32.directory, tmp_path_factory.mktemp("alone") / "run")
    return shutil.copytree(fp32_straight, run, dirs_exist_ok=True)


@pytest.fixture
def process(tmp_path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def start(*command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        here = str(Path(llamac.__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": here}
        return subprocess.run(
            [sys.executable, *command],
            input=given,
            capture_output=True,
            cwd=tmp_path,
            env=environment,
            timeout=300,
            check=False,
        )

    return start


@pytest.mark.slow
def test_it_needs_no_llamac_and_reads_a_pipe(alone, fp32_generator, fp32_straight, process):
    prompt = "漢字, as they are\n"
    wanted = fp32_generator.text(fp32_straight, "--temperature=0", prompt=prompt)
    argv = [str(alone / "generate.py"), "--prompt=-", "--temperature=0"]
    code = f"{HIDDEN}\nimport runpy; sys.argv = {argv!r}\nsys.path.insert(0, {str(alone)!r})\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = process("-c", code, given=prompt.encode())
    assert done.stdout.decode() == f"{prompt}{wanted}\n", done.stderr.decode()
    assert done.returncode == 0


GIVEN = ["--tokens=9", "--seed=3", "--temperature=0.9", "--top-p=0.9", "--checkpoint=8"]


@pytest.mark.slow
def test_the_verb_gives_what_the_run_s_own_program_gives(
    alone, fp32_generator, fp32_straight, process
):
    wanted = fp32_generator.text(fp32_straight, *GIVEN, prompt="--help")
    done = process("-m", "llamac.cli", "generate", str(alone), "--prompt", "--help", *GIVEN)
    assert done.stdout.decode() == f"--help{wanted}\n", done.stderr.decode()


@pytest.mark.slow
def test_the_verb_runs_a_run_s_own_code_only_if_told_to(
    alone, fp32_generator, fp32_straight, process, tmp_path
):
    """Whoever changed it can make the hashes of the directory say what they like."""
    run = shutil.copytree(alone, tmp_path / "run")
    edited = run / "runtime" / "generate" / "text.py"
    text = edited.read_text()
    edited.write_text(text.replace("len(text) - keep]\n", "len(text) - keep].upper()\n"))
    assert edited.read_text() != text
    manifest = json.loads((run / "MANIFEST.json").read_text())
    digest = hashlib.sha256(edited.read_bytes()).hexdigest()
    manifest["sha256"]["runtime/generate/text.py"] = digest
    (run / "MANIFEST.json").write_text(json.dumps(manifest))
    command = ["-m", "llamac.cli", "generate", str(run), "--prompt", "--help", *GIVEN]
    done = process(*command)
    assert (done.returncode, done.stdout) == (2, b"")
    assert "differs from what this llamac emits" in done.stderr.decode()
    assert "runtime/generate/text.py" in done.stderr.decode()
    found = process(*command, "--trust").stdout.decode()
    plain = f"--help{fp32_generator.text(fp32_straight, *GIVEN, prompt='--help')}\n"
    assert found.upper() == plain.upper()  # an escape keeps its small x
    assert found != plain


PLANTED = ("torch.py", "argparse.py", "model/__init__.py", "runtime/__pycache__", "train.pyc")


@pytest.mark.slow
def test_the_verb_imports_nothing_from_the_directory(
    alone, fp32_generator, fp32_straight, process, tmp_path
):
    run = shutil.copytree(alone, tmp_path / "run")
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    (tmp_path / "code.py").write_text(code)
    for name in PLANTED:
        cached = name.endswith("__pycache__")
        for target in (run / name).glob("*.pyc") if cached else [run / name]:
            target.parent.mkdir(exist_ok=True)
            if target.suffix == ".pyc":  # of the kind that is never compared with its source
                mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
                py_compile.compile(
                    str(tmp_path / "code.py"), str(target), doraise=True, invalidation_mode=mode
                )
            else:
                target.write_text(code)
    wanted = fp32_generator.text(fp32_straight, *GIVEN)
    done = process("-m", "llamac.cli", "generate", str(run), "--prompt", PROMPT, *GIVEN)
    assert done.stdout.decode() == f"{PROMPT}{wanted}\n", done.stderr.decode()
    assert not (tmp_path / "ran").exists()
