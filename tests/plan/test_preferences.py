"""Plans of preference tuning: the reference's scores before the first step, and no CUDA graph."""

from __future__ import annotations

import json

import pytest

from llamac.cli import main
from llamac.emit.build import files_of
from llamac.passes.pass_list import stages
from llamac.plan.cost.region_time import graph_time
from llamac.plan.cost.step_model import StepModel
from llamac.plan.device.device import load_device
from llamac.plan.setting import Setting
from llamac.spec import load_spec

A100 = load_device("a100-80gb")
PAIRS = (
    'init.from="base"',
    'finetune.objective="dpo"',
    'tokenizer.path="tokenizer.json"',
    'data.source=[{name="pairs", kind="preferences", share=1, paths=["pairs.jsonl"]}]',
    "data.validation=0.2",
    "batch.sequences=8",
    "batch.micro_batch=2",
    "schedule.steps=10",
    "schedule.warmup_steps=1",
)


def model_of(*overrides: str) -> StepModel:
    setting = Setting(load_spec("tiny", (*PAIRS, *overrides)), A100)
    return StepModel(setting, setting.compile())


def forward_of(model: StepModel, head: str) -> float:
    """Seconds of a micro-batch's forward pass."""
    names = (*model.program.layers, "embed", head)
    regions = model.program.regions
    return sum(graph_time(regions[name].forward, model.cost).seconds for name in names)


@pytest.mark.parametrize(
    ("head", "overrides"),
    [("head", ()), ("evaluate", ('finetune.method="lora"',))],
    ids=["full", "lora"],
)
def test_the_reference_scores_each_answer_once_before_the_first_step(head, overrides) -> None:
    """10 steps of 8 answers are 80 % of 100 answers, which are 50 micro-batches of 2."""
    model = model_of(*overrides)
    found = model.prediction()
    assert found.reference_seconds == pytest.approx(50 * forward_of(model, head))
    assert found.days * 86_400 == pytest.approx(found.reference_seconds + 10 * found.seconds.total)


def test_data_ranks_share_the_reference_and_gather_its_parameters() -> None:
    """On two ranks 25 micro-batches each, and FSDP's all-gathers beside them."""
    model = model_of("parallel.data_shard=2")
    transfers = model.data_parallel(0)
    (gather,), forward = transfers.non_layer_gather, forward_of(model, "head")
    layers = [seconds for seconds, _ in model.layer_seconds(0)]
    waits = sum(transfers.layer_wait("forward", 0, seconds) for seconds in layers)
    assert waits > 0
    expected = 25 * (forward + gather.seconds + waits)
    assert model.prediction().reference_seconds == pytest.approx(expected)


def test_a_micro_batch_s_memory_is_that_of_its_answers() -> None:
    """A pair is two sequences: its activations are those of a micro-batch of two."""
    pair = model_of().prediction().memory
    plain = load_spec("tiny", ("batch.sequences=8", "batch.micro_batch=2"))
    other = Setting(plain, A100)
    two = StepModel(other, other.compile()).prediction().memory
    four = model_of("batch.micro_batch=4").prediction().memory
    assert pair.activations + pair.logits == pytest.approx(two.activations + two.logits, rel=0.02)
    embedding = 4 * 4_096 * 256  # bytes of its gradient, which is there once
    assert four.activations - embedding == 2 * (pair.activations - embedding)


def test_the_plan_shows_the_pass_over_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for one in PAIRS for word in ("--set", one)]
    main(["plan", "tiny", "--json", "--device", "a100", *options])
    run = json.loads(capsys.readouterr().out)["run"]
    assert run["reference_seconds"] > 0
    main(["plan", "tiny", "--device", "a100", *options])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "of the reference" in line)
    assert "80 answers" in row
    main(["plan", "tiny", "--json", "--device", "a100"])
    assert json.loads(capsys.readouterr().out)["run"]["reference_seconds"] == 0


@pytest.mark.parametrize(
    ("captured", "overrides"),
    [
        (True, ()),
        (False, PAIRS),
        (False, ("kernels.cuda_graphs=false",)),
        (False, ("parallel.data_shard=2", "batch.micro_batch=4")),
        (False, ('hardware.device="cpu"',)),
    ],
    ids=["one GPU", "preferences", "switched off", "two ranks", "CPU"],
)
def test_plan_inspect_and_trainer_agree_on_cuda_graphs(captured, overrides) -> None:
    """Plans count no host time for the kernels of a captured micro-batch."""
    spec = load_spec("tiny", overrides)
    setting, compiled = Setting(spec, A100), list(stages(spec))
    program = compiled[-1].program
    assert setting.captures == captured
    assert (StepModel(setting, program).cost.profile.host == 0) == captured
    assert any("CUDA graph of a micro-batch: chosen" in note for note in program.notes) == captured
    assert ("CudaGraph(" in files_of(spec, compiled)["train.py"]) == captured
