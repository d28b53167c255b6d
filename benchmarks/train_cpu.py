"""A training step on CPU: llamac's emitted model against transformers, eager and compiled.

    python benchmarks/train_cpu.py [--spec benchmarks/bench-14m.toml] [--rounds 15] [--only NAME…]

A machine with AVX2 alone is imitated by ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
MKL_ENABLE_INSTRUCTIONS=AVX2 in the environment.

How each figure is taken:
- Time: wall clock of a whole step (forward, backward, clip, fused AdamW; the same optimizer code
  for all) on the same weights and batch, after losses and gradient norms were seen to agree.
  Contestants take turns step by step, starting with another one each round, so that the machine's
  drift meets all alike. A ratio is the median over rounds of the ratios within a round. Processor
  time of all threads is given beside it, which other work on the machine disturbs less.
- Peak: the best float32 matmul of several large sizes seen in the same rounds, by torch.mm and by
  oneDNN's linear, whichever is faster. The fraction of it counts 6N + 6·L·d·s FLOPs per token.
- Activation memory: torch.profiler's record of every CPU allocation and free, Inductor's buffers
  included, in one forward and backward; the highest running total above the level before it.
  Parameters, gradients (allocated before, added to) and optimizer state stand below that level;
  logits and gradients in passing count. Beside it, as a witness that sees what no allocator
  hook does, the rise of the process's peak resident memory in another such pass.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # for all alike, as the emitted train.py sets it

import torch
from contest import (
    Contestant,
    build,
    check_agreement,
    emitted_model,
    flops_per_token,
    hf_loss,
    hf_model,
    mean_loss,
    random_batch,
    random_weights,
)
from torch import Tensor

from llamac.runtime.machine import separate_caches
from llamac.spec import Spec, load_spec

HERE = Path(__file__).resolve().parent
SPEC = HERE / "bench-14m.toml"
NAMES = ("llamac", "llamac-uncompiled", "hf-eager", "hf-compiled")
THREADS = 2
MATMUL_SIZES = (1536, 2048, 3072, 4096)


def enter(name: str, path: Path, spec: Spec, directory: Path) -> Contestant:
    """Build one contestant; all have the same weights."""
    model, length = spec.model, spec.batch.sequence_length
    weights = random_weights(model, length)
    if name.startswith("llamac"):
        module = build(path, directory / name.replace("-", "_"))
        if name == "llamac":
            module.compile_regions()
        emitted = emitted_model(module, weights, "cpu", torch.float32)
        return Contestant.enter(name, emitted, mean_loss(emitted))
    hf = hf_model(model, weights, length, "cpu", torch.float32)
    loss = hf_loss(hf)
    return Contestant.enter(name, hf, torch.compile(loss) if name == "hf-compiled" else loss)


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def matmul_flops(size: int) -> dict[str, float]:
    """FLOP/s of one float32 size³ matmul, by torch.mm (BLAS) and by oneDNN where torch has it."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    found = {"torch.mm": seconds(torch.mm, a, b)}
    if torch.backends.mkldnn.is_available():
        found["oneDNN"] = seconds(torch.ops.mkldnn._linear_pointwise, a, b, None, "none", [], "")
    return {library: 2 * size**3 / taken for library, taken in found.items()}


def time_rounds(
    contestants: Sequence[Contestant], tokens: Tensor, labels: Tensor, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, float]]:
    """(wall and processor seconds of each step by contestant, best matmul FLOP/s by library)."""
    times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    processor: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    peaks: dict[str, float] = {}
    for number in range(rounds):
        first = number % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            before = time.process_time()
            times[contestant.name].append(seconds(contestant.step, tokens, labels))
            processor[contestant.name].append(time.process_time() - before)
        for size in (MATMUL_SIZES[number % len(MATMUL_SIZES)], 2048):
            for library, flops in matmul_flops(size).items():
                peaks[library] = max(flops, peaks.get(library, 0.0))
        print(f"\rround {number + 1} of {rounds}", end="", flush=True)
    print()
    return times, processor, peaks


