"""A training step on one NVIDIA GPU: llamac against peers; every attention kernel against float64.

    python benchmarks/train_gpu.py [--sizes 1b 125m …] [--only NAME…] [--seconds N]
    python benchmarks/train_gpu.py --check

Contestants run in turn, each in a process of its own and alone on the GPU, with the same bf16
weights, batch and optimizer (fused AdamW on float32 masters); `llamac-trainer` is train.py's own
step, with its optimizer and its CUDA graph. A step is forward, backward, clip and AdamW, timed by
CUDA events; the figure is the median of the timed steps. MFU counts
6N + 12·L·d·s FLOPs per token (PaLM) of the GPU's dense bf16 peak; memory is
torch.cuda.max_memory_allocated over the timed steps, parameters and optimizer included. Watts and
clocks are nvidia-smi's, five times a second, over the timed steps. First losses must agree.

`--check` compares loss and every gradient of each kernel, dtype and mask with the float64
reference. A gradient's error is its distance from the reference over the reference's norm.

Each row is written to the JSON as it comes; called again, what is there already is left out.
`--rehearse` does all of it on the CPU with a toy, for what it has no time to find out on a GPU.
Exits 0 if all ran and passed, 3 if a check missed or first losses differ, 2 without CUDA.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from contest import (
    ROOT,
    Contestant,
    emitted_model,
    flops_per_token,
    import_emitted,
    random_batch,
    random_weights,
)
from gpu import contestants, results, state
from gpu.contestants import TrainerContestant
from gpu.emitted_trainer import WARM
from torch import Tensor, nn

from llamac.emit.build import files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.passes.select_kernels import NoKernelError
from llamac.spec import SpecError, load_spec
from llamac.verify.reference import Reference

SPEC = ROOT / "specs" / "1b.toml"


# -- races -----------------------------------------------------------------------------------------


class Size(NamedTuple):
    """A model and batch: a shipped spec, what differs from it, sequences in the one micro-batch."""

    spec: str
    sequences: int
    settings: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return ROOT / "specs" / f"{self.spec}.toml"

    def all_settings(self) -> list[str]:
        count = f"batch.sequences={self.sequences}"
        return [*self.settings, f"batch.micro_batch={self.sequences}", count]


# What one of 8 tensor-parallel ranks holds of a 65B layer: its heads, its part of the rest.
OF_65B = ("model.dim=8192", "model.n_heads=8", "model.head_dim=128", "model.ffn_dim=2752")
SIZES = {
    "1b": Size("1b", 8),
    "7b-width": Size("1b", 4, ("model.dim=4096", "model.n_heads=32", "model.n_layers=4")),
    "125m": Size("125m", 32),
    "1b-4096": Size("1b", 4, ("batch.sequence_length=4096",)),
    "65b-tp8-width": Size("1b", 8, (*OF_65B, "model.n_layers=4", "model.vocab_size=4000")),
}
SMALL = (
    "model.dim=256", "model.n_layers=2", "model.n_heads=4", "model.head_dim=64",
    "model.ffn_dim=512", "model.vocab_size=512", "batch.sequence_length=256",
)  # fmt: skip
TINY = (
    *SMALL,
    "model.dim=64",
    "model.head_dim=16",
    "model.ffn_dim=192",
    "batch.sequence_length=64",
)
TOY = {"toy": Size("1b", 2, TINY)}


def milliseconds(function: Callable[..., Any], *arguments: Any) -> float:
    if not torch.cuda.is_available():
        began = time.perf_counter()
        function(*arguments)
        return (time.perf_counter() - began) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function(*arguments)
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure(
    contestant: Contestant | TrainerContestant, tokens: Tensor, labels: Tensor, rounds: int
) -> dict[str, Any]:
    """Step times in seconds (median, min, max), peak memory in bytes, and the first loss."""
    cuda = torch.cuda.is_available()
    began = time.perf_counter()
    first_loss = contestant.first_step(tokens, labels)
    first_step = time.perf_counter() - began  # compiles
    for _ in range(WARM - 1):  # picks algorithms, warms the allocator up, captures a graph
        contestant.step(tokens, labels)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with state.Watch() as watch:
        times = [milliseconds(contestant.step, tokens, labels) / 1e3 for _ in range(rounds)]
    return {
        "first_loss": first_loss,
        "first_step_seconds": first_step,
        "step_seconds": {
            "median": statistics.median(times),
            "min": min(times),
            "max": max(times),
        },
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "watts_and_clocks": watch.row,
    }


def one(size: Size, name: str, rounds: int) -> dict[str, Any]:
    """One contestant's row. The process that calls this is its own."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = load_spec(size.path, size.all_settings())
    length = spec.batch.sequence_length
    tokens, labels = (t.to(device) for t in random_batch(spec.model, size.sequences, length))
    with tempfile.TemporaryDirectory() as directory:
        try:
            contestant = contestants.enter(
                name, size.path, size.all_settings(), Path(directory), device
            )
        except contestants.Absent as error:
            return {"skipped": str(error)}
        row = measure(contestant, tokens, labels, rounds)
    if name.startswith("llamac"):
        row["attention_falls_back"] = contestants.fallback() or None
    matmul, causal = flops_per_token(spec.model, length)
    row["tokens_per_second"] = tokens.numel() / row["step_seconds"]["median"]
    peak = state.peak_flops()
    rate = row["tokens_per_second"] * (matmul + 2 * causal)
    row["flops_per_second"], row["mfu"] = rate, rate / peak if peak else None
    return row


