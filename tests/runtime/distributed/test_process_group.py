"""Ranks leave together, and the error of the rank that failed first is the one reported."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from llamac.verify import processes
from llamac.verify.rank_server import RankServer

pytestmark = pytest.mark.slow

Write = Callable[[str], Path]

TOGETHER = """
import os, time
from pathlib import Path
import torch, torch.distributed as dist
from llamac.runtime.distributed.process_group import process_group

rank, destroy = int(os.environ["RANK"]), dist.destroy_process_group
done = lambda name: [other for other in range(3) if Path(f"{name}.{other}").exists()]

def checked_destroy():
    assert done("worked") == [0, 1, 2], f"rank {rank} leaves when {done('worked')} have worked"
    destroy()
    time.sleep(0.2 * rank)
    Path(f"closed.{rank}").touch()

dist.destroy_process_group = checked_destroy
with process_group("gloo"):
    total = torch.ones(())
    dist.all_reduce(total)
    assert total == 3
    time.sleep(0.2 * rank)
    Path(f"worked.{rank}").touch()
if rank == 0:  # the store ends with this process
    assert done("closed") == [0, 1, 2]
"""
ONE_FAILS = """
import os
import torch, torch.distributed as dist
from llamac.runtime.distributed.process_group import process_group

with process_group("gloo"):
    if os.environ["RANK"] == "1":
        raise ValueError("rank 1 found something")
    dist.all_reduce(torch.ones(()))
"""
ONE_IS_KILLED = ONE_FAILS.replace(
    'raise ValueError("rank 1 found something")', "os.kill(os.getpid(), 9)"
)


def test_no_rank_leaves_before_all_have_worked(
    rank_server: RankServer, rank_program: Write
) -> None:
    done = rank_server.run(rank_program(TOGETHER), ranks=3, timeout=60)
    assert (done.returncode, done.stderr, done.failed) == (0, "", None)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (ONE_FAILS, "rank 1: ValueError: rank 1 found something"),
        (ONE_IS_KILLED, "rank 1 was killed by SIGKILL (out of memory?)"),
    ],
)
def test_the_cause_is_reported_and_not_what_follows_on_other_ranks(
    rank_server: RankServer, rank_program: Write, code: str, error: str
) -> None:
    with pytest.raises(RuntimeError, match=f"^{re.escape(error)}$"):
        processes._start(rank_server, rank_program(code), ranks=3)
