"""Devices that a run may be planned for: `devices/*.toml`, each figure with its source."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamac.spec.units import parse_bytes

HERE = Path(__file__).parent / "devices"
MAYBE_NOTHING = ("latency", "hop", "narrow", "fill", "kernel", "contention")


class DeviceError(ValueError):
    """No such device, or a file of one that cannot be read; says what there is."""

    exit_code = 2


@dataclass(frozen=True)
class Link:
    """bandwidth: bytes a second that a rank sends in a large collective. latency: seconds that
    going round a ring takes, and hop: for each of its ranks beyond the first (between nodes: for
    each node)."""

    bandwidth: float
    latency: float
    hop: float = 2e-6


@dataclass(frozen=True)
class Efficiency:
    """What kernels make of a device: matmul, fp8, attention, attention_backward, memory: of its
    peak, for large ones. narrow: how attention slows down with heads under 128 wide, a power of
    that. fill: elements of K in which a matmul's pipeline fills. kernel: seconds that every kernel
    takes besides. contention: how much slower ops are while data ranks' transfers run beside them.

    The defaults are those of A100, fitted (with those of Hopper and of frameworks) to published
    training runs by benchmarks/plan_fit.py: what is sustained there, not the best ever measured.
    """

    matmul: float = 0.77
    fp8: float = 0.6
    attention: float = 0.47
    attention_backward: float = 0.44
    narrow: float = 0.125
    memory: float = 0.85
    fill: float = 110.0
    kernel: float = 3.6e-6
    contention: float = 0.38


@dataclass(frozen=True)
class Device:
    """memory: bytes a process may take. memory_bandwidth: bytes a second. units: how many matmul
    tiles run at once. peak: dense FLOP/s by compute dtype. link: within a node of
    `gpus_per_node`; network: between nodes, for each GPU."""

    name: str
    title: str
    memory: int
    memory_bandwidth: float
    units: int
    gpus_per_node: int
    peak: Mapping[str, float] = field(hash=False)
    link: Link
    network: Link
    efficiency: Efficiency = field(default_factory=Efficiency)

    @property
    def older_attention(self) -> float:
        """How fast FlashAttention 2 is (PyTorch's, too), beside the device's best kernel: that of
        Hopper and later needs instructions that it does not use (Shah et al. 2024)."""
        return 0.53 if "fp8" in self.peak else 1.0

    @property
    def first_attention(self) -> float:
        """The same of the first FlashAttention, and of its Triton form (Dao 2023, section 4)."""
        return 0.73 * self.older_attention

    @property
    def is_gpu(self) -> bool:
        """By its speed: no CPU multiplies as fast as any GPU with tensor cores."""
        return self.peak["bf16"] > 1e13

    def flops(self, dtype: str) -> float:
        """The peak for a compute dtype; fp16 has bf16's, and what is not listed fp32's."""
        return self.peak.get("bf16" if dtype == "fp16" else dtype, self.peak["fp32"])


ALIASES = {
    r"a100.*40": "a100-40gb",
    r"a100": "a100-80gb",
    r"a800": "a800",
    r"(h100|gh200).*(96|500w)": "h100-96gb-500w",
    r"h100.*nvl": "h100-nvl",
    r"h100.*pcie": "h100-pcie",
    r"h800": "h800",
    r"gh200.*(141|144)": "h200",
    r"h100|gh200|h20\b": "h100-sxm",
    r"h200": "h200",
    r"gb200|gb300": "gb200",
    r"b200|b100|b300": "b200",
    r"v100.*16": "v100-16gb",
    r"v100": "v100-32gb",
    r"mi250": "mi250x",
    r"mi3\d\d": "mi300x",
    r"l40": "l40s",
    r"4090": "rtx-4090",
    r"3090": "rtx-3090",
    r"a10g?\b": "a10g",
    r"a6000|a40\b": "a6000",
}
"""How publications and drivers write GPUs, and our names for them; the first that matches."""


def device_named(text: str) -> Device:
    """The device that a publication means, or the one whose name is nearest. Raises DeviceError."""
    return load_device(known_as(text) or text)


def known_as(text: str) -> str | None:
    """Our name for what a publication or a driver writes."""
    found = (name for pattern, name in ALIASES.items() if _means(pattern, text.lower()))
    return next(found, None)


def _means(pattern: str, words: str) -> bool:
    return re.search(rf"(?:{pattern})(?!\d)", words) is not None  # an h1000 is no h100


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.toml"))


def load_device(name: str) -> Device:
    """A shipped device by name, or one of a file ending in .toml. Raises DeviceError."""
    path = Path(name) if name.endswith(".toml") else HERE / f"{name.lower()}.toml"
    if not path.is_file():
        close = difflib.get_close_matches(name.lower(), names(), n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        known = ", ".join(names())
        raise DeviceError(f"no device {name!r}: {hint}known are {known}, or give a .toml file")
    try:
        return _device(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise DeviceError(f"{path} does not describe a device: it has no {error}") from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise DeviceError(f"{path} does not describe a device: {error}") from error


def _device(name: str, given: dict[str, Any]) -> Device:
    links = {key: Link(**_figures(given.pop(key))) for key in ("link", "network")}
    peak = {dtype: float(flops) for dtype, flops in _figures(given.pop("peak")).items()}
    for dtype in ("bf16", "fp32"):
        if dtype not in peak:
            raise ValueError(f"[peak] has no {dtype}")
    efficiency = Efficiency(**_figures(given.pop("efficiency", {})))
    memory, title = parse_bytes(given.pop("memory")), str(given.pop("title"))
    rest = {"memory": memory, **_figures(given)}
    return Device(name, title, efficiency=efficiency, peak=peak, **links, **rest)


def _figures(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What can be reckoned with. Raises ValueError."""
    for key, value in given.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and key not in MAYBE_NOTHING):
            raise ValueError(f"{key} = {value!r} is no number above 0")
    return given
