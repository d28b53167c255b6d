"""A training step on one NVIDIA GPU: llamac (xformers, SDPA) against transformers, compiled.

    python benchmarks/train_gpu.py [--spec specs/1b.toml] [--micro-batch 8] [--only NAME…]
    python benchmarks/train_gpu.py --check

Contestants run in turn, each alone on the GPU, with the same bf16 weights, batch and optimizer
(fused AdamW on float32 masters). A step is forward, backward, clip and AdamW, timed by CUDA events;
MFU counts 6N + 12·L·d·s FLOPs per token (PaLM) of 989 TFLOP/s; memory is
torch.cuda.max_memory_allocated over the timed steps, parameters and optimizer included.

`--check` compares loss and every gradient of each CUDA path with the float64 reference, in float32
and bf16. A gradient's error is its distance from the reference over the reference's norm. Exits 0
if all pass, 3 if one misses, 2 where there is no CUDA.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from contest import (
    ROOT,
    Contestant,
    build,
    emitted_model,
    flops_per_token,
    hf_loss,
    hf_model,
    mean_loss,
    random_batch,
    random_weights,
)
from torch import Tensor, nn

from llamac.spec import load_spec
from llamac.verify.reference import Reference

PEAK_FLOPS = 989e12
RESULT = Path(__file__).resolve().parent / "results" / "train_gpu.json"
NAMES = ("llamac-xformers", "llamac-sdpa", "hf-compiled")
KERNELS = ("xformers", "sdpa", "math")
# Unit roundoff is 6e-8 in float32 and 4e-3 in bf16; errors grow with depth and cancel in sums.
TOLERANCES = {torch.float32: {"loss": 1e-5, "gradient": 1e-4},
              torch.bfloat16: {"loss": 1e-2, "gradient": 5e-2}}  # fmt: skip
SMALL = (
    "model.dim=256", "model.n_layers=2", "model.n_heads=4", "model.head_dim=64",
    "model.ffn_dim=512", "model.vocab_size=512", "batch.sequence_length=256",
)  # fmt: skip
VARIANTS = {"MHA": ("model.n_kv_heads=4",), "GQA": ("model.n_kv_heads=2",)}


def overrides(kernel: str, precision: str, *more: str) -> tuple[str, ...]:
    return (
        f"kernels.attention={kernel}",
        f"precision.compute={precision}",
        "hardware.device=cuda",
        *more,
    )


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
    spec_path: Path, directory: Path, kernel: str, dtype: torch.dtype, more: tuple[str, ...]
) -> tuple[float, float]:
    """(relative error of the loss, worst of the gradients) of one emitted model on CUDA."""
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    settings = overrides(kernel, precision, *SMALL, *more)
    spec = load_spec(spec_path, settings)
    length = spec.batch.sequence_length
    weights = {n: w.to(dtype) for n, w in random_weights(spec.model, length).items()}
    tokens, labels = (t.cuda() for t in random_batch(spec.model, 2, length))

    reference = Reference(spec.model, length).load(weights).cuda()
    wanted = reference(tokens, labels)
    wanted.backward()
    module = build(spec_path, directory, settings)
    model = emitted_model(module, weights, "cuda", dtype)
    found = model(tokens, labels)
    found.backward()

    ours = gradients(module, model)
    theirs = {name: p.grad for name, p in reference.parameters_by_name().items()}
    assert ours.keys() == theirs.keys()
    errors = []
    for name, gradient in theirs.items():
        assert gradient is not None
        errors.append(relative(ours[name], gradient))
    return relative(found.detach(), wanted.detach()), max(errors)


def check(spec_path: Path) -> int:
    """Print a line per CUDA path; 0 if all are within tolerance, 3 otherwise."""
    torch.backends.cuda.matmul.allow_tf32 = False
    missed = False
    with tempfile.TemporaryDirectory() as directory:
        for kernel in KERNELS:
            for variant, more in VARIANTS.items():
                for dtype, limit in TOLERANCES.items():
                    label = f"{kernel}_{variant}_{str(dtype).removeprefix('torch.')}"
                    emitted = Path(directory, label)
                    loss, gradient = check_path(spec_path, emitted, kernel, dtype, more)
                    ok = loss <= limit["loss"] and gradient <= limit["gradient"]
                    missed |= not ok
                    verdict = "ok" if ok else f"MISS, at most {limit}"
                    print(f"{label:24} loss {loss:.1e}  worst gradient {gradient:.1e}  {verdict}")
    return 3 if missed else 0


def enter(name: str, spec_path: Path, directory: Path) -> Contestant:
    """Build "llamac-<kernel>" or "hf-compiled" on the GPU in bf16, all with the same weights."""
    spec = load_spec(spec_path)
    length = spec.batch.sequence_length
    weights = random_weights(spec.model, length)
    if name == "hf-compiled":
        hf = hf_model(spec.model, weights, length, "cuda", torch.bfloat16)
        return Contestant.enter(name, hf, torch.compile(hf_loss(hf)))
    module = build(spec_path, directory / name, overrides(name.removeprefix("llamac-"), "bf16"))
    module.compile_regions()
    model = emitted_model(module, weights, "cuda", torch.bfloat16)
    return Contestant.enter(name, model, mean_loss(model))


def milliseconds(function: Callable[..., Any], *arguments: Any) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function(*arguments)
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure(contestant: Contestant, tokens: Tensor, labels: Tensor, rounds: int) -> dict[str, Any]:
    """Step times in seconds (median, min, max), peak memory in bytes, and the first loss."""
    with torch.no_grad():
        first_loss = contestant.loss(tokens, labels).item()
    for _ in range(3):  # compiles, picks algorithms, makes AdamW's state
        contestant.step(tokens, labels)
    torch.cuda.reset_peak_memory_stats()
    times = [milliseconds(contestant.step, tokens, labels) / 1e3 for _ in range(rounds)]
    return {
        "first_loss": first_loss,
        "step_seconds": {
            "median": statistics.median(times),
            "min": min(times),
            "max": max(times),
        },
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
    }


def race(names: Sequence[str], spec_path: Path, micro_batch: int, rounds: int) -> dict[str, Any]:
    spec = load_spec(spec_path)
    length = spec.batch.sequence_length
    tokens, labels = (t.cuda() for t in random_batch(spec.model, micro_batch, length))
    matmul, causal = flops_per_token(spec.model, length)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            contestant = enter(name, spec_path, Path(directory))
            row = rows[name] = measure(contestant, tokens, labels, rounds)
            row["tokens_per_second"] = tokens.numel() / row["step_seconds"]["median"]
            row["mfu"] = row["tokens_per_second"] * (matmul + 2 * causal) / PEAK_FLOPS
            del contestant  # the next one has the GPU to itself
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()
            print(
                f"{name:16} {row['tokens_per_second']:9.0f} tokens/s  MFU {row['mfu']:.3f}  "
                f"{row['peak_memory_bytes'] / 1e9:5.1f} GB  loss {row['first_loss']:.4f}"
            )
    losses = [row["first_loss"] for row in rows.values()]
    if max(losses) - min(losses) > TOLERANCES[torch.bfloat16]["loss"] * min(losses):
        raise SystemExit(f"the first losses differ, these times compare nothing: {losses}")
    return {
        "how": __doc__,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "spec": spec_path.name,
        "micro_batch": micro_batch,
        "sequence_length": length,
        "flops_per_token": {"6N": matmul, "12Lds": 2 * causal},
        "contestants": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spec", type=Path, default=ROOT / "specs" / "1b.toml")
    parser.add_argument("--micro-batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each contestant")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--check", action="store_true", help="check correctness, time nothing")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("train_gpu.py needs an NVIDIA GPU: torch sees none here", file=sys.stderr)
        return 2
    if options.check:
        return check(options.spec)
    result = race(options.only, options.spec, options.micro_batch, options.rounds)
    options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
