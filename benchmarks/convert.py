"""How fast models are imported and exported, beside `cp` of the same bytes, and in how much memory.

    python benchmarks/convert.py [--gigabytes 13] [-o benchmarks/results/convert.json]

A model of random bfloat16 weights in Hugging Face's shards is made on the spot, imported, and
exported in each format. Each command is a process of its own, which ends with the bytes on disk;
`cp` is followed by `sync` of its copy. The disk takes twice the model's size beside the model.
Memory is the largest resident size of the process (getrusage) but for what Python and torch take
to start: files that the kernel caches do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from llamac.convert.hf import hf_export
from llamac.convert.hf.hf_config import config_of
from llamac.convert.names import hf_name
from llamac.convert.tensors import Stored
from llamac.runtime.durable import write_json
from llamac.spec.model import Model

DIM, FFN_DIM, VOCABULARY = 4096, 11008, 32_000  # LLaMA-7B's
LAYER = 4 * DIM * DIM + 3 * DIM * FFN_DIM
SHARD = 5_000_000_000


def model_of(gigabytes: float) -> Model:
    """LLaMA-7B with as many layers as make that size in bfloat16."""
    layers = max(1, round((gigabytes * 1e9 / 2 - 2 * VOCABULARY * DIM) / LAYER))
    return Model(
        dim=DIM, n_layers=layers, n_heads=32, vocab_size=VOCABULARY, rope_layout="half_split"
    )


def shapes(model: Model) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "tok_embeddings", (VOCABULARY, DIM)
    for n in range(model.n_layers):
        for name in ("wq", "wk", "wv", "wo"):
            yield f"layers.{n}.attention.{name}", (DIM, DIM)
        yield f"layers.{n}.feed_forward.w1", (FFN_DIM, DIM)
        yield f"layers.{n}.feed_forward.w2", (DIM, FFN_DIM)
        yield f"layers.{n}.feed_forward.w3", (FFN_DIM, DIM)
        yield f"layers.{n}.attention_norm", (DIM,)
        yield f"layers.{n}.ffn_norm", (DIM,)
    yield "norm", (DIM,)
    yield "output", (VOCABULARY, DIM)


def make(directory: Path, model: Model) -> int:
    """Write the model; returns the bytes of its weights."""
    directory.mkdir()
    noise = torch.randn(1 << 24).bfloat16()

    def values(shape: tuple[int, ...]) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return noise.repeat(-(-count // noise.numel()))[:count].view(shape)

    tensors = {
        hf_name(name): Stored(torch.bfloat16, shape, name, lambda shape=shape: values(shape))
        for name, shape in shapes(model)
    }
    hf_export._write_shards(directory, tensors, SHARD)
    write_json(directory / "config.json", config_of(model, 2048, 1, 2))
    return sum(tensor.nbytes for tensor in tensors.values())


def timed(*command: object) -> tuple[float, int]:
    """(seconds, largest resident size in bytes) of a command. Raises CalledProcessError."""
    began = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise subprocess.CalledProcessError(status, process.args)
    return seconds, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=13.0)
    parser.add_argument("--formats", nargs="+", default=["hf", "meta", "gguf"])
    parser.add_argument("--directory", type=Path, help="where the files are made [temporary]")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="convert") as place:
        result = measured(Path(place), args.gigabytes, args.formats)
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


def measured(root: Path, gigabytes: float, formats: list[str]) -> dict[str, Any]:
    llamac = [sys.executable, "-m", "llamac.cli"]
    source, imported = root / "source", root / "imported"
    size = make(source, model_of(gigabytes))
    start = timed(sys.executable, "-c", "import llamac.convert.directory, torch")[1]
    rows: dict[str, Any] = {}

    def row(name: str, seconds: float, memory: int | None = None) -> None:
        rows[name] = {"seconds": round(seconds, 2), "gigabytes_per_second": size / 1e9 / seconds}
        if memory is not None:
            rows[name] |= {"times_cp": seconds / rows["cp"]["seconds"]}
            rows[name] |= {"memory_bytes": memory, "memory_beyond_start": memory - start}
        print(name, rows[name], file=sys.stderr, flush=True)

    copy = f'cp -r "{source}" "{root}/copy" && sync "{root}"/copy/*'
    row("cp", timed("sh", "-c", copy)[0])
    shutil.rmtree(root / "copy")
    row("import", *timed(*llamac, "import", source, "-o", root / "imported.toml"))
    shutil.rmtree(source)
    for format in formats:
        output = root / "exported"
        command = [*llamac, "export", imported, "-o", output, "--format", format]
        row(f"export {format}", *timed(*command))
        shutil.rmtree(output)
    return {
        "weights_bytes": size,
        "shard_bytes": min(SHARD, size),
        "start_memory_bytes": start,
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commands": rows,
    }


if __name__ == "__main__":
    main()
