"""What `llamac plan` predicts of a step, against the step: time and peak memory, on this machine.

    python benchmarks/plan_measured.py [--steps 5] [--only 125m 1b] [--seconds N] [--device FILE]

How each figure is taken:
- Before each setting `llamac plan --calibrate` measures this machine again, as the speed of a
  shared one drifts; or --device names the file of one calibration, for a GPU that nobody shares.
  Predictions use that device and nothing that is measured afterwards.
- Each setting is built as `llamac build` does, and a process of its own runs the emitted model and
  optimizer as train.py does, on random tokens: forward and backward of each micro-batch, update.
  The first step, which makes the optimizer's state and warms up, is not counted.
- Time: the median and the fastest of the steps. The calibration takes the best of its rounds, for
  whatever else runs on a machine can only add to it; so the fastest is what it speaks of.
- Memory: on CPU the peak resident set of the process over the counted steps; on a GPU the peak of
  torch's allocations, against the prediction without what no allocator gives out.
- On CPU in fp32 and op by op (kernels.compile = "never"), on a GPU in bf16 and compiled. Of `1b`,
  whose state alone takes 22 GB in fp32, CPUs run the first four of its 24 layers.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the emitted train.py sets it

import torch
from gpu.emitted_trainer import WARM, EmittedTrainer

from llamac.emit.build import files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.plan.device.calibrate import calibrate, device_toml
from llamac.plan.device.device import load_device
from llamac.plan.predict import predict
from llamac.plan.target import setting_for
from llamac.spec import Spec, load_spec

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Setting:
    """A shipped spec, so many sequences of a length in a micro-batch, so many micro-batches, and
    what is kept of activations."""

    spec: str
    sequences: int
    length: int
    policy: str
    micro_batches: int = 1

    @property
    def name(self) -> str:
        times = f"{self.micro_batches} of " if self.micro_batches > 1 else ""
        return f"{self.spec}: {times}{self.sequences} × {self.length}, {self.policy}"

    def load(self, kind: str) -> Spec:
        changes = [
            f"batch.sequence_length={self.length}",
            f"batch.micro_batch={self.sequences}",
            f"batch.sequences={self.sequences * self.micro_batches}",
            f'recompute.policy="{self.policy}"',
        ]
        if kind == "cpu":
            changes += ['precision.compute="fp32"', 'kernels.compile="never"']
            changes += ['hardware.device="cpu"']
            changes += ["model.n_layers=4"] if self.spec == "1b" else []
        if self.spec == "toy":
            changes += ["model.n_layers=2", "model.dim=128", "model.n_heads=4"]
            changes += ["model.vocab_size=1024"]
        shipped = "125m" if self.spec == "toy" else self.spec
        return load_spec(ROOT / "specs" / f"{shipped}.toml", changes)


SETTINGS = {
    "cpu": (
        Setting("125m", 1, 256, "selective"),
        Setting("125m", 2, 256, "none"),
        Setting("125m", 4, 256, "full"),
        Setting("125m", 1, 512, "full"),
        Setting("125m", 2, 512, "selective"),
        Setting("125m", 1, 1024, "none"),
        Setting("125m", 1, 256, "selective", micro_batches=3),
        Setting("1b", 1, 128, "selective"),
        Setting("1b", 2, 128, "full"),
        Setting("1b", 1, 256, "none"),
        Setting("1b", 1, 512, "full"),
        Setting("1b", 2, 256, "selective"),
        Setting("1b", 4, 128, "none"),
        Setting("toy", 2, 128, "selective"),
    ),
    "gpu": (  # in an order that makes the first few the most telling
        Setting("1b", 4, 2048, "selective"),
        Setting("125m", 16, 1024, "none"),
        Setting("1b", 2, 2048, "selective", micro_batches=4),
        Setting("125m", 8, 1024, "selective"),
        Setting("125m", 16, 1024, "full"),
        Setting("125m", 32, 1024, "selective"),
        Setting("125m", 16, 2048, "selective"),
        Setting("125m", 8, 1024, "none", micro_batches=4),
        Setting("1b", 1, 2048, "none"),
        Setting("1b", 2, 2048, "selective"),
        Setting("1b", 4, 2048, "full"),
        Setting("1b", 8, 1024, "selective"),
    ),
}


def trainer_step(directory: Path, task: dict[str, Any]) -> tuple[Callable[[], None], Any, str]:
    """(the trainer's step on random tokens, the emitted `runtime.machine`, how it is compiled).

    The process imports what train.py does of the emitted directory: one directory a process.
    """
    torch.manual_seed(0)
    device = torch.device(task["device"])
    trainer = EmittedTrainer(directory, device)
    machine = importlib.import_module("runtime.machine")
    compile_regions = trainer.emitted.compile_regions
    how = machine.compile_or_eager(task["compile"], device, compile_regions, math.inf)
    shape = (task["sequences"], task["length"] + 1)
    batch = torch.randint(task["vocabulary"], shape, device=device)
    tokens, labels = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()

    def step() -> None:
        trainer.step(tokens, labels, lr=1e-5)

    return step, machine, how


def child(directory: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Time the trainer's step, and see what memory it takes at most."""
    step, machine, how = trainer_step(directory, task)
    device, times = torch.device(task["device"]), []
    warm = WARM if device.type == "cuda" else 1
    for number in range(warm + task["steps"]):
        if number == warm:
            machine.forget_peak_memory(device)
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return {"seconds": times[warm:], "peak": machine.peak_memory_bytes(device), "how": how}


def task_of(spec: Spec, kind: str, steps: int = 0) -> dict[str, Any]:
    """Return the constants of a spec that `trainer_step` reads."""
    batch = spec.batch
    return {
        "device": "cuda" if kind == "gpu" else "cpu",
        "compile": spec.kernels.compile,
        "sequences": batch.sequences,
        "length": batch.sequence_length,
        "vocabulary": spec.model.vocab_size,
        "steps": steps,
    }


def measured(spec: Spec, kind: str, steps: int, directory: Path) -> Any:
    write_directory(directory, files_of(spec, stages(spec)))
    task = task_of(spec, kind, steps)
    command = [sys.executable, __file__, "--child", str(directory), json.dumps(task)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(
    settings: list[Setting], kind: str, steps: int, calibrated: Path | None = None
) -> Iterator[dict[str, Any]]:
    for setting in settings:
        if calibrated is None:
            device, remarks = calibrate()
        else:
            device, remarks = (
                load_device(str(calibrated)),
                [f"Calibrated once, in {calibrated.name}."],
            )
        spec = setting.load(kind)
        plan = predict(setting_for(spec, device))
        with tempfile.TemporaryDirectory() as directory:
            found = measured(spec, kind, steps, Path(directory, "built"))
        memory = plan.memory.total - (plan.memory.overhead if kind == "gpu" else 0)
        median, fastest = statistics.median(found["seconds"]), min(found["seconds"])
        yield {
            "setting": setting.name,
            "spec": setting.spec,
            "predicted_step_seconds": plan.seconds.total,
            "step_seconds": {"median": median, "fastest": fastest, "all": found["seconds"]},
            "predicted_peak_memory_bytes": round(memory),
            "peak_memory_bytes": found["peak"],
            "errors": {
                "step_seconds_fastest": plan.seconds.total / fastest - 1,
                "step_seconds_median": plan.seconds.total / median - 1,
                "peak_memory": memory / found["peak"] - 1,
            },
            "run": found["how"],
            "calibration": device_toml(device, remarks),
        }


def errors_of(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of absolute relative errors and the worst one, by spec."""
    summary: dict[str, dict[str, float]] = {}
    for spec in dict.fromkeys(row["spec"] for row in found):
        own = [row["errors"] for row in found if row["spec"] == spec]
        for key in own[0]:
            off = [abs(errors[key]) for errors in own]
            summary[f"{spec}: {key}"] = {"mean": statistics.mean(off), "worst": max(off)}
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=5, help="counted, of each setting")
    specs = ("125m", "1b", "toy")
    parser.add_argument("--only", nargs="+", choices=specs, default=specs[:2])
    parser.add_argument("--device", type=Path, help="a file of `llamac plan --calibrate`")
    parser.add_argument("--seconds", type=float, default=7200, help="begin no setting after these")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()

    load, deadline = os.getloadavg()[0], time.monotonic() + options.seconds
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    device = calibrate()[0] if options.device is None else load_device(str(options.device))
    out = options.out or RESULTS / f"plan_measured_{kind}.json"
    print(f"{device.title}, load average {load:.1f}\n")
    print(f"{'':38}{'planned':>9}{'fastest':>9}{'median':>9}{'planned':>11}{'peak':>9}")
    found, wanted = [], [s for s in SETTINGS[kind] if s.spec in options.only]
    for row in rows(wanted, kind, options.steps, options.device):
        found.append(row)
        seconds = row["step_seconds"]
        print(
            f"{row['setting']:38}{row['predicted_step_seconds']:8.3f}s{seconds['fastest']:8.3f}s"
            f"{seconds['median']:8.3f}s{row['predicted_peak_memory_bytes'] / 1e9:8.2f} GB"
            f"{row['peak_memory_bytes'] / 1e9:6.2f} GB",
            flush=True,
        )
        result = {
            "how": __doc__,
            "device": device.title,
            "load_average": {"before": load, "after": os.getloadavg()[0]},
            "torch": torch.__version__,
            "steps": options.steps,
            "complete": len(found) == len(wanted),
            "errors": errors_of(found),
            "settings": found,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        if time.monotonic() > deadline:
            break
    for key, off in errors_of(found).items():
        print(f"{key:32} off by {off['mean']:6.1%} in the mean, {off['worst']:6.1%} at worst")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(Path(sys.argv[2]), json.loads(sys.argv[3]))))
    else:
        main()
