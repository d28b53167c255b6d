"""Gather sharded weights into one model on rank 0, to generate samples during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..checkpoint.dcp import TensorChunk
from ..generate.command import generate_sample
from ..parameters import Pieces, canonical_views
from .mesh import Mesh
from .ranks import Ranks

MEMORY_MARGIN = 1.25
"""Free memory required, as a multiple of the weights' size, to leave room for key-value caches."""


def generate_sample_on_first(
    mesh: Mesh,
    chunks: Mapping[str, TensorChunk],
    model: type[Any],
    packed: Mapping[str, Pieces],
    dtype: torch.dtype,
    inference: type[Any],
    *arguments: Any,
    **sampling: Any,
) -> str | None:
    """Call `generate_sample` on rank 0 with gathered weights, while the other ranks wait.

    All ranks call this. chunks: canonical name → this rank's part of a weight. model: class of the
    unsharded model. packed: name of its packed parameter → the canonical pieces in it. dtype: dtype
    of its weights. inference, arguments, sampling: arguments of `generate_sample` except the model.
    Returns the text on rank 0, or None if its memory is too small for the weights; None on the
    other ranks.
    """
    make = partial(model, dtype=dtype)
    gathered = gather_weights(make, packed, chunks, mesh.ranks, mesh.log)
    text = mesh.ranks.on_first(
        lambda: generate_sample(inference, gathered, *arguments, **sampling) if gathered else None
    )
    return text if mesh.is_first else None


@torch.no_grad()
def gather_weights(
    make: Callable[[], nn.Module],
    packed: Mapping[str, Pieces],
    chunks: Mapping[str, TensorChunk],
    ranks: Ranks,
    log: Callable[[str], None],
) -> Any:
    """Gather the weights on rank 0's CPU, one tensor at a time; return the model there.

    All ranks call this; all but rank 0 get None. If rank 0 has less free memory than MEMORY_MARGIN
    times the weights' size, it gets None too, and each rank calls `log` with a message.

    make: creates the uninitialised unsharded model on the CPU.
    packed: its parameters' names → the canonical pieces stacked in each.
    chunks: canonical name → this rank's part. If several ranks hold a part, the lowest sends it.
    """
    with torch.device("meta"):
        needed = sum(p.numel() * p.element_size() for p in make().parameters())
    free = ranks.on_first(free_memory)
    if free is not None and free < MEMORY_MARGIN * needed:
        log(
            f"no sample: the weights take {needed / 1e9:.1f} GB, but rank 0 has {free / 1e9:.1f} "
            "GB of memory free"
        )
        return None
    parts = {(name, chunk.offsets): chunk.tensor for name, chunk in chunks.items()}
    parts = {key: tensor for key, tensor in parts.items() if tensor.numel()}
    types = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in parts.items()}
    sources: dict[tuple[str, tuple[int, ...]], tuple[int, tuple[int, ...], torch.dtype]] = {}
    for rank, rank_types in enumerate(ranks.on_each(lambda: types)):
        for key, (shape, dtype) in rank_types.items():
            sources.setdefault(key, (rank, shape, dtype))

    model, views = None, {}
    if ranks.rank == 0:
        model = make()
        for name, parameter in model.named_parameters():
            views |= canonical_views(name, parameter.detach(), packed)
    for key, (source, shape, dtype) in sources.items():
        if source == ranks.rank:
            values = parts[key].cpu().contiguous()
            if source:
                dist.send(values, 0, ranks.group)
        elif ranks.rank == 0:
            values = torch.empty(shape, dtype=dtype)
            dist.recv(values, source, ranks.group)
        if ranks.rank == 0:
            _write(views[key[0]], key[1], values)
    return model


def _write(view: Tensor, offsets: tuple[int, ...], values: Tensor) -> None:
    ends = (start + size for start, size in zip(offsets, values.shape, strict=True))
    view[tuple(map(slice, offsets, ends))].copy_(values)


def free_memory() -> int | None:
    """Return this machine's available memory in bytes, from /proc/meminfo; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(s.split()[1]) for s in lines if s.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
