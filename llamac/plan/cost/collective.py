"""Time of a collective on a device's links, by NCCL's ring and tree algorithms.

A ring's latency grows with the number of ranks, so the bandwidth of a message of fixed size falls
as nodes are added. An all-reduce may use a tree instead, whose latency grows with the logarithm of
the nodes, at a fraction of the bandwidth (Thakur et al. 2005; latencies from NCCL's `tuning.cc`).
As in NCCL, the faster algorithm is used.
"""

from __future__ import annotations

from math import ceil, log2

from llamac.plan.device.device import Device


def collective_seconds(
    device: Device, sent: float, ranks: int, stride: int = 1, rounds: float = 1.0
) -> float:
    """Return the seconds of one collective; 0 for a single rank.

    Args:
        sent: Bytes that each of n ranks sends: (n - 1) / n of the whole message, twice that in an
            all-reduce.
        ranks: Size of the group.
        stride: Difference of the global ranks of two neighbours of the group.
        rounds: Trips around the ring: 1 for an all-gather, a reduce-scatter or a send, 2 for an
            all-reduce; 0 excludes latencies.
    """
    if ranks <= 1:
        return 0.0
    per_node = max(1, device.gpus_per_node // stride)  # ranks of this group in one node
    if ranks <= per_node:
        return _within_node(device, sent, ranks, rounds)
    ring = _ring(device, sent, ranks, per_node, rounds)
    return min(ring, _tree(device, sent, ranks, per_node)) if rounds == 2 else ring


def _within_node(device: Device, sent: float, ranks: int, rounds: float) -> float:
    link = device.link
    # A few ranks do not use all links (nccl-tests on 2 to 8 GPUs).
    bandwidth = link.bandwidth * (1 - 0.3 / ranks)
    return rounds * (link.latency + (ranks - 1) * link.hop) + sent / bandwidth


def _ring(device: Device, sent: float, ranks: int, per_node: int, rounds: float) -> float:
    link, network = device.link, device.network
    nodes = ranks / per_node
    hops = (nodes - 1) * network.hop + (ranks - nodes) * link.hop
    return rounds * (network.latency + hops) + sent / node_bandwidth(device, per_node)


def _tree(device: Device, sent: float, ranks: int, per_node: int) -> float:
    link, network = device.link, device.network
    depth = ceil(log2(max(2.0, ranks / per_node)))
    latency = network.latency + depth * network.tree_hop + (per_node - 1) * link.hop
    return 2 * latency + sent / (node_bandwidth(device, per_node) * network.tree)


def node_bandwidth(device: Device, per_node: int) -> float:
    """Return the bytes per second that a rank sends in a ring over several nodes.

    The group's GPUs in a node each have a network port, and parallel rings use all of them, up to
    the bandwidth of the links within the node.

    per_node: number of the group's ranks in one node.
    """
    return min(device.link.bandwidth, device.network.bandwidth * per_node)


def bus_bandwidth(device: Device, nbytes: float, ranks: int, rounds: float) -> float:
    """Return the bus bandwidth of a collective in bytes/s, as nccl-tests define it.

    The group is of `ranks` adjacent ranks, at least 2. nbytes: size of the whole message.
    rounds: as for `collective_seconds`.
    """
    sent = rounds * nbytes * (ranks - 1) / ranks
    return sent / collective_seconds(device, sent, ranks, rounds=rounds)
