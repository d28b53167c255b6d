"""Measure the link between two processes of this machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from llamac.plan.device.device import Link
from llamac.plan.device.stopwatch import seconds_per_run
from llamac.runtime.distributed.process_group import process_group

SMALL, LARGE = 2**10, 2**24  # elements of fp32
TURNS = 10
HOP = 2e-6  # latency per further rank, which two processes cannot measure


class LinkError(RuntimeError):
    """The two processes that measure a link could not communicate. The message has the reason."""

    exit_code = 1


def measure_link(kind: str) -> tuple[Link | None, str]:
    """Measure all-reduces between two processes of this machine (gloo on CPUs, NCCL on GPUs).

    Returns (link, description of the measurement); (None, "") on CUDA with fewer than two GPUs.
    kind: "cpu" or "cuda". Raises LinkError if a process fails.
    """
    if kind == "cuda" and torch.cuda.device_count() < 2:
        return None, ""
    backend = "nccl" if kind == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            spawn(_rank, (backend, scratch), nprocs=2)
        except (ProcessRaisedException, ProcessExitedException) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise LinkError(
                f"two processes could not communicate over {backend}: {lines[-1]}"
            ) from error
        small, large = json.loads((Path(scratch) / "seconds").read_text(encoding="ascii"))
    # `DeviceCost.collective`: an all-reduce of two goes round its ring twice and sends as many
    # bytes as it has, at 0.85 of a large ring's rate.
    bandwidth = 4 * (LARGE - SMALL) / max(large - small, 1e-9) / 0.85
    link = Link(bandwidth, max(small / 2 - HOP, 0.0), HOP)
    return link, f"an all-reduce of two processes over {backend}"


def _rank(rank: int, backend: str, scratch: str) -> None:
    """Run one of the two processes; the first writes the seconds of both sizes."""
    torch.set_num_threads(1)
    kind = "cuda" if backend == "nccl" else "cpu"
    store = FileStore(f"{scratch}/store", 2)
    seconds = []
    with process_group(backend, store, rank, size=2):
        for size in (SMALL, LARGE):
            x = torch.zeros(size, device=f"cuda:{rank}" if kind == "cuda" else "cpu")
            seconds.append(seconds_per_run(lambda x=x: dist.all_reduce(x), kind, TURNS))
    if rank == 0:
        (Path(scratch) / "seconds").write_text(json.dumps(seconds), encoding="ascii")
