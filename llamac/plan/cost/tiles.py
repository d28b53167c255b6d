"""Efficiency of a matmul by its shape: tile sizes, and waves of tiles on the multiprocessors."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

TILES = ((256, 128, 1.0), (128, 128, 0.96), (128, 64, 0.84), (64, 64, 0.7))
"""(rows, columns, speed relative to the largest tile) of the tiles of one multiprocessor.

Smaller tiles read their operands more often (cuBLAS on A100 and H100).
"""

SPLITS = (1, 2, 4, 8)
"""Split-K factors: numbers of parts of the inner dimension. More than one part is tried only if the
result has fewer tiles than the device has multiprocessors."""

ALIGNED = 8
"""Number of elements of which M, N and K must be multiples for the tensor cores' wide loads: 16
bytes in bf16 (NVIDIA's guide to matrix multiplication)."""

UNALIGNED = 3.0
"""Slowdown of matmuls with a size that is not a multiple of `ALIGNED`."""


@lru_cache(maxsize=65536)
def tile_overhead(rows: int, columns: int, inner: int, units: int, fill: float) -> float:
    """Return a matmul's time relative to that at the speed of a very large one, at least 1.

    Tiles run in waves of `units`, of which the last may be nearly empty; the best tile size and
    split-K factor are used, as cuBLAS's heuristics do. Sizes that are not multiples of `ALIGNED`
    cost a factor `UNALIGNED`.

    rows, columns, inner: sizes M, N and K of [M, K] @ [K, N]. units: multiprocessors.
    fill: elements of K that would take as long as a tile's pipeline takes to fill.
    """
    best = float("inf")
    for high, wide, rate in TILES:
        tiles = ceil(rows / high) * ceil(columns / wide)
        for split in SPLITS:
            if split > 1 and (inner < 1024 * split or tiles >= units):
                break
            rounds = ceil(tiles * split / units)
            # Half of a partial wave is hidden, as tiles do not end simultaneously.
            rounds = (rounds + max(1.0, tiles * split / units)) / 2
            work = rounds * units * high * wide * (inner / split + fill) / rate
            best = min(best, work * (1 + 0.05 * (split > 1)))
    overhead = best / (rows * columns * inner)
    aligned = all(size % ALIGNED == 0 for size in (rows, columns, inner))
    return max(1.0, overhead) * (1.0 if aligned else UNALIGNED)
