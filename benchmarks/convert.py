"""Speed and memory of importing and exporting models, beside `cp`, and the disk alone.

    python benchmarks/convert.py [--gigabytes 13] [-o benchmarks/results/convert.json]

A model of random bfloat16 weights in Hugging Face's shards is made on the spot, imported, and
exported in each format. Each command is a process of its own, which ends with the bytes on disk;
`cp` is followed by `sync` of its copy; `read` and `write` pass by the kernel's cache, and so tell
what the disk allows. The disk takes the model's size twice. `after_start` leaves out what Python
takes to import torch and llamac. Processor seconds are given as well, since on a machine with other
work a command takes as long as it happens to.
Memory is the largest resident size of the process (getrusage), and what of it Python and torch do
not take to start; what the kernel caches of files does not count. A process inherits that size
from the one that started it, so this one imports nothing large, and makes the model in another.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

DIM, FFN_DIM, VOCABULARY = 4096, 11008, 32_000  # LLaMA-7B's
LAYER = 4 * DIM * DIM + 3 * DIM * FFN_DIM
SHARD = 5_000_000_000


def layers_of(gigabytes: float) -> int:
    """Layers of LLaMA-7B that make a model of that size in bfloat16."""
    return max(1, round((gigabytes * 1e9 / 2 - 2 * VOCABULARY * DIM) / LAYER))


def make(directory: Path, layers: int) -> None:
    """Write the model in Hugging Face's format."""
    import torch

    from llamac.convert.directory import shapes_of
    from llamac.convert.hf import hf_export
    from llamac.convert.hf.config_export import config_of
    from llamac.convert.names import hf_name
    from llamac.convert.tensors import LazyTensor
    from llamac.spec import load_spec

    spec = load_spec("7b", (f"model.n_layers={layers}", "model.rope_layout=half_split"))
    noise = torch.randn(1 << 24).bfloat16()

    def values(shape: tuple[int, ...]) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return noise.repeat(-(-count // noise.numel()))[:count].view(shape)

    tensors = {
        hf_name(name): LazyTensor(torch.bfloat16, shape, name, lambda shape=shape: values(shape))
        for name, shape in shapes_of(spec).items()
    }
    directory.mkdir()
    hf_export._write_shards(directory, tensors, SHARD)
    config = config_of(spec.model, 2048, 1, 2, "bfloat16")
    (directory / "config.json").write_text(json.dumps(config))


def timed(*command: object) -> dict[str, Any]:
    """Seconds, seconds of processors, and largest resident size of a command.

    Raises CalledProcessError.
    """
    began = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(status, process.args)
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "memory_bytes": usage.ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=13.0)
    parser.add_argument("--formats", nargs="+", default=["hf", "meta", "gguf"])
    parser.add_argument("--directory", type=Path, help="where the files are made [temporary]")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.make:
        make(args.make, layers_of(args.gigabytes))
        return
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="convert") as place:
        result = measured(Path(place), args.gigabytes, args.formats)
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


def measured(root: Path, gigabytes: float, formats: list[str]) -> dict[str, Any]:
    python, llamac = [sys.executable], [sys.executable, "-m", "llamac.cli"]
    source, imported = root / "source", root / "imported"
    timed(*python, __file__, "--make", source, "--gigabytes", gigabytes)
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    begun = timed(*python, "-c", "import llamac.convert.directory")
    start = begun["memory_bytes"]
    rows: dict[str, Any] = {}

    def row(name: str, *command: object) -> None:
        rows[name] = timed(*command)
        rows[name]["gigabytes_per_second"] = size / 1e9 / rows[name]["seconds"]
        if command[0] == sys.executable:
            for unit, key in (("second", "seconds"), ("processor_second", "processor_seconds")):
                after = max(1e-3, rows[name][key] - begun[key])
                rows[name][f"gigabytes_per_{unit}_after_start"] = size / 1e9 / after
        rows[name]["memory_beyond_start"] = max(0, rows[name]["memory_bytes"] - start)
        print(name, rows[name], file=sys.stderr, flush=True)

    row("cp", "sh", "-c", f'cp -r "{source}" "{root}/copy" && sync "{root}"/copy/*')
    shutil.rmtree(root / "copy")
    direct = "dd bs=16M status=none iflag=direct"
    row("read", "sh", "-c", f'for f in "{source}"/*; do {direct} if="$f" of=/dev/null; done')
    zeros = f"dd bs=16M status=none if=/dev/zero iflag=count_bytes count={size}"
    row("write", "sh", "-c", f'{zeros} oflag=direct conv=fsync of="{root}/copy"')
    (root / "copy").unlink()
    row("import", *llamac, "import", source, "-o", root / "imported.toml")
    shutil.rmtree(source)
    for format in formats:
        output = root / "exported"
        row(f"export {format}", *llamac, "export", imported, "-o", output, "--format", format)
        shutil.rmtree(output)
    return {
        "bytes": size,
        "shard_bytes": min(SHARD, size),
        "start_memory_bytes": start,
        "start_seconds": begun["seconds"],
        "start_processor_seconds": begun["processor_seconds"],
        "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": version("torch"),
        "commands": rows,
    }


if __name__ == "__main__":
    main()