def in_its_own_process(
    size: str, name: str, rounds: int, rehearse: bool, seconds: float
) -> dict[str, Any]:
    """`one` of a new process: nobody inherits another's memory, patches or failure."""
    command = [sys.executable, __file__, "--one", size, name, "--rounds", str(rounds)]
    command += ["--rehearse"] if rehearse else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {seconds:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-8:]}
    return json.loads(done.stdout.splitlines()[-1])


def race(options: argparse.Namespace, sizes: dict[str, Size]) -> int:
    """Run every contestant at every size, as far as the time goes; 3 if first losses differ."""
    deadline = results.Deadline(options.seconds)
    result = results.read(options.out) | {"how": __doc__, "machine": state.device()}
    rows, complete = result["rows"], True
    for size in options.sizes or sizes:
        for name in options.only:
            key = f"{size} {name}"
            if "tokens_per_second" in rows.get(key, {}) or "skipped" in rows.get(key, {}):
                continue
            if deadline.left < 10:
                complete = False
                continue
            limit = min(deadline.left, options.each)
            row = in_its_own_process(size, name, options.rounds, options.rehearse, limit)
            rows[key] = row
            results.write(options.out, result)
            print(f"{key:32} {shown(row)}", flush=True)
    odd = disagreeing(rows)
    result |= {"complete": complete, "disagree": odd, "ratios": ratios(rows)}
    results.write(options.out, result)
    for line in odd:
        print(f"these times compare nothing: {line}", file=sys.stderr)
    return 3 if odd else 0


def shown(row: dict[str, Any]) -> str:
    if "tokens_per_second" not in row:
        return str(row)
    mfu = "MFU    -" if row["mfu"] is None else f"MFU {row['mfu']:.3f}"
    memory = row["peak_memory_bytes"]
    return (
        f"{row['tokens_per_second']:9.0f} tokens/s  {mfu}  "
        f"{'-' if memory is None else f'{memory / 1e9:.1f} GB'}  loss {row['first_loss']:.4f}"
    )


