"""How long ops take: what must hold of any device, and what was measured of some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamac.plan.cost.device_cost import DeviceCost
from llamac.plan.cost.framework import FRAMEWORKS
from llamac.plan.cost.region_time import with_host
from llamac.plan.cost.tiles import tile_overhead
from llamac.plan.device.device import load_device
from llamac.plan.published.score import predict_row

A100, H100 = load_device("a100-80gb"), load_device("h100-sxm")


def cost(name: str = "a100-80gb", profile: str = "llamac") -> DeviceCost:
    device = load_device(name)
    return DeviceCost({}, {}, device=device, dtype="bf16", strides={}, profile=FRAMEWORKS[profile])


def reached(rows: int, columns: int, inner: int, name: str = "a100-80gb") -> float:
    """Of the peak."""
    flops = 2 * rows * columns * inner
    return flops / cost(name).matmul(rows, columns, inner) / load_device(name).flops("bf16")


def test_a_large_matmul_reaches_the_devices_efficiency() -> None:
    assert reached(16384, 8192, 8192) == pytest.approx(A100.efficiency.matmul, rel=0.03)


def test_smaller_matmuls_reach_less() -> None:
    shares = [reached(n, n, n) for n in (8192, 2048, 1024, 256)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0] / 4


def test_a_nearly_empty_last_round_costs() -> None:
    """108 multiprocessors: 109 tiles take longer than 108, for each of them."""
    full, over = (
        tile_overhead(128 * 108, 256, 4096, 108, 0),
        tile_overhead(128 * 108 + 256, 256, 4096, 108, 0),
    )
    assert over > full


def test_long_sums_of_few_tiles_are_split() -> None:
    """A weight gradient of 1024 × 1024 has 32 large tiles, too few for 108 multiprocessors."""
    assert tile_overhead(1024, 1024, 8192, 108, 0) < tile_overhead(1024, 1024, 1000, 108, 0)


def test_rows_that_are_not_a_multiple_of_eight_are_slow() -> None:
    assert tile_overhead(4096, 50_257, 2048, 108, 128) > 2.5 * tile_overhead(
        4096, 50_304, 2048, 108, 128
    )


def test_a_thin_matmul_is_bound_by_memory() -> None:
    nbytes = 2 * 8192 * 8192
    assert cost().matmul(8, 8192, 8192) >= nbytes / A100.memory_bandwidth


def test_fp8_pays_for_its_casts() -> None:
    large = cost("h100-sxm").matmul(16384, 8192, 8192, True)
    assert large < 0.7 * cost("h100-sxm").matmul(16384, 8192, 8192)
    thin = cost("h100-sxm").matmul(16384, 128, 256, True)
    assert thin > cost("h100-sxm").matmul(16384, 128, 256)


@pytest.mark.parametrize(
    ("ranks", "nbytes", "measured"),
    [  # nccl-tests' all-reduce on an A100 node, as VIA-Research/vTrain published it
        (2, 2**20, 44.2e-6),
        (2, 2**26, 404.7e-6),
        (8, 2**24, 232.4e-6),
        (8, 2**30, 8193.0e-6),
    ],
)
def test_all_reduces_within_a_node_take_what_was_measured(
    ranks: int, nbytes: int, measured: float
) -> None:
    sent = 2 * nbytes * (ranks - 1) / ranks
    assert cost().collective(sent, ranks, rounds=2.0) == pytest.approx(measured, rel=0.2)


def test_a_ring_is_as_fast_as_its_slowest_link() -> None:
    """Sixteen ranks of two nodes share the nodes' ports; strided ones have one each."""
    together, apart = cost().collective(1e9, 16), cost().collective(1e9, 16, stride=8)
    within = cost().collective(1e9, 8)
    assert within < together < apart
    assert apart == pytest.approx(1e9 / A100.network.bandwidth, rel=0.01)


def test_more_ranks_are_later() -> None:
    times = [cost().collective(1e3, ranks) for ranks in (1, 2, 8, 64, 512)]
    assert times[0] == 0
    assert times == sorted(times)


def test_the_key_tells_clocks_apart() -> None:
    slower = replace(H100, efficiency=replace(H100.efficiency, matmul=0.1))
    one = cost("h100-sxm")
    assert one.key == cost("h100-sxm").key
    assert len({hash(one.key), hash(replace(one, device=slower).key), hash(cost().key)}) == 3


def test_host_and_device_take_the_longer_of_the_two_unless_they_are_alike() -> None:
    assert with_host(2.0, 0.0) == 2.0
    assert with_host(0.0, 3.0) == 3.0
    assert with_host(4.0, 1.0) == pytest.approx(4.0, rel=2e-3)
    assert with_host(1.0, 1.0) == pytest.approx(2**0.25)


@pytest.mark.parametrize(("tensor", "measured"), [(1, 3.02e-3), (2, 3.34e-3), (4, 3.45e-3)])
def test_a_small_layer_takes_megatrons_host_what_was_measured(tensor: int, measured: float) -> None:
    """VIA-Research/vTrain: a layer of width 1,024, one sequence, computed again, on A100s.

    From its steps of 12 to 24 layers; collectives add little to the start of kernels.
    """
    steps = [
        predict_row(
            {
                "framework": "Megatron-DeepSpeed",
                "family": "gpt",
                "n_layers": str(layers),
                "d_model": "1024",
                "n_heads": "16",
                "vocab": "51200",
                "gpu": "A100",
                "n_gpus": str(tensor),
                "dtype": "fp16",
                "seq_len": "1024",
                "mbs": "1",
                "gbs_seqs": "16",
                "tp": str(tensor),
                "sp": "0",
                "act_ckpt": "full",
                "attn_kernel": "unfused fused-softmax",
            }
        ).seconds.total
        for layers in (12, 24)
    ]
    assert (steps[1] - steps[0]) / 12 / 16 == pytest.approx(measured, rel=0.15)
