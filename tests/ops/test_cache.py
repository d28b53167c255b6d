"""The cache's ops, in other words than the runtime's; what they refuse."""

from __future__ import annotations

import pytest
import torch

from llamac.ir.types import TensorType, TypeRuleError
from llamac.ops.cache import cache_append, cache_fill, cache_mask, cached_attention
from llamac.runtime.kernels.attention.attention_math import attention


def test_what_is_written_is_where_it_was_written_and_nothing_else_changes() -> None:
    cache = torch.full((2, 3, 7, 4), 5.0)
    new = torch.randn(2, 2, 3, 4)
    assert cache_fill(new, cache) is new
    assert torch.equal(cache[:, :, :2], new.transpose(1, 2))
    assert (cache[:, :, 2:] == 5).all()
    assert cache_append(new, cache, torch.tensor([[3, 6], [0, 1]])) is cache
    assert torch.equal(cache[0, :, [3, 6]], new[0].transpose(0, 1))
    assert torch.equal(cache[1, :, :2], new[1].transpose(0, 1))
    assert (cache[1, :, 2:] == 5).all()


def test_the_mask_sees_back_to_the_window_and_the_document() -> None:
    positions, starts, slots = torch.tensor([[4], [2]]), torch.tensor([[2], [0]]), torch.arange(6)

    def seen(*starts: torch.Tensor, **window: int) -> list[list[int]]:
        mask = cache_mask(positions, slots, *starts, **window)
        return [row[0].nonzero().flatten().tolist() for row in mask]

    assert seen() == [[0, 1, 2, 3, 4], [0, 1, 2]]
    assert seen(window=2) == [[3, 4], [1, 2]]
    assert seen(starts) == [[2, 3, 4], [0, 1, 2]]
    assert seen(starts, window=4) == [[2, 3, 4], [0, 1, 2]]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("new", [1, 3])
def test_attention_to_a_cache_is_attention_to_what_it_holds(groups: int, new: int) -> None:
    q = torch.randn(2, 6, 4, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 6, groups, 8, dtype=torch.float64).unbind()
    wanted, _ = attention(q, k, v, 0.3)
    caches = torch.full((2, 2, groups, 9, 8), 7.0, dtype=torch.float64).unbind()
    positions = torch.arange(6).expand(2, 6)
    for tensor, cache in zip((k, v), caches, strict=True):
        cache_append(tensor, cache, positions)
    mask = cache_mask(positions[:, -new:], torch.arange(9))
    found = cached_attention(q[:, -new:], *caches, mask, scale=0.3)
    torch.testing.assert_close(found, wanted[:, -new:], rtol=1e-12, atol=1e-12)


def test_flops_are_those_of_two_matmuls_over_the_whole_cache() -> None:
    assert (
        cached_attention.flops((2, 3, 4, 8), (2, 1, 12, 8), scale=1.0) == 2 * 2 * 2 * 3 * 4 * 8 * 12
    )


@pytest.mark.parametrize(
    ("op", "operands", "words"),
    [
        (cache_fill, "f32[B,S,2,8] f32[B,2,8]", r"a cache must be \[B,K,C,D\]"),
        (cache_fill, "f32[B,S,2,8] f32[B,4,C,8]", "cannot be written"),
        (cache_append, "f32[B,S,2,8] bf16[B,2,C,8] i64[B,S]", "cannot be written"),
        (cache_append, "f32[B,S,2,8] f32[B,2,C,8] i64[S]", "one for each of"),
        (cache_mask, "i64[B,S] f32[C]", "must be i64"),
        (cache_mask, "i64[B,S] i64[C] i64[B]", "starts must be"),
        (cached_attention, "f32[B,S,4,8] f32[B,2,C,8] f32[B,4,C,8] bool[B,S,C]", "keys are"),
        (cached_attention, "f32[B,S,4,8] f32[B,2,C,4] f32[B,2,C,4] bool[B,S,C]", "queries are"),
        (cached_attention, "f32[B,S,4,8] f32[B,3,C,8] f32[B,3,C,8] bool[B,S,C]", "do not divide"),
        (cached_attention, "f32[B,S,4,8] f32[B,2,C,8] f32[B,2,C,8] bool[B,C]", "the mask must be"),
    ],
)
def test_wrong_operands_are_refused_in_words(op, operands: str, words: str) -> None:
    kinds = [TensorType.parse(word) for word in operands.split()]
    given = {"scale": 1.0} if op is cached_attention else {}
    with pytest.raises(TypeRuleError, match=words):
        op.infer(*kinds, **given)
