"""Read and write safetensors files by offsets, with one tensor in memory at a time.

A file consists of a header length (8 bytes, little-endian), a JSON header with dtype, shape and
data_offsets of each tensor, and the tensors without gaps. The safetensors library maps whole files
and keeps all written tensors in memory, so its memory use would grow with the model.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llamac.convert.errors import ConversionError
from llamac.convert.tensors import (
    LazyTensor,
    blocks_of,
    byte_view,
    read_ahead,
    read_at,
    write_all,
    write_behind,
)
from llamac.convert.untrusted_files import json_object

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""torch dtypes by their names in the header."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 100_000_000  # bytes, as in the safetensors library


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a safetensors file by name, to be read lazily.

    Raises ConversionError if the header is damaged, has an unsupported dtype, or does not match the
    file's size.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ConversionError(
                f"{path} is not a complete safetensors file: its header would have {length:,} "
                f"bytes, but the file has {size:,}"
            )
        header = json_object(file.read(length), f"the header of {path}")
    header.pop("__metadata__", None)
    data, spans, tensors = 8 + length, [], {}
    for name, entry in header.items():
        dtype, shape, (begin, end) = _entry(entry, f"{name} in {path}")
        if end - begin != torch.Size(shape).numel() * dtype.itemsize:
            raise ConversionError(
                f"{name} in {path} has {end - begin:,} bytes, which does not match {list(shape)} "
                f"in {dtype}"
            )
        spans.append((begin, end, name))
        tensors[name] = _lazy_tensor(path, name, dtype, shape, data + begin)
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise ConversionError(f"{name} in {path} does not begin where the previous tensor ends")
        at = end
    if data + at != size:
        what = "was truncated" if data + at > size else "has more at its end"
        raise ConversionError(f"{path} {what}: {size:,} bytes, where its header says {data + at:,}")
    return tensors


def _lazy_tensor(
    path: Path, name: str, dtype: torch.dtype, shape: tuple[int, ...], offset: int
) -> LazyTensor:
    return LazyTensor(
        dtype, shape, f"{name} in {path}", lambda: read_at(path, offset, dtype, shape)
    )


def _entry(entry: Any, where: str) -> tuple[torch.dtype, tuple[int, ...], tuple[int, int]]:
    """Return (dtype, shape, data offsets) of a header's entry."""
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, *offsets]
        if not all(type(n) is int and 0 <= n < 2**48 for n in numbers) or len(offsets) != 2:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ConversionError(f"{where} has no valid dtype, shape and offsets") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConversionError(f"{where} has the unsupported dtype {dtype!r:.60}")
    return DTYPES[dtype], tuple(shape), (offsets[0], offsets[1])


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write tensors by name to a new safetensors file, in the order of the safetensors library.

    They are ordered by descending size of an element, then by name. Two are in memory at a time.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor, values in read_ahead(tensors[name] for name in order):
            for block in blocks_of(values, tensor.dtype):
                write_all(file, byte_view(block))
            write_behind(file)
