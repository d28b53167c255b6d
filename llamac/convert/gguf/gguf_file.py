"""Read GGUF files: metadata and tensor offsets, with every count validated before use.

The gguf package's own reader trusts the file's counts, so only its tables of quantised blocks and
its dequantisation are used. Format: ggml/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from llamac.convert.errors import ConversionError
from llamac.convert.tensors import BLOCK, MEMORY, LazyTensor, read_at

VERSIONS = (2, 3)  # of the format, as far as they are supported
SCALARS = {  # struct's format character of each scalar type of metadata
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9  # the other types of metadata
MAX_TENSORS, MAX_KEYS, MAX_DIMS = 1 << 17, 1 << 16, 4
UNQUANTIZED = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
"""Dtypes of the GGUF tensor types that are read as they are; others are dequantised to float32."""


@dataclass(frozen=True)
class GGUFFile:
    """Contents of a GGUF file: metadata by key, and lazily read tensors by name.

    Quantised tensors are read as float32. Shapes have the outermost dimension first, as in torch.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]


class _Header:
    """Bounds-checked reader of a file's header."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size

    def bytes(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise ConversionError(
                f"{self.path} is damaged or truncated: its header ends {count:,} bytes after the "
                "end of the file"
            )
        return self.file.read(count)

    def number(self, letter: str) -> Any:
        code = f"<{letter}"
        return struct.unpack(code, self.bytes(struct.calcsize(code)))[0]

    def text(self) -> str:
        return self.bytes(self.number("Q")).decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise ConversionError(f"{self.path} has metadata of unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            letter = SCALARS[inner]
            data = self.bytes(count * struct.calcsize(f"<{letter}"))
            return np.frombuffer(data, dtype=np.dtype(letter).newbyteorder("<")).tolist()
        if inner != STRING or count * 8 > self.size:
            raise ConversionError(f"{self.path} has an array of {count:,} values of type {inner}")
        return [self.text() for _ in range(count)]


def read_gguf(path: Path) -> GGUFFile:
    """Read the header of a GGUF file of version 2 or 3; its tensors are read lazily.

    Raises ConversionError if the file is damaged or truncated, or its version or the type of a
    tensor is unknown.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = _Header(file, path, size)
        if header.bytes(min(4, size)) != b"GGUF":
            raise ConversionError(f"{path} is not a GGUF file")
        version = header.number("I")
        if version not in VERSIONS:
            raise ConversionError(
                f"{path} has GGUF version {version}; versions 2 and 3 are supported"
            )
        tensors, keys = header.number("Q"), header.number("Q")
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise ConversionError(
                f"{path} claims {tensors:,} tensors and {keys:,} keys, more than it can hold"
            )
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            name = header.text()
            if name in metadata:
                raise ConversionError(f"{path} has the key {name} twice")
            metadata[name] = header.value(header.number("I"))
        entries = [_read_tensor_info(header) for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 16:
            raise ConversionError(f"{path} has general.alignment = {alignment!r}")
        data = -(-file.tell() // alignment) * alignment
    stored, end, previous = {}, 0, ""
    for name, shape, kind, offset in sorted(entries, key=lambda entry: entry[3]):
        if name in stored:
            raise ConversionError(f"{path} has two tensors named {name}")
        rows, row_bytes = _rows_of(shape, kind, f"{name} in {path}")
        if offset < end:
            raise ConversionError(f"{name} in {path} begins within {previous}")
        end, previous = offset + rows * row_bytes, name
        if data + end > size:
            raise ConversionError(
                f"{name} in {path} does not lie within the file: it was truncated"
            )
        stored[name] = _lazy_tensor(path, name, shape, kind, data + offset, row_bytes)
    return GGUFFile(metadata, stored)


def _read_tensor_info(header: _Header) -> tuple[str, tuple[int, ...], int, int]:
    """Return name, shape (outermost dimension first, as in torch), type and offset of a tensor."""
    name, dims = header.text(), header.number("I")
    if dims > MAX_DIMS:
        raise ConversionError(f"{name} in {header.path} has {dims} dimensions")
    shape = tuple(header.number("Q") for _ in range(dims))[::-1]
    if any(not 0 < n < 2**40 for n in shape):
        raise ConversionError(f"{name} in {header.path} has the shape {list(shape)}")
    return name, shape, header.number("I"), header.number("Q")


def _rows_of(shape: tuple[int, ...], kind: int, where: str) -> tuple[int, int]:
    """Return (number of rows, bytes per row) of a tensor."""
    block, block_bytes = _block_of(kind, where)
    if shape[-1] % block:
        raise ConversionError(
            f"{where} has rows of {shape[-1]}, not a multiple of the block size {block}"
        )
    return math.prod(shape[:-1]), shape[-1] // block * block_bytes


def _lazy_tensor(
    path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int, row_bytes: int
) -> LazyTensor:
    where = f"{name} in {path}"
    if kind in UNQUANTIZED:
        dtype = UNQUANTIZED[kind]
        return LazyTensor(dtype, shape, where, lambda: read_at(path, offset, dtype, shape))

    def read() -> Tensor:
        rows = math.prod(shape[:-1])
        values = MEMORY.empty((rows, shape[-1]), torch.float32)
        step = max(1, BLOCK // (4 * shape[-1]))
        for begin in range(0, rows, step):
            count = min(step, rows - begin)
            packed = read_at(path, offset + begin * row_bytes, torch.uint8, (count, row_bytes))
            values[begin : begin + count] = _dequantize(packed, kind, where)
        return values.reshape(shape)

    return LazyTensor(torch.float32, shape, where, read)


def _block_of(kind: int, where: str) -> tuple[int, int]:
    """Return (values per block, bytes per block) of a tensor type."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        return GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise ConversionError(f"{where} has unknown type {kind}") from None


def _dequantize(packed: Tensor, kind: int, where: str) -> Tensor:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        return torch.from_numpy(dequantize(packed.numpy(), GGMLQuantizationType(kind)))
    except NotImplementedError as error:
        raise ConversionError(f"{where} cannot be read as floats: {error}") from error
