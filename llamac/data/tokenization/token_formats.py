"""Export prepared data in Megatron-LM's .bin and .idx format, or datatrove's .ds format.

`runtime.data.sources.indexed_tokens` reads these formats and documents their layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llamac.runtime.data.packing import document_lengths
from llamac.runtime.data.prepared import SPLITS, is_signed, load_manifest
from llamac.runtime.data.sources.indexed_tokens import DTYPES, HEADER, MAGIC
from llamac.runtime.durable_files import NewFile, atomic_write

FORMATS = ("megatron", "datatrove")  # accepted by `export`
COPY = 1 << 22  # tokens copied at a time


class ExportError(ValueError):
    """The format cannot represent the prepared data, or an output file exists already."""

    exit_code = 2


def export(directory: Path, out: Path, kind: str) -> list[Path]:
    """Write each split of each source in another format, including EOS, and return the files.

    directory: of the prepared data. out: directory to write to. kind: "megatron" writes
    `<out>/<source>_<split>.bin` and `.idx`; "datatrove" writes `.ds` and `.ds.index`. Raises
    ExportError, before anything is written, for supervised data and if a file exists.
    """
    manifest = load_manifest(directory)
    if is_signed(manifest):
        raise ExportError(f"{kind} cannot say which tokens of supervised data have a loss")
    dtype = np.dtype(manifest["dtype"])
    if kind == "megatron" and dtype.itemsize == 4:
        dtype = np.dtype("<i4")  # the format has no uint32, and no vocabulary needs the last bit
    jobs = [
        (out / f"{source['name']}_{split}", source[split]["shards"])
        for source in manifest["sources"]
        for split in SPLITS
        if source[split]["shards"]
    ]
    ends = (".bin", ".idx") if kind == "megatron" else (".ds", ".ds.index")
    outputs = [stem.with_name(stem.name + end) for stem, _ in jobs for end in ends]
    if existing := [path for path in outputs if path.exists()]:
        raise ExportError(f"{existing[0]} already exists: give another -o DIR, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    for stem, shards in jobs:
        lengths = np.concatenate([*document_lengths(directory, manifest, shards)])
        with atomic_write(stem.with_name(stem.name + ends[0])) as file:
            for shard in shards:
                _copy(directory / shard["file"], manifest["dtype"], dtype, file)
        with atomic_write(stem.with_name(stem.name + ends[1])) as file:
            for array in _index(lengths, dtype, kind):
                file.write(array)
    return outputs


def _index(lengths: np.ndarray, dtype: np.dtype, kind: str) -> Iterator[bytes]:
    ends = np.cumsum(lengths)
    if kind == "datatrove":
        yield ends.astype("<u8").tobytes()
        return
    code = next(code for code, name in DTYPES.items() if np.dtype(name) == dtype)
    yield HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1)
    yield lengths.astype("<i4").tobytes()
    yield ((ends - lengths) * dtype.itemsize).astype("<i8").tobytes()
    yield np.arange(len(lengths) + 1, dtype="<i8").tobytes()


def _copy(path: Path, dtype: Any, target_dtype: np.dtype, file: NewFile) -> None:
    tokens = np.memmap(path, dtype=dtype, mode="r")
    for begin in range(0, len(tokens), COPY):
        file.write(tokens[begin : begin + COPY].astype(target_dtype).tobytes())
