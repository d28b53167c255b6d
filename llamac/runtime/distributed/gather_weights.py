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

SPARE = 1.25
"""Free memory needed, as a multiple of the weights: caches and the process itself grow too."""


def generate_sample_on_first(
    mesh: Mesh,
    chunks: Mapping[str, TensorChunk],
    model: type[Any],
    packed: Mapping[str, Pieces],
    dtype: torch.dtype,
    *text: Any,
    **sampling: Any,
) -> str | None:
    """Call `generate_sample` on rank 0 with gathered weights, while the other ranks wait.

    All ranks call this. model, packed: class and table of the model of one process. text, sampling:
    the other arguments of `generate_sample`, of which the first is the class Inference. Returns
    None on the other ranks, and if rank 0 has not enough memory for the weights.
    """
    make = partial(model, dtype=dtype)
    whole = gather_weights(make, packed, chunks, mesh.ranks, mesh.log)
    inference, *rest = text
    made = mesh.ranks.on_first(
        lambda: generate_sample(inference, whole, *rest, **sampling) if whole else None
    )
    return made if mesh.is_first else None


@torch.no_grad()
def gather_weights(
    make: Callable[[], nn.Module],
    packed: Mapping[str, Pieces],
    chunks: Mapping[str, TensorChunk],
    ranks: Ranks,
    log: Callable[[str], None],
) -> Any:
    """Gather the model on rank 0, one tensor at a time; return it there, and None elsewhere.

    All ranks call this. make: creates the uninitialised model of one process on the CPU. packed:
    its table. chunks: canonical name → this rank's part; of equal parts, that of the lowest rank is
    taken. If rank 0 has not enough memory, reports this to `log` and returns None there too.
    """
    with torch.device("meta"):
        needed = sum(p.numel() * p.element_size() for p in make().parameters())
    free = ranks.on_first(free_memory)
    if free is not None and free < SPARE * needed:
        log(
            f"no sample: the weights take {needed / 1e9:.1f} GB, but rank 0 has {free / 1e9:.1f} "
            "GB of memory free"
        )
        return None
    parts = {(name, chunk.offsets): chunk.tensor for name, chunk in chunks.items()}
    parts = {key: tensor for key, tensor in parts.items() if tensor.numel()}
    mine = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in parts.items()}
    sources: dict[tuple[str, tuple[int, ...]], tuple[int, tuple[int, ...], torch.dtype]] = {}
    for rank, theirs in enumerate(ranks.on_each(lambda: mine)):
        for key, (shape, dtype) in theirs.items():
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
    """Return the available memory of this machine in bytes; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(s.split()[1]) for s in lines if s.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
