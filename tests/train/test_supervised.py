"""Supervised data in an emitted trainer: the loss is of answers, whatever shares a sequence."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from llamac.runtime.data.mixture import Mixture
from llamac.runtime.kernels.padding import PADDING, count_targets, input_tokens, loss_labels
from llamac.runtime.parameters import canonical_views
from llamac.spec import Spec, load_spec
from llamac.verify.reference import Reference
from tests.chats import CHATML, of_transformers, sums, write_lines, write_model_files

from .conftest import SPEC, Trainer, curve, rows

CHATS = sums(40)


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Spec:
    home = tmp_path_factory.mktemp("chats")
    file = home / "spec.toml"
    file.write_text(SPEC.format(texts=home))
    chats = write_lines(home / "chats.jsonl", [{"messages": chat} for chat in CHATS])
    path = write_model_files(home)
    return load_spec(
        file,
        [
            f'data.source=[{{name="chats", kind="supervised", share=1, paths=["{chats}"]}}]',
            f'data.directory="{home / "data"}"',
            f'tokenizer={{path="{path}"}}',
            "batch.sequence_length=160",
            "precision.compute=fp32",
            "eval.batches=99",
        ],
    )


@pytest.fixture(scope="module")
def trainer(spec, tmp_path_factory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("supervised"), spec)


@pytest.fixture(scope="module")
def straight(trainer, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("straight")
    assert trainer.run(run) == 0
    return run


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
        tokens, labels = input_tokens(stored[:, :-1], PADDING), loss_labels(stored[:, 1:])
        loss = model(tokens, labels)
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


def test_held_out_loss_is_the_mean_over_held_out_answers(spec, trainer, straight) -> None:
    model = trainer.model(device="cpu", dtype=torch.float32)
    held_out = {}
    for section, boxes in trainer.optimizer(model).boxes().items():
        held_out[section] = boxes
    trainer.train.checkpoint.load(max((straight / "checkpoints").glob("step-*")), held_out)
    loaded = {name: box.tensor.double() for name, box in held_out["model"].items()}
    reference = Reference(spec.model, spec.batch.sequence_length)
    reference.load(loaded)
    data = Mixture(
        spec.data.directory, "validation", spec.batch.sequence_length, spec.seed, "best_fit"
    )
    stored = torch.from_numpy(data.sequences(0, len(data)))
    loss, targets = 0.0, 0
    for row in stored:
        for begin, end in documents(row.tolist()):
            document = row[begin:end].unsqueeze(0)
            labels = loss_labels(document[:, 1:])
            with torch.no_grad():
                loss += float(reference(input_tokens(document[:, :-1]), labels))
            targets += int(count_targets(labels))
    assert rows(straight)[-1]["validation_loss"] == pytest.approx(loss / targets, rel=1e-5)
    assert rows(straight)[-1]["loss"] < rows(straight)[0]["loss"]


def documents(row: list[int]) -> list[tuple[int, int]]:
    ends = [n for n, token in enumerate(row) if token == PADDING]
    begins = [0, *(end + 1 for end in ends)]
    return [(b, e) for b, e in zip(begins, ends, strict=False) if b < e]


def test_an_interrupted_run_ends_in_the_same_bits(trainer, straight, tmp_path) -> None:
    assert trainer.run(tmp_path, "--steps", "4") == 0
    assert trainer.run(tmp_path) == 0
    assert curve(tmp_path)[4:] == curve(straight)[4:]
    ours, theirs = trainer.weights(tmp_path), trainer.weights(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
