"""Devices: files, names that publications give them, and what cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamac.plan.device.device import HERE, DeviceError, device_names, find_device, load_device


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_is_possible(name: str) -> None:
    device = load_device(name)
    assert device.memory > 1e9
    assert device.link.bandwidth < device.memory_bandwidth
    assert device.network.bandwidth <= device.link.bandwidth
    assert device.flops("bf16") >= device.flops("fp32")
    shares = vars(device.efficiency)
    for key in ("matmul", "fp8", "attention", "attention_backward", "memory"):
        assert 0 < shares[key] <= 1, key


def test_fp16_counts_as_bf16() -> None:
    device = load_device("a100-80gb")
    assert device.flops("fp16") == device.flops("bf16") == 312e12


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB", "a100-80gb"),
        ("A100", "a100-80gb"),
        ("A800", "a800"),
        ("H100 SXM5", "h100-sxm"),
        ("H100-96GB-HBM2e-500W", "h100-96gb-500w"),
        ("H100 PCIe", "h100-pcie"),
        ("H100 NVL", "h100-nvl"),
        ("H800", "h800"),
        ("GH200 96GB", "h100-96gb-500w"),
        ("H200-141GB", "h200"),
        ("DGX-B200", "b200"),
        ("GB200 NVL72", "gb200"),
        ("V100-SXM2-32GB", "v100-32gb"),
        ("Tesla V100 16GB", "v100-16gb"),
        ("MI250X", "mi250x"),
        ("MI300X", "mi300x"),
        ("L40S", "l40s"),
        ("GeForce RTX 4090", "rtx-4090"),
        ("RTX 3090", "rtx-3090"),
    ],
)
def test_publications_names(text: str, name: str) -> None:
    assert find_device(text).name == name


def test_an_unknown_device_names_the_nearest_and_the_way_out() -> None:
    with pytest.raises(DeviceError, match=r"no device 'h100-smx': did you mean h100-sxm\?.*\.toml"):
        load_device("h100-smx")


@pytest.mark.parametrize("content", ["title = 3", "memory = ", '[peak]\nbf16 = "fast"'])
def test_a_file_that_is_no_device_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DeviceError, match=r"mine\.toml does not describe a device"):
        load_device(str(path))


@pytest.mark.parametrize(
    ("figure", "instead", "complaint"),
    [
        ("memory_bandwidth = ", "0", "memory_bandwidth = 0 must be a number above 0"),
        ("units = ", '"many"', "units = 'many' must be a number above 0"),
        ("matmul = ", "nan", "matmul = nan must be a number above 0"),
        ("latency = ", "-1.0", r"latency = -1\.0 must be a number above 0"),
        ("bf16 = ", "fp16 = 1e15", r"\[peak\] has no bf16"),
    ],
)
def test_a_figure_nothing_can_be_reckoned_with_is_named(
    figure: str, instead: str, complaint: str, tmp_path: Path
) -> None:
    shipped = (HERE / "h100-sxm.toml").read_text(encoding="utf-8")
    assert f"\n{figure}" in shipped
    path = tmp_path / "mine.toml"
    line = instead if " = " in instead else f"{figure}{instead}"
    path.write_text(re.sub(rf"(?m)^{figure}.*", line, shipped), encoding="utf-8")
    with pytest.raises(DeviceError, match=complaint):
        load_device(str(path))
