"""Measure this machine into a device file: matmuls, memory, attention, kernels and links.

Each figure is the best of several rounds, since other processes can only slow a round down.
Efficiencies are set so that `DeviceCost` gives the measured times.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from llamac.plan.cost.device_cost import DeviceCost
from llamac.plan.device.device import Device, DeviceError, Efficiency, Link, find_device
from llamac.plan.device.link_probe import measure_link
from llamac.plan.device.stopwatch import seconds_per_run

# rows, columns, elements of a sum: the linears of small and of large models
MATMULS = {
    "cpu": ((2048, 768, 256), (2048, 512, 688), (2048, 2304, 768), (1024, 4096, 1024)),
    "cuda": ((8192, 8192, 8192), (8192, 12288, 4096), (8192, 4096, 11008), (4096, 2048, 2048)),
}
# batch, heads, positions, width of a head
ATTENTION = {"cpu": (4, 8, 512, 64), "cuda": (4, 32, 2048, 128)}
ARCHITECTURES = {7: "volta", 8: "ampere", 9: "hopper"}
"""Architectures by major compute capability; later ones count as Blackwell."""
STREAM = {"cpu": 2**26, "cuda": 2**29}  # bytes of a tensor too large for caches

Log = Callable[[str], None]


def calibrate(log: Log = lambda line: None) -> tuple[Device, list[str]]:
    """Measure this machine's GPU, or its CPU if there is none, in less than a minute.

    Returns (device, remarks on the measurement for its file). Figures that cannot be measured, such
    as the network's, are a known GPU's shipped ones or defaults. log: called with each line of
    progress. Raises LinkError if two processes cannot communicate.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = replace(_blank(kind), calibrated=True)
    remarks = [f"Measured by llamac plan --calibrate with torch {torch.__version__}."]
    kernel = _kernel(kind)
    log(f"a kernel: {kernel * 1e6:.1f} µs")
    bandwidth, memory = _memory(kind, kernel)
    log(f"memory: {bandwidth / 1e9:.1f} GB/s; of it a sum gets {100 * memory:.0f} %")
    efficiency = replace(device.efficiency, kernel=kernel, memory=memory)
    device = replace(device, memory_bandwidth=bandwidth, efficiency=efficiency)
    device = _with_matmuls(device, kind, log)
    device = _with_attention(device, kind, log)
    link, remark = measure_link(kind)
    if link is None:
        remarks.append("One GPU: its links could not be measured.")
    else:
        log(f"{remark}: {link.bandwidth / 1e9:.2f} GB/s after {link.latency * 1e6:.0f} µs")
        device = replace(device, link=link)
        remarks.append(f"link is {remark}; network could not be measured.")
    return device, remarks


def device_toml(device: Device, remarks: list[str]) -> str:
    """Return the text of a device file that `load_device` reads.

    remarks: lines of the comment at its top. Aliases are not written.
    """
    lines = [f"# {line}" for line in remarks]
    title = "".join(char for char in device.title if char not in '"\\' and char.isprintable())
    lines += [f'title = "{title}"', f'kind = "{device.kind}"']
    lines += ["calibrated = true"]
    lines += [f'architecture = "{device.architecture}"', f"memory = {device.memory}"]
    lines += [f"memory_bandwidth = {device.memory_bandwidth:.4g}", f"units = {device.units}"]
    lines += [f"gpus_per_node = {device.gpus_per_node}"]
    lines += [f"watts = {device.watts:g}"] if device.watts else []
    tables = {
        "peak": dict(device.peak),
        "link": asdict(device.link),
        "network": asdict(device.network),
        "efficiency": asdict(device.efficiency),
    }
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {value:.4g}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _blank(kind: str) -> Device:
    """Return this machine as a device, from its datasheet if the GPU is known."""
    if kind == "cpu":
        network = Link(bandwidth=1.1e9, latency=100e-6)
        cores = torch.get_num_threads()
        return Device(
            name="cpu",
            title=_cpu_title(),
            kind="cpu",
            architecture="cpu",
            memory=_memory_limit(),
            memory_bandwidth=0.0,
            units=cores,
            gpus_per_node=1,
            peak={},
            link=network,
            network=network,
            efficiency=Efficiency(contention=0.0, narrow=0.0),  # measured as it is
        )
    properties = torch.cuda.get_device_properties(0)
    try:
        datasheet = find_device(properties.name)
        return replace(datasheet, title=properties.name, memory=properties.total_memory)
    except DeviceError:
        network = Link(bandwidth=21e9, latency=12e-6)
        return Device(
            name="gpu",
            title=properties.name,
            kind="gpu",
            architecture=ARCHITECTURES.get(properties.major, "blackwell"),
            memory=properties.total_memory,
            memory_bandwidth=0.0,
            units=properties.multi_processor_count,
            gpus_per_node=torch.cuda.device_count(),
            peak={},
            link=network,
            network=network,
        )


