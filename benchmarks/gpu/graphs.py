"""Training with and without a CUDA graph of each micro-batch: are the losses the same bits?

    python benchmarks/gpu/graphs.py [--seconds N] [--rehearse] --out FILE.json

Each setting is trained twice from the same weights on the same batches, each time in a process of
its own: as train.py does by default, and with kernels.cuda_graphs = false. Loss and gradient norm
of every step must have the same bits. A step is timed from the end of the one before, with all
results read as train.py reads them; the figure is the median after the capture. Exits 3 if a bit
differs or a capture failed. `--rehearse` replays what `GraphRehearsal` recorded, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from gpu import results, state
from gpu.emitted_trainer import WARM, EmittedTrainer
from train_gpu import SIZES, TOY, Size

from llamac.emit.build import files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.spec import load_spec

SETTINGS = {  # the smaller the micro-batch, the more of a step is launches
    "125m, 2 sequences": Size("125m", 2),
    "125m, 2 sequences, documents": Size("125m", 2, ("data.document_mask=true",)),
    "125m, 2 sequences, fp32": Size("125m", 2, ("precision.compute=fp32",)),
    "125m, 32 sequences": SIZES["125m"],
    "1b, 4 sequences": Size("1b", 4),
    "125m, 2 sequences, uncompiled": Size("125m", 2, ("kernels.compile=never",)),
}


def train(size: Size, graphs: bool, steps: int) -> dict[str, Any]:
    """Losses and norms of steps of two micro-batches, and what they took. Own process each."""
    cuda = torch.cuda.is_available()
    precision = [] if any("precision" in one for one in size.settings) else ["bf16"]
    spec = load_spec(
        size.path,
        [
            *size.all_settings(),
            f"batch.sequences={2 * size.sequences}",
            *(f"precision.compute={one}" for one in precision),
            f"hardware.device={'cuda' if cuda else 'auto'}",
            f"kernels.cuda_graphs={str(graphs).lower()}",
        ],
    )
    with tempfile.TemporaryDirectory() as directory:
        write_directory(Path(directory), files_of(spec, stages(spec)))
        device = torch.device("cuda" if cuda else "cpu")
        trainer = EmittedTrainer(Path(directory), device, rehearse=not cuda)
        if spec.kernels.compile != "never":
            trainer.emitted.compile_regions()
        shape = (steps, spec.batch.sequences, spec.batch.sequence_length + 1)
        generator = torch.Generator().manual_seed(1)
        text = torch.randint(spec.model.vocab_size, shape, generator=generator).to(device)
        outcomes, times = [], []
        for one in text:
            began = time.perf_counter()
            outcome = trainer.step(one[:, :-1].contiguous(), one[:, 1:].contiguous())
            outcomes.append([outcome.loss, outcome.grad_norm])
            times.append(time.perf_counter() - began)
        return {
            "outcomes": outcomes,
            "captured": trainer.graph is not None and trainer.graph.captured,
            "step_seconds": statistics.median(times[WARM:]),
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        }


def in_its_own_process(name: str, graphs: bool, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--steps", str(options.steps)]
    command += ["--graphs"] * graphs + ["--rehearse"] * options.rehearse
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-8:]}
    return json.loads(done.stdout.splitlines()[-1])


def compared(plain: dict[str, Any], graph: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one setting, from its training without and with graphs."""
    if failed := [one for one in (plain, graph) if "failed" in one]:
        return failed[0]
    return {
        "same_bits": plain.pop("outcomes") == graph.pop("outcomes"),
        "captured": graph["captured"],
        "speed": plain["step_seconds"] / graph["step_seconds"],
        "without": plain,
        "with": graph,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600, help="begin no setting after these")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a toy")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--one", metavar="SETTING", help=argparse.SUPPRESS)
    parser.add_argument("--graphs", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = SETTINGS
    if options.rehearse:
        options.steps = 6
        torch.cuda.is_available = lambda: False
        toy = TOY["toy"]
        settings = {"toy": Size(toy.spec, toy.sequences, (*toy.settings, "kernels.compile=never"))}
    elif not torch.cuda.is_available():
        print("graphs.py needs an NVIDIA GPU: torch sees none here", file=sys.stderr)
        return 2
    if options.one:
        print(json.dumps(train(settings[options.one], options.graphs, options.steps)))
        return 0
    deadline = results.Deadline(options.seconds)
    result = results.read(options.out) | {"how": __doc__, "machine": state.device()}
    rows, complete = result["rows"], True
    for name in settings:
        if "same_bits" in rows.get(name, {}):
            continue
        if deadline.left < 5:
            complete = False
            continue
        rows[name] = compared(*(in_its_own_process(name, on, options) for on in (False, True)))
        results.write(options.out, result)
        print(f"{name:32} {rows[name]}", flush=True)
    wrong = [name for name, row in rows.items() if not (row.get("same_bits") and row["captured"])]
    results.write(options.out, result | {"complete": complete, "wrong": wrong})
    return 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
