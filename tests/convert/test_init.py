"""A run that begins from weights that are there: says which, resumes, and needs them once."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from llamac.runtime.checkpoint.dcp import TensorChunk
from llamac.runtime.checkpoint.initial_weights import find_initial, load_initial
from llamac.runtime.distributed.ranks import Ranks
from llamac.runtime.errors import RunError
from tests.convert.conftest import GROUPED, exports, imports, llamac, make_run, weights_of
from tests.forked_trainer import train

QUICK = (
    "schedule.steps=4",
    "schedule.warmup_steps=1",
    "checkpoint.every=2",
    "kernels.compile=never",
    "eval.every=100",
    "eval.batches=1",
    "eval.sample_tokens=0",
    "hardware.device=cpu",
)


def trained(spec: Path, run: Path, *options: str) -> str:
    """Train as `llamac train` does, in a process of its own; returns what it says."""
    settings = [word for one in QUICK for word in ("--set", one)]
    return train(spec.parent, str(spec), "-o", str(run), *settings, *options)


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_without_what_it_began_from(hf, tokenizer, tmp_path) -> None:
    directory, _ = hf("llama", max_position_embeddings=64, **GROUPED)
    (directory / "tokenizer.model").write_bytes(tokenizer.model)
    imported = imports(directory)
    spec = imported.with_suffix(".toml")
    said = trained(spec, tmp_path / "straight")
    note = json.loads((tmp_path / "straight/init.json").read_text())
    assert note["weights_sha256"][:16] in said

    trained(spec, tmp_path / "stopped", "--steps", "2")
    before = weights_of(imported)
    shutil.rmtree(imported)
    trained(spec, tmp_path / "stopped")
    straight, stopped = (weights_of(tmp_path / run) for run in ("straight", "stopped"))
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    moved = max(float((straight[name] - before[name]).abs().max()) for name in straight)
    assert 0 < moved < 1e-4  # four small steps from there, not from random weights
    exported = exports(tmp_path / "stopped")
    assert "It started from hf" in (exported / "README.md").read_text()


def test_weights_of_another_model_are_refused(hf, tmp_path: Path) -> None:
    imported = imports(hf()[0])
    model = json.loads((imported / "checkpoints/step-00000000/state.json").read_text())["curve"]
    other = model["model"] | {"rope_layout": "interleaved"}
    with pytest.raises(RunError, match=r'rope_layout: "half_split" there, "interleaved" here'):
        find_initial(str(imported), other, tmp_path, print, Ranks())
    assert not (tmp_path / "init.json").exists()


def test_a_checkpoint_from_before_a_key_of_model_existed_is_taken(
    tokenizer, tmp_path: Path
) -> None:
    spec = make_run(tmp_path / "run", tokenizer)
    path = tmp_path / "run/checkpoints/step-00000007"
    state = json.loads((path / "state.json").read_text())
    for key in ("bias", "qk_norm", "tied_embeddings"):
        assert state["curve"]["model"].pop(key) is False
    text = json.dumps(state)
    (path / "state.json").write_text(text)
    manifest = json.loads((path / "MANIFEST.json").read_text())
    digest = hashlib.sha256(text.encode()).hexdigest()
    manifest["state.json"] = {"bytes": len(text), "sha256": digest}
    (path / "MANIFEST.json").write_text(json.dumps(manifest))

    model = json.loads(json.dumps(spec.model.toml_values()))
    find_initial(str(tmp_path / "run"), model, tmp_path, print, Ranks())
    exports(tmp_path / "run")
    with pytest.raises(RunError, match="qk_norm: null there, true here"):
        find_initial(str(tmp_path / "run"), model | {"qk_norm": True}, tmp_path, print, Ranks())


def test_damaged_weights_are_refused(hf, tmp_path: Path) -> None:
    imported = imports(hf()[0])
    path = imported / "checkpoints/step-00000000"
    model = json.loads((path / "state.json").read_text())["curve"]["model"]
    with open(path / "tensors/__0_0.distcp", "r+b") as file:
        file.seek(5000)
        file.write(b"x")
    for source in (imported, path):
        with pytest.raises(RunError, match=r"checksum|incomplete"):
            find_initial(str(source), model, tmp_path, print, Ranks())


def test_a_rank_loads_its_part_of_a_run(tokenizer, tmp_path: Path) -> None:
    spec = make_run(tmp_path / "run", tokenizer)
    note = find_initial(
        str(tmp_path / "run"),
        json.loads(json.dumps(spec.model.toml_values())),
        tmp_path,
        print,
        Ranks(),
    )
    part = torch.zeros(20, 64)
    load_initial(note, {"output": TensorChunk(part, (331, 64), (100, 0))}, Ranks())
    assert torch.equal(part, weights_of(tmp_path / "run")["output"][100:120])


def test_a_missing_import_is_an_error_of_the_spec(hf, capsys) -> None:
    imported = imports(hf()[0])
    shutil.rmtree(imported)
    capsys.readouterr()
    assert llamac("check", imported.with_suffix(".toml")) == 2
    said = capsys.readouterr()
    assert "there is no import, run or checkpoint" in said.out + said.err
