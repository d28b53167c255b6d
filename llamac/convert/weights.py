"""Read and write checkpoint weights in DCP's format, tensor by tensor.

DCP itself needs all tensors in memory at once. In its files, each chunk of a tensor is a separate
`torch.save`, at an offset given in `.metadata`.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from llamac.convert.errors import ConversionError
from llamac.convert.tensors import MEMORY, LazyTensor, byte_view, read_ahead, read_at, write_behind
from llamac.runtime import durable_files
from llamac.runtime.checkpoint.dcp_metadata import read_metadata

SECTION = "model."  # prefix of the weights' names in a checkpoint
PART = 128 << 20  # bytes of a tensor that are saved as one part
FILE = 512 << 20  # bytes after which a new file is begun: several readers can check them


class Window(io.RawIOBase):
    """File-like view of `length` bytes of a file from byte `offset`, for `torch.load`."""

    def __init__(self, file: BinaryIO, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._length - self._at)]
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(view)  # type: ignore[attr-defined]
        self._at += count
        return count


def read_weights(checkpoint: Path) -> dict[str, LazyTensor]:
    """Return the weights of a checkpoint by canonical name, to be read lazily.

    The checkpoint may have been saved by any number of ranks; the tensors are whole.
    Raises ConversionError if its metadata is missing or damaged.
    """
    directory = checkpoint / "tensors"
    try:
        metadata = read_metadata(directory / ".metadata")
    except (OSError, ValueError) as error:
        raise ConversionError(f"{checkpoint} cannot be read: {error}") from error
    return {
        name.removeprefix(SECTION): _lazy_tensor(directory, name, entry, metadata.storage_data)
        for name, entry in metadata.state_dict_metadata.items()
        if name.startswith(SECTION) and isinstance(entry, TensorStorageMetadata)
    }


def _lazy_tensor(
    directory: Path, name: str, entry: TensorStorageMetadata, places: Any
) -> LazyTensor:
    shape, dtype = tuple(entry.size), entry.properties.dtype
    where = f"{name.removeprefix(SECTION)} in {directory.parent}"

    def read() -> Tensor:
        count = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
        if count != math.prod(shape):
            raise ConversionError(
                f"{where} is incomplete: {count:,} of {math.prod(shape):,} elements"
            )
        if len(entry.chunks) == 1:
            return _read_chunk(directory, name, entry.chunks[0], dtype, places)
        values = MEMORY.empty(shape, dtype)
        for chunk in entry.chunks:
            ends = zip(chunk.offsets, chunk.sizes, strict=True)
            region = tuple(slice(begin, begin + size) for begin, size in ends)
            values[region] = _read_chunk(directory, name, chunk, dtype, places)
        return values

    return LazyTensor(dtype, shape, where, read)


def _read_chunk(
    directory: Path, name: str, chunk: ChunkStorageMetadata, dtype: torch.dtype, places: Any
) -> Tensor:
    info = places[MetadataIndex(name, chunk.offsets)]
    path = directory / info.relative_path
    try:
        with open(path, "rb", buffering=0) as file:
            window: Any = Window(file, info.offset, info.length)
            # On "meta" it has no values, but their position in the window.
            part = torch.load(window, map_location="meta", weights_only=True)
        if part.shape != chunk.sizes or part.dtype != dtype:
            raise ValueError(f"it is {tuple(part.shape)} of {part.dtype}")
        storage: Any = part.untyped_storage()
        flat = read_at(path, info.offset + storage._checkpoint_offset, torch.uint8, [len(storage)])
        part = flat.view(dtype).as_strided(part.shape, part.stride(), part.storage_offset())
    except Exception as error:  # unpickling alone has a dozen kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"{name} in {path} cannot be read: {reason}") from error
    return part.contiguous()


def _own_storage(values: Tensor) -> Tensor:
    """Return the same values in a storage of exactly their bytes, without copying.

    torch.save would write the whole storage of a contiguous slice.
    """
    if values.nbytes == values.untyped_storage().nbytes():
        return values
    return torch.from_numpy(byte_view(values).obj).view(values.dtype).view(values.shape)


@contextmanager
def _without_crc32() -> Iterator[None]:
    """Disable CRC-32 in torch.save, since the manifest has the files' sha256."""
    previous = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(previous)


def _save(part: Tensor, file: Any) -> None:
    """Append what torch.save writes. Raises the file's own errors, and KeyboardInterrupt."""
    try:
        torch.save(part, file)
    except RuntimeError as error:  # of closing the archive after what went wrong
        raise error.__context__ or error from None


def write_weights(directory: Path, tensors: Mapping[str, LazyTensor]) -> dict[str, dict[str, Any]]:
    """Write weights to a new directory in DCP's format, with two tensors in memory at a time.

    Returns {"bytes": size, "sha256": hex digest} of each data file, by name.
    """
    directory.mkdir(parents=True)
    tensor_metadata: dict[str, Any] = {}
    storage: dict[MetadataIndex, _StorageInfo] = {}
    file, files = None, []
    # A file goes to the disk while the next is written.
    with _without_crc32(), ThreadPoolExecutor(1) as closer:
        for name, (tensor, values) in zip(tensors, read_ahead(tensors.values()), strict=True):
            row = max(1, values[:1].nbytes)
            chunks, begin, dtype = [], 0, tensor.dtype
            for rows in values.split(max(1, PART // row)):
                part = _own_storage(rows if rows.dtype == dtype else MEMORY.copy(rows, dtype))
                if file is None:
                    file = durable_files.NewFile(directory / f"__0_{len(files)}.distcp")
                start = file.tell()
                _save(part, file)
                write_behind(file)
                offsets = torch.Size([begin] + [0] * (part.ndim - 1))
                index = MetadataIndex(SECTION + name, offsets, len(chunks))
                storage[index] = _StorageInfo(file.path.name, start, file.tell() - start)
                chunks.append(ChunkStorageMetadata(offsets, part.shape))
                begin += len(part)
                if file.tell() >= FILE:
                    files.append((file, closer.submit(file.commit)))
                    file = None
            properties = TensorProperties(dtype)
            tensor_metadata[SECTION + name] = TensorStorageMetadata(
                properties, values.size(), chunks
            )
        if file is not None:
            files.append((file, closer.submit(file.commit)))
        written = {
            file.path.name: {"bytes": file.size, "sha256": hashing.result()}
            for file, hashing in files
        }
    data = {key: tuple(key.split(".", 1)) for key in tensor_metadata}
    metadata = Metadata(tensor_metadata, data, storage, StorageMeta())
    with open(directory / ".metadata", "xb") as out:
        pickle.dump(metadata, out)
    return written
