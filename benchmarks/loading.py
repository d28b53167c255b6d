"""How fast training draws its sequences, and how soon it has the first, from corpora of any size.

    python benchmarks/loading.py [-o benchmarks/results/loading.json]

Corpora are made on the spot: one that is read from memory, and one whose many shards are sparse
files, so that it takes no disk. Each figure is of one thread; rates are medians of five rounds.
Where megatron-core is installed, its GPTDataset draws sequences of the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from llamac.data.tokenization.token_formats import export
from llamac.runtime.data.mixture import Mixture
from llamac.runtime.data.packing import pack, packed_paths
from llamac.runtime.data.prepared import KEYS, SPLITS, load_manifest
from llamac.runtime.durable_files import write_note

LENGTH, BATCH, ROUNDS, BATCHES = 2048, 64, 5, 40
EOS = 2
SOURCES = {"web": 0.8, "code": 0.2}


def corpus(root: Path, shards: int, shard_tokens: int, real: bool) -> Path:
    """Two sources of so many shards each. real: random tokens in documents of 2 … 1,500."""
    random = np.random.default_rng(0)
    parts = []
    for name, share in SOURCES.items():
        (root / name).mkdir(parents=True)
        part: dict = {"name": name, "share": share}
        for split in SPLITS:
            found = []
            for number in range(shards if split == "train" else 1):
                file = f"{name}/{split}-{number:05}.bin"
                if real:
                    tokens = random.integers(3, 32_000, shard_tokens, dtype=np.uint16)
                    ends = np.cumsum(random.integers(2, 1500, shard_tokens // 700))
                    tokens[ends[ends < shard_tokens]] = EOS
                    tokens[-1] = EOS
                    tokens.tofile(root / file)
                else:
                    with (root / file).open("wb") as empty:
                        empty.truncate(2 * shard_tokens)
                found.append({"file": file, "tokens": shard_tokens, "sha256": ""})
            total = len(found) * shard_tokens
            part[split] = {"documents": 1000, "tokens": total, "shards": found}
        parts.append(part)
    manifest = {key: {} for key in KEYS} | {"dtype": "<u2", "sources": parts}
    write_note(root / "manifest.json", manifest | {"tokenizer": {"eos": EOS}})
    if not real:
        for part in parts:
            packed_sparsely(root, part)
    return root


def packed_sparsely(root: Path, part: dict) -> None:
    """A packing of the size that documents of 1,000 tokens would have; all pieces are empty."""
    tokens = part["train"]["tokens"]
    pieces, sequences = packed_paths(root, part, "train", LENGTH)
    with pieces.open("wb") as file:
        file.truncate(16 * (tokens // 1000))
    with sequences.open("wb") as file:
        file.seek(16 * (tokens // LENGTH))
        file.write(np.array([tokens // 1000, tokens], dtype="<i8").tobytes())


def rate(draw: Callable[[int, int], object]) -> float:
    """Tokens a second, the median of rounds over fresh sequences; draw: (first, count)."""
    rounds = []
    for number in range(ROUNDS):
        begin = time.perf_counter()
        for batch in range(BATCHES):
            draw((number * BATCHES + batch) * BATCH, BATCH)
        rounds.append(BATCHES * BATCH * LENGTH / (time.perf_counter() - begin))
    return statistics.median(rounds)


def of_megatron(root: Path, folder: Path) -> dict:
    """The same for its GPTDataset, of the larger source; nothing where it is not installed."""
    try:
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
        from megatron.core.datasets.indexed_dataset import IndexedDataset
        from megatron.core.datasets.utils import Split
    except ImportError:
        return {}
    export(root, folder, "megatron")
    tokenizer: Any = SimpleNamespace(eod=EOS, pad=-1, vocab_size=32_000, unique_identifiers={})
    config = GPTDatasetConfig(
        random_seed=0,
        sequence_length=LENGTH,
        split="1,0,0",
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        tokenizer=tokenizer,
        path_to_cache=str(folder),
    )
    prefix = str(folder / "web_train")
    indexed = IndexedDataset(prefix)
    documents = np.arange(len(indexed.document_indices) - 1, dtype=np.int32)
    samples = ROUNDS * BATCHES * BATCH
    found = GPTDataset(indexed, prefix, documents, samples, Split.train, config)
    drawn = rate(lambda start, count: [found[i] for i in range(start, start + count)])
    return {"megatron_tokens_per_second": drawn}


def first_batch(root: Path, packing: str) -> None:
    """In a process of its own: seconds from nothing but imports to a batch in memory."""
    begin = time.perf_counter()
    Mixture(root, "train", LENGTH, 0, packing).sequences(10**9, BATCH)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """Of this process's memory; getrusage tells its parent's where that was larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measured() -> dict:
    found: dict = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        "sequence_length": LENGTH,
        "batch": BATCH,
    }
    with tempfile.TemporaryDirectory() as folder:
        root = corpus(Path(folder) / "real", 4, 16_000_000, real=True)
        found["concatenated_tokens_per_second"] = rate(Mixture(root, "train", LENGTH, 0).sequences)
        found |= of_megatron(root, Path(folder) / "megatron")
        begin = time.perf_counter()
        pack(root, load_manifest(root), LENGTH)
        found["packing_seconds_for_160M_tokens"] = time.perf_counter() - begin
        packed = Mixture(root, "train", LENGTH, 0, "best_fit")
        found["best_fit_tokens_per_second"] = rate(packed.sequences)
        found["best_fit_padding"] = float((packed.sequences(0, 2000) < 0).mean())
        for shards in (10, 10_000):
            root = corpus(Path(folder) / str(shards), shards, 50_000_000, real=False)
            size = len(SOURCES) * shards * 50_000_000
            for packing in ("concatenate", "best_fit"):
                command = [sys.executable, __file__, "--first-batch", str(root), packing]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[f"first_batch_of_{size:.0e}_tokens_{packing}"] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How fast training draws its sequences.")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--first-batch", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.first_batch:
        first_batch(Path(given.first_batch[0]), given.first_batch[1])
    else:
        text = json.dumps(measured(), indent=1)
        print(text)
        if given.output:
            given.output.write_text(text + "\n", encoding="utf-8")