def by_size(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{size: {contestant: row}} of what was timed."""
    found: dict[str, dict[str, Any]] = {}
    for key, row in rows.items():
        if "tokens_per_second" in row:
            size, name = key.split(" ")
            found.setdefault(size, {})[name] = row
    return found


def disagreeing(rows: dict[str, Any]) -> list[str]:
    """A line for each size whose contestants begin with other losses: they are not alike."""
    lines = []
    for size, timed in by_size(rows).items():
        losses = {name: row["first_loss"] for name, row in timed.items()}
        off = max(losses.values()) - min(losses.values())
        alike = off <= TOLERANCES[torch.bfloat16]["loss"] * min(losses.values())
        if not alike or any(loss != loss for loss in losses.values()):  # NaN
            lines.append(f"{size}: {losses}")
    return lines


def ratios(rows: dict[str, Any]) -> dict[str, Any]:
    """Return llamac's speed and peak memory over the fastest peer's, by size."""
    found = {}
    for size, timed in by_size(rows).items():
        ours = {n: row for n, row in timed.items() if n.startswith("llamac")}
        peers = {n: row for n, row in timed.items() if n not in ours}
        if not ours or not peers:
            continue
        best = max(ours, key=lambda name: ours[name]["tokens_per_second"])
        rival = max(peers, key=lambda name: peers[name]["tokens_per_second"])
        memory = [row["peak_memory_bytes"] for row in (ours[best], peers[rival])]
        found[size] = {
            "of": [best, rival],
            "speed": ours[best]["tokens_per_second"] / peers[rival]["tokens_per_second"],
            "memory": memory[0] / memory[1] if all(memory) else None,
        }
    return found


# -- checks ----------------------------------------------------------------------------------------

KERNELS = ("cudnn", "xformers", "sdpa", "math")
REHEARSED = ("cudnn", "sdpa")
IN_BOTH = ("MHA", "GQA, documents, compiled")  # rehearsed in bf16 too
# Unit roundoff is 6e-8 in float32 and 4e-3 in bf16; errors grow with depth and cancel in sums.
TOLERANCES = {torch.float32: {"loss": 1e-5, "gradient": 1e-4},
              torch.bfloat16: {"loss": 1e-2, "gradient": 5e-2}}  # fmt: skip
GROUPED, DOCUMENTS = "model.n_kv_heads=2", "data.document_mask=true"
WINDOW = "model.sliding_window=96"
VARIANTS: dict[str, tuple[str, ...]] = {
    "MHA": ("model.n_kv_heads=4",),
    "GQA": (GROUPED,),
    "GQA, documents": (GROUPED, DOCUMENTS),
    "GQA, window": (GROUPED, WINDOW),
    "GQA, documents, window": (GROUPED, DOCUMENTS, WINDOW),
    "heads of 128": ("model.head_dim=128",),
    "GQA, compiled": (GROUPED,),
    "GQA, documents, compiled": (GROUPED, DOCUMENTS),
}


def gradients(module: Any, model: nn.Module) -> dict[str, Tensor]:
    """Canonical name to gradient of an emitted model, unpacked."""
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} received no gradient"
        parts = module.PACKED.get(name, ((name, parameter.shape[0]),))
        rows = parameter.grad.split([count for _, count in parts])
        found |= {part: row for (part, _), row in zip(parts, rows, strict=True)}
    return found


def relative(found: Tensor, wanted: Tensor) -> float:
    wanted = wanted.to(found.device, torch.float64)
    return ((found.double() - wanted).norm() / wanted.norm()).item()


def check_path(
    directory: Path, kernel: str, dtype: torch.dtype, variant: str, base: tuple[str, ...]
) -> dict[str, Any]:
    """Relative errors of the loss and of the worst gradient of one emitted model, or why not."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    settings = [f"kernels.attention={kernel}", f"precision.compute={precision}"]
    settings += [f"hardware.device={device}", *base]
    settings += [f"kernels.deterministic={str(kernel != 'cudnn').lower()}", *VARIANTS[variant]]
    try:
        spec = load_spec(SPEC, settings)
        write_directory(directory, files_of(spec, stages(spec)))
    except (SpecError, NoKernelError) as error:
        said = error.diagnostics[0].message if isinstance(error, SpecError) else str(error)
        return {"skipped": said}
    module = import_emitted(directory)
    if why_not := contestants.fallback():
        return {"skipped": why_not}
    length = spec.batch.sequence_length
    weights = {n: w.to(dtype) for n, w in random_weights(spec.model, length).items()}
    tokens, labels = random_batch(spec.model, 2, length)
    eos = getattr(module, "EOS", None)
    if eos is not None:  # documents of 1 token, of a few, of many, and one that takes up the rest
        tokens[0, [10, 11, length // 2]] = eos
        tokens[1, [0, length - 2]] = eos
    tokens, labels = tokens.to(device), labels.to(device)

    reference = Reference(spec.model, length, eos=eos).load(weights).to(device)
    wanted = reference(tokens, labels)
    wanted.backward()
    if "compiled" in variant:
        module.compile_regions()
    model = emitted_model(module, weights, device, dtype)
    found = model(tokens, labels)
    found.backward()

    ours = gradients(module, model)
    theirs = {name: p.grad for name, p in reference.parameters_by_name().items()}
    assert ours.keys() == theirs.keys()
    errors = []
    for name, gradient in theirs.items():
        assert gradient is not None
        errors.append((relative(ours[name], gradient), name))
    return {
        "loss": relative(found.detach(), wanted.detach()),
        "gradient": max(errors)[0],
        "worst": max(errors)[1],
    }


def check(options: argparse.Namespace, scratch: Path) -> int:
    """Write a row for each path; 0 if all are within tolerance, 3 otherwise.

    scratch: keeps every directory, as torch's operators are those that the first one registered.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    deadline = results.Deadline(options.seconds)
    result = results.read(options.out) | {"how": __doc__, "machine": state.device()}
    rows, complete = result["rows"], True
    for variant in VARIANTS:
        for kernel in REHEARSED if options.rehearse else KERNELS:
            for dtype, limit in TOLERANCES.items():
                if options.rehearse and dtype != torch.float32 and variant not in IN_BOTH:
                    continue
                label = f"{kernel}, {variant}, {str(dtype).removeprefix('torch.')}"
                if rows.get(label, {}).get("ok") or "skipped" in rows.get(label, {}):
                    continue
                if not deadline.left:
                    complete = False
                    continue
                base = TINY if options.rehearse else SMALL
                row = attempt(scratch / str(len(rows)), kernel, dtype, variant, base)
                row["ok"] = "skipped" in row or (
                    "failed" not in row
                    and row["loss"] <= limit["loss"]
                    and row["gradient"] <= limit["gradient"]
                )
                rows[label] = row
                results.write(options.out, result)
                print(f"{label:44} {told(row, limit)}", flush=True)
    missed = [label for label, row in rows.items() if not row["ok"]]
    result |= {"complete": complete, "missed": missed}
    results.write(options.out, result)
    return 3 if missed else 0


def attempt(directory: Path, *setting: Any) -> dict[str, Any]:
    try:
        return check_path(directory, *setting)
    except Exception as error:  # whatever a kernel does, the next one is tried
        return {"failed": f"{type(error).__name__}: {error}"[:2000]}


def told(row: dict[str, Any], limit: dict[str, float]) -> str:
    if "loss" not in row:
        return str({key: value for key, value in row.items() if key != "ok"})
    verdict = "ok" if row["ok"] else f"MISS, at most {limit}"
    return f"loss {row['loss']:.1e}  worst gradient {row['gradient']:.1e}  {verdict}"


# -- command line ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="check correctness, time nothing")
    parser.add_argument("--sizes", nargs="+", choices=(*SIZES, *TOY), metavar="SIZE")
    names = contestants.NAMES
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each contestant")
    parser.add_argument("--seconds", type=float, default=3600, help="begin no row after these")
    parser.add_argument("--each", type=float, default=150, help="seconds one contestant may take")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a toy")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rehearse:
        torch.cuda.is_available = lambda: False
        compile_ = functools.partial(torch.compile, backend="eager")
        torch.compile = compile_  # what is rehearsed is the way, not the kernels
    elif not torch.cuda.is_available():
        print("train_gpu.py needs an NVIDIA GPU: torch sees none here", file=sys.stderr)
        return 2
    sizes = TOY if options.rehearse else SIZES
    if options.one:
        print(json.dumps(one(sizes[options.one[0]], options.one[1], options.rounds)))
        return 0
    name = "check" if options.check else "race"
    options.out = options.out or Path(__file__).parent / "results" / "gpu" / f"{name}.json"
    if not options.check:
        return race(options, sizes)
    with tempfile.TemporaryDirectory() as scratch:
        return check(options, Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
