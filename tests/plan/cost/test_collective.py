"""Collectives: rings slow down as nodes are added, trees less, large messages least."""

from __future__ import annotations

import pytest

from llamac.plan.cost.collective import bus_bandwidth, collective_seconds
from llamac.plan.device.device import load_device

EFA, SXM, A100 = (load_device(name) for name in ("h100-efa", "h100-sxm", "a100-80gb"))
MESSAGE = 2**28


@pytest.mark.parametrize(
    ("nodes", "measured"),
    [(2, 184.6), (4, 119.0), (8, 69.0), (16, 55.0), (32, 28.0), (64, 11.0)],
)
def test_gathers_over_efa_are_as_measured(nodes: int, measured: float) -> None:
    """nanotron's Ultra-Scale Playbook: all-gathers of 256 MB on H100s, GB/s of bus bandwidth."""
    assert bus_bandwidth(EFA, MESSAGE, 8 * nodes, 1) / 1e9 == pytest.approx(measured, rel=0.35)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("device", [EFA, SXM, A100], ids=lambda device: device.name)
def test_bandwidth_falls_with_the_number_of_nodes(device, rounds: int) -> None:
    found = [bus_bandwidth(device, MESSAGE, 8 * nodes, rounds) for nodes in (2, 8, 32, 64)]
    assert found == sorted(found, reverse=True)


def test_an_all_reduce_takes_a_tree_where_a_ring_is_slower() -> None:
    ranks, sent = 512, 2 * MESSAGE * 511 / 512
    ring = 2 * collective_seconds(EFA, sent / 2, ranks)
    assert collective_seconds(EFA, sent, ranks, rounds=2) < 0.5 * ring


def test_large_messages_lose_least() -> None:
    shares = [
        bus_bandwidth(SXM, nbytes, 512, 1) / bus_bandwidth(SXM, nbytes, 16, 1)
        for nbytes in (2**24, 2**28, 2**32)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 0.8


def test_a_group_of_one_sends_nothing() -> None:
    assert collective_seconds(A100, 1e9, 1) == 0.0
