"""llamac's causal attention for CPUs (attention_cpu.cpp) against PyTorch's in float64."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llamac.runtime.kernels import cpp_library
from llamac.runtime.kernels.attention import attention_cpu, attention_sdpa

pytestmark = pytest.mark.skipif(
    cpp_library.CAPABILITY not in cpp_library.INSTRUCTIONS or not shutil.which("g++"),
    reason="needs AVX2 and g++",
)

SCALE = 0.2
# batch, positions, query heads, key heads, head dimension: positions in no whole tile, in two
# blocks of keys, and fewer than a tile; heads of one, two, four and five vectors
SHAPES = [(2, 333, 4, 4, 32), (1, 600, 6, 2, 64), (2, 5, 4, 1, 16), (1, 64, 2, 2, 80)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def packed(shape: tuple[int, ...], size: float = 1.0) -> tuple[Tensor, ...]:
    """q, k, v as parts of one tensor, as regions pass them, and d_out; float32."""
    batch, length, heads, groups, dim = shape
    torch.manual_seed(0)
    qkv = size * torch.randn(batch, length, heads + 2 * groups, dim)
    return *qkv.split((heads, groups, groups), dim=2), torch.randn(batch, length, heads, dim)


def own(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor) -> tuple[Tensor, ...]:
    out, total = attention_cpu.causal_attention(q, k, v, SCALE)
    gradients = attention_cpu.causal_attention_backward(d_out, q, k, v, out, total, SCALE)
    return out, total, *gradients


def exact(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor) -> tuple[Tensor, ...]:
    """The same in float64, by autograd and by the scores themselves."""
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    queries, keys, values = (x.transpose(1, 2) for x in leaves)
    out = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=SCALE, enable_gqa=True
    ).transpose(1, 2)
    gradients = torch.autograd.grad(out, leaves, d_out.double())
    repeated = k.double().repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = SCALE * torch.einsum("bihd,bjhd->bhij", q.double(), repeated)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    total = scores.masked_fill(hidden, float("-inf")).logsumexp(-1)
    return out.detach(), total, *gradients


def assert_near(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    names = ("out", "total", "d_q", "d_k", "d_v")
    for name, one, other in zip(names, found, wanted, strict=True):
        error = (one.double() - other).norm() / other.norm()
        assert error < 1e-5, (name, error)


@shapes
def test_values_and_gradients(shape: tuple[int, ...]) -> None:
    inputs = packed(shape)
    assert_near(own(*inputs), exact(*inputs))


def test_large_scores_neither_overflow_nor_lose_the_masked_zeros() -> None:
    q, k, v, d_out = packed((1, 300, 2, 2, 32), size=30.0)  # scores up to thousands
    found, wanted = own(q, k, v, d_out), exact(q, k, v, d_out)
    for one, other in zip(found[:2], wanted[:2], strict=True):  # scores are exact to 1e-4
        assert (one.double() - other).norm() < 1e-3 * other.norm()
    assert all(torch.isfinite(x).all() for x in found)


def test_a_value_that_is_not_finite_is_seen_in_the_results() -> None:
    q, k, v, d_out = packed((1, 40, 2, 2, 32))
    k[0, 20, 0, 0] = float("nan")
    out, _total, d_q, d_k, _d_v = own(q, k, v, d_out)
    assert torch.isfinite(out[0, :20, 0]).all()  # which do not attend to it
    assert out[0, 20:, 0].isnan().all()
    assert d_q[0, 20:, 0].isnan().any(-1).all()
    assert d_k[0, :, 0].isnan().any()


def test_the_number_of_threads_changes_no_bit() -> None:
    inputs, threads = packed(SHAPES[0]), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = own(*inputs)
        torch.set_num_threads(3)
        three = own(*inputs)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(one, three, strict=True))


def test_rows_with_gaps_are_copied() -> None:
    q, k, v, d_out = packed(SHAPES[0])
    gapped = [torch.stack((x, x), -1)[..., 0] for x in (q, k, v, d_out)]
    assert all(x.stride(-1) == 2 for x in gapped)
    assert all(torch.equal(*pair) for pair in zip(own(*gapped), own(q, k, v, d_out), strict=True))


def test_operators_keep_their_promises_to_the_compiler() -> None:
    q, k, v, d_out = packed((1, 40, 4, 2, 32))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(attention_cpu.causal_attention, (q, k, v, SCALE), test_utils=checks)
    out, total = attention_cpu.causal_attention(q, k, v, SCALE)
    arguments = (d_out, q, k, v, out, total, SCALE)
    torch.library.opcheck(attention_cpu.causal_attention_backward, arguments, test_utils=checks)


def operators(dtype: torch.dtype, head_dim: int, **limits: Any) -> set[str]:
    """Names of the operators in a compiled call of attention."""
    seen: set[str] = set()

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> torch.fx.GraphModule:
        seen.update(str(node.target) for node in graph.graph.nodes)
        return graph

    def call(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return attention_sdpa.attention(q, k, v, SCALE, **limits)

    q, k, v, _ = (x.to(dtype) for x in packed((1, 32, 2, 2, head_dim)))
    torch.compile(call, backend=backend, fullgraph=True)(q, k, v)
    return seen


@pytest.mark.slow
def test_compiled_regions_use_it_where_it_applies() -> None:
    name = "llamac.causal_attention.default"
    assert name in operators(torch.float32, 32)
    assert name not in operators(torch.float64, 32)
    assert (name in operators(torch.bfloat16, 32)) == (torch.bfloat16 in attention_cpu.DTYPES)
    assert name not in operators(torch.float32, 12)  # no whole vectors
    assert name not in operators(torch.float32, 32, starts=torch.zeros(1, 32, dtype=torch.int64))
    assert name not in operators(torch.float32, 32, window=8)


def test_bfloat16_is_computed_in_float32_and_rounded_once() -> None:
    inputs = tuple(x.bfloat16() for x in packed(SHAPES[0]))

    def both(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor) -> tuple[Tensor, ...]:
        out, total = attention_sdpa.attention(q, k, v, SCALE)
        return out, total, *attention_sdpa.attention_backward(d_out, q, k, v, out, total, SCALE)

    found = torch.compile(both, backend="eager", fullgraph=True)(*inputs)
    for one, other in zip(found, exact(*inputs), strict=True):
        assert one.dtype == (torch.float32 if one.dim() == 3 else torch.bfloat16)
        assert (one.double() - other).norm() < 0.01 * other.norm()


def test_without_the_library_pytorch_s_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = packed(SHAPES[1])
    monkeypatch.setenv("CXX", "no-such-compiler")
    attention_cpu.load_library.cache_clear()
    try:
        with pytest.warns(UserWarning, match="attention runs PyTorch's slower kernel: .*no-such"):
            found = own(*inputs)
    finally:
        attention_cpu.load_library.cache_clear()
    assert_near(found, exact(*inputs))


def test_avx2_gives_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    if cpp_library.CAPABILITY != "AVX512":
        pytest.skip("it is what the other tests run")
    monkeypatch.setattr(cpp_library, "CAPABILITY", "AVX2")
    attention_cpu.load_library.cache_clear()
    try:
        for shape in SHAPES:
            inputs = packed(shape)
            assert_near(own(*inputs), exact(*inputs))
    finally:
        attention_cpu.load_library.cache_clear()
