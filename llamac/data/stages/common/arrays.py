"""Store named NumPy arrays in one memory-mapped file: findings and decisions of surveys."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.runtime import durable_files
from llamac.runtime.errors import RunError

ALIGNMENT = 64  # bytes; arrays begin at multiples of it
IN_MEMORY = 1 << 20
"""Number of keys that a merge has in memory at a time."""

Arrays = dict[str, NDArray]
"""Arrays by name."""


def save(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays to a file: a line of JSON with names, dtypes and shapes, then the data.

    Equal arrays give equal bytes.
    """
    table, offset = {}, 0
    for name, array in arrays.items():
        table[name] = [array.dtype.descr if array.dtype.names else array.dtype.str]
        table[name] += [list(array.shape), offset]
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    header = json.dumps(table).encode()
    with durable_files.atomic_write(path) as file:
        file.write(header + b" " * (-(len(header) + 1) % ALIGNMENT) + b"\n")
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).view(np.uint8))
            file.write(b"\0" * (-array.nbytes % ALIGNMENT))


def load(path: Path) -> Arrays:
    """Map the arrays of a file that `save` wrote into memory, read-only, by name.

    Raises RunError if the file is damaged.
    """
    with open(path, "rb") as file:
        header = file.readline()
    try:
        table = json.loads(header)
        start, arrays = len(header), {}
        for name, (kind, shape, offset) in table.items():
            dtype = np.dtype([tuple(field) for field in kind] if isinstance(kind, list) else kind)
            empty = 0 in shape
            arrays[name] = (
                np.empty(shape, dtype)
                if empty
                else np.memmap(path, dtype, "r", start + offset, tuple(shape))
            )
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {error}; remove it and run again") from None
    return arrays


def ranges(runs: Sequence[NDArray[np.uint64]], limit: int = IN_MEMORY) -> Iterator[list[slice]]:
    """Partition sorted runs of 64-bit hashes at common values, for merging piece by piece.

    Yields one slice per run and piece. A piece has about `limit` entries of all runs; equal keys
    are in the same piece.
    """
    total = sum(map(len, runs))
    pieces = max(1, -(-total // limit))
    begin = [0] * len(runs)
    for piece in range(1, pieces + 1):
        if piece == pieces:
            end = list(map(len, runs))
        else:
            value = np.uint64((piece << 64) // pieces)  # hashes are uniformly distributed
            end = [int(np.searchsorted(run, value)) for run in runs]
        yield [slice(*bounds) for bounds in zip(begin, end, strict=True)]
        begin = end
        _forget(runs)


def _forget(runs: Sequence[NDArray]) -> None:
    """Release the pages of mapped files from this process's memory."""
    for run in runs:
        if isinstance(run, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
            run._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
