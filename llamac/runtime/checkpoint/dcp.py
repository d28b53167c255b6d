"""Read and write parts of tensors in torch.distributed.checkpoint (DCP), in any layout.

A rank's part of a canonical tensor is described by its offsets. Files contain the parts of the
layout that wrote them, and a reader assembles its own parts from those. Neither side needs to know
the other's mesh.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ..distributed.ranks import Ranks
from ..errors import RunError
from .dcp_metadata import read_metadata


@dataclass(frozen=True)
class TensorChunk:
    """A rank's part of a canonical tensor.

    tensor: the part, a view into which loading writes. shape: shape of the full canonical tensor.
    offsets: index of the part's first element in each dimension. Raises ValueError if the part does
    not lie within the shape.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        ends = (o + n for o, n in zip(self.offsets, self.tensor.shape, strict=True))
        if self.tensor.numel() and any(
            end > size for end, size in zip(ends, self.shape, strict=True)
        ):
            part = f"{tuple(self.tensor.shape)} from {self.offsets}"
            raise ValueError(f"a part of {part} does not lie within {self.shape}")

    @property
    def metadata(self) -> ChunkStorageMetadata:
        """Return the offsets and sizes of the part, as DCP's metadata stores them."""
        return ChunkStorageMetadata(torch.Size(self.offsets), self.tensor.shape)


Parts = Mapping[str, Tensor | TensorChunk]
"""Canonical name → this rank's part: a chunk, or the full tensor."""

Tensors = Mapping[str, Parts]
"""Section ("model", …) → canonical name → this rank's part: a chunk, or the full tensor."""


def as_chunk(part: Tensor | TensorChunk) -> TensorChunk:
    """Return a full tensor as a chunk with zero offsets; return a chunk unchanged."""
    if isinstance(part, TensorChunk):
        return part
    return TensorChunk(part, tuple(part.shape), (0,) * part.ndim)


def write(directory: Path, tensors: Tensors, ranks: Ranks) -> None:
    """Write the parts of all ranks into `directory`. All ranks call this, each with its own.

    tensors: the calling rank's parts. A part that several ranks have is written once. Raises the
    same error on all ranks: OSError or RuntimeError if writing fails, RunError if the parts of a
    tensor overlap or do not cover it.
    """
    # No copying ahead: it would use the calling thread's CUDA device, which is GPU 0 in all
    # threads but the first, on every rank.
    writer = Writer(directory, per_thread_copy_ahead=0)
    single_process = ranks.group is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it assumes a single process
        try:
            save_distributed(
                dict(tensors),
                storage_writer=writer,
                planner=ChunkSavePlanner(),
                process_group=ranks.group,
                no_dist=single_process,
            )
        except CheckpointException as error:
            raise _original_error(error) from error


def read(directory: Path, tensors: Tensors) -> None:
    """Fill this rank's parts from `directory` in place, converting to their dtypes.

    Ranks read independently: this is not a collective. Raises RunError if a tensor is missing or
    has another shape, and various errors if files are missing or damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load_distributed(
                dict(tensors),
                storage_reader=Reader(directory),
                planner=ChunkLoadPlanner(),
                no_dist=True,
            )
        except CheckpointException as error:
            raise _original_error(error) from error


def _original_error(error: CheckpointException) -> BaseException:
    """Return the original error of the first rank that failed; an interrupt takes priority."""
    return next((wrapped[0] for wrapped in error.failures.values()), error)


def _flat(tensors: Tensors) -> dict[str, TensorChunk]:
    """Flatten {"model": {"wq": …}} to {"model.wq": …}, without empty parts."""
    chunks = {
        f"{s}.{name}": as_chunk(part)
        for s, parts in tensors.items()
        for name, part in parts.items()
    }
    return {name: chunk for name, chunk in chunks.items() if chunk.tensor.numel()}


class Writer(FileSystemWriter):
    """DCP writer that raises the OSError, such as a full disk's, that torch.save's error hides."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class Reader(FileSystemReader):
    """DCP reader that parses metadata without unpickling and loads tensors with weights_only."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.metadata = read_metadata(directory / ".metadata")

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.metadata


class ChunkSavePlanner(DefaultSavePlanner):
    """Save planner for parts of canonical tensors.

    The default planner writes copies once; this one also requires that the parts of all ranks cover
    their tensors, and raises RunError if they do not or overlap.
    """

    def set_up_planner(
        self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        self.state_dict = _flat(state_dict)
        self.mappings = {name: tuple(name.split(".", 1)) for name in self.state_dict}
        self.is_coordinator = is_coordinator

    def create_local_plan(self) -> SavePlan:
        items = [_write_item(name, chunk) for name, chunk in self.state_dict.items()]
        self.plan = SavePlan(items, planner_data=self.mappings)
        return self.plan

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        _require_all_of_each(item for plan in all_plans for item in plan.items)
        try:
            return super().create_global_plan(all_plans)
        except ValueError as error:  # overlaps
            raise RunError(str(error)) from error

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn].tensor


def _write_item(name: str, chunk: TensorChunk) -> WriteItem:
    properties = TensorProperties.create_from_tensor(chunk.tensor)
    return WriteItem(
        index=MetadataIndex(name, chunk.offsets),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(chunk.metadata, properties, torch.Size(chunk.shape)),
    )


def _require_all_of_each(items: Iterable[WriteItem]) -> None:
    """Raise RunError naming tensors whose distinct parts do not cover them.

    Not every torch version's default planner checks this.
    """
    shapes: dict[str, torch.Size] = {}
    parts: dict[str, dict[Any, ChunkStorageMetadata]] = {}  # by offsets, equal for copies
    for item in items:
        assert item.tensor_data is not None
        name, shape = item.index.fqn, item.tensor_data.size
        if shapes.setdefault(name, shape) != shape:
            both = f"{tuple(shapes[name])} for one rank, {tuple(shape)} for another"
            raise RunError(f"{name} is {both}")
        parts.setdefault(name, {})[item.index.offset] = item.tensor_data.chunk
    for name, shape in shapes.items():
        covered = sum(math.prod(chunk.sizes) for chunk in parts[name].values())
        if covered != math.prod(shape):
            raise RunError(
                f"the ranks hold {covered:,} of the {math.prod(shape):,} elements of {name}"
            )


class ChunkLoadPlanner(DefaultLoadPlanner):
    """Load planner that assembles each of this rank's parts from the parts in the files.

    Raises RunError if a tensor is missing, has another shape or is incomplete.
    """

    def set_up_planner(
        self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        self.state_dict = _flat(state_dict)
        self.metadata = metadata
        self.is_coordinator = is_coordinator

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        saved = self.metadata.state_dict_metadata
        return LoadPlan(
            [i for name, chunk in self.state_dict.items() for i in _read_items(name, chunk, saved)]
        )

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn].tensor


def _read_items(name: str, chunk: TensorChunk, saved: Mapping[str, Any]) -> list[ReadItem]:
    if name not in saved:
        raise RunError(f"it has no tensor {name}")
    if tuple(saved[name].size) != tuple(chunk.shape):
        raise RunError(f"its {name} is {tuple(saved[name].size)}, not {tuple(chunk.shape)}")
    items = create_read_items_for_chunk_list(name, saved[name], [chunk.metadata])
    available, needed = sum(math.prod(item.lengths) for item in items), chunk.tensor.numel()
    if available != needed:
        raise RunError(f"it holds {available:,} of the {needed:,} requested elements of {name}")
    return items