def activation_bytes(contestant: Contestant, tokens: Tensor, labels: Tensor) -> int:
    """Peak of live CPU allocations above the level before one forward and backward."""
    with tempfile.TemporaryDirectory() as directory:
        cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
            contestant.loss(tokens, labels).backward()
        trace = Path(directory, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    memory = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    live = peak = 0
    for event in memory:
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    return peak


def resident_bytes(contestant: Contestant, tokens: Tensor, labels: Tensor) -> int | None:
    """Rise of peak resident memory in one forward and backward; None where Linux does not tell."""

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier steps freed must not hide what this needs
        Path("/proc/self/clear_refs").write_text("5")  # peak := now
        before = status("VmRSS")
    except (OSError, AttributeError):
        return None
    contestant.loss(tokens, labels).backward()
    return status("VmHWM") - before


def measure_memory(contestant: Contestant, tokens: Tensor, labels: Tensor) -> dict[str, int | None]:
    contestant.loss(tokens, labels).backward()  # gradients exist from here on
    figures = {
        "activation_bytes": activation_bytes(contestant, tokens, labels),
        "resident_rise_bytes": resident_bytes(contestant, tokens, labels),
    }
    contestant.model.zero_grad(set_to_none=True)
    return figures


def summary(times: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def pairwise(times: dict[str, list[float]], hero: str) -> dict[str, dict[str, float]]:
    """How many times faster `hero` is than each other, over the rounds."""
    return {
        other: summary([b / a for a, b in zip(times[hero], steps, strict=True)])
        for other, steps in times.items()
        if other != hero
    }


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "load_average_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def report(result: dict[str, Any]) -> None:
    peak = result["matmul_peak_flops"]
    print(", ".join(f"{library} {flops / 1e9:.0f}" for library, flops in peak.items()), end="")
    print(" GFLOP/s float32 matmul peak\n")
    print(f"{'':18}{'step':>9}{'tokens/s':>10}{'of peak':>9}{'activations':>13}{'resident':>10}")
    for name, row in result["contestants"].items():
        resident = row["resident_rise_bytes"]
        print(
            f"{name:18}{row['step_seconds']['median']:8.3f}s{row['tokens_per_second']:10.0f}"
            f"{row['fraction_of_peak']:9.3f}{row['activation_bytes'] / 1e6:10.0f} MB"
            + (f"{resident / 1e6:7.0f} MB" if resident is not None else "")
        )
    print()
    hero = next(iter(result["contestants"]))
    for other, ratio in result["speedup"].items():
        spent = result["processor_speedup"][other]["median"]
        memory = (
            result["contestants"][hero]["activation_bytes"]
            / result["contestants"][other]["activation_bytes"]
        )
        print(
            f"{hero} is {ratio['median']:.2f}× as fast as {other} (rounds {ratio['min']:.2f} to "
            f"{ratio['max']:.2f}; {spent:.2f}× in processor time), "
            f"with {memory:.2f}× the activation memory"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spec", type=Path, default=SPEC, help="model and batch")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each contestant")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()

    separate_caches()
    torch.set_num_threads(THREADS)
    description = machine()
    spec = load_spec(options.spec)
    length, sequences = spec.batch.sequence_length, spec.batch.micro_batch
    tokens, labels = random_batch(spec.model, sequences, length)
    with tempfile.TemporaryDirectory() as directory:
        contestants = [enter(name, options.spec, spec, Path(directory)) for name in options.only]
        losses = check_agreement(contestants, tokens, labels, tolerance=1e-4)
        memory = {c.name: measure_memory(c, tokens, labels) for c in contestants}
        for contestant in contestants:
            contestant.step(tokens, labels)  # AdamW's state is made here
        times, processor, peaks = time_rounds(contestants, tokens, labels, options.rounds)

    matmul, attention = flops_per_token(spec.model, length)
    rows = {}
    for name, steps in times.items():
        rate = sequences * length / statistics.median(steps)
        rows[name] = {
            "first_loss": losses[name],
            "step_seconds": summary(steps),
            "processor_seconds": summary(processor[name]),
            "tokens_per_second": rate,
            "fraction_of_peak": rate * (matmul + attention) / max(peaks.values()),
            **memory[name],
        }
    result = {
        "how": __doc__,
        "machine": description,
        "spec": options.spec.name,
        "sequences": sequences,
        "sequence_length": length,
        "rounds": options.rounds,
        "flops_per_token": {"6N": matmul, "6Lds": attention},
        "matmul_peak_flops": peaks,
        "contestants": rows,
        "speedup": pairwise(times, options.only[0]),
        "processor_speedup": pairwise(processor, options.only[0]),
    }
    report(result)
    simd = description["simd"].lower()
    options.out = options.out or HERE / "results" / f"train_cpu-{options.spec.stem}-{simd}.json"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
