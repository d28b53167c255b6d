"""Profile of a training step on the GPU: kernels, gaps between them, exposed communication.

    python benchmarks/gpu/step_profile.py [--size 1b] [--rehearse] --out FILE.json

The emitted model and optimizer take steps as train.py does, compiled; after warm-up, torch.profiler
records a few. Figures come from its trace: a kernel's time is the device's own record, the device
is busy while any stream runs a kernel, and what is left of the step between first and last kernel
are gaps. Communication is exposed while no other kernel runs. The profiler slows the host down, so
gaps are an upper bound; the step's time without it is given beside.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from gpu import results, state
from gpu.emitted_trainer import WARM
from plan_measured import task_of, trainer_step
from torch.profiler import ProfilerActivity, profile, record_function
from train_gpu import SIZES, TOY

from llamac.emit.build import files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.spec import load_spec

KINDS = (  # of kernels, by what their names contain; the first that fits
    ("communication", r"nccl"),
    ("attention", r"flash|fmha|sdpa|attention|attn"),
    ("matmul", r"gemm|nvjet|cutlass|xmma|\bmm\b|addmm|linear|matmul|splitKreduce"),
    ("optimizer", r"adam|multi_tensor|foreach|lion"),
    ("copy", r"memcpy|memset|copy_"),
    ("fused by Inductor", r"triton|inductor|graph_"),
)


class Kernel(NamedTuple):
    """One run of a kernel; times in µs."""

    name: str
    start: float
    end: float


def kind_of(name: str) -> str:
    return next((k for k, part in KINDS if re.search(part, name, re.IGNORECASE)), "other")


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Total length of what the spans cover."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def analysed(kernels: Sequence[Kernel], steps: int, most: int = 40) -> dict[str, Any]:
    """Per step, in ms: time by kernel and by kind, gaps, exposed communication."""
    ordered = sorted(kernels, key=lambda kernel: kernel.start)
    span = max(k.end for k in ordered) - ordered[0].start
    busy = union((k.start, k.end) for k in ordered)
    talk = [(k.start, k.end) for k in ordered if kind_of(k.name) == "communication"]
    work = [(k.start, k.end) for k in ordered if kind_of(k.name) != "communication"]
    gaps, reached = [], ordered[0].end
    for kernel in ordered[1:]:
        if kernel.start > reached:
            gaps.append((kernel.start - reached, kernel.name))
        reached = max(reached, kernel.end)
    by_name: dict[str, list[float]] = {}
    for kernel in ordered:
        by_name.setdefault(kernel.name, []).append(kernel.end - kernel.start)
    total = sum(map(sum, by_name.values()))
    table = [
        {
            "kernel": name[:160],
            "kind": kind_of(name),
            "calls": len(times) / steps,
            "ms": sum(times) / steps / 1e3,
            "share": sum(times) / total,
        }
        for name, times in sorted(by_name.items(), key=lambda item: -sum(item[1]))
    ]
    kinds: dict[str, float] = {}
    for row in table:
        kinds[row["kind"]] = kinds.get(row["kind"], 0.0) + row["ms"]
    longest = sorted(gaps, reverse=True)[:10]
    return {
        "span_ms": span / steps / 1e3,
        "busy_ms": busy / steps / 1e3,
        "gap_ms": (span - busy) / steps / 1e3,
        "gaps": len(gaps) / steps,
        "longest_gaps": [{"ms": us / 1e3, "before": name[:160]} for us, name in longest],
        "exposed_communication_ms": (busy - union(work)) / steps / 1e3 if talk else 0.0,
        "kernels": sum(row["calls"] for row in table),
        "kinds_ms": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "table": table[:most],
    }


def kernels_of(trace: Path, cuda: bool) -> list[Kernel]:
    """The kernels of a Chrome trace; the CPU's outermost operators where there is no GPU."""
    events = json.loads(trace.read_text())["traceEvents"]
    wanted = ("kernel", "gpu_memcpy", "gpu_memset") if cuda else ("cpu_op",)
    found = [
        Kernel(event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("ph") == "X" and event.get("cat") in wanted
    ]
    return found if cuda else outermost(found)


def outermost(kernels: list[Kernel]) -> list[Kernel]:
    """Those that begin outside of all others: of nested operators, the callers."""
    kept, reached = [], float("-inf")
    for kernel in sorted(kernels, key=lambda k: (k.start, -k.end)):
        if kernel.start >= reached:
            kept.append(kernel)
            reached = kernel.end
    return kept


def measured(size: str, rehearse: bool, steps: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    setting = (TOY if rehearse else SIZES)[size]
    spec = load_spec(setting.path, [*setting.all_settings(), "precision.compute=bf16"])
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch, "built")
        write_directory(directory, files_of(spec, stages(spec)))
        step, _machine, how = trainer_step(directory, task_of(spec, "gpu" if cuda else "cpu"))
        times = []
        for _ in range(WARM + steps):
            began = time.perf_counter()
            step()  # ends by reading the loss: a wait for the device
            times.append(time.perf_counter() - began)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
        with profile(activities=activities) as profiler:
            for _ in range(steps):
                with record_function("training step"):
                    step()
        trace = Path(scratch, "trace.json")
        profiler.export_chrome_trace(str(trace))
        found = analysed(kernels_of(trace, cuda), steps)
    without = statistics.median(times[WARM:]) * 1e3
    return {"size": size, "run": how, "step_ms_without_profiler": without, **found}


def shown(row: dict[str, Any]) -> str:
    lines = [f"{'ms':>9} {'share':>6} {'calls':>6}  kernel"]
    for one in row["table"][:25]:
        lines.append(
            f"{one['ms']:9.3f} {one['share']:6.1%} {one['calls']:6.0f}  {one['kernel'][:90]}"
        )
    lines += [f"{ms:9.3f} ms of {kind}" for kind, ms in row["kinds_ms"].items()]
    lines.append(
        f"{row['size']}: {row['step_ms_without_profiler']:.2f} ms a step; profiled "
        f"{row['span_ms']:.2f} ms, of which busy {row['busy_ms']:.2f}, in {row['gaps']:.0f} gaps "
        f"{row['gap_ms']:.2f}, exposed communication {row['exposed_communication_ms']:.2f}"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=(*SIZES, *TOY), default="1b")
    parser.add_argument("--steps", type=int, default=3, help="profiled")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a toy")
    parser.add_argument("--out", type=Path, required=True, help="where the JSON goes")
    options = parser.parse_args()
    if options.rehearse:
        torch.cuda.is_available = lambda: False
        torch.compile = functools.partial(torch.compile, backend="eager")
    result = results.read(options.out) | {"how": __doc__, "machine": state.device()}
    row = measured("toy" if options.rehearse else options.size, options.rehearse, options.steps)
    result["rows"][row["size"]] = row
    results.write(options.out, result | {"complete": True})
    print(shown(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
