"""Launch backends, and the command that launches a run on each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llamac.spec import Spec
from llamac.spec.launch import dns_label


class LaunchError(Exception):
    """The run cannot be launched from this machine with this spec. The message says what to do."""

    exit_code = 2


@dataclass(frozen=True)
class Backend:
    """A way to launch a run.

    file: emitted file to submit or run, relative to the run directory.
    command: function (spec, path of the file) → command line that launches it.
    in_run: whether the command runs in the run directory instead of the working directory.
    problem: function spec → what to change before this backend can run it, or "".
    """

    file: str
    command: Callable[[Spec, str], list[str]]
    in_run: bool
    problem: Callable[[Spec], str] = lambda _: ""


def _one_node_only(spec: Spec) -> str:
    ranks = spec.parallel.ranks
    nodes = spec.launch.nodes(ranks)
    if nodes == 1:
        return ""
    return (
        f"its {ranks} ranks need {nodes} nodes of {spec.launch.gpus_per_node} GPUs: use a "
        "cluster backend"
    )


def _image_and_volume(spec: Spec) -> str:
    lacks = [key for key in ("image", "volume") if getattr(spec.launch, key) is None]
    return f"set {' and '.join(f'launch.{key}' for key in lacks)}" if lacks else ""


def _volume_and_gpu(spec: Spec) -> str:
    lacks, launch, hardware = [], spec.launch, spec.hardware
    if launch.nodes(spec.parallel.ranks) > 1 and launch.volume is None:
        lacks.append("launch.volume, on which all nodes find the checkpoints")
    if hardware.kernels_for == "cuda" and launch.accelerator_for(hardware.gpu) is None:
        lacks.append("launch.accelerator, the GPU under SkyPilot's name, such as H100")
    return f"set {'; and '.join(lacks)}" if lacks else ""


def _sky(spec: Spec, file: str) -> list[str]:
    return ["sky", "launch", "--yes", "--cluster", dns_label(spec.name), file]


BACKENDS = {
    "local": Backend("launch/local.sh", lambda _, file: ["bash", file], False, _one_node_only),
    "slurm": Backend("launch/slurm.sbatch", lambda _, file: ["sbatch", file], True),
    "kubernetes": Backend(
        "launch/kubernetes.yaml",
        lambda _, file: ["kubectl", "apply", "-f", file],
        True,
        _image_and_volume,
    ),
    "skypilot": Backend("launch/skypilot.yaml", _sky, True, _volume_and_gpu),
}
"""Launch backends by the name that `llamac launch --backend` takes."""


def require_backend(name: str, spec: Spec) -> Backend:
    """Return the backend of a name, after checking that the spec can run on it.

    name: key of `BACKENDS`. Raises LaunchError, which says what to change, if it cannot.
    """
    backend = BACKENDS[name]
    if problem := backend.problem(spec):
        raise LaunchError(f"{spec.name} cannot start on {name}: {problem}")
    return backend


def find_tool(name: str, spec: Spec) -> str:
    """Return the path of a backend's launch command: bash, sbatch, kubectl or sky.

    name: key of `BACKENDS`. Raises LaunchError if the command is not on PATH.
    """
    program = BACKENDS[name].command(spec, "")[0]
    found = shutil.which(program)
    if found is None:
        raise LaunchError(
            f"`{program}` is not on this machine's PATH: launch on a machine that has it, or "
            "print its input with --render"
        )
    return found


def start_run(name: str, spec: Spec, run: Path) -> int:
    """Launch the run in directory `run` and return the exit code of the launching command.

    sbatch and kubectl return after submission; the local script blocks until training ends, as
    does `sky launch`, which follows the log.

    name: key of `BACKENDS`. Raises LaunchError if the command is not on PATH.
    """
    backend = BACKENDS[name]
    file = backend.file if backend.in_run else str(run / backend.file)
    command = [find_tool(name, spec), *backend.command(spec, file)[1:]]
    environment = {"PYTHON": sys.executable, **os.environ}  # the one that launches, if none is set
    where = run if backend.in_run else None
    return subprocess.run(command, cwd=where, env=environment, check=False).returncode
