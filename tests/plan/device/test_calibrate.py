"""A device file of this machine. What it measures is no test's business, how it is written is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from llamac.cli import main
from llamac.plan.cost.device_cost import DeviceCost
from llamac.plan.device import calibrate as measuring
from llamac.plan.device import stopwatch
from llamac.plan.device.calibrate import calibrate, device_toml
from llamac.plan.device.device import Device, Link, device_names, load_device
from llamac.plan.device.link_probe import LinkError, measure_link


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors, one round, no second process."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(measuring, "MATMULS", {"cpu": ((64, 64, 64), (128, 64, 32))})
    monkeypatch.setattr(measuring, "ATTENTION", {"cpu": (1, 2, 64, 16)})
    monkeypatch.setattr(measuring, "STREAM", {"cpu": 2**16})
    monkeypatch.setattr(stopwatch, "MIN_SECONDS", 1e-4)
    link = (Link(1e9, 5e-5), "an all-reduce of two processes over gloo")
    monkeypatch.setattr(measuring, "measure_link", lambda kind: link)


def same(one: Device, other: Device) -> None:
    """But for its name, and the last digits."""
    for key in ("title", "kind", "architecture", "memory", "units", "gpus_per_node"):
        assert getattr(one, key) == getattr(other, key)
    assert one.memory_bandwidth == pytest.approx(other.memory_bandwidth, rel=1e-3)
    assert dict(one.peak) == pytest.approx(dict(other.peak), rel=1e-3)
    for part in ("link", "network", "efficiency"):
        found, expected = vars(getattr(one, part)), vars(getattr(other, part))
        assert found == pytest.approx(expected, rel=1e-3), part


@pytest.mark.parametrize("name", device_names())
def test_a_device_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    device = load_device(name)
    (tmp_path / "copy.toml").write_text(device_toml(device, ["a remark"]), encoding="utf-8")
    same(load_device(str(tmp_path / "copy.toml")), device)


def test_a_hostile_title_breaks_nothing(tmp_path: Path) -> None:
    device = replace(load_device("cpu"), title='a "cpu"\\\n[peak]')
    (tmp_path / "odd.toml").write_text(device_toml(device, []), encoding="utf-8")
    assert load_device(str(tmp_path / "odd.toml")).title == "a cpu[peak]"


@pytest.mark.usefixtures("quick")
def test_every_figure_is_measured_and_possible() -> None:
    said: list[str] = []
    device, remarks = calibrate(said.append)
    assert len(said) == 6
    assert device.memory > 1e8
    assert device.memory_bandwidth > 0
    assert set(device.peak) == {"bf16", "fp32"}
    assert device.link == Link(1e9, 5e-5)
    assert 0 < device.efficiency.matmul <= 1
    assert 0 < device.efficiency.memory <= 1
    assert device.efficiency.attention > 0
    assert device.efficiency.attention_backward > 0
    assert device.efficiency.kernel > 0
    assert "gloo" in remarks[1]


@pytest.mark.usefixtures("quick")
def test_the_clock_gives_the_times_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MATMULS", {"cpu": ((512, 512, 512),)})
    monkeypatch.setattr(measuring, "seconds_per_run", lambda run, kind: 4e-3)
    monkeypatch.setattr(measuring, "_kernel", lambda kind: 0.0)
    monkeypatch.setattr(measuring, "_memory", lambda kind, kernel: (1e12, 1.0))
    device, _ = calibrate()
    clock = DeviceCost({}, {}, device=device, dtype="fp32", strides={})
    assert clock.matmul(512, 512, 512) == pytest.approx(4e-3)


@pytest.mark.usefixtures("quick")
def test_the_file_is_a_device_for_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.toml"
    assert main(["plan", "--calibrate", "-o", str(file)]) == 0
    assert "TFLOP/s" in capsys.readouterr().out
    assert main(["plan", "tiny", "--device", str(file)]) == 0
    assert load_device(str(file)).title in capsys.readouterr().out
    assert main(["plan", "tiny", "--set", f"hardware.gpu={file}"]) == 0


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "calibrate", lambda log: pytest.fail("measured"))
    assert main(["plan", "--calibrate", "-o", str(tmp_path / "gone" / "my.toml")]) == 2
    assert "there is no directory" in capsys.readouterr().err
    assert main(["plan", "--calibrate", "-o", "my.json"]) == 2
    assert "does not end in .toml" in capsys.readouterr().err


def test_the_best_round_counts() -> None:
    counted = []
    assert stopwatch.seconds_per_run(lambda: counted.append(1), "cpu", count=3) >= 0
    assert len(counted) == 1 + 3 * stopwatch.ROUNDS


@pytest.mark.slow
def test_two_processes_talk_over_gloo() -> None:
    link, what = measure_link("cpu")
    assert link is not None
    assert link.bandwidth > 0
    assert link.latency >= 0
    assert "gloo" in what


def test_processes_that_cannot_talk_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ProcessRaisedException("Traceback …\nRuntimeError: no such interface\n", 0, 1)

    monkeypatch.setattr("llamac.plan.device.link_probe.spawn", fails)
    with pytest.raises(
        LinkError, match="could not communicate over gloo: RuntimeError: no such inter"
    ):
        measure_link("cpu")
