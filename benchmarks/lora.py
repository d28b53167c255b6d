"""A LoRA step on CPU: llamac's emitted trainer against peft, eager and compiled.

    python benchmarks/lora.py [--model 14m|smollm2] [--rounds 9] [--only llamac peft-eager]

Every contestant has the same base, adapters (rank 16, of wq, wk, wv and wo) and batch, and losses
and gradient norms are seen to agree first. A step is forward, backward, clip and fused AdamW of the
adapters, in float32 on one thread. Processor time, which other work on the machine disturbs least;
contestants take turns step by step, and a ratio is the median over rounds of those within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from contest import (
    Contestant,
    build,
    check_agreement,
    emitted_model,
    hf_loss,
    hf_model,
    mean_loss,
    random_batch,
    random_weights,
)
from generate import SMOLLM2
from torch import Tensor, nn
from train_cpu import machine, pairwise, summary

from llamac.convert.hf.peft_export import peft_name
from llamac.spec import Spec, load_spec
from llamac.verify.reference import adapter_shapes, parameter_shapes

HERE = Path(__file__).resolve().parent
SPEC, RESULT = HERE / "bench-14m.toml", HERE / "results" / "lora.json"
NAMES = ("llamac", "llamac-uncompiled", "peft-eager", "peft-compiled")
SHARED = ("init.from=base", 'finetune.method="lora"', "launch.threads=1")
SIZES: dict[str, tuple[str, ...]] = {
    "14m": ("batch.micro_batch=1", "batch.sequences=1"),
    "smollm2": (*SMOLLM2, "batch.micro_batch=1", "batch.sequences=1", "batch.sequence_length=256"),
}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]


def adapters_of(spec: Spec) -> dict[str, Tensor]:
    """Adapters by canonical name; neither half is zero, so that all have gradients."""
    random = torch.Generator().manual_seed(2)
    shapes = adapter_shapes(parameter_shapes(spec.model, spec.batch.sequence_length), spec.finetune)
    return {n: 0.02 * torch.randn(shape, generator=random) for n, shape in shapes.items()}


@torch.no_grad()
def peft_model(base: nn.Module, spec: Spec, adapters: Mapping[str, Tensor]) -> Any:
    from peft import LoraConfig, get_peft_model

    finetune = spec.finetune
    config = LoraConfig(r=finetune.rank, lora_alpha=int(finetune.alpha), target_modules=MODULES)
    model = get_peft_model(base, config)  # type: ignore[arg-type]
    theirs = dict(model.named_parameters())
    for name, values in adapters.items():
        theirs[peft_name(name).replace(".weight", ".default.weight")].copy_(values)
    return model


def enter(name: str, spec: Spec, settings: tuple[str, ...], directory: Path) -> Contestant:
    length = spec.batch.sequence_length
    weights, adapters = random_weights(spec.model, length), adapters_of(spec)
    if name.startswith("llamac"):
        module = build(SPEC, directory / name.replace("-", "_"), settings)
        if name == "llamac":
            module.compile_regions()
        emitted = emitted_model(module, weights | adapters, "cpu", torch.float32)
        return Contestant.enter(name, emitted, mean_loss(emitted))
    hf = hf_model(spec.model, weights, length, "cpu", torch.float32)
    model = peft_model(hf, spec, adapters)
    loss = hf_loss(model)
    return Contestant.enter(name, model, torch.compile(loss) if name == "peft-compiled" else loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=SIZES, default="14m")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each contestant")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON with a result per model")
    options = parser.parse_args()

    torch.set_num_threads(1)
    description, settings = machine(), (*SHARED, *SIZES[options.model])
    spec = load_spec(str(SPEC), list(settings))
    tokens, labels = random_batch(spec.model, spec.batch.micro_batch, spec.batch.sequence_length)
    with tempfile.TemporaryDirectory() as directory:
        contestants = [enter(name, spec, settings, Path(directory)) for name in options.only]
        losses = check_agreement(contestants, tokens, labels, tolerance=1e-4)
        for contestant in contestants:
            contestant.step(tokens, labels)  # compiles, and makes AdamW's state
        times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
        for number in range(options.rounds):
            first = number % len(contestants)
            for contestant in (*contestants[first:], *contestants[:first]):
                start = time.process_time()
                contestant.step(tokens, labels)
                times[contestant.name].append(time.process_time() - start)
    speedup = pairwise(times, options.only[0])
    result = {
        "machine": description,
        "sequences": spec.batch.micro_batch,
        "sequence_length": spec.batch.sequence_length,
        "rounds": options.rounds,
        "first_loss": losses,
        "step_processor_seconds": {name: summary(steps) for name, steps in times.items()},
        "speedup": speedup,
    }
    for name, steps in result["step_processor_seconds"].items():
        print(f"{name:18}{steps['median']:8.3f} s a step")
    for other, ratio in speedup.items():
        print(
            f"{options.only[0]} is {ratio['median']:.2f}× as fast as {other} "
            f"({ratio['min']:.2f} to {ratio['max']:.2f})"
        )
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    known |= {"how": __doc__, options.model: result}
    options.out.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
