"""Preference tuning in an emitted trainer: trl's loss, from the weights that it begins with."""

from __future__ import annotations

import math
import shutil
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llamac.convert.directory import shapes_of
from llamac.convert.hf.hf_export import write_hf
from llamac.convert.trained_model import open_trained_model
from llamac.runtime.checkpoint import checkpoint
from llamac.runtime.data.preference_pairs import OrderedPairs, Pairs
from llamac.runtime.kernels.padding import PADDING, input_tokens, loss_labels
from llamac.runtime.parameters import canonical_views
from llamac.runtime.train.preference_loss import preference
from llamac.spec import Spec, load_spec
from llamac.verify.reference import Reference
from tests.chats import CHATML, of_transformers, write_lines, write_model_files

from .conftest import READ, SPEC, Trainer, assert_read_once, rows

LENGTH, BETA = 96, 0.5


def record(n: int) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"What is {n} and {n}?"}]
    answers = (f"It is {2 * n}.", f"No idea, {n} times.")
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in answers)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


RECORDS = [record(n) for n in range(40)]


def trl(policy: Tensor, reference: Tensor, beta: float, smoothing: float) -> Tensor:
    """DPOTrainer.dpo_loss of trl with loss_type "sigmoid", of log-probabilities [2n]."""
    chosen, rejected = policy[::2], policy[1::2]
    logits = (chosen - rejected) - (reference[::2] - reference[1::2])
    return -F.logsigmoid(beta * logits) * (1 - smoothing) - F.logsigmoid(-beta * logits) * smoothing


