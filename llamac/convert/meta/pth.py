"""Read and write files of torch.save by offsets, running nothing that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from llamac.convert.errors import ConversionError
from llamac.convert.tensors import Stored, read_at, write_tensor


def read_pth(path: Path) -> dict[str, Stored]:
    """Return the tensors of a state dict in a file of torch.save, not yet read.

    Raises ConversionError if it is damaged, or holds anything but tensors by name.
    """
    size = path.stat().st_size
    try:
        with FakeTensorMode():  # tensors without storage, but with their offsets in the file
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            f"{path} cannot be read as weights alone, and is not read in another way: {reason}"
        ) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in loaded.items()
    ):
        raise ConversionError(f"{path} holds something else than tensors by name")
    return {name: _stored(path, size, name, tensor) for name, tensor in loaded.items()}


def _stored(path: Path, size: int, name: str, tensor: Tensor) -> Stored:
    where, dtype, shape = f"{name} in {path}", tensor.dtype, tuple(tensor.shape)
    begin = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if begin is None:
        raise ConversionError(
            f"{path} is of a format before torch 1.6: save it anew with torch.save"
        )
    last = sum((n - 1) * step for n, step in zip(shape, tensor.stride(), strict=True))
    count = last + 1 if tensor.numel() else 0
    offset = begin + tensor.storage_offset() * dtype.itemsize
    if offset + count * dtype.itemsize > size:
        raise ConversionError(f"{where} does not lie within the file: it was truncated")
    steps = tensor.stride()

    def read() -> Tensor:
        return read_at(path, offset, dtype, (count,)).as_strided(shape, steps).contiguous()

    return Stored(dtype, shape, where, read)


def write_pth(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write a state dict as torch.save does, one tensor in memory at a time."""
    with FakeTensorMode():
        empty = {n: torch.empty(t.shape, dtype=t.dtype) for n, t in tensors.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(empty, path)
    with FakeTensorMode():
        places: Any = torch.load(path, map_location="cpu", weights_only=True)
    with open(path, "r+b", buffering=0) as file:
        for name, tensor in tensors.items():
            file.seek(places[name].untyped_storage()._checkpoint_offset)
            write_tensor(file, tensor)
