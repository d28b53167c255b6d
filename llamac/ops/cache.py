"""Ops on the key-value cache: cache_fill, cache_append, cache_mask and cached_attention.

A cache is a placeholder of role `cache`, which one op updates in place. Ops that need the updated
cache read that op's result.
"""

from __future__ import annotations

import math

from llamac.ir.op import Op
from llamac.ir.types import TensorType, expect
from llamac.runtime.kernels import cache as runtime


def _fits(new: TensorType, cache: TensorType) -> None:
    expect(len(cache.shape) == 4, f"a cache must be [B,K,C,D], not {cache}")
    batch, _length, heads, head_dim = new.shape
    expected = new.with_shape(batch, heads, cache.shape[2], head_dim)
    expect(cache == expected, f"{new} cannot be written to {cache}")


def _infer_fill(new: TensorType, cache: TensorType) -> TensorType:
    _fits(new, cache)
    return new


def _infer_append(new: TensorType, cache: TensorType, positions: TensorType) -> TensorType:
    _fits(new, cache)
    _expect_positions(positions, new)
    return cache


def _expect_positions(positions: TensorType, of: TensorType) -> None:
    message = f"positions must be i64, one for each of {of}, not {positions}"
    expect((positions.dtype, positions.shape) == ("i64", of.shape[:2]), message)


def _infer_mask(
    positions: TensorType,
    slots: TensorType,
    starts: TensorType | None = None,
    *,
    window: int | None = None,
) -> TensorType:
    expect(positions.dtype == slots.dtype == "i64", "positions and slots must be i64")
    expect(starts is None or starts == positions, f"starts must be {positions}, not {starts}")
    expect(window is None or window > 0, "a window must be positive")
    return TensorType("bool", (*positions.shape, *slots.shape))


def _infer_attention(
    q: TensorType, keys: TensorType, values: TensorType, seen: TensorType, *, scale: float
) -> TensorType:
    batch, length, heads, head_dim = q.shape
    _, groups, slots, _ = keys.shape
    expect(keys == values, f"keys are {keys}, values {values}")
    expected = q.with_shape(batch, groups, slots, head_dim)
    expect(keys == expected, f"queries are {q}, keys {keys}")
    mask_type = TensorType("bool", (batch, length, slots))
    expect(seen == mask_type, f"the mask must be {mask_type}, not {seen}")
    assert isinstance(heads, int)
    assert isinstance(groups, int)
    expect(heads % groups == 0, f"{heads} query heads do not divide over {groups} key heads")
    return q


cache_fill = Op("cache_fill", _infer_fill, runtime.fill_cache, dims="BSHD,BHCD->BSHD")
cache_append = Op("cache_append", _infer_append, runtime.append_cache, dims="BSHD,BHCD,BS->BHCD")
cache_mask = Op("cache_mask", _infer_mask, runtime.cache_mask, dims="BS,C,BS->BSC")
cached_attention = Op(
    "cached_attention",
    _infer_attention,
    runtime.cached_attention,
    flops=lambda q, keys, *_others, scale: 4 * math.prod(q) * keys[2],
    dims="BSHD,BKCD,BKCD,BSC->BSHD",
    cost="save",
)
