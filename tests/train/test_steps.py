"""One step: accumulation is exact, what is not finite is skipped, and what is printed."""

from __future__ import annotations

import gc
import os
import signal

import pytest
import torch

from .conftest import Trainer, curve, events, rows


def poisoned(trainer: Trainer, bad_steps: set[int]):
    """The trainer's model, with a loss of NaN in the second micro-batch of some steps."""

    class Poisoned(trainer.model):
        calls = 0

        def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss = super().forward(tokens, labels)
            if torch.is_grad_enabled():
                type(self).calls += 1
                if self.calls % 2 == 0 and self.calls // 2 in bad_steps:
                    return loss * float("nan")
            return loss

    return Poisoned


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_the_size_of_micro_batches_does_not_matter(fp32, patched, tmp_path, micro_batch):
    assert fp32.run(tmp_path / "two", "--steps", "4") == 0
    patched(MICRO_BATCH=micro_batch, GLOBAL_MICRO_BATCH=micro_batch)
    assert fp32.run(tmp_path / "other", "--steps", "4") == 0
    for ours, theirs in zip(rows(tmp_path / "two"), rows(tmp_path / "other"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-5)


def test_the_first_loss_is_the_mean_over_the_whole_batch(fp32, tmp_path):
    train = fp32.train
    assert fp32.run(tmp_path, "--steps", "1") == 0
    model = train.Model(device="cpu", dtype=train.DTYPE)
    train.initialise_sharded(
        model.named_parameters(), train.INIT, train.ParamSharding(train.PACKED), train.SEED
    )
    mixture = train.Mixture(train.DATA_DIRECTORY, "train", train.SEQUENCE_LENGTH, train.SEED)
    batch = torch.from_numpy(mixture.sequences(0, train.GLOBAL_BATCH))
    logits = model.logits(batch[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    assert rows(tmp_path)[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_counted_and_use_up_their_data(
    trainer, monkeypatch, tmp_path
):
    monkeypatch.setattr(trainer.train, "Model", poisoned(trainer, {3, 4, 9}))
    assert trainer.run(tmp_path) == 0
    recorded = rows(tmp_path)
    skipped = {row["step"]: row["skipped_steps"] for row in recorded if "skipped_steps" in row}
    assert skipped == {3: 1, 4: 2, 9: 3}
    assert [row["loss"] is None for row in recorded] == [s in skipped for s in range(1, 13)]
    assert [row["tokens"] for row in recorded] == [128 * n for n in range(1, 13)]
    state = trainer.train.checkpoint.integrity.read_state(max((tmp_path / "checkpoints").iterdir()))
    assert (state["sequences"], state["skipped_steps"]) == (48, 3)
    assert all(tensor.isfinite().all() for tensor in trainer.weights(tmp_path).values())


@pytest.mark.slow
def test_skips_are_remembered_across_a_resume(fp32, patched, tmp_path):
    patched(Model=poisoned(fp32, {3, 4}))
    assert fp32.run(tmp_path / "straight") == 0
    patched(Model=poisoned(fp32, {3, 4}))
    assert fp32.run(tmp_path / "halves", "--steps", "6") == 0
    patched(Model=poisoned(fp32, set()))
    assert fp32.run(tmp_path / "halves") == 0
    ends = [fp32.weights(tmp_path / name) for name in ("straight", "halves")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_too_many_in_a_row_stop_the_run_without_saving(fp32, patched, tmp_path, capsys):
    patched(Model=poisoned(fp32, {6, 7, 8}))
    assert fp32.run(tmp_path) == 1
    error = capsys.readouterr().err
    assert "last 3 steps, up to step 8" in error
    assert "optimizer.lr" in error
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert names == ["step-00000004"]


def test_what_is_printed_from_start_to_end(fp32, patched, tmp_path, capsys):
    patched(PROMPT="Number {{ 7 }} [bold]")
    assert fp32.run(tmp_path) == 0
    out = capsys.readouterr().out
    head, tail = out[: out.index("step 10/12")], out[out.index("step 10/12") :]
    for words in (
        "model: twelve-steps,",
        "torch.float32 on cpu, eager (kernels.compile",
        "rhymes",
        "nats per token",
        "steps: 12 of ",
        "6N + 12·L·d·s FLOPs per token (PaLM)",
        "sample after step 5: Number {{ 7 }} [bold]",
    ):
        assert words in head
    assert "MFU" in tail
    assert "ETA" in tail
    done = tail.splitlines()[-1]
    assert done.startswith("done: loss ")
    assert "validation" in done
    assert "unigram entropy" in done


def test_a_step_that_beats_the_peak_raises_it(fp32, patched, tmp_path):
    patched(PEAK_TFLOPS=1e-9)
    assert fp32.run(tmp_path, "--steps", "3") == 0
    utilisation = [row["mfu"] for row in rows(tmp_path)]
    assert utilisation[0] == 1.0
    assert max(utilisation) <= 1.0


@pytest.mark.parametrize("steps", ["0", "-1"])
def test_a_run_takes_a_step_at_least(fp32, tmp_path, capsys, steps):
    with pytest.raises(SystemExit) as error:
        fp32.run(tmp_path, "--steps", steps)
    assert error.value.code == 2
    assert "--steps" in capsys.readouterr().err


def test_bad_data_is_one_message_not_a_traceback(fp32, patched, tmp_path, capsys):
    patched(SEQUENCE_LENGTH=10**7)
    assert fp32.run(tmp_path) == 1
    assert capsys.readouterr().err.startswith("error: ")


def late(trainer: Trainer):
    """The trainer's queue of results, reading each a step late, as on a GPU."""

    class Late(trainer.train.StepResults):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            self.delay = 1

    return Late


def test_results_read_a_step_late_are_the_same_run(fp32, fp32_straight, patched, tmp_path):
    """Evaluations, samples and checkpoints are of their own steps, also after a resume."""
    patched(StepResults=late(fp32))
    assert fp32.run(tmp_path, "--steps", "8") == 0
    assert fp32.run(tmp_path) == 0
    ours, theirs = curve(tmp_path), curve(fp32_straight)
    assert ours[7][:5] == theirs[7][:5]  # step 8 was the first run's last, and was evaluated
    assert ours[:7] + ours[8:] == theirs[:7] + theirs[8:]
    ends = [fp32.weights(run) for run in (tmp_path, fp32_straight)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    samples = [event["step"] for event in events(tmp_path) if event["event"] == "sample"]
    assert samples == [5, 8, 10, 12]


def test_a_signal_stops_a_run_whose_results_are_late_with_all_its_rows(
    fp32, fp32_straight, patched, tmp_path, monkeypatch
):
    write = fp32.train.Metrics.write

    def act(self, row) -> None:
        write(self, row)
        if row["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(fp32.train.Metrics, "write", act)
        patched(StepResults=late(fp32))
        assert fp32.run(tmp_path) == 0
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert max(tmp_path.glob("checkpoints/step-*")).name == "step-00000007"
    assert fp32.run(tmp_path) == 0
    assert curve(tmp_path) == curve(fp32_straight)


def test_a_spec_for_any_device_is_captured_on_a_gpu_and_the_same_run_on_a_cpu(
    make_spec, fp32_straight, tmp_path
):
    spec = make_spec('precision.compute="fp32"', 'hardware.device="auto"')
    anywhere = Trainer(tmp_path / "built", spec)
    assert (
        "accumulate(run_micro_batch, tokens, labels, MICRO_BATCH)"
        in (tmp_path / "built" / "train.py").read_text()
    )
    assert anywhere.run(tmp_path / "run") == 0
    assert curve(tmp_path / "run") == curve(fp32_straight)


def test_skipped_steps_read_late_still_stop_the_run_before_it_saves(
    fp32, patched, tmp_path, capsys
):
    patched(Model=poisoned(fp32, {6, 7, 8}), StepResults=late(fp32))
    assert fp32.run(tmp_path) == 1
    assert "not finite in the last 3 steps" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_the_start_says_where_its_seconds_went(fp32, tmp_path, capsys):
    assert fp32.run(tmp_path, "--steps", "2") == 0
    out = capsys.readouterr().out
    assert out.count("first step after ") == 1
    found = [event for event in events(tmp_path) if event["event"] == "first_step"]
    assert [event["step"] for event in found] == [1]
    parts = ["imports", "data", "weights", "compiler and peak", "first step"]
    assert [part for part in found[0]["seconds"] if part != "set-up and build"] == parts


WAITS = ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy")
"""Methods of a tensor that wait for its device."""


def test_the_host_waits_for_the_device_once_a_step(fp32, patched, monkeypatch, tmp_path):
    """Each wait beyond the one for the loss leaves a GPU idle."""
    patched(EVAL_EVERY=1000, CHECKPOINT_EVERY=1000)
    waits: list[str] = []

    def counted(name: str):
        method = getattr(torch.Tensor, name)

        def count(self, *arguments, **options):
            waits.append(name)
            return method(self, *arguments, **options)

        return count

    totals = []
    for steps in ("3", "7"):
        with monkeypatch.context() as patch:
            for name in WAITS:
                patch.setattr(torch.Tensor, name, counted(name))
            waits.clear()
            assert fp32.run(tmp_path / steps, "--steps", steps) == 0
            totals.append(len(waits))
    assert totals[1] - totals[0] == 4, f"of four more steps: {waits}"


def test_a_step_leaves_no_tensors_to_the_garbage_collector(trainer):
    """It is off between set steps: on a GPU they would pile up until memory is full."""
    train = trainer.train
    model = train.Model(device="cpu", dtype=train.DTYPE)
    train.initialise_sharded(
        model.named_parameters(), train.INIT, train.ParamSharding(train.PACKED), train.SEED
    )
    optimizer, mesh = trainer.optimizer(model), train.Mesh(train.DEGREES, torch.device("cpu"))
    tokens = torch.randint(64, (train.GLOBAL_BATCH, train.SEQUENCE_LENGTH))

    def step() -> None:
        loss = train.accumulate(model, tokens, tokens, mesh)
        optimizer.read(optimizer.step(1e-3, loss, train.count_targets(tokens)))

    step()
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        step()
        gc.collect()
        left = [one for one in gc.garbage if isinstance(one, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()
    assert not left
