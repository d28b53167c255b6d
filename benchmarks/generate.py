"""Generating text on a CPU: llamac's inference program against transformers' `generate`.

    python benchmarks/generate.py [--models 14m smollm2] [--dtypes float32 bfloat16]
                                  [--batches 1 8] [--rounds 5] [--threads 1] [--add]

Contestants have the same random weights and the same prompts, 64 tokens each, and make 64 tokens
greedily; in float32 all must make the same ones.

    llamac           inference.py as `llamac generate` runs it, its weights packed
    llamac-compiled  the same as `llamac generate --compile` runs it
    hf               transformers, eager, a cache that grows
    hf-compiled      transformers, static cache, torch.compile (which it keeps for GPUs unless told)
    llama.cpp        batch 1 only, through node-llama-cpp, which wakes Node for every token

They take turns, starting with another one each round, after a run each that compiles and is not
counted. Prefill ends with the first token, decoding with the last. Clock: `cpu`, the seconds that
the process computed, and `wall`, which on a machine with other work also counts waiting for it. A
ratio is the median over rounds of the ratios within a round, with the lowest and the highest.
A step reads every weight once: `gigabytes_per_second` is their bytes over a step's time, and
`read_gigabytes_per_second` what one thread reads of a tensor larger than any cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from contest import emitted_model, hf_model, random_weights
from llama_cpp import LlamaCpp, write_gguf
from torch._inductor import config as inductor
from train_cpu import machine

from llamac.emit.build import files_of
from llamac.emit.importing import import_emitted
from llamac.passes.pass_list import stages
from llamac.runtime.generate.engine import Generation
from llamac.runtime.generate.sampling import Sampling
from llamac.spec import Spec, load_spec

HERE = Path(__file__).resolve().parent
PROMPT, NEW = 64, 64
OURS, PEERS = ("llamac", "llamac-compiled"), ("hf", "hf-compiled", "llama.cpp")
SMOLLM2 = (  # the shape of SmolLM2-135M
    "model.dim=576",
    "model.n_layers=30",
    "model.n_heads=9",
    "model.n_kv_heads=3",
    "model.ffn_dim=1536",
    "model.vocab_size=49152",
    "model.tied_embeddings=true",
    "model.rope_theta=1e5",
)
MODELS: dict[str, Sequence[str]] = {"14m": (), "smollm2": SMOLLM2}

Clock = tuple[float, float]  # CPU and wall seconds
Made = tuple[list[list[int]], list[Clock]]  # tokens by row; the clock at the start, after each step
Run = Callable[[torch.Tensor], Made]


def now() -> Clock:
    return time.process_time(), time.perf_counter()


def llamac(
    stack: ExitStack,
    spec: Spec,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype,
    compiled: bool = False,
) -> Run:
    # Until the stack ends: what is compiled at the first run imports its modules.
    inference = stack.enter_context(import_emitted(files_of(spec, stages(spec)), "inference"))
    model = emitted_model(sys.modules["model"], weights, "cpu", dtype)
    if compiled:
        inference.compile_decode(torch.device("cpu"))
    else:
        inference.pack(model)

    def run(prompts: torch.Tensor) -> Made:
        clocks = [now()]
        rows = Generation(
            lambda rows, length: inference.Inference(model, rows, length),
            prompts.tolist(),
            NEW,
            context=spec.batch.sequence_length,
            device=torch.device("cpu"),
            sampling=Sampling(temperature=0.0),
            seed=0,
        )
        clocks += [now() for _ in rows]
        return [row[PROMPT:] for row in rows.tokens], clocks

    return run


class Stopwatch:
    """A streamer, which transformers calls with each step's tokens, and first with the prompts."""

    def __init__(self) -> None:
        self.clocks = [now()]

    def put(self, tokens: torch.Tensor) -> None:
        self.clocks.append(now())

    def end(self) -> None: ...


