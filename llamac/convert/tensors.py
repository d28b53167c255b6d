"""Lazily read tensors in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from llamac.convert.errors import ConversionError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Dtypes that weights may have."""

BLOCK = 64 << 20  # bytes of a tensor that are converted and written at a time


class ReusedMemory:
    """Allocates tensors in the memory of earlier ones that are no longer referenced.

    Reading a file into fresh pages takes several times as long. Tensors that are small, or so large
    that keeping their memory would matter, are allocated as usual.
    """

    SIZES = range(1 << 20, (512 << 20) + 1)  # bytes of the tensors whose memory is reused

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._lock = Lock()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised contiguous tensor."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if size not in self.SIZES:
            return torch.empty(tuple(shape), dtype=dtype)
        with self._lock:
            fitting = [buffer for buffer in self._free if buffer.nbytes >= size]
            chosen = min(fitting, key=lambda buffer: buffer.nbytes, default=None)
            self._free = [one for one in self._free if chosen is not None and one is not chosen]
        # NumPy would ask for huge pages, which may take longer than the copy that this spares.
        fresh = torch.empty(size if chosen is None else 0, dtype=torch.uint8).numpy()
        buffer = fresh if chosen is None else chosen
        part = buffer[:size]
        finalize(part, self._free_again, buffer).atexit = False
        return torch.from_numpy(part).view(dtype).view(tuple(shape))

    def copy(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return a contiguous copy, in a dtype."""
        return self.empty(values.shape, dtype or values.dtype).copy_(values)

    def _free_again(self, buffer: np.ndarray) -> None:
        self._free.append(buffer)  # without the lock: it may interrupt `empty` in the same thread


MEMORY = ReusedMemory()


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. where: file and name, for messages. read: loads it, contiguous."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    where: str
    read: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Stored:
        """Return the tensor with `change` applied on reading, which must keep shape and dtype."""
        return replace(self, read=lambda: change(self.read()))

    def cast(self, dtype: torch.dtype | None) -> Stored:
        """Return this tensor with `dtype` declared (None: unchanged).

        `read` still returns the file's dtype; writers convert block by block (`blocks_of`).
        """
        return self if dtype is None else replace(self, dtype=dtype)

    def equals(self, other: Stored) -> bool:
        """Return whether two tensors have the same shape, dtype and bits."""
        if (self.shape, self.dtype) != (other.shape, other.dtype):
            return False
        return raw(self.read()) == raw(other.read())


def read_ahead(tensors: Iterable[Stored]) -> Iterator[tuple[Stored, Tensor]]:
    """Yield each tensor with its values, prefetching the next one: two are in memory.

    Values have the file's dtype; the caller casts them block by block.
    """
    with ThreadPoolExecutor(1) as reader:
        coming: tuple[Stored, Future[Tensor]] | None = None
        for tensor in tensors:
            after = tensor, reader.submit(tensor.read)
            if coming is not None:
                yield coming[0], coming[1].result()
            coming = after
        if coming is not None:
            yield coming[0], coming[1].result()


def blocks_of(values: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield values, flat and in a dtype, in blocks of at most BLOCK bytes."""
    for block in values.reshape(-1).split(BLOCK // max(values.itemsize, dtype.itemsize)):
        yield block if block.dtype == dtype else MEMORY.copy(block, dtype)


def commonest_dtype(tensors: Mapping[str, Stored]) -> str:
    """Return the name of the dtype with most bytes: `bfloat16`."""
    sizes = Counter[str]()
    for tensor in tensors.values():
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return sizes.most_common(1)[0][0]


def raw(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor without copying them."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def write_all(file: Any, data: memoryview) -> None:
    """Write all bytes to an unbuffered file, which may take less at a time than it is given."""
    while data:
        data = data[file.write(data) :]


def read_at(path: Path, offset: int, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Read a contiguous tensor at `offset` of a file. Raises ConversionError if it ends before."""
    tensor = MEMORY.empty(shape, dtype)
    view, done = raw(tensor), 0
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ConversionError(f"{path} is truncated: it ends within a tensor")
            done += count
    return tensor


def require_tensors(
    found: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raise ConversionError unless the tensors are those of `shapes`, of float dtypes.

    what: what the message calls the files.
    """
    if missing := [name for name in shapes if name not in found]:
        raise ConversionError(f"{what} lacks {_listed(missing)}, required by its configuration")
    for name, shape in shapes.items():
        if found[name].shape != tuple(shape):
            tensor = found[name]
            raise ConversionError(
                f"{tensor.where} is {list(tensor.shape)}, but must be {list(shape)} by its "
                "configuration"
            )
    if extra := [found[name].where for name in found if name not in shapes]:
        raise ConversionError(
            f"{_listed(extra)} is not part of the model that its configuration describes"
        )
    for tensor in found.values():
        if tensor.dtype not in FLOATS:
            raise ConversionError(
                f"{tensor.where} has dtype {tensor.dtype}: weights must be float64, float32, "
                "float16 "
                "or bfloat16; import the model's unquantised files"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