def _cpu_title() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    cores = torch.get_num_threads()
    return f"{cores} core{'s' * (cores > 1)} of {name}"


def _memory_limit() -> int:
    """Return the memory limit of this machine or container in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def _kernel(kind: str) -> float:
    x = torch.ones(1, device=kind)
    return seconds_per_run(lambda: x.add_(1.0), kind)


def _memory(kind: str, kernel: float) -> tuple[float, float]:
    """Return (bytes/s of a copy, relative bandwidth of adding two tensors)."""
    x, y, z = (torch.zeros(STREAM[kind] // 4, device=kind) for _ in range(3))
    copied = 2 * x.nbytes / _without_launch(seconds_per_run(lambda: y.copy_(x), kind), kernel)
    added = (
        3
        * x.nbytes
        / _without_launch(seconds_per_run(lambda: torch.add(x, y, out=z), kind), kernel)
    )
    return copied, min(1.0, added / copied)


def _without_launch(seconds: float, kernel: float) -> float:
    """Return an op's time minus its launch overhead, in seconds."""
    return max(seconds - kernel, 0.1 * seconds)


def _with_matmuls(device: Device, kind: str, log: Log) -> Device:
    """Return the device with measured matmul rates.

    The peak is the datasheet's or the best rate measured; the efficiency is the typical rate.
    """
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    times = {}
    for name, dtype in dtypes.items():
        for rows, columns, inner in MATMULS[kind]:
            a = torch.randn(rows, inner, device=kind, dtype=dtype)
            b = torch.randn(columns, inner, device=kind, dtype=dtype)
            times[name, rows, columns, inner] = seconds_per_run(
                lambda a=a, b=b: F.linear(a, b), kind
            )
    best = {
        name: max(
            2 * rows * columns * inner / seconds
            for (dtype, rows, columns, inner), seconds in times.items()
            if dtype == name
        )
        for name in dtypes
    }
    peak = dict(device.peak) or best
    ideal = replace(device, peak=peak, efficiency=replace(device.efficiency, matmul=1.0, kernel=0))
    shares = {}
    for (dtype, *shape), seconds in times.items():
        clock = DeviceCost({}, {}, device=ideal, dtype=dtype, strides={})
        shares[dtype, *shape] = clock.matmul(*shape) / _without_launch(
            seconds, device.efficiency.kernel
        )
    typical = {
        name: statistics.median(share for key, share in shares.items() if key[0] == name)
        for name in dtypes
    }
    for name in dtypes:
        log(
            f"matmuls in {name}: up to {best[name] / 1e12:.3g} TFLOP/s, typically "
            f"{typical[name] * peak[name] / 1e12:.3g}"
        )
    # A device has one share of its peaks: that of what CPUs train in, fp32, or GPUs, bf16. Where
    # no datasheet says otherwise, the other peak is what makes its typical matmul right.
    main, other = ("fp32", "bf16") if kind == "cpu" else ("bf16", "fp32")
    share = min(typical[main], 1.0)
    if not device.peak:
        peak[other] *= typical[other] / share
    return replace(device, peak=peak, efficiency=replace(device.efficiency, matmul=share))


def _with_attention(device: Device, kind: str, log: Log) -> Device:
    """Return the device with the measured efficiency of causal scaled_dot_product_attention.

    The efficiency is relative to the peak, with half of the scores counted.
    """
    dtype, name = (torch.float32, "fp32") if kind == "cpu" else (torch.bfloat16, "bf16")
    batch, heads, length, width = ATTENTION[kind]
    q, k, v = (
        torch.randn(batch, heads, length, width, device=kind, dtype=dtype, requires_grad=True)
        for _ in range(3)
    )
    with torch.no_grad():
        forward = seconds_per_run(
            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), kind
        )
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    gradient = torch.randn_like(out)
    back = seconds_per_run(
        lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True), kind
    )
    product = 2 * batch * heads * length * length * width / 2  # one of them, its causal half
    peak, kernel = device.flops(name), device.efficiency.kernel
    shares = [
        2 * product / _without_launch(forward, kernel),
        5 * product / _without_launch(back, kernel),
    ]
    shares = [rate / peak for rate in shares]
    log(f"attention: {100 * shares[0]:.0f} % of the peak, its backward {100 * shares[1]:.0f} %")
    efficiency = replace(device.efficiency, attention=shares[0], attention_backward=shares[1])
    return replace(device, efficiency=efficiency)
