"""The emitted directory: it stands alone, is formatted, reproducible, and written with care."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llamac.emit.build import MANIFEST, BuildError, write_directory
from llamac.spec import load_spec
from tests.emit.conftest import LLAMA3, SMALL, files, small

ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, model
tokens = torch.randint(331, (2, 24))
net = model.Model()
model.initialise(net, 0)
loss = net(tokens, tokens)
loss.backward()
assert all(p.grad.isfinite().all() for p in net.parameters())
assert net.logits(tokens).shape == (2, 24, 331)
import train
assert "llamac" not in sys.modules, "it imports llamac"
print(f"{loss.item() / tokens.numel():.2f}")
"""

# An importer that finds llamac nowhere, however it is installed.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llamac":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tiny", "gpt3-block"])
def test_it_runs_where_llamac_is_not(base: str, tmp_path: Path) -> None:
    write_directory(tmp_path / "out", files(small(base=base)))
    environment = {key: os.environ[key] for key in os.environ.keys() - {"PYTHONPATH"}}
    done = subprocess.run(
        [sys.executable, "-I", "-c", HIDDEN + ALONE, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert 5 < float(done.stdout) < 7  # ln 331 = 5.8: it knows nothing yet


@pytest.mark.slow
def test_the_same_spec_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    program = "from llamac.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    sets = [f"--set={override}" for override in SMALL]
    for seed in ("0", "1", "31337"):
        subprocess.run(
            [sys.executable, "-c", program, "build", "tiny", *sets, "-o", str(tmp_path / seed)],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )

    def contents(seed: str) -> dict[str, bytes]:
        paths = (path for path in (tmp_path / seed).rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path / seed)): path.read_bytes() for path in paths}

    assert contents("0") == contents("1") == contents("31337")
    assert {"model.py", "train.py", MANIFEST, "ir/01-lower.ir"} <= contents("0").keys()


FORMATTED = [
    ("tiny",),
    ("65b", "hardware.device=cuda"),
    ("llama2-70b", "recompute.policy=full"),
    ("gpt3-block",),
    ("post-norm", "recompute.policy=none"),
    ("tiny", *LLAMA3, "model.bias=true", "model.tied_embeddings=true", "model.n_kv_heads=2"),
    ("tiny", "model.n_layers=1", "model.norm=layernorm", "model.activation=relu"),
    ("tiny", 'eval.prompt="\'\\"\\n{{ x }}"', f"data.directory={'deep/' * 12}"),
]

RULES = "E,F,W,I,UP,B,C4,SIM,PT,PIE"


@pytest.mark.slow
def test_ruff_has_nothing_to_say(tmp_path: Path) -> None:
    for number, (base, *overrides) in enumerate(FORMATTED):
        write_directory(tmp_path / str(number), files(load_spec(base, overrides)))
        # This repository's rules, but for RET504: a value is named before it is returned. The
        # directory's own ruff.toml is what a user's ruff finds.
        for command in (["format", "--check", "--diff"], ["check", f"--select={RULES}"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, "."],
                capture_output=True,
                text=True,
                cwd=tmp_path / str(number),
            )
            assert done.returncode == 0, done.stdout + done.stderr


# -- write -----------------------------------------------------------------------------------------


def test_an_edited_file_is_kept_unless_it_is_given_up(tmp_path: Path) -> None:
    made = {"model.py": "one = 1\n", "ir/01-lower.ir": "%x\n"}
    write_directory(tmp_path, made)
    (tmp_path / "model.py").write_text("mine = 1\n")
    with pytest.raises(BuildError, match=r"model\.py in .* changed since llamac wrote it"):
        write_directory(tmp_path, made | {"ir/01-lower.ir": "%y\n"})
    assert (tmp_path / "model.py").read_text() == "mine = 1\n"
    assert (tmp_path / "ir/01-lower.ir").read_text() == "%x\n"  # refused before anything is written
    write_directory(tmp_path, made, overwrite=True)
    assert (tmp_path / "model.py").read_text() == "one = 1\n"


def test_an_edit_to_a_file_that_would_go_is_refused_too(tmp_path: Path) -> None:
    write_directory(tmp_path, {"model.py": "", "whole_model.py": "x = 1\n"})
    (tmp_path / "whole_model.py").write_text("notes")
    with pytest.raises(BuildError, match=r"whole_model\.py"):
        write_directory(tmp_path, {"model.py": ""})
    assert (tmp_path / "whole_model.py").exists()


def test_a_file_of_ours_by_name_but_not_by_hand_is_refused(tmp_path: Path) -> None:
    write_directory(tmp_path, {"model.py": ""})
    (tmp_path / "train.py").write_text("mine")
    with pytest.raises(BuildError, match=r"train\.py"):
        write_directory(tmp_path, {"model.py": "", "train.py": "ours"})
    assert (tmp_path / "train.py").read_text() == "mine"


