"""Programs on forked ranks end as they would under torchrun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamac.verify.rank_server import RankServer

pytestmark = pytest.mark.slow

Write = Callable[[str], Path]

SUM = """
import os, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(float(os.environ["RANK"]) + 1)
dist.all_reduce(total)
line = f"{total.item()} {sys.argv[1]} {os.environ['GIVEN']} {os.getcwd()}\\n"
os.write(1, line.encode())  # in one piece, as three ranks write
dist.destroy_process_group()
"""
ONE_FAILS = """
import os, time
if os.environ["RANK"] == "1":
    raise ValueError("rank 1 found something")
time.sleep(600)
"""
ONE_IS_KILLED = """
import os, signal, time
if os.environ["RANK"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""


def test_ranks_form_a_group_and_see_what_they_are_given(
    rank_server: RankServer, rank_program: Write, tmp_path: Path
) -> None:
    done = rank_server.run(
        rank_program(SUM), "argument", ranks=3, timeout=60, environment={"GIVEN": "value"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"6.0 argument value {tmp_path}\n" * 3


def test_one_rank_has_no_group(rank_server: RankServer, rank_program: Write) -> None:
    code = 'import os\nprint("RANK" in os.environ, __name__)'
    done = rank_server.run(rank_program(code), ranks=1, timeout=60)
    assert (done.returncode, done.stdout) == (0, "False __main__\n")


def test_a_rank_that_fails_ends_the_others(rank_server: RankServer, rank_program: Write) -> None:
    done = rank_server.run(rank_program(ONE_FAILS), ranks=2, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: rank 1 found something\n")
    assert rank_server.run(rank_program(ONE_IS_KILLED), ranks=2, timeout=60).returncode == -9


def test_an_exit_code_is_kept_and_so_is_the_time_limit(
    rank_server: RankServer, rank_program: Write
) -> None:
    assert rank_server.run(rank_program("raise SystemExit(7)"), ranks=2, timeout=60).returncode == 7
    forever = rank_program("import time\ntime.sleep(600)")
    assert rank_server.run(forever, ranks=2, timeout=0.2).returncode == 124
