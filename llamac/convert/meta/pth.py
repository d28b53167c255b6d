"""Read and write files of torch.save by offsets, without executing code that they contain.

Such a file is a ZIP archive, stored without compression: `data.pkl` describes the tensors, and
`data/0`, `data/1`, … are their bytes, each with a CRC-32, which torch itself does not check.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._utils import _rebuild_tensor_v2

from llamac.convert.errors import ConversionError
from llamac.convert.tensors import (
    BLOCK,
    LazyTensor,
    blocks_of,
    byte_view,
    read_ahead,
    read_at,
    write_behind,
)

HEADER = 30  # bytes of an entry before its name
ZIP64 = 20  # bytes that zipfile adds to the header of an entry that may be large
STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}
ALIGNMENT = 64  # bytes to which torch aligns tensors


@dataclass(frozen=True)
class StorageBytes:
    """Position of a torch storage in a file: offset and size in bytes, and its CRC-32."""

    path: Path
    offset: int
    size: int
    crc: int

    def check(self, name: str, data: Tensor | None = None) -> None:
        """Verify the CRC-32 of the bytes, reading them unless they are given.

        name: the tensor's, for the message. data: tensor with all bytes of the storage, if already
        read. Raises ConversionError if the CRC-32 differs or the file is too short.
        """
        crc = 0 if data is None else zlib.crc32(byte_view(data))
        for begin in range(0, self.size if data is None else 0, BLOCK):
            shape = [min(BLOCK, self.size - begin)]
            block = read_at(self.path, self.offset + begin, torch.uint8, shape)
            crc = zlib.crc32(byte_view(block), crc)
        if crc != self.crc:
            raise ConversionError(f"{name} in {self.path} is damaged: it does not match its CRC-32")


def read_pth(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a saved state dict by name, to be read lazily.

    path: file written by torch.save (1.6 or later). Raises ConversionError if it is damaged or
    contains anything except tensors by name.
    """
    try:
        records = _records(path)
        with FakeTensorMode():  # tensors without storage, but with their offsets in the file
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except ConversionError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise ConversionError(
            f"{path} cannot be read with weights_only=True, and reading it otherwise is unsafe: "
            f"{_reason(error)}"
        ) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in loaded.items()
    ):
        raise ConversionError(f"{path} is not a dict of tensors by name")
    return {name: _lazy_tensor(path, records, name, tensor) for name, tensor in loaded.items()}


def _reason(error: Exception) -> str:
    """Return torch's reason for refusing a file, without its advice to disable checks."""
    text = str(error)
    if match := re.search(r"GLOBAL (\S+)", text):
        return f"it refers to {match[1]}"
    if match := re.search("WeightsUnpickler error: (.*)", text):
        return match[1][:200]
    return (text.splitlines() or [type(error).__name__])[0][:200]


def _records(path: Path) -> dict[int, StorageBytes]:
    """Return the storages of an archive by offset, and verify the CRC-32 of all other entries.

    Raises ConversionError, or zipfile's errors.
    """
    if not zipfile.is_zipfile(path):
        raise ConversionError(
            f"{path} is damaged, truncated, or in the format before torch 1.6: if it is old, save "
            "it again with torch.save"
        )
    records = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise ConversionError(f"{path} has two entries of the same name")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ConversionError(f"{entry.filename} in {path} is compressed")
            if "/data/" not in entry.filename:
                archive.read(entry)  # compares it with its CRC-32
                continue
            file.seek(entry.header_offset)
            header = file.read(HEADER)
            lengths = (int.from_bytes(header[n : n + 2], "little") for n in (26, 28))
            offset = entry.header_offset + HEADER + sum(lengths)
            records[offset] = StorageBytes(path, offset, entry.file_size, entry.CRC)
    return records


def _lazy_tensor(
    path: Path, records: Mapping[int, StorageBytes], name: str, tensor: Tensor
) -> LazyTensor:
    where, dtype, shape = f"{name} in {path}", tensor.dtype, tuple(tensor.shape)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ConversionError(f"{where} is sparse, quantised or without data")
    begin = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    record = records.get(-1 if begin is None else begin)
    if record is None:
        raise ConversionError(f"{where} has no bytes in the file")
    steps = tensor.stride()
    last = sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    count = last + 1 if tensor.numel() else 0
    offset = int(tensor.storage_offset()) * dtype.itemsize
    if offset + count * dtype.itemsize > record.size:
        raise ConversionError(f"{where} does not lie within its {record.size:,} bytes")

    def read() -> Tensor:
        flat = read_at(path, record.offset + offset, dtype, (count,))
        record.check(name, flat if flat.nbytes == record.size else None)
        return flat.as_strided(shape, steps).contiguous()

    return LazyTensor(dtype, shape, where, read)


def write_pth(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write a state dict to a new file as torch.save does, with two tensors in memory at a time.

    Names that map to the same LazyTensor object share one storage.
    """
    unique = {id(tensor): tensor for tensor in tensors.values()}
    keys = {key: str(number) for number, key in enumerate(unique)}
    pickled = io.BytesIO()
    _Pickler(pickled, keys).dump(dict(tensors))
    with zipfile.ZipFile(path, "x") as archive:
        small = {"data.pkl": pickled.getvalue(), "byteorder": sys.byteorder.encode()}
        small |= {"version": b"3\n", ".storage_alignment": str(ALIGNMENT).encode()}
        for name, content in small.items():
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}"), content)  # without the time
        for tensor, values in read_ahead(unique.values()):
            entry = zipfile.ZipInfo(f"{path.stem}/data/{keys[id(tensor)]}")
            assert archive.fp is not None
            begin = archive.fp.tell() + HEADER + len(entry.filename) + ZIP64
            padding = -(begin + 4) % ALIGNMENT
            entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            with archive.open(entry, "w", force_zip64=True) as file:
                for block in blocks_of(values, tensor.dtype):
                    file.write(byte_view(block))
            write_behind(archive.fp)


class _Pickler(pickle.Pickler):
    """Pickler that writes each `LazyTensor` as torch.save writes a tensor."""

    def __init__(self, file: Any, keys: Mapping[int, str]) -> None:
        super().__init__(file, protocol=2)
        self._keys = keys

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        tensor = obj.tensor
        key = self._keys[id(tensor)]
        return ("storage", STORAGES[tensor.dtype], key, "cpu", tensor.numel)

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, LazyTensor):
            return NotImplemented
        steps = tuple(torch.Size(obj.shape[n + 1 :]).numel() for n in range(len(obj.shape)))
        return _rebuild_tensor_v2, (_Storage(obj), 0, obj.shape, steps, False, OrderedDict())


@dataclass(frozen=True)
class _Storage:
    tensor: LazyTensor
