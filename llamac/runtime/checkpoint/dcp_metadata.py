"""Read DCP's `.metadata` file without executing code in it.

torch unpickles that file, and a pickle may call any function. This reader replaces the classes of
DCP's metadata by inert records, then builds torch's objects from their validated names, integers
and dtypes. Anything else in the file is an error.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

DCP = "torch.distributed.checkpoint"
RECORDS = {
    (f"{DCP}.metadata", name)
    for name in (
        *("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
        *("TensorProperties", "TensorStorageMetadata"),
    )
} | {(f"{DCP}.filesystem", "_StorageInfo")}
"""(module, class) that are read as inert records: their fields are kept, their code is not run."""

IGNORED_NAMES = {  # origin and memory layout of the saved tensors, which are not needed
    *(("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath")),
    *(("pathlib._local", name) for name in ("Path", "PosixPath", "WindowsPath")),
    ("torch.serialization", "_get_layout"),
    (f"{DCP}.metadata", "_MEM_FORMAT_ENCODING"),
}


def read_metadata(path: Path) -> Metadata:
    """Read DCP's metadata file at `path`.

    Raises OSError if it cannot be opened, ValueError if it is damaged or has other contents.
    """
    with open(path, "rb") as file:
        try:
            return _metadata(_InertUnpickler(file).load())
        except Exception as error:  # a damaged pickle can raise almost any exception
            reason = error.args[0] if error.args else type(error).__name__
            raise ValueError(f"{path.name} is not valid checkpoint metadata: {reason}") from error


class _InertUnpickler(pickle._Unpickler):
    """Restricted unpickler in pure Python; the one in C may allocate any amount of memory."""

    dispatch: ClassVar[dict[int, Any]] = {
        opcode: load
        for opcode, load in pickle._Unpickler.dispatch.items()
        if opcode != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        # Fresh classes for this file, so that a pickle cannot modify shared ones.
        self.known: dict[tuple[str, str], Callable[..., Any]] = {
            name: type(name[1], (_Record,), {}) for name in RECORDS
        }
        self.known |= {name: lambda *_: None for name in IGNORED_NAMES}
        self.known["torch", "Size"] = lambda sizes: tuple(sizes)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.known:
            return self.known[module, name]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        raise ValueError(f"it refers to {module}.{name}, which is not allowed")


class _Record:
    """State of a pickled object, kept without creating the object."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def dtype(self) -> Any:
        return self.state[0]


def _metadata(read: Any) -> Metadata:
    tensors, stored = _fields(read, "state_dict_metadata", "storage_data")
    parts = sum(len(_fields(tensor, "chunks")[0]) for tensor in tensors.values())
    if parts != len(stored):
        raise ValueError(f"it lists {parts:,} parts of tensors, but {len(stored):,} are stored")
    return Metadata(
        {_text(name): _tensor(tensor) for name, tensor in tensors.items()},
        storage_data=dict(map(_place, *zip(*stored.items(), strict=True))) if stored else {},
        storage_meta=StorageMeta(),
    )


def _tensor(read: Any) -> TensorStorageMetadata:
    properties, size, chunks = _fields(read, "properties", "size", "chunks")
    if not isinstance(properties, _Record) or not isinstance(properties.dtype, torch.dtype):
        raise ValueError("one of its tensors has no dtype")
    chunks = (_fields(chunk, "offsets", "sizes") for chunk in chunks)
    parts = [ChunkStorageMetadata(_size(offsets), _size(sizes)) for offsets, sizes in chunks]
    return TensorStorageMetadata(TensorProperties(properties.dtype), _size(size), parts)


def _place(index: Any, info: Any) -> tuple[MetadataIndex, _StorageInfo]:
    name, offset, number = _fields(index, "fqn", "offset", "index")
    file, *where = _fields(info, "relative_path", "offset", "length")
    begin, length = _size(where)
    if "/" in _text(file) or "\\" in file or not file.endswith(".distcp"):
        raise ValueError(f"it names a file outside the checkpoint: {file}")
    number = None if number is None else _size([number])[0]
    return MetadataIndex(_text(name), _size(offset), number), _StorageInfo(file, begin, length)


def _fields(record: Any, *names: str) -> list[Any]:
    if not isinstance(record, _Record) or not isinstance(record.state, dict):
        raise ValueError("one of its objects has no fields")
    return [record.state[name] for name in names]


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"it has {type(value).__name__} where a name should be")
    return value


def _size(values: Iterable[Any]) -> torch.Size:
    values = tuple(values)
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("one of its sizes is not a list of integers")
    return torch.Size(values)
