"""Every block of README and docs/ does what it says: commands run, specs check, excerpts exist.

Long trainings and searches are shortened (`blocks.SMALL`, `INSTEAD`). What is not run here stands
in `ELSEWHERE`, with the test that does run it. docs/extend.md and
docs/errors.md have tests of their own.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from llamac.cli import VERBS, main
from llamac.spec import load_spec
from tests.docs.blocks import BLOCK, PAGES, ROOT, Runner, blocks, commands, shortened

OWN_TEST = {"docs/extend.md", "docs/errors.md"}
LANGUAGES = {"sh", "toml", "python", "json", "text", "diff"}

# A command → the test that runs it.
ELSEWHERE = {
    "source .venv/bin/activate": "tests/docs/test_blocks.py",  # llamac runs in this process
    "./dev test": "tests/docs/test_blocks.py",  # this very run
    "./dev test --fast": "tests/docs/test_blocks.py",
    "./dev test tests/passes": "tests/passes",
    ".venv/bin/pytest tests/test_goldens.py tests/sharding --update-goldens": "tests/sharding",
    "git diff tests": "tests/test_goldens.py",
    "bash prepare.sh": "tests/data/test_cluster.py",  # submits jobs to a cluster
    "llamac data classifier my.toml": "tests/data/stages",  # wants Wikipedia and a CommonCrawl dump
    # A package is downloaded, and SmolLM2-135M trained on what it holds.
    "python benchmarks/fetch_chats.py": "tests/train/test_supervised.py",
    "llamac train specs/lora-chat.toml": "tests/train/test_supervised.py",
    "llamac train specs/finetune-alpaca.toml": "tests/train/test_supervised.py",
    "llamac train specs/dpo.toml": "tests/train/test_preferences.py",
    "llamac generate runs/lora-chat --chat --prompt 'What is AI?'": "tests/cli/test_generate.py",
    "llamac report runs/tiny --watch": "tests/report/test_serve.py",  # serves until it is stopped
    "bash benchmarks/gpu_wheels.sh": "tests/benchmarks/test_gpu.py",
    "bash benchmarks/gpu.sh": "tests/benchmarks/test_gpu.py",  # wants a GPU
    "bash benchmarks/gpu.sh --again race": "tests/benchmarks/test_gpu.py",
    "bash benchmarks/gpu.sh --rehearse": "tests/benchmarks/test_gpu.py",
    "llamac plan --calibrate -o machine.toml": "tests/plan/device/test_calibrate.py",  # a minute
}

# Searches over thousands of layouts: the same on fewer GPUs.
INSTEAD = {
    "llamac plan 65b --search": "llamac plan 125m --search --gpus 2",
    "llamac plan 65b --why 1 3": "llamac plan 125m --why 1 3 --gpus 2",
    "llamac plan 7b --search --gpus 64 --device h100-sxm --top 5 -o best.toml": (
        "llamac plan 7b --search --gpus 8 --device h100-sxm --top 5 -o best.toml"
    ),
}

FAILS = {"llamac check older.toml --set model.n_heads=7": 2}

# What shipped specs give is the same wherever it is shown: once is enough.
SHIPPED = re.compile(r"llamac (plan|inspect|check|build|launch|verify) (?!my|older)")
RAN: set[str] = set()

# Pages that begin where another one ends.
GIVEN = {"docs/report.md": ("runs/tiny", "runs/other")}

MY_SPEC = """
extends = "tiny"
[model]
vocab_size = 512
dim = 64
n_heads = 4
n_layers = 2
[batch]
sequence_length = 64
[schedule]
steps = 6
warmup_steps = 2
[tokenizer]
train_bytes = "100KB"
[kernels]
compile = "never"
[eval]
sample_tokens = 4
[data]
directory = "prepared"
[[data.source]]
name = "web"
kind = "files"
share = 1.0
paths = ["texts/*.txt"]
[[data.source.stage]]
stage = "length"
min_chars = 20
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A user's directory: a spec, some texts, the shipped specs."""
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    (tmp_path / "my.toml").write_text(MY_SPEC, encoding="utf-8")
    (tmp_path / "texts").mkdir()
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for i, part in enumerate(text.split("\n\n")):
            (tmp_path / "texts" / f"{path.stem}-{i}.txt").write_text(part, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p not in OWN_TEST and commands(p)])
