"""Collectives between real processes: along any dimension, whole or as start and wait."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

from llamac.runtime.distributed import collectives
from llamac.runtime.distributed.process_group import process_group

RANKS = 2


def _check(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    with process_group("gloo", FileStore(store, RANKS), rank, RANKS):
        group = dist.group.WORLD
        assert group is not None
        collectives.GROUPS["tp"] = collectives.ProcessGroup(group.group_name, RANKS, rank)
        parts = [torch.arange(24.0).reshape(2, 3, 4) + 100 * r for r in range(RANKS)]
        mine, total = parts[rank], parts[0] + parts[1]
        for dim in range(3):
            gathered = collectives.all_gather(mine, "tp", dim)
            assert torch.equal(gathered, torch.cat(parts, dim))
        for dim in (0, 2):
            scattered = collectives.reduce_scatter(mine, "tp", dim)
            assert torch.equal(scattered, total.chunk(RANKS, dim)[rank])
        assert torch.equal(collectives.all_reduce(mine, "tp"), total)
        assert torch.equal(collectives.all_reduce_max(mine, "tp"), parts[1])

        # <all_gather x, y> = <x, reduce_scatter y>, summed over ranks: each is the other's adjoint
        y = torch.cat([mine.cos(), mine.sin()], 1)
        forward = (collectives.all_gather(mine, "tp", 1) * y).sum()
        backward = (mine * collectives.reduce_scatter(y, "tp", 1)).sum()
        torch.testing.assert_close(*(collectives.all_reduce(d, "tp") for d in (forward, backward)))

        first = collectives.all_gather_start(mine, "tp", 1)
        second = collectives.all_reduce_start(mine, "tp")  # under way together
        assert torch.equal(collectives.all_gather_wait(first, "tp", 1), torch.cat(parts, 1))
        assert torch.equal(collectives.all_reduce_wait(second, "tp"), total)


@pytest.mark.slow
def test_between_two_processes(tmp_path):
    mp.spawn(_check, (str(tmp_path / "store"),), nprocs=RANKS)  # type: ignore[attr-defined]
