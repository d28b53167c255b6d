"""Join the processes of a run, and leave them together.

A process that has finished its last collective may end while another is still inside it. Closing
its connections then fails the other, although both have done their work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import Store, rendezvous  # pyright: ignore[reportPrivateImportUsage]

LEAVING = timedelta(minutes=10)
"""Limit on waiting for the other ranks at the end; one that has failed never comes."""


@contextmanager
def process_group(
    backend: str, store: Store | None = None, rank: int = 0, size: int = 1
) -> Iterator[None]:
    """Context manager that initialises torch.distributed's default group, and destroys it.

    store: where the ranks meet, with this process's rank and their number; by default all three
    come from the environment, as torchrun sets it. Without an error, ranks wait for each other
    before any of them closes a connection, and rank 0, which may serve the store, returns last.
    After an error nothing is destroyed: others may be in a collective, which destroying would
    wait for. The end of the process closes its connections.
    """
    if store is None:
        store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    yield
    with suppress(RuntimeError):  # a rank or the store is gone, and that process says why
        _count(store, "arrived", size)
        store.wait(["arrived"], LEAVING)
    dist.destroy_process_group()
    with suppress(RuntimeError):
        if rank == 0:
            store.wait(["left"], LEAVING)
        else:
            _count(store, "left", size - 1)


def _count(store: Store, key: str, ranks: int) -> None:
    """Count this rank; the last of `ranks` sets `key`."""
    if store.add(f"{key} ranks", 1) == ranks:
        store.set(key, "")
