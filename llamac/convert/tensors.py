"""Tensors in files that are read lazily, block by block."""

from __future__ import annotations

import os
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
"""Supported dtypes of weights."""

BLOCK = 64 << 20  # bytes of a tensor that are converted and written at a time


class ReusedMemory:
    """Allocator that reuses the memory of tensors that are no longer referenced.

    Reading a file into fresh pages takes several times as long. Tensors of less than 1 MiB or more
    than 512 MiB are allocated by torch. Safe to use from several threads.
    """

    SIZES = range(1 << 20, (512 << 20) + 1)  # bytes of the tensors whose memory is reused

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._lock = Lock()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised contiguous tensor on the CPU."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if size not in self.SIZES:
            return torch.empty(tuple(shape), dtype=dtype)
        with self._lock:
            fitting = [buffer for buffer in self._free if buffer.nbytes >= size]
            chosen = min(fitting, key=lambda buffer: buffer.nbytes, default=None)
            self._free = [one for one in self._free if chosen is not None and one is not chosen]
        # NumPy would ask for huge pages, which may take longer than the copy that this spares.
        new_buffer = torch.empty(size if chosen is None else 0, dtype=torch.uint8).numpy()
        buffer = new_buffer if chosen is None else chosen
        view = buffer[:size]
        finalize(view, self._release, buffer).atexit = False
        return torch.from_numpy(view).view(dtype).view(tuple(shape))

    def copy(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return a contiguous copy of `values` in `dtype`; None keeps the dtype."""
        return self.empty(values.shape, dtype or values.dtype).copy_(values)

    def _release(self, buffer: np.ndarray) -> None:
        self._free.append(buffer)  # without the lock: it may interrupt `empty` in the same thread


MEMORY = ReusedMemory()
"""Allocator of the tensors that conversions read and convert."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file, with known dtype and shape, read lazily.

    where: its name and file, for messages. read: function that returns the contiguous values, in
    the file's dtype and not necessarily in `dtype` (`cast`).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    where: str
    read: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        """Return the number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Return the number of bytes in the declared dtype."""
        return self.numel * self.dtype.itemsize

    def map(self, change: Callable[[Tensor], Tensor]) -> LazyTensor:
        """Return this tensor with `change` applied when it is read.

        change: function of the values that keeps shape and dtype.
        """
        return replace(self, read=lambda: change(self.read()))

    def cast(self, dtype: torch.dtype | None) -> LazyTensor:
        """Return this tensor with another declared dtype; None leaves it unchanged.

        `read` still returns the file's dtype; writers convert block by block (`blocks_of`).
        """
        return self if dtype is None else replace(self, dtype=dtype)

    def equals(self, other: LazyTensor) -> bool:
        """Return whether two tensors have the same shape, declared dtype and bits. Reads both."""
        if (self.shape, self.dtype) != (other.shape, other.dtype):
            return False
        return byte_view(self.read()) == byte_view(other.read())


def read_ahead(tensors: Iterable[LazyTensor]) -> Iterator[tuple[LazyTensor, Tensor]]:
    """Yield (tensor, its values) in order, while a thread reads the next: two are in memory.

    Values have the file's dtype; the caller casts them block by block (`blocks_of`).
    """
    with ThreadPoolExecutor(1) as reader:
        pending: tuple[LazyTensor, Future[Tensor]] | None = None
        for tensor in tensors:
            submitted = tensor, reader.submit(tensor.read)
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = submitted
        if pending is not None:
            yield pending[0], pending[1].result()


def blocks_of(values: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the values in order, converted to `dtype`, as flat blocks of at most BLOCK bytes."""
    for block in values.reshape(-1).split(BLOCK // max(values.itemsize, dtype.itemsize)):
        yield block if block.dtype == dtype else MEMORY.copy(block, dtype)


def commonest_dtype(tensors: Mapping[str, LazyTensor]) -> str:
    """Return the name of the declared dtype with the most bytes, such as "bfloat16"."""
    sizes = Counter[str]()
    for tensor in tensors.values():
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return sizes.most_common(1)[0][0]


def byte_view(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor without copying them."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def write_all(file: Any, data: memoryview) -> None:
    """Write all bytes to an unbuffered file, whose `write` may be partial."""
    while data:
        data = data[file.write(data) :]


def write_behind(file: Any) -> None:
    """Begin to write a file's bytes to disk, and free the memory of those already there.

    The kernel would keep them until it needs the memory, and spend more on fresh pages for the
    next bytes than on writing them. Without posix_fadvise, this only flushes Python's buffer.
    """
    file.flush()
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_at(path: Path, offset: int, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Read a tensor that is stored contiguously at byte `offset` of a file.

    Raises ConversionError if the file is too short.
    """
    tensor = MEMORY.empty(shape, dtype)
    view, done = byte_view(tensor), 0
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ConversionError(f"{path} is truncated: it ends within a tensor")
            done += count
    return tensor


def require_tensors(
    tensors: Mapping[str, LazyTensor], shapes: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raise ConversionError unless the tensors are those of `shapes`, in their shapes and FLOATS.

    tensors, shapes: by the same names. what: the file or directory, for messages.
    """
    if missing := [name for name in shapes if name not in tensors]:
        raise ConversionError(f"{what} lacks {_list_names(missing)}, required by its configuration")
    for name, shape in shapes.items():
        if tensors[name].shape != tuple(shape):
            tensor = tensors[name]
            raise ConversionError(
                f"{tensor.where} is {list(tensor.shape)}, but must be {list(shape)} by its "
                "configuration"
            )
    if extra := [tensors[name].where for name in tensors if name not in shapes]:
        raise ConversionError(
            f"{_list_names(extra)} is not part of the model that its configuration describes"
        )
    for tensor in tensors.values():
        if tensor.dtype not in FLOATS:
            raise ConversionError(
                f"{tensor.where} has dtype {tensor.dtype}: weights must be float64, float32, "
                "float16 or bfloat16; import the model's unquantised files"
            )


def _list_names(names: Sequence[str]) -> str:
    suffix = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + suffix