def hf(
    spec: Spec, weights: dict[str, torch.Tensor], dtype: torch.dtype, compiled: bool = False
) -> Run:
    from transformers import CompileConfig

    model: Any = hf_model(spec.model, weights, spec.batch.sequence_length, "cpu", dtype).eval()
    model.generation_config.update(eos_token_id=None, pad_token_id=0, use_cache=True)
    options: dict[str, Any] = {}
    if compiled:
        config: Any = CompileConfig(mode="default", fullgraph=True, dynamic=False)
        config._compile_all_devices = True
        options = {"cache_implementation": "static", "compile_config": config}

    def run(prompts: torch.Tensor) -> Made:
        watch = Stopwatch()
        made = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            use_cache=True,
            streamer=watch,
            **options,
        )
        return made[:, PROMPT:].tolist(), [watch.clocks[0], *watch.clocks[2:]]

    return run


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def contest(name: str, dtype: torch.dtype, batch: int, rounds: int) -> dict[str, Any]:
    """Run all contestants on one model, dtype and batch. SystemExit if their tokens differ."""
    spec = load_spec(HERE / "bench-14m.toml", list(MODELS[name]))
    weights = random_weights(spec.model, spec.batch.sequence_length)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(spec.model.vocab_size, (batch, PROMPT), generator=generator)
    runs: dict[str, Run] = {}
    first, prepared = {}, {}

    def enter(key: str, run: Run) -> None:
        began = time.perf_counter()
        runs[key], first[key] = run, run(prompts)[0]
        prepared[key] = time.perf_counter() - began

    with ExitStack() as stack:
        # What compiling ours sets for the process would speed theirs up as well.
        stack.enter_context(inductor.patch(freezing=False, max_autotune_gemm=False))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        enter("hf", hf(spec, weights, dtype))
        enter("hf-compiled", hf(spec, weights, dtype, compiled=True))
        if batch == 1:
            write_gguf(place / "model.gguf", spec, weights, str(dtype)[6:])
            other = LlamaCpp(place / "model.gguf", prompts[0].tolist(), NEW)
            stack.callback(other.close)
            enter("llama.cpp", lambda _: other.run())
        for key in OURS:
            enter(key, llamac(stack, spec, weights, dtype, compiled=key != "llamac"))
        taken: dict[str, list[list[Clock]]] = {key: [] for key in runs}
        for number in range(rounds):
            names = [*runs]
            for key in names[number % len(names) :] + names[: number % len(names)]:
                taken[key].append(runs[key](prompts)[1])
    same = {key: made == first["llamac"] for key, made in first.items()}
    if dtype == torch.float32 and not all(same[key] for key in same if key != "llama.cpp"):
        raise SystemExit(f"{name}, batch {batch}: the contestants made other tokens: {same}")
    matmuls = {n: t for n, t in weights.items() if t.dim() == 2 and n != "tok_embeddings"}
    numbers = sum(t.numel() for t in matmuls.values())
    numbers += spec.model.tied_embeddings * weights["tok_embeddings"].numel()
    result: dict[str, Any] = {
        "model": name,
        "dtype": str(dtype)[6:],
        "batch": batch,
        "same_tokens": same,
        "first_run_seconds": prepared,
        "weight_bytes": numbers * dtype.itemsize,
        "read_gigabytes_per_second": read_speed(),
    }
    for phase, (begin, end), tokens in (
        ("prefill", (0, 1), batch * PROMPT),
        ("decode", (1, NEW), batch * (NEW - 1)),
    ):
        for clock, kind in enumerate(("cpu", "wall")):
            seconds = {
                key: [clocks[end][clock] - clocks[begin][clock] for clocks in rows]
                for key, rows in taken.items()
            }
            rates = {key: tokens / statistics.median(s) for key, s in seconds.items()}
            result[f"{phase}_{kind}"] = {
                "tokens_per_second": rates,
                **{
                    f"{own}_times_as_fast_as": {
                        key: spread(
                            [a / b for a, b in zip(seconds[key], seconds[own], strict=True)]
                        )
                        for key in PEERS
                        if key in runs
                    }
                    for own in OURS
                },
            }
            if phase == "decode":
                result[f"{phase}_{kind}"]["gigabytes_per_second"] = {
                    key: rate / batch * result["weight_bytes"] / 1e9 for key, rate in rates.items()
                }
    return result


def read_speed(megabytes: int = 512) -> float:
    """Return the gigabytes per second that one thread reads of a tensor: the best of ten."""
    numbers, best = torch.ones(megabytes << 18), 0.0
    for _ in range(10):
        began = time.perf_counter()
        numbers.sum()
        best = max(best, numbers.nbytes / 1e9 / (time.perf_counter() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--add", action="store_true", help="to the contests already in --out")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "generate.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import transformers

    result: dict[str, Any] = {
        "how": __doc__,
        "machine": machine() | {"transformers": transformers.__version__},
        "rounds": options.rounds,
        "contests": [],
    }
    if options.add and options.out.exists():
        result["contests"] = json.loads(options.out.read_text(encoding="utf-8"))["contests"]
    for name in options.models:
        for dtype in options.dtypes:
            for batch in options.batches:
                torch._dynamo.reset()
                row = contest(name, getattr(torch, dtype), batch, options.rounds)
                cell = ("model", "dtype", "batch")
                result["contests"] = [
                    old for old in result["contests"] if any(old[key] != row[key] for key in cell)
                ]
                result["contests"].append(row)
                for phase in ("prefill", "decode"):
                    found = row[f"{phase}_cpu"]
                    ratios = {
                        own: {
                            key: round(value["median"], 2)
                            for key, value in found[f"{own}_times_as_fast_as"].items()
                        }
                        for own in OURS
                    }
                    rates = {k: round(rate) for k, rate in found["tokens_per_second"].items()}
                    print(f"{name} {dtype} {batch} {phase}: {rates}/s, × {ratios}", flush=True)
                result["machine"]["load_average_after"] = os.getloadavg()[0]
                text = json.dumps(result, indent=1, ensure_ascii=False)
                options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
