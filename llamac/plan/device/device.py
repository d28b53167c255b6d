"""Devices that a run may be planned for: `devices/*.toml`, each figure with its source."""

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
MAYBE_NOTHING = ("latency", "hop", "tree_hop", "narrow", "fill", "kernel", "contention")
MAYBE_NOTHING += ("matmul_newer",)


class DeviceError(ValueError):
    """An unknown device or an unreadable device file; the message lists the known ones."""

    exit_code = 2


@dataclass(frozen=True)
class Link:
    """A link between devices.

    Attributes:
        bandwidth: Bytes per second that a rank sends in a large collective.
        latency: Seconds of a collective however small.
        hop: Seconds for each further rank of a ring; between nodes, for each further node.
        tree: Share of the bandwidth that an all-reduce over a tree gets; tree_hop: seconds for
            each level of the tree.
    """

    bandwidth: float
    latency: float
    hop: float = 2e-6
    tree: float = 0.92
    tree_hop: float = 14e-6


@dataclass(frozen=True)
class Efficiency:
    """Efficiencies of kernels, relative to a device's peak figures.

    Attributes:
        matmul, fp8, attention, attention_backward, memory: Share of the peak that large ones
            sustain in training.
        matmul_newer: As matmul, under cuBLAS 12.4 or later; 0: the same.
        narrow: Power of 128 / head width by which attention slows down.
        fill: Elements of a matmul's sum in which its pipeline fills.
        kernel: Seconds that every kernel takes besides.
        contention: Share of a transfer's time by which work beside it slows down.

    The defaults are those of A100, fitted with Hopper's and the frameworks' to published training
    runs by benchmarks/plan_fit.py.
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
        """Return the share of the peak that large matmuls sustain under a generation of cuBLAS."""
        return self.matmul_newer or self.matmul if newer_cublas else self.matmul


@dataclass(frozen=True)
class Device:
    """A device that a run may be planned for.

    Attributes:
        kind: `gpu` or `cpu`; architecture: `ampere`, `hopper`, `cpu`, …
        memory: Bytes that a process may take; memory_bandwidth: bytes per second.
        units: Matmul tiles that run at once: multiprocessors, or cores.
        peak: Dense FLOP/s by compute dtype.
        link: Between the `gpus_per_node` devices of a node; network: between nodes, per device.
        watts: Thermal design power; 0: not known.
        calibrated: Whether the figures were measured on the machine itself.
        aliases: Patterns of what publications and drivers call it.
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
        return self.kind == "gpu"

    @property
    def has_async_matmuls(self) -> bool:
        """Return whether it has Hopper's asynchronous matmuls, as newer attention kernels need."""
        return self.architecture in ("hopper", "blackwell")

    @property
    def flash2(self) -> float:
        """Return the speed of FlashAttention 2 relative to the device's best attention kernel.

        On Hopper and later it lacks the asynchronous instructions (Shah et al. 2024, figure 5).
        """
        return 0.523 if self.has_async_matmuls else 1.0

    @property
    def flash1(self) -> float:
        """Return the relative speed of FlashAttention 1 and its Triton form (Dao 2023, sec. 4)."""
        return 0.68 * self.flash2

    def flops(self, dtype: str) -> float:
        """Return the peak FLOP/s of a compute dtype: bf16's for fp16, fp32's for unlisted ones."""
        return self.peak.get("bf16" if dtype == "fp16" else dtype, self.peak["fp32"])


def device_named(text: str) -> Device:
    """Return the shipped device to which a name in a publication or driver refers.

    Raises DeviceError with the nearest name.
    """
    return load_device(known_as(text) or text)


def known_as(text: str) -> str | None:
    """Return the shipped device with the longest alias that matches; None if no alias does."""
    words = text.lower()
    found = [(len(alias), name) for alias, name in _aliases() if _means(alias, words)]
    return max(found)[1] if found else None


@lru_cache(maxsize=1)
def _aliases() -> tuple[tuple[str, str], ...]:
    """Return (alias, name) of every shipped device."""
    return tuple((alias, name) for name in device_names() for alias in load_device(name).aliases)


def _means(pattern: str, words: str) -> bool:
    return re.search(rf"(?:{pattern})(?!\d)", words) is not None  # an h1000 is no h100


def device_names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.toml"))


def load_device(name: str) -> Device:
    """Return a shipped device by name, or one of a file ending in .toml. Raises DeviceError."""
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


def _device(name: str, given: dict[str, Any]) -> Device:
    links = {key: Link(**_positive(given.pop(key))) for key in ("link", "network")}
    peak = {dtype: float(flops) for dtype, flops in _positive(given.pop("peak")).items()}
    for dtype in ("bf16", "fp32"):
        if dtype not in peak:
            raise ValueError(f"[peak] has no {dtype}")
    efficiency = Efficiency(**_positive(given.pop("efficiency", {})))
    kind, architecture = _word(given, "kind", KINDS), _word(given, "architecture", ())
    aliases = tuple(map(str, given.pop("aliases", ())))
    memory, title = parse_bytes(given.pop("memory")), str(given.pop("title"))
    calibrated = given.pop("calibrated", False)
    if not isinstance(calibrated, bool):
        raise ValueError(f"calibrated = {calibrated!r} must be true or false")
    rest = {"memory": memory, **_positive(given)}
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


def _word(given: dict[str, Any], key: str, allowed: Sequence[str]) -> str:
    value = given.pop(key)
    if not isinstance(value, str) or not value or (allowed and value not in allowed):
        raise ValueError(
            f"{key} = {value!r} must be {join_options(allowed) if allowed else 'a word'}"
        )
    return value


def _positive(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check that every value is a finite number above 0, or 0 where that is allowed.

    Raises ValueError.
    """
    for key, value in given.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and key not in MAYBE_NOTHING):
            raise ValueError(f"{key} = {value!r} must be a number above 0")
    return given