def test_its_commands_run(
    page: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = Runner(place, monkeypatch)
    for run in GIVEN.get(page, ()):
        runner.run(f"llamac train tiny -o {run}", capfd)
    for _, path, text in blocks(page, "toml"):
        if path:
            (place / path).write_text(text, encoding="utf-8")
    for command in commands(page):
        if command in ELSEWHERE or (command in RAN and SHIPPED.match(command)):
            continue
        runner.run(INSTEAD.get(command, command), capfd, FAILS.get(command, 0))
        RAN.add(command)


@pytest.mark.parametrize("page", PAGES)
def test_its_blocks_are_of_a_known_kind(page: str) -> None:
    fences = re.findall(r"^ *```", PAGES[page], re.M)
    assert len(fences) == 2 * len(BLOCK.findall(PAGES[page])), "a fence is indented or not closed"
    if page in OWN_TEST:
        return
    for language, _, text in blocks(page):
        assert language in LANGUAGES, (
            f"say what this block is: sh, toml, python, json, text\n{text}"
        )
        if language == "text":
            assert not re.search(r"^(\$ |llamac |\./dev )", text, re.M), "a command: mark it as sh"
    assert not re.search(r"^ {4,}(llamac|\./dev) ", PAGES[page], re.M), "a command: fence it as sh"


@pytest.mark.parametrize("page", [p for p in PAGES if p not in OWN_TEST and any(blocks(p, "toml"))])
def test_its_specs_check(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for _, _, text in blocks(page, "toml"):
        base = "" if "extends" in tomllib.loads(text) else 'extends = "specs/tiny.toml"\n'
        (place / "block.toml").write_text(base + text, encoding="utf-8")
        load_spec("block.toml")


@pytest.mark.parametrize("page", PAGES)
def test_its_json_is_read(page: str) -> None:
    for _, _, text in blocks(page, "json"):
        json.loads(text)


@pytest.mark.slow
def test_the_readme_shows_what_is_emitted(tmp_path: Path) -> None:
    (excerpt,) = [text for _, _, text in blocks("README.md", "python")]
    assert main(["build", "65b", "-o", str(tmp_path / "65b")]) == 0
    assert excerpt in (tmp_path / "65b" / "model.py").read_text(encoding="utf-8")


def test_the_files_that_the_architecture_names_exist() -> None:
    named = re.findall(r"`([a-z_]+/[\w/]*(?:\.\w+)?|\w+\.py)`", PAGES["docs/architecture.md"])
    emitted = {"model.py", "train.py", "generate.py", "inference.py", "whole_model.py"}
    found = [
        f"/{p.relative_to(ROOT)}"
        for d in ("llamac", "templates", "tests", "benchmarks")
        for p in (ROOT / d, *(ROOT / d).rglob("*"))
    ]
    assert len(named) > 50
    for path in set(named) - emitted:
        assert any(name.endswith(f"/{path.rstrip('/')}") for name in found), path


@pytest.mark.parametrize("page", PAGES)
def test_the_verbs_it_names_exist(page: str) -> None:
    if page in OWN_TEST:
        return
    named = set(re.findall(r"`llamac ([a-z]+)", PAGES[page]))
    assert named <= set(VERBS), f"no verb: {sorted(named - set(VERBS))}"


def test_the_readme_names_every_verb() -> None:
    table = "".join(re.findall(r"^\|.*", PAGES["README.md"], re.M))
    assert set(VERBS) <= set(re.findall(r"`(?:llamac )?([a-z]+)[ `]", table))


def test_what_is_run_elsewhere_is_shown_and_run() -> None:
    shown = {command for page in PAGES for command in commands(page)}
    for command, test in ELSEWHERE.items():
        assert command in shown, f"no page shows {command}: take it off the list"
        assert (ROOT / test).exists()
    assert set(INSTEAD) | set(FAILS) <= shown
    assert not set(INSTEAD) & set(ELSEWHERE)


def test_only_long_commands_are_shortened() -> None:
    assert "--steps 6" in shortened("./dev train specs/tiny.toml")
    assert shortened("llamac plan 65b") == "llamac plan 65b"
