"""Environment of a run: hardware, versions, and the state of its repository."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def run_environment(device: torch.device, directory: Path) -> dict[str, Any]:
    """Return `host`, `hardware`, `versions` and `git` of a run, as JSON values.

    git: commit of the repository in the working directory and whether tracked files are `changed`;
    None without one. directory: emitted directory, whose MANIFEST.json has llamac's version.
    """
    return {
        "host": platform.node(),
        "hardware": _hardware(device),
        "versions": _versions(directory),
        "git": _git(),
    }


def _hardware(device: torch.device) -> dict[str, Any]:
    hardware: dict[str, Any] = {"cpu": _cpu(), "cores": os.cpu_count()}
    with suppress(OSError, ValueError):
        hardware["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        hardware |= {"gpu": gpu.name, "gpus_here": torch.cuda.device_count()}
        hardware["gpu_memory_bytes"] = gpu.total_memory
    return hardware


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions(directory: Path) -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    with suppress(OSError, ValueError, KeyError, TypeError):
        versions["llamac"] = str(json.loads((directory / "MANIFEST.json").read_bytes())["llamac"])
    return versions | {"system": f"{platform.system()} {platform.release()}"}


def _git() -> dict[str, Any] | None:
    """Return the working directory's commit and whether it is modified; None without git."""
    try:
        commit = _output("rev-parse", "HEAD").strip()
        changed = _output("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return {"commit": commit, "changed": bool(changed.strip())}


def _output(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    return done.stdout
