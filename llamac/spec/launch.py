"""[launch]: the processes of a run, and the machines or cluster on which they start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from llamac.spec.parallel import AXES, Parallel
from llamac.spec.section import Section, Text
from llamac.spec.units import Count
from llamac.spec.validation.errors import Problem, describe

LONGEST_GRACE = 65535
"""Longest time in seconds that `sbatch --signal` accepts."""
_DURATION = r"^[0-9]{1,9} ?[smhd]$"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> int:
    """Parse a duration such as `"90s"`, `"30m"`, `"24h"` or `"2d"`, and return it in seconds.

    An integer is a number of seconds. Raises ValueError for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not re.fullmatch(_DURATION, value):
        given = describe(value)
        raise ValueError(f'must be a time such as "30m", "24h", "2d" or 3600, not {given}')
    return int(value[:-1]) * _UNITS[value[-1]]


_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _DURATION}],
        "examples": ["30m", "24h", 3600],
    }
)
Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=1, le=10**9), _SCHEMA]
"""A duration in seconds, given in any form that `parse_duration` accepts."""

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Queue = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,-]*$")]
Image = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")]
Volume = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Accelerator = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


SKYPILOT = {
    "a100-40gb": "A100",
    "a100-80gb": "A100-80GB",
    "a10g": "A10G",
    "a6000": "RTXA6000",
    "b200": "B200",
    "gb200": "GB200",
    "h100-sxm": "H100",
    "h100-nvl": "H100-NVL",
    "h100-pcie": "H100",
    "h200": "H200",
    "l40s": "L40S",
    "mi300x": "MI300X",
    "rtx-3090": "RTX3090",
    "rtx-4090": "RTX4090",
    "v100-16gb": "V100",
    "v100-32gb": "V100-32GB",
    "a100": "A100-80GB",
    "h100": "H100",
    "v100": "V100",
}
"""SkyPilot's names of GPUs, as `sky show-gpus` lists them, by `hardware.gpu` in lower case."""


class Launch(Section):
    """The processes of a run, and the machines or cluster on which they start."""

    threads: Count | None = Field(
        default=None, description="Threads of one torch operation. Default: torch's."
    )
    environment: dict[Variable, Text] = Field(
        default={}, description="Environment variables exported by the launch scripts."
    )
    gpus_per_node: Count = Field(
        default=8,
        description="Most ranks per node. The number of nodes follows from it and the degrees of "
        "[parallel].",
    )
    cpus_per_rank: Count = Field(
        default=4, description="CPU cores to request from a cluster per rank."
    )
    max_restarts: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=3,
        description="How often the ranks restart from the newest checkpoint after one fails.",
    )
    time_limit: Duration | None = Field(
        default=None,
        description='Time limit of one SLURM job ("24h", or seconds); the run continues in the '
        "next job. Default: the partition's.",
    )
    grace: Duration = Field(
        default=300,
        description='Time for a last checkpoint ("5m", or seconds): SIGTERM is sent this long '
        "before a SLURM job's limit or the end of a pod.",
    )
    partition: Queue | None = Field(
        default=None, description="SLURM partition. Default: the cluster's."
    )
    account: Queue | None = Field(
        default=None, description="SLURM account to charge. Default: the user's."
    )
    image: Image | None = Field(
        default=None,
        description="Container image with the packages of requirements.txt. Required on "
        "Kubernetes; SkyPilot's default is the cloud's image.",
    )
    volume: Volume | None = Field(
        default=None,
        description="Volume that every node mounts at /runs; the run directory is /runs/<name>. "
        "Required on Kubernetes (a PersistentVolumeClaim), and on SkyPilot (a "
        "SkyPilot volume) with several nodes.",
    )
    accelerator: Accelerator | None = Field(
        default=None,
        description='GPU to request from SkyPilot, such as "H100". Default: hardware.gpu under '
        "SkyPilot's name for it; without that, a CPU machine.",
    )

    def rules(self) -> Iterator[Problem]:
        if self.grace > LONGEST_GRACE:
            message = f"grace = {self.grace} s is longer than SLURM's signals allow"
            yield Problem(("grace",), message, f"use {LONGEST_GRACE} s or less")
        if self.time_limit is not None and self.time_limit <= self.grace:
            message = (
                f"time_limit = {self.time_limit} s leaves no time to train: all of it is "
                "the grace for saving"
            )
            yield Problem(("time_limit",), message, f"use more than grace = {self.grace} s")
        if self.time_limit is not None and self.time_limit % 60:
            message = f"time_limit = {self.time_limit} s, but SLURM counts whole minutes"
            yield Problem(("time_limit",), message, f"use {-(-self.time_limit // 60)}m")

    def accelerator_for(self, gpu: str | None) -> str | None:
        """Return SkyPilot's name of the GPU to rent: `accelerator` if set, else that of `gpu`.

        gpu: `hardware.gpu`. Returns None, for a CPU machine, if it is None or not in `SKYPILOT`.
        """
        return self.accelerator or SKYPILOT.get((gpu or "").lower())

    def nodes(self, ranks: int) -> int:
        """Return the number of nodes for `ranks` processes, at most `gpus_per_node` on each."""
        return -(-ranks // self.gpus_per_node)


def nodes_are_full(parallel: Parallel, launch: Launch) -> Iterator[Problem]:
    """Yield a problem if several nodes are needed and `gpus_per_node` does not divide the ranks."""
    ranks, most = parallel.ranks, launch.gpus_per_node
    if ranks > most and ranks % most:
        fits = next(n for n in range(min(most, 4096), 0, -1) if ranks % n == 0)
        message = f"gpus_per_node = {most} does not divide the {ranks} ranks of [parallel]"
        blamed = ("launch", "gpus_per_node")
        if not launch.is_set("gpus_per_node"):
            blamed = ("parallel", max(AXES.values(), key=lambda key: getattr(parallel, key)))
        yield Problem(blamed, message, f"launch.gpus_per_node = {fits} works")


def dns_label(name: str) -> str:
    """Return a run's name as a DNS label of at most 40 characters that starts with a letter."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower())
    return (label if label[0].isalpha() else f"run-{label}")[:40].rstrip("-")
