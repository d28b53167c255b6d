"""Description of a device and of how it ran: names, versions, watts and clocks."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
from typing import Any

import torch

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 peak by what the device's name contains; SXM parts (NVIDIA's data sheets)."""
WATCHED = "power.draw,clocks.sm,clocks.mem,temperature.gpu,clocks_event_reasons.active"


def device() -> dict[str, Any]:
    """Name, versions and limits of this machine's GPU, or of its CPU where there is none."""
    about: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if not torch.cuda.is_available():
        return about | {"device": platform.processor() or platform.machine(), "kind": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return about | {
        "device": torch.cuda.get_device_name(0),
        "kind": "cuda",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "limits": _query("driver_version,power.limit,clocks.max.sm,clocks.max.mem"),
    }


def peak_flops() -> float | None:
    """Bf16 peak of this GPU in FLOP/s, if it is a known one."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def _query(fields: str) -> dict[str, str] | str:
    """nvidia-smi's answer by field, or why there is none."""
    if not shutil.which("nvidia-smi"):
        return "nvidia-smi is not on the PATH"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        return f"nvidia-smi: {done.stdout.strip() or done.stderr.strip()}"
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(fields.split(","), values, strict=False))


class Watch:
    """Watts and clocks while the block runs, from nvidia-smi five times a second; then `row`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.row: dict[str, Any] | str = "no GPU"

    def __enter__(self) -> Watch:
        if torch.cuda.is_available() and shutil.which("nvidia-smi"):
            command = ["nvidia-smi", f"--query-gpu={WATCHED}", "--format=csv,noheader,nounits"]
            command += ["--loop-ms=200", f"--id={os.environ.get('CUDA_VISIBLE_DEVICES', '0')}"]
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        elif torch.cuda.is_available():
            self.row = "nvidia-smi is not on the PATH"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        text = self._process.communicate(timeout=20)[0]
        self.row = summary(text)


def summary(text: str) -> dict[str, Any] | str:
    """Median and range of each watched field, from nvidia-smi's lines; or what it said instead."""
    rows = [line.split(", ") for line in text.splitlines() if line.count(", ") == 4]
    if not rows:
        return text.strip() or "nvidia-smi gave no sample: the run was too short"
    found: dict[str, Any] = {"samples": len(rows)}
    names = ("watts", "sm_mhz", "memory_mhz", "celsius")
    for place, name in enumerate(names):
        column = [row[place] for row in rows]
        values = [float(value) for value in column if value.replace(".", "", 1).isdigit()]
        if values:
            found[name] = {"median": statistics.median(values), "range": [min(values), max(values)]}
    found["clocks_held_back_by"] = sorted({row[4].strip() for row in rows})
    return found