def random_weights(spec: Spec) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(3)
    return {
        name: 0.2 * torch.randn(shape, generator=random) + name.endswith("norm")
        for name, shape in shapes_of(spec).items()
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A directory with pairs, a tokenizer and, as `base`, a run to begin from."""
    home = tmp_path_factory.mktemp("preferences")
    (home / "spec.toml").write_text(SPEC.format(texts=home))
    write_lines(home / "pairs.jsonl", RECORDS)
    write_model_files(home)
    spec = specified(home, "finetune.objective=cross_entropy", kind="supervised")
    curve = {"model": tomllib.loads(spec.to_toml())["model"]}
    state = checkpoint.checkpoint_state(checkpoint.Progress(step=7), curve, "")
    (home / "base").mkdir()
    checkpoint.commit(home / "base", {"model": random_weights(spec)}, state, keep=1)
    return home


def specified(home: Path, *changes: str, kind: str = "preferences") -> Spec:
    source = f'{{name="pairs", kind="{kind}", share=1, paths=["{home}/pairs.jsonl"]}}'
    of_dpo = () if kind == "supervised" else (f"finetune.beta={BETA}",)
    return load_spec(
        home / "spec.toml",
        [
            f"init.from={home}/base",
            'finetune.objective="dpo"',
            *of_dpo,
            f"data.source=[{source}]",
            f'data.directory="{home}/data"',
            f'tokenizer={{path="{home}/tokenizer.json"}}',
            f"batch.sequence_length={LENGTH}",
            "precision.compute=fp32",
            *changes,
        ],
    )


@pytest.fixture(scope="module", params=["full", "lora"])
def trainer(request, home: Path, tmp_path_factory) -> Trainer:
    method = [f"finetune.method={request.param}"]
    method += ['finetune.targets=["wq","w2"]', "finetune.rank=4"] * (request.param == "lora")
    directory = tmp_path_factory.mktemp(request.param)
    return Trainer(directory, specified(home, *method))


@pytest.fixture(scope="module")
def straight(trainer: Trainer, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("straight")
    assert trainer.run(run) == 0
    return run


def test_the_loss_begins_at_log_two_and_preferred_answers_gain(straight: Path) -> None:
    recorded = rows(straight)
    assert recorded[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert recorded[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert recorded[-1]["loss"] < 0.6
    assert recorded[-1]["reward_accuracy"] == 1
    margins = recorded[-1]["reward_chosen"] - recorded[-1]["reward_rejected"]
    assert recorded[-1]["reward_margin"] == pytest.approx(margins)
    assert recorded[-1]["validation_loss"] < 0.6
    assert {"validation_reward_margin", "validation_reward_accuracy"} <= recorded[-1].keys()


def test_the_reference_is_the_answers_probability_under_the_first_weights(
    home: Path, straight: Path
) -> None:
    """Beside transformers' masks of the same chats, in float64."""
    model = Reference(specified(home).model, LENGTH)
    model.load({name: weight.double() for name, weight in random_weights(specified(home)).items()})

    def of_answer(chat: list[dict[str, str]]) -> float:
        found = of_transformers().apply_chat_template(
            chat, chat_template=CHATML, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = torch.tensor([found["input_ids"]])
        scores = model.logits(ids[:, :-1]).log_softmax(-1)
        chosen = scores.gather(-1, ids[:, 1:, None]).squeeze(-1)
        return float((chosen.detach() * torch.tensor([found["assistant_masks"]])[:, 1:]).sum())

    wanted = sorted(
        of_answer(r["prompt"] + r[side]) for r in RECORDS for side in ("chosen", "rejected")
    )
    found = sorted(np.load(straight / "reference.npy").tolist())
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_a_resumed_run_is_the_straight_one_bit_for_bit(
    trainer: Trainer, straight: Path, tmp_path: Path
) -> None:
    assert trainer.run(tmp_path, "--steps", "5") == 0
    before = (tmp_path / "reference.npy").stat().st_mtime_ns
    assert trainer.run(tmp_path) == 0
    assert (tmp_path / "reference.npy").stat().st_mtime_ns == before
    ours, theirs = trainer.weights(tmp_path), trainer.weights(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for key in ("loss", "reward_margin"):
        assert [row[key] for row in rows(tmp_path)] == [row[key] for row in rows(straight)]


def test_a_run_without_its_reference_does_not_go_on(
    trainer: Trainer, straight: Path, tmp_path: Path, capsys
) -> None:
    for file, said in (("reference.json", "is missing"), ("reference.npy", "cannot be read")):
        run = shutil.copytree(straight, tmp_path / file)
        (run / file).unlink()
        newest = max((run / "checkpoints").glob("step-*"))
        shutil.rmtree(newest)
        assert trainer.run(run) == 1
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_tuned_model_is_exported(
    home: Path, trainer: Trainer, straight: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(straight, tmp_path / "run")
    shutil.copy(trainer.directory / "spec.toml", run)
    found = open_trained_model(run, "newest", print)
    assert found.tensors.keys() == random_weights(specified(home)).keys()
    assert bool(found.adapters) == ("lora" in trainer.directory.name)
    write_hf(found, tmp_path, torch.float32)
    assert (tmp_path / "model.safetensors").is_file()


def test_one_large_micro_batch_is_several_small_ones(
    home: Path, tmp_path_factory, straight: Path, trainer: Trainer
) -> None:
    if "lora" in trainer.directory.name:
        pytest.skip("the sum over micro-batches is the same code")
    whole = Trainer(tmp_path_factory.mktemp("whole"), specified(home, "batch.micro_batch=4"))
    run = tmp_path_factory.mktemp("whole-run")
    assert whole.run(run, "--steps", "3") == 0
    for ours, theirs in zip(rows(run), rows(straight), strict=False):
        for key in ("loss", "grad_norm", "reward_margin"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5)


def test_a_step_s_loss_and_gradients_are_trl_s(
    home: Path, trainer: Trainer, straight: Path, monkeypatch
) -> None:
    """In float64: the emitted model's, beside autograd through trl's formula on plain torch."""
    if "lora" in trainer.directory.name:
        pytest.skip("verify compares adapters")
    spec = specified(home)
    weights = {name: w.double() for name, w in random_weights(spec).items()}
    pairs = OrderedPairs(Pairs(home / "data", "train", LENGTH, seed=0))
    stored = torch.from_numpy(pairs.read_sequences([0], 6))
    tokens, labels = input_tokens(stored[:, :-1]), loss_labels(stored[:, 1:])
    model = Reference(spec.model, LENGTH)
    model.load(weights)
    every = model.logits(tokens).log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])
    policy = (every.squeeze(-1) * (labels != PADDING)).sum(1)
    reference = policy.detach() + torch.tensor([0.3, -0.2, 1.1, 0.4, -2.0, 0.1])
    wanted = trl(policy, reference, BETA, 0.1).sum()
    wanted.backward()

    names = trainer.model.make_rope_tables.__globals__
    monkeypatch.setitem(names, "rope_tables", partial(names["rope_tables"], dtype=torch.float64))
    ours = trainer.model(dtype=torch.float64)
    with torch.no_grad():
        for held, parameter in ours.named_parameters():
            for name, view in canonical_views(held, parameter, trainer.train.PACKED):
                view.copy_(weights[name])
    found = ours(tokens, labels)
    sums, d_found = preference(found.detach(), reference, labels, BETA, 0.1)
    found.backward(d_found)
    torch.testing.assert_close(sums[0], wanted.detach(), rtol=1e-10, atol=0)
    theirs = model.parameters_by_name()
    for held, parameter in ours.named_parameters():
        assert parameter.grad is not None
        for name, view in canonical_views(held, parameter.grad, trainer.train.PACKED):
            torch.testing.assert_close(view, theirs[name].grad, rtol=1e-10, atol=1e-10)


def test_pairs_of_padding_and_extreme_margins_have_finite_gradients() -> None:
    labels = torch.tensor([[1, 2], [1, PADDING], [PADDING] * 2, [PADDING] * 2, [3, 4], [5, 6]])
    policy = torch.tensor([0.0, 5e4, 0.0, 0.0, 5e4, 0.0])
    sums, gradient = preference(policy, torch.zeros(6), labels, 1.0)
    assert sums.tolist() == [5e4, 5e4, 5e4, 1.0]
    assert gradient.tolist() == [-1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data_shard", "tensor"])
def test_two_ranks_have_the_curve_of_one(
    home: Path, trainer: Trainer, straight: Path, start_ranks, tmp_path: Path, layout: str
) -> None:
    """Pairs stay together on a rank; the reference's scores are those of one rank."""
    method = trainer.directory.name.rstrip("0123456789")
    if (method, layout) == ("lora", "data_shard"):
        pytest.skip("data ranks differ in nothing for adapters")
    lora = ['finetune.targets=["wq","w2"]', "finetune.rank=4"] * (method == "lora")
    spec = specified(home, f"finetune.method={method}", *lora, f"parallel.{layout}=2")
    run, before = tmp_path / "run", READ.format(reader="Pairs", directory=str(tmp_path))
    done = start_ranks(tmp_path / layout, spec, run, "--steps", "6", before=before)
    assert done.returncode == 0, done.stderr
    scores = [np.load(one / "reference.npy") for one in (run, straight)]
    np.testing.assert_allclose(*scores, rtol=1e-5)
    for ours, theirs in zip(rows(run), rows(straight)[:6], strict=True):
        for key in ("loss", "grad_norm", "reward_margin", "validation_loss"):
            if key in ours.keys() & theirs.keys():
                assert ours[key] == pytest.approx(theirs[key], rel=2e-4, abs=1e-5), key
    assert_read_once(tmp_path, sequences=4 * 6, shared=layout == "tensor")
