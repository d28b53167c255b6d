"""Supervised data in an emitted trainer: the loss is of answers, whatever shares a sequence."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from llamac.cli import main
from llamac.runtime.data.mixture import Mixture
from llamac.runtime.data.prepared import load_manifest
from llamac.runtime.kernels.padding import PADDING, count_targets, input_tokens, loss_labels
from llamac.runtime.parameters import canonical_views
from llamac.spec import Spec, load_spec
from llamac.verify.reference import Reference
from tests.chats import CHATML, SPECIAL, of_transformers, sums, write_lines, write_model_files
from tests.runtime.data.test_token_shards import tokens

from .conftest import READ, SPEC, Trainer, assert_read_once, curve, rows

CHATS = sums(40)


@pytest.fixture(scope="module")
def make_supervised(tmp_path_factory) -> Callable[..., Spec]:
    home = tmp_path_factory.mktemp("chats")
    file = home / "spec.toml"
    file.write_text(SPEC.format(texts=home))
    records = [*({"messages": chat} for chat in CHATS), {"messages": CHATS[0][:1]}]
    chats = write_lines(home / "chats.jsonl", records)
    path = write_model_files(home)
    settings = [
        f'data.source=[{{name="chats", kind="supervised", share=1, paths=["{chats}"]}}]',
        f'data.directory="{home / "data"}"',
        f'tokenizer={{path="{path}"}}',
        "batch.sequence_length=160",
        "precision.compute=fp32",
        "eval.batches=99",
    ]
    return lambda *changes: load_spec(file, [*settings, *changes])


@pytest.fixture(scope="module")
def spec(make_supervised) -> Spec:
    return make_supervised()


@pytest.fixture(scope="module")
def trainer(spec, tmp_path_factory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("supervised"), spec)


@pytest.fixture(scope="module")
def straight(trainer) -> Path:
    assert trainer.run(trainer.directory) == 0
    return trainer.directory


def test_packed_loss_and_gradients_are_those_of_each_chat_alone(
    spec, trainer, straight, monkeypatch
) -> None:
    """In float64, beside plain torch on every chat by itself with transformers' labels."""
    emitted = trainer.model.forward.__globals__
    tables = partial(emitted["rope_tables"], dtype=torch.float64)
    monkeypatch.setitem(emitted, "rope_tables", tables)
    reference = Reference(spec.model, spec.batch.sequence_length)
    random = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(weight.shape, generator=random, dtype=torch.float64) / 4
        for name, weight in reference.parameters_by_name().items()
    }
    reference.load(weights)
    wanted, targets = torch.zeros((), dtype=torch.float64), 0
    for chat in CHATS:
        found = of_transformers().apply_chat_template(
            chat, chat_template=CHATML, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = torch.tensor([found["input_ids"]]), torch.tensor([found["assistant_masks"]])
        labels = torch.where(mask == 1, ids, PADDING)[:, 1:]
        loss = reference(ids[:, :-1], labels)
        loss.backward()
        wanted += loss.detach()
        targets += int(count_targets(labels))

    model = trainer.model(device="cpu", dtype=torch.float64)
    packed = trainer.train.PACKED
    with torch.no_grad():
        for held, parameter in model.named_parameters():
            for name, view in canonical_views(held, parameter, packed):
                view.copy_(weights[name])
    total, counted, sequences = torch.zeros((), dtype=torch.float64), 0, 0
    for split in ("train", "validation"):
        data = Mixture(
            spec.data.directory,
            split,
            spec.batch.sequence_length,
            spec.seed,
            "best_fit",
            padding_input=PADDING,
        )
        stored = torch.from_numpy(data.sequences(0, int(data.windows[0])))
        inputs, labels = input_tokens(stored[:, :-1], PADDING), loss_labels(stored[:, 1:])
        loss = model(inputs, labels)
        loss.backward()
        total += loss.detach()
        counted += int(count_targets(labels))
        sequences += len(stored)
    assert counted == targets
    assert sequences < len(CHATS) / 1.5  # several chats share a sequence
    torch.testing.assert_close(total, wanted, rtol=1e-12, atol=0)
    for held, parameter in model.named_parameters():
        for name, found in canonical_views(held, parameter.grad, packed):
            theirs = reference.parameters_by_name()[name].grad
            assert theirs is not None
            assert (found - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def test_held_out_loss_is_the_mean_over_held_out_answers(spec, trainer, straight, tmp_path) -> None:
    """`llamac eval`, which scores each answer after all that precedes it, measures the same."""
    assert main(["eval", str(straight), "--tasks", "heldout", "-o", str(tmp_path / "a.json")]) == 0
    (found,) = json.loads((tmp_path / "a.json").read_text())["results"]
    last = rows(straight)[-1]
    assert last["validation_loss"] == pytest.approx(found["results"]["nats_per_token"]["value"])
    assert last["loss"] < rows(straight)[0]["loss"]
    stored = tokens(Path(spec.data.directory), load_manifest(spec.data.directory), 0, "validation")
    assert f"{(stored >= 0).sum():,} tokens of answers" in found["notes"]


def test_the_commands_prepare_the_same_bytes_and_trace_them(spec, straight, tmp_path, capsys):
    """`llamac data prepare`, which writes an index of the documents as well."""
    file, chats = spec.files[0], spec.data.source[0].paths[0]
    settings = [f'data.source=[{{name="chats", kind="supervised", share=1, paths=["{chats}"]}}]']
    settings += [f'tokenizer={{path="{spec.tokenizer.path}"}}', "batch.sequence_length=160"]
    settings += [f'data.directory="{tmp_path / "data"}"']
    command = [str(file), *(part for setting in settings for part in ("--set", setting))]
    assert main(["data", "prepare", *command]) == 0
    assert capsys.readouterr().err.count(f"{chats}:41: no answer to learn") == 1
    found, theirs = load_manifest(tmp_path / "data"), load_manifest(spec.data.directory)
    for split in ("train", "validation"):
        ours = tokens(tmp_path / "data", found, 0, split)
        assert ours.tolist() == tokens(Path(spec.data.directory), theirs, 0, split).tolist()
        assert found["sources"][0][split]["tokens"] == theirs["sources"][0][split]["tokens"]
    assert found["sources"][0]["train"]["targets"] == theirs["sources"][0]["train"]["targets"]
    assert found["tokenizer"] == theirs["tokenizer"]
    assert main(["data", "where", *command, "chats", "0:40", "--text"]) == 0
    assert "Be kind.\nuser\nWhat is" in "".join(capsys.readouterr())
    out = ["-o", str(tmp_path / "out"), "--format", "megatron"]
    assert main(["data", "export", *command, *out]) == 2
    assert "which tokens of supervised data have a loss" in capsys.readouterr().err


def test_its_export_speaks_as_it_was_trained(straight, tmp_path) -> None:
    """Chat template and special tokens, in transformers, are those of the tuned model."""
    transformers = pytest.importorskip("transformers")
    assert main(["export", str(straight), "-o", str(tmp_path / "hf"), "--format", "hf"]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.bos_token == "<s>"
    found = theirs.apply_chat_template(CHATS[5], return_dict=True)["input_ids"]
    wanted = of_transformers().apply_chat_template(CHATS[5], chat_template=CHATML, return_dict=True)
    assert found == wanted["input_ids"]
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
    assert SPECIAL.index("<|im_end|>") in settings.eos_token_id


def test_an_interrupted_run_ends_in_the_same_bits(trainer, straight, tmp_path) -> None:
    assert trainer.run(tmp_path, "--steps", "4") == 0
    assert trainer.run(tmp_path) == 0
    assert curve(tmp_path)[4:] == curve(straight)[4:]
    ours, theirs = trainer.weights(tmp_path), trainer.weights(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data_shard", "data_replicate", "tensor"])
def test_two_ranks_have_the_curve_of_one(
    make_supervised, straight, start_ranks, tmp_path, layout
) -> None:
    """Each sequence is read by one data rank; both tensor ranks read all."""
    spec = make_supervised(f"parallel.{layout}=2")
    run, before = tmp_path / "run", READ.format(reader="Mixture", directory=str(tmp_path))
    done = start_ranks(tmp_path / layout, spec, run, "--steps", "6", before=before)
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(rows(run), rows(straight)[:6], strict=True):
        for key in ours.keys() & theirs.keys() & {"loss", "grad_norm", "validation_loss"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key
    assert "validation_loss" in rows(run)[4]
    assert_read_once(tmp_path, sequences=4 * 6, shared=layout == "tensor")
