"""What `llamac plan` predicts of a step, against the step: time and peak memory, on this machine.

    python benchmarks/plan_measured.py [--steps 5] [--only 125m 1b]

How each figure is taken:
- Before each setting `llamac plan --calibrate` measures this machine again: the speed of a shared
  one drifts. Predictions use that device and nothing that is measured afterwards.
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
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the emitted train.py sets it

import torch

from llamac.emit.build import files_of, write_directory
from llamac.passes.pipeline import stages
from llamac.plan.device.calibrate import calibrate, device_toml
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
        return load_spec(ROOT / "specs" / f"{self.spec}.toml", changes)


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
    ),
    "gpu": (
        Setting("125m", 8, 1024, "selective"),
        Setting("125m", 16, 1024, "none"),
        Setting("125m", 16, 1024, "full"),
        Setting("125m", 32, 1024, "selective"),
        Setting("125m", 16, 2048, "selective"),
        Setting("125m", 8, 1024, "none", micro_batches=4),
        Setting("1b", 1, 2048, "none"),
        Setting("1b", 2, 2048, "selective"),
        Setting("1b", 4, 2048, "selective"),
        Setting("1b", 4, 2048, "full"),
        Setting("1b", 8, 1024, "selective"),
        Setting("1b", 2, 2048, "selective", micro_batches=4),
    ),
}


def child(directory: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Run the trainer's step; the process imports what train.py does of the emitted directory."""
    sys.path.insert(0, str(directory))
    import model as emitted  # pyright: ignore[reportMissingImports]
    import train  # pyright: ignore[reportMissingImports]
    from runtime import machine  # pyright: ignore[reportMissingImports]
    from runtime.optimizers.adamw import AdamW  # pyright: ignore[reportMissingImports]

    device, dtype = torch.device(task["device"]), getattr(torch, task["dtype"])
    torch.manual_seed(0)
    model = emitted.Model(device=device, dtype=dtype)
    emitted.initialise(model, 0)
    mesh, shares = train.Mesh(train.DEGREES, device), train.Shares(train.PACKED)
    parameters, options = model.named_parameters(), task["optimizer"]
    optimizer = train.ShardedWeights(parameters, shares, mesh, AdamW, **options)
    how = machine.compile_or_eager(task["compile"], device, emitted.compile_regions)
    shape = (task["micro_batches"], task["sequences"], task["length"] + 1)
    batch = torch.randint(task["vocabulary"], shape, device=device)
    times = []
    for step in range(task["steps"] + 1):
        if step == 1:
            machine.forget_peak_memory(device)
        began = time.perf_counter()
        total = torch.zeros((), device=device)
        for micro in batch:
            loss = model(micro[:, :-1].contiguous(), micro[:, 1:].contiguous())
            loss.backward()
            total += loss.detach()
        optimizer.read(optimizer.step(1e-5, total, torch.tensor(batch[..., 1:].numel())))
        times.append(time.perf_counter() - began)
    return {"seconds": times[1:], "peak": machine.peak_memory_bytes(device), "how": how}


def measured(setting: Setting, spec: Spec, kind: str, steps: int, directory: Path) -> Any:
    write_directory(directory, files_of(spec, stages(spec)))
    task = {
        "device": "cuda" if kind == "gpu" else "cpu",
        "dtype": "bfloat16" if kind == "gpu" else "float32",
        "compile": spec.kernels.compile,
        "optimizer": spec.optimizer.hyperparameters,
        "micro_batches": setting.micro_batches,
        "sequences": setting.sequences,
        "length": setting.length,
        "vocabulary": spec.model.vocab_size,
        "steps": steps,
    }
    command = [sys.executable, __file__, "--child", str(directory), json.dumps(task)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(settings: list[Setting], kind: str, steps: int) -> Iterator[dict[str, Any]]:
    for setting in settings:
        device, remarks = calibrate()
        spec = setting.load(kind)
        plan = predict(setting_for(spec, device))
        with tempfile.TemporaryDirectory() as directory:
            found = measured(setting, spec, kind, steps, Path(directory, "built"))
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
    parser.add_argument("--only", nargs="+", choices=("125m", "1b"), default=("125m", "1b"))
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()

    load = os.getloadavg()[0]
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    device, _ = calibrate()
    print(f"{device.title}, load average {load:.1f}\n")
    print(f"{'':38}{'planned':>9}{'fastest':>9}{'median':>9}{'planned':>11}{'peak':>9}")
    found = []
    for row in rows([s for s in SETTINGS[kind] if s.spec in options.only], kind, options.steps):
        found.append(row)
        seconds = row["step_seconds"]
        print(
            f"{row['setting']:38}{row['predicted_step_seconds']:8.3f}s{seconds['fastest']:8.3f}s"
            f"{seconds['median']:8.3f}s{row['predicted_peak_memory_bytes'] / 1e9:8.2f} GB"
            f"{row['peak_memory_bytes'] / 1e9:6.2f} GB",
            flush=True,
        )
    summary = errors_of(found)
    for key, off in summary.items():
        print(f"{key:32} off by {off['mean']:6.1%} in the mean, {off['worst']:6.1%} at worst")
    result = {
        "how": __doc__,
        "device": device.title,
        "load_average": {"before": load, "after": os.getloadavg()[0]},
        "torch": torch.__version__,
        "steps": options.steps,
        "errors": summary,
        "settings": found,
    }
    out = options.out or RESULTS / f"plan_measured_{kind}.json"
    out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(Path(sys.argv[2]), json.loads(sys.argv[3]))))
    else:
        main()
