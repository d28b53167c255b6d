"""Seconds of a collective on a device's links."""

from __future__ import annotations

from llamac.plan.device.device import Device


def collective_seconds(
    device: Device, sent: float, ranks: int, stride: int = 1, rounds: float = 1.0
) -> float:
    """Seconds of a ring collective (Thakur et al. 2005).

    Args:
        sent: Bytes that each rank sends.
        ranks: Of the group, `stride` apart.
        rounds: How often the ring is gone round: 1 for a gather, a scatter or a send, 2 for an
            all-reduce.
    """
    if ranks <= 1:
        return 0.0
    link, network = device.link, device.network
    within = max(1, device.gpus_per_node // stride)  # ranks of this group in one node
    if ranks <= within:
        # Few ranks leave some of their links idle (nccl-tests on 2 to 8 GPUs).
        bandwidth = link.bandwidth * (1 - 0.3 / ranks)
        return rounds * (link.latency + (ranks - 1) * link.hop) + sent / bandwidth
    # Every GPU of a node has a network port of its own, and a ring crosses one of them; all the
    # rings of a node share them.
    bandwidth = min(link.bandwidth, network.bandwidth * within)
    nodes = ranks / within
    hops = (nodes - 1) * network.hop + (ranks - nodes) * link.hop
    return rounds * (network.latency + hops) + sent / bandwidth
