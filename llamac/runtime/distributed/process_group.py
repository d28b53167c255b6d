"""Start and end of a run's default process group.

A process that has finished its last collective may end while another is still inside it. Closing
its connections would then fail the other, so processes wait for each other before they close any.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import Store, rendezvous  # pyright: ignore[reportPrivateImportUsage]

EXIT_TIMEOUT = timedelta(minutes=10)
"""Longest wait for the other ranks at the end; a rank that has failed does not arrive."""


@contextmanager
def process_group(
    backend: str, store: Store | None = None, rank: int = 0, size: int = 1
) -> Iterator[None]:
    """Context manager that initialises torch.distributed's default group, and destroys it.

    backend: "nccl" or "gloo". store, rank, size: rendezvous store, this process's rank and the
    number of ranks; without a store, all three come from the environment that torchrun sets. At the
    end, ranks wait for each other before any of them closes a connection, and rank 0, which may
    serve the store, returns last. After an error the group is not destroyed, because that would
    wait for ranks that are in a collective; the end of the process closes its connections.
    """
    if store is None:
        store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    yield
    with suppress(RuntimeError):  # a rank or the store is gone, and that process says why
        _count(store, "arrived", size)
        store.wait(["arrived"], EXIT_TIMEOUT)
    dist.destroy_process_group()
    with suppress(RuntimeError):
        if rank == 0:
            store.wait(["left"], EXIT_TIMEOUT)
        else:
            _count(store, "left", size - 1)


def _count(store: Store, key: str, ranks: int) -> None:
    """Count this rank in the store; the last of `ranks` ranks sets `key`."""
    if store.add(f"{key} ranks", 1) == ranks:
        store.set(key, "")
