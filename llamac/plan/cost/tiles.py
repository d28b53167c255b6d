"""Efficiency of a matmul by its shape: tiles, and waves of tiles on the multiprocessors."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

TILES = ((256, 128, 1.0), (128, 128, 0.96), (128, 64, 0.84), (64, 64, 0.7))
"""Rows and columns that one multiprocessor takes at once, and how fast, of the largest tile's rate:
smaller ones read their operands more often (cuBLAS on A100 and H100)."""

SPLITS = (1, 2, 4, 8)
"""Parts of a long sum, taken side by side where the result alone has too few tiles."""

ALIGNED = 8
"""Elements that rows must be a multiple of for the tensor cores' wide loads (NVIDIA's guide to
matrix multiplication: 16 bytes)."""

UNALIGNED = 3.0
"""How many times longer it takes where they are not."""


@lru_cache(maxsize=65536)
def waste(rows: int, columns: int, inner: int, units: int, fill: float) -> float:
    """Time over that of a product so large that shape does not matter, at least 1.

    units: multiprocessors. fill: elements of the sum in which a tile's pipeline fills. The best of
    the tile sizes is taken, as cuBLAS' heuristics do: tiles run in rounds of `units`, and the last
    one may be nearly empty.
    """
    best = float("inf")
    for high, wide, rate in TILES:
        tiles = ceil(rows / high) * ceil(columns / wide)
        for split in SPLITS:
            if split > 1 and (inner < 1024 * split or tiles >= units):
                break
            rounds = ceil(tiles * split / units)
            # Half of an unfinished round is made good: tiles do not end in step.
            rounds = (rounds + max(1.0, tiles * split / units)) / 2
            work = rounds * units * high * wide * (inner / split + fill) / rate
            best = min(best, work * (1 + 0.05 * (split > 1)))
    lost = best / (rows * columns * inner)
    aligned = all(size % ALIGNED == 0 for size in (rows, columns, inner))
    return max(1.0, lost) * (1.0 if aligned else UNALIGNED)
