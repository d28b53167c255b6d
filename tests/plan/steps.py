"""Layouts that the tests of traces, breakdowns and pictures share."""

from __future__ import annotations

from llamac.ir.program import Program
from llamac.plan.predict import predict
from llamac.plan.prediction import Prediction
from llamac.plan.target import device_for, setting_for
from llamac.spec import load_spec

SMALL = ("model.n_layers=8", "batch.micro_batch=1", "batch.tokens=64Ki", "schedule.tokens=1G")
LAYOUTS = {
    "one rank": ("tiny", ()),
    "micro-batches": ("125m", ("batch.tokens=64Ki",)),
    "FSDP over tensor ranks": ("65b", ("model.n_layers=8", "batch.micro_batch=1")),
    "DDP": ("7b", (*SMALL, "parallel.data_shard=1", "parallel.data_replicate=8")),
    "HSDP": ("7b", (*SMALL, "parallel.data_shard=4", "parallel.data_replicate=2")),
    "context": ("7b", (*SMALL, "parallel.context=2", "parallel.tensor=2")),
    "1F1B": ("7b", (*SMALL, "parallel.pipeline=4", "parallel.data_shard=2")),
    "interleaved 1F1B": (
        "7b",
        (*SMALL, "parallel.pipeline=4", "parallel.pipeline_virtual=2", "parallel.data_shard=2"),
    ),
    "recomputed": ("7b", (*SMALL, "recompute.policy=full")),
    "two variants of a block": (
        "7b",
        (
            "model.n_layers=8",
            "batch.tokens=64Ki",
            "schedule.tokens=1G",
            "batch.micro_batch=2",
            "recompute.policy=budget",
            "recompute.budget=17GB",
        ),
    ),
    "scores written out": ("gpt3-block", ("kernels.attention=math",)),
}


def planned(name: str) -> tuple[Prediction, Program]:
    """A layout's prediction, on A100s unless its spec says otherwise."""
    shipped, overrides = LAYOUTS[name]
    spec = load_spec(shipped, overrides)
    device = None if spec.hardware.gpu or shipped == "tiny" else "a100-80gb"
    setting = setting_for(spec, device_for(spec, device))
    program = setting.compile()
    return predict(setting, program), program
