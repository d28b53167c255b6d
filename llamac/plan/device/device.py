"""Devices that a run can be planned for: `devices/*.toml`, with the source of each figure."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from llamac.spec.units import parse_bytes
from llamac.spec.validation.errors import join_options

HERE = Path(__file__).parent.parent / "devices"
KINDS = ("gpu", "cpu")
MAY_BE_ZERO = ("latency", "hop", "tree_hop", "narrow", "fill", "kernel", "contention")
MAY_BE_ZERO += ("matmul_newer",)


class DeviceError(ValueError):
    """A device is unknown, or its file is invalid.

    The message lists the known devices, or says what is wrong with the file.
    """

    exit_code = 2


@dataclass(frozen=True)
class Link:
    """Bandwidth and latencies of the links within a node, or of the network between nodes.

    Attributes:
        bandwidth: Bytes per second that a rank sends in a large collective.
        latency: Seconds of a collective of negligible size.
        hop: Seconds per further rank of a ring; between nodes, per further node.
        tree: Bandwidth of a tree all-reduce relative to a ring's.
        tree_hop: Seconds per level of the tree.
    """

    bandwidth: float
    latency: float
    hop: float = 2e-6
    tree: float = 0.92
    tree_hop: float = 14e-6


@dataclass(frozen=True)
class Efficiency:
    """Efficiencies of kernels, relative to a device's peak figures.

    The defaults are those of A100. They were fitted to published training runs, together with
    Hopper's and the frameworks', by benchmarks/plan_fit.py.

    Attributes:
        matmul, fp8, attention, attention_backward, memory: Share of the peak that large kernels of
            this type sustain in training.
        matmul_newer: The same for matmuls of cuBLAS 12.4 or later; 0: equal to `matmul`.
        narrow: Exponent of 128 / head_dim by which attention with narrow heads is slower.
        fill: Elements of a matmul's inner dimension during which a tile's pipeline fills.
        kernel: Seconds of overhead of every kernel.
        contention: Share of a transfer's time by which overlapped work is slowed down.
    """

    matmul: float = 0.795
    fp8: float = 0.6
    attention: float = 0.527
    attention_backward: float = 0.453
    narrow: float = 0.142
    memory: float = 0.85
    fill: float = 176.0
    kernel: float = 2.96e-6
    contention: float = 0.36
    matmul_newer: float = 0.0

    def matmul_of(self, newer_cublas: bool) -> float:
        """Return the share of the peak that large matmuls sustain, except in fp8.

        newer_cublas: whether they are those of cuBLAS 12.4 or later.
        """
        return self.matmul_newer or self.matmul if newer_cublas else self.matmul


@dataclass(frozen=True)
class Device:
    """A device that a run can be planned for.

    Attributes:
        name: Name in `hardware.gpu` and `--device`. title: Display name.
        kind: `gpu` or `cpu`. architecture: Such as `ampere`, `hopper` or `cpu`.
        memory: Bytes available to a process. memory_bandwidth: Bytes per second.
        units: Matmul tiles that run in parallel: multiprocessors, or cores.
        peak: Dense FLOP/s by compute dtype.
        link: Link between the `gpus_per_node` devices of a node.
        network: Link between nodes, per device.
        efficiency: Shares of the peak figures that kernels reach.
        watts: Thermal design power; 0 if unknown.
        calibrated: Whether the figures were measured on the machine itself.
        aliases: Regular expressions for its names in publications and drivers, in lower case.
    """

    name: str
    title: str
    kind: str
    architecture: str
    memory: int
    memory_bandwidth: float
    units: int
    gpus_per_node: int
    peak: Mapping[str, float] = field(hash=False)
    link: Link
    network: Link
    efficiency: Efficiency = field(default_factory=Efficiency)
    aliases: tuple[str, ...] = ()
    watts: float = 0.0
    calibrated: bool = False

    @property
    def is_gpu(self) -> bool:
        """Return whether the device is a GPU."""
        return self.kind == "gpu"

    @property
    def has_async_matmuls(self) -> bool:
        """Return whether the device has asynchronous matmul instructions (Hopper, Blackwell)."""
        return self.architecture in ("hopper", "blackwell")

    @property
    def flash2(self) -> float:
        """Return the speed of FlashAttention 2 relative to the device's best attention kernel.

        On Hopper and later it lacks the asynchronous instructions (Shah et al. 2024, figure 5).
        """
        return 0.523 if self.has_async_matmuls else 1.0

    @property
    def flash1(self) -> float:
        """Return the speed of FlashAttention 1 relative to the device's best attention kernel.

        It is 0.68 of FlashAttention 2's, in CUDA or Triton (Dao 2023, section 4).
        """
        return 0.68 * self.flash2

    def flops(self, dtype: str) -> float:
        """Return the dense peak FLOP/s of a dtype; fp16 counts as bf16, an unlisted one as fp32."""
        return self.peak.get("bf16" if dtype == "fp16" else dtype, self.peak["fp32"])


def find_device(text: str) -> Device:
    """Return the shipped device that a name in a publication or driver refers to.

    Raises DeviceError if there is none; its message suggests a similar name, if any.
    """
    return load_device(find_alias(text) or text)


def find_alias(text: str) -> str | None:
    """Return the name of the shipped device that a text mentions by an alias; None if none.

    Case does not matter. Of several aliases that match, the longest counts.
    """
    words = text.lower()
    matches = [(len(alias), name) for alias, name in _aliases() if _matches(alias, words)]
    return max(matches)[1] if matches else None


@lru_cache(maxsize=1)
def _aliases() -> tuple[tuple[str, str], ...]:
    """Return (alias, name) of every shipped device."""
    return tuple((alias, name) for name in device_names() for alias in load_device(name).aliases)


def _matches(pattern: str, words: str) -> bool:
    return re.search(rf"(?:{pattern})(?!\d)", words) is not None  # an h1000 is no h100


def device_names() -> list[str]:
    """Return the sorted names of the shipped devices."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def load_device(name: str) -> Device:
    """Load a shipped device by name (in any case), or a device file by a path that ends in .toml.

    Raises DeviceError if it does not exist or is invalid.
    """
    path = Path(name) if name.endswith(".toml") else HERE / f"{name.lower()}.toml"
    if not path.is_file():
        close = difflib.get_close_matches(name.lower(), device_names(), n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        known = ", ".join(device_names())
        raise DeviceError(f"no device {name!r}: {hint}known: {known}; or a .toml file")
    try:
        return _device(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise DeviceError(f"{path} does not describe a device: it has no {error}") from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise DeviceError(f"{path} does not describe a device: {error}") from error


def _device(name: str, table: dict[str, Any]) -> Device:
    links = {key: Link(**_positive(table.pop(key))) for key in ("link", "network")}
    peak = {dtype: float(flops) for dtype, flops in _positive(table.pop("peak")).items()}
    for dtype in ("bf16", "fp32"):
        if dtype not in peak:
            raise ValueError(f"[peak] has no {dtype}")
    efficiency = Efficiency(**_positive(table.pop("efficiency", {})))
    kind, architecture = _word(table, "kind", KINDS), _word(table, "architecture", ())
    aliases = tuple(map(str, table.pop("aliases", ())))
    memory, title = parse_bytes(table.pop("memory")), str(table.pop("title"))
    calibrated = table.pop("calibrated", False)
    if not isinstance(calibrated, bool):
        raise ValueError(f"calibrated = {calibrated!r} must be true or false")
    rest = {"memory": memory, **_positive(table)}
    return Device(
        name,
        title,
        kind,
        architecture,
        efficiency=efficiency,
        peak=peak,
        aliases=aliases,
        calibrated=calibrated,
        **links,
        **rest,
    )


def _word(table: dict[str, Any], key: str, allowed: Sequence[str]) -> str:
    value = table.pop(key)
    if not isinstance(value, str) or not value or (allowed and value not in allowed):
        raise ValueError(
            f"{key} = {value!r} must be {join_options(allowed) if allowed else 'a word'}"
        )
    return value


def _positive(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check that every value is a finite number above 0, or 0 where that is allowed.

    Raises ValueError.
    """
    for key, value in table.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and key not in MAY_BE_ZERO):
            raise ValueError(f"{key} = {value!r} must be a number above 0")
    return table