def test_data_that_was_prepared_first_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(BuildError, match="not created by llamac"):
        write_directory(tmp_path, {"model.py": "x\n"})
    (tmp_path / "data/.prepare.lock").touch()
    write_directory(tmp_path, {"model.py": "x\n"})
    assert (tmp_path / "data/.prepare.lock").exists()


def test_stale_files_go_and_the_run_s_own_stay(tmp_path: Path) -> None:
    write_directory(tmp_path, {"model.py": "", "runtime/old.py": "", "ir/01-lower.ir": ""})
    (tmp_path / "metrics.jsonl").write_text("{}")
    write_directory(tmp_path, {"model.py": "", "ir/01-lower.ir": ""})
    assert not (tmp_path / "runtime/old.py").exists()
    assert (tmp_path / "metrics.jsonl").read_text() == "{}"
    recorded = json.loads((tmp_path / MANIFEST).read_text())["sha256"]
    assert recorded.keys() == {"model.py", "ir/01-lower.ir"}


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"sha256": 3}', "\\xff"])
def test_a_directory_that_is_not_ours_is_left_alone(manifest: str | None, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years")
    if manifest is not None:
        (tmp_path / MANIFEST).write_bytes(manifest.encode("latin-1"))
    with pytest.raises(BuildError, match="-o"):
        write_directory(tmp_path, {"model.py": ""})
    assert not (tmp_path / "model.py").exists()
    with pytest.raises(BuildError, match="is a file"):
        write_directory(tmp_path / "thesis.tex", {"model.py": ""})


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    """A directory from elsewhere must not make us delete files that are not in it."""
    victim = tmp_path / "victim.txt"
    victim.write_text("")
    out = tmp_path / "out"
    out.mkdir()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for name in ("../victim.txt", str(victim), "", ".", "a\0b"):
        (out / MANIFEST).write_text(json.dumps({"sha256": {name: empty}}))
        with pytest.raises(BuildError, match=MANIFEST):
            write_directory(out, {"model.py": ""})
        assert victim.exists()


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
def test_a_write_that_fails_midway_can_be_repeated(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"a.py": "old a\n", "b.py": "old b\n", "c.py": "old c\n"}
    new = {name: text.replace("old", "new") for name, text in old.items()}
    write_directory(tmp_path, old)
    replaced, count = os.replace, iter(range(10))

    def failing(source: Path, target: Path) -> None:
        if next(count) == at:
            raise OSError(28, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(BuildError, match="No space left on device"):
        write_directory(tmp_path, new)
    monkeypatch.undo()
    for name in old:  # each file whole: the old one or the new one
        assert (tmp_path / name).read_text() in (old[name], new[name])
    write_directory(tmp_path, new)
    assert {name: (tmp_path / name).read_text() for name in new} == new
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*new, MANIFEST}


def test_launchers_can_be_executed(tmp_path: Path) -> None:
    write_directory(tmp_path, {"launch/local.sh": "#!/bin/sh\n"})
    assert os.access(tmp_path / "launch/local.sh", os.X_OK)


MADE = {"a.py": "a\n", "runtime/b.py": "b\n", "runtime/rooms/c.py": "c\n", "ir/1.ir": "%x\n"}
CHANGED = {name: text + "# new\n" for name, text in MADE.items()} | {"d.py": "d\n"}


def killed(directory: Path, files: dict[str, str], event: int) -> bool:
    """Writes in a process that dies before its event-th change of a name; False if it does not."""
    child = os.fork()
    if not child:
        count = iter(range(event + 1))

        def hook(name: str, arguments: tuple) -> None:
            if name in ("open", "os.rename", "os.mkdir", "os.remove") and next(count) == event:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            write_directory(directory, files)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("before", [{}, MADE], ids=["first", "later"])
@pytest.mark.parametrize("after", [CHANGED, MADE | {"a.py": "third\n"}], ids=["same", "another"])
def test_a_build_that_is_killed_anywhere_can_be_repeated(
    before: dict[str, str], after: dict[str, str], tmp_path: Path
) -> None:
    """By the same build or another: what was half written is not taken for an edit."""
    for event in range(1000):
        directory = tmp_path / str(event)
        if before:
            write_directory(directory, before)
        died = killed(directory, CHANGED, event)
        write_directory(directory, after)
        there = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
        assert {name for name in there if not name.endswith(".tmp")} == {*after, MANIFEST}
        if not died:
            break
    assert event > 10


@pytest.mark.parametrize("name", ["a.py", "runtime/b.py", "runtime/rooms/c.py", MANIFEST])
def test_a_link_in_the_directory_is_not_followed(name: str, tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    write_directory(run, MADE)
    victim.mkdir()
    for kept in MADE:
        (victim / kept).parent.mkdir(parents=True, exist_ok=True)
        (victim / kept).write_text("precious")
    for part in (run / name, (run / name).parent):
        if part == run:
            continue
        aside = part.rename(tmp_path / "aside")
        part.symlink_to(victim / part.relative_to(run))
        with pytest.raises(BuildError, match=r"symbolic link|damaged|not created by llamac"):
            write_directory(run, CHANGED | {"runtime/b.py": ""}, overwrite=True)
        part.unlink()
        aside.rename(part)
    assert {kept: (victim / kept).read_text() for kept in MADE} == dict.fromkeys(MADE, "precious")


@pytest.mark.parametrize(
    "name",
    [
        "torch.py",
        "json.pyc",
        "argparse/__init__.py",
        "a/__init__.py",
        "a.cpython-311-x86_64-linux-gnu.so",
        "runtime/b/__init__.py",
        "runtime/rooms/c.abi3.so",
    ],
)
def test_what_would_run_in_place_of_a_module_is_refused(name: str, tmp_path: Path) -> None:
    write_directory(tmp_path, MADE)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(BuildError, match=r"would be imported in place of .*-o"):
        write_directory(tmp_path, MADE, overwrite=True)


def test_programs_of_one_s_own_may_lie_beside(tmp_path: Path) -> None:
    write_directory(tmp_path, MADE | {"runtime/rooms.py": ""})
    (tmp_path / "my_analysis_of_it.py").write_text("")
    (tmp_path / "torch").mkdir()
    write_directory(tmp_path, MADE)  # rooms.py was ours, and goes


def test_compiled_code_of_elsewhere_goes(tmp_path: Path) -> None:
    write_directory(tmp_path, MADE)
    for place in ("__pycache__", "runtime/__pycache__"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "b.cpython-311.pyc").write_bytes(b"hostile")
    write_directory(tmp_path, MADE)
    assert not list(tmp_path.rglob("*.pyc"))


SHOWN = {"README.md": "# ours\n", "plan.json": "{}", "ir/01-lower.ir": "%x\n"}


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("goes", [False, True])
def test_what_is_for_show_stops_nothing_and_is_kept(name: str, goes: bool, tmp_path: Path) -> None:
    write_directory(tmp_path, SHOWN)
    path = tmp_path / name
    for damage in ("null", "mine"):
        path.write_text(damage)
        [said] = write_directory(tmp_path, SHOWN)
        assert str(path) in said
        assert path.read_text() == SHOWN[name]
    path.unlink()
    path.mkdir()
    left = {other: text for other, text in SHOWN.items() if not (goes and other == name)}
    [said] = write_directory(tmp_path, left)
    assert path.exists() != goes
    kept = [path.with_name(f"{path.name}.edited{number}") for number in ("", 1, 2)]
    assert [file.read_text() for file in kept[:2]] == ["null", "mine"]
    assert kept[2].is_dir()
    assert kept[2].name in said
    assert write_directory(tmp_path, left) == []


def test_a_file_in_the_place_of_the_ir_stops_nothing(tmp_path: Path) -> None:
    write_directory(tmp_path, {"model.py": ""})
    (tmp_path / "ir").write_text("")
    [said] = write_directory(tmp_path, SHOWN)
    assert said.endswith("renamed to ir.edited")
    assert (tmp_path / "ir/01-lower.ir").read_text() == "%x\n"


@pytest.mark.parametrize("manifest", ["", "[]", '{"sha256": 3}'])
def test_with_a_damaged_record_edits_can_be_given_up(manifest: str, tmp_path: Path) -> None:
    write_directory(tmp_path, MADE)
    (tmp_path / MANIFEST).write_text(manifest)
    with pytest.raises(BuildError, match="--overwrite"):
        write_directory(tmp_path, MADE)
    write_directory(tmp_path, MADE, overwrite=True)
    assert write_directory(tmp_path, MADE) == []


@pytest.mark.parametrize("file", [False, True])
def test_what_stands_in_the_place_of_a_file_is_named_with_a_way_out(
    file: bool, tmp_path: Path
) -> None:
    if file:
        (tmp_path / "runtime").write_text("")
    else:
        (tmp_path / "runtime/a.py").mkdir(parents=True)
    (tmp_path / MANIFEST).write_text('{"sha256": {}}')
    with pytest.raises(BuildError, match=r"runtime/a\.py.*(remove or rename|remove it)"):
        write_directory(tmp_path, {"runtime/a.py": ""})
