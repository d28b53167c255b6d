"""Attention by kernels that do not run on this machine: what can be told without a GPU.

The CUDA branches run on fake tensors, which hold PyTorch's operators to their signatures and
shapes; xformers is played by a stand-in that keeps to its conventions.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from llamac.runtime.kernels.attention import (
    attention_documents,
    attention_math,
    attention_sdpa,
    flash3,
)
from tests.compare import assert_close

B, S, H, D, SCALE = 2, 64, 8, 16, 0.2
grouping = pytest.mark.parametrize("groups", [H, 2, 1])


def qkv(groups: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, S, heads, D, dtype=torch.float64) for heads in (H, groups, groups))
    return q, k, v


def by_autograd(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor) -> tuple[Tensor, ...]:
    """(out, d_q, d_k, d_v) by PyTorch's own attention and its autograd."""
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    heads_first = [x.transpose(1, 2) for x in leaves]
    out = F.scaled_dot_product_attention(
        heads_first[0],
        heads_first[1],
        heads_first[2],
        is_causal=True,
        scale=SCALE,
        enable_gqa=True,
    ).transpose(1, 2)
    return out.detach(), *torch.autograd.grad(out, leaves, d_out)


@grouping
@pytest.mark.parametrize("module", [attention_math, attention_sdpa], ids=["math", "sdpa"])
def test_on_the_cpu_values_and_gradients_are_pytorch_s(module: ModuleType, groups: int) -> None:
    q, k, v = qkv(groups)
    d_out = torch.randn_like(q)
    out, logsumexp = module.attention(q, k, v, SCALE)
    gradients = module.attention_backward(d_out, q, k, v, out, logsumexp, SCALE)
    for found, wanted in zip((out, *gradients), by_autograd(q, k, v, d_out), strict=True):
        assert_close(found, wanted, "attention")


@grouping
@pytest.mark.parametrize("module", [attention_math, attention_sdpa], ids=["math", "sdpa"])
def test_documents_that_share_a_sequence_do_not_see_each_other(
    module: ModuleType, groups: int
) -> None:
    q, k, v = qkv(groups)
    d_out = torch.randn_like(q)
    ends = (0, 1, 20, S)  # documents of 1, 19 and 44 positions
    starts = torch.tensor([max(e for e in ends if e <= i) for i in range(S)]).expand(B, S)
    out, logsumexp = module.attention(q, k, v, SCALE, starts=starts)
    gradients = module.attention_backward(d_out, q, k, v, out, logsumexp, SCALE, starts=starts)
    for begin, end in itertools.pairwise(ends):
        own = slice(begin, end)
        alone = by_autograd(*(x[:, own] for x in (q, k, v, d_out)))
        for found, wanted in zip((out, *gradients), alone, strict=True):
            assert_close(found[:, own], wanted, f"document {begin}:{end}", 1.0)


BLOCKS = 2 * attention_sdpa.BLOCK + 37  # positions: two whole blocks of queries, and a part of one


def by_mask(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, window: int, first: Tensor | None = None
) -> tuple[Tensor, ...]:
    """(out, d_q, d_k, d_v) of queries at the end of the keys, by PyTorch's attention and a mask."""
    ahead = k.shape[1] - q.shape[1]
    distance = torch.arange(q.shape[1])[:, None] + ahead - torch.arange(k.shape[1])
    seen = (distance >= 0) & (distance < window)
    if first is not None:
        seen = seen & (torch.arange(k.shape[1]) >= first[:, :, None])[:, None]
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    heads_first = [x.transpose(1, 2) for x in leaves]
    out = F.scaled_dot_product_attention(
        heads_first[0],
        heads_first[1],
        heads_first[2],
        attn_mask=seen,
        scale=SCALE,
        enable_gqa=True,
    ).transpose(1, 2)
    return out.detach(), *torch.autograd.grad(out, leaves, d_out)


def long(groups: int, queries: int = BLOCKS) -> tuple[Tensor, ...]:
    """q, k, v and d_out of one sequence whose last positions are queries."""
    torch.manual_seed(0)
    sizes = ((queries, 4), (BLOCKS, groups), (BLOCKS, groups), (queries, 4))
    q, k, v, d = (torch.randn(1, n, heads, 8, dtype=torch.float64) for n, heads in sizes)
    return q, k, v, d


both_kernels = pytest.mark.parametrize(
    "module", [attention_math, attention_sdpa], ids=["math", "sdpa"]
)


@pytest.mark.slow
@both_kernels
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("window", [1, 2, 100, 256, 257, 300, BLOCKS - 1, BLOCKS, BLOCKS + 1])
def test_a_window_shows_the_last_keys_only(module: ModuleType, window: int, groups: int) -> None:
    q, k, v, d_out = long(groups)
    out, logsumexp = module.attention(q, k, v, SCALE, window=window)
    found = module.attention_backward(d_out, q, k, v, out, logsumexp, SCALE, window=window)
    for one, wanted in zip((out, *found), by_mask(q, k, v, d_out, window), strict=True):
        assert_close(one, wanted, f"window {window}", 1.0)


@both_kernels
@pytest.mark.parametrize("window", [40, 300, BLOCKS])
def test_under_a_window_keys_may_begin_before_the_queries(module: ModuleType, window: int) -> None:
    """As context parallelism has them."""
    q, k, v, d_out = long(2, queries=300)
    out, logsumexp = module.attention(q, k, v, SCALE, window=window)
    found = module.attention_backward(d_out, q, k, v, out, logsumexp, SCALE, window=window)
    for one, wanted in zip((out, *found), by_mask(q, k, v, d_out, window), strict=True):
        assert_close(one, wanted, f"window {window}", 1.0)


@both_kernels
@pytest.mark.parametrize("window", [3, 280, BLOCKS + 9])
def test_a_window_and_documents_hide_together(module: ModuleType, window: int) -> None:
    q, k, v, d_out = long(2)
    ends = (0, 1, 200, 270, BLOCKS)
    starts = torch.tensor([[max(e for e in ends if e <= i) for i in range(BLOCKS)]])
    limits = {"starts": starts, "window": window}
    out, logsumexp = module.attention(q, k, v, SCALE, **limits)
    found = module.attention_backward(d_out, q, k, v, out, logsumexp, SCALE, **limits)
    for one, wanted in zip((out, *found), by_mask(q, k, v, d_out, window, starts), strict=True):
        assert_close(one, wanted, f"window {window}", 1.0)


def test_a_window_makes_no_square() -> None:
    """The largest value that is made has one element for each query of a block and key it sees."""
    q, k, v, d_out = long(2)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            for one in made if isinstance(made, tuple) else (made,):
                largest = max(largest, one.numel())
            return made

    window = 20
    with Watch():
        out, logsumexp = attention_sdpa.attention(q, k, v, SCALE, window=window)
        attention_sdpa.attention_backward(d_out, q, k, v, out, logsumexp, SCALE, window=window)
    seen = attention_sdpa.BLOCK + window + attention_sdpa.KEY_ALIGNMENT
    assert largest <= max(q.numel(), attention_sdpa.BLOCK * seen) < BLOCKS**2 / 2


def test_the_blocked_operators_describe_themselves_truly() -> None:
    q, k, v, d_out = (x.float() for x in long(2))
    out, logsumexp = attention_sdpa.blocked_attention(q, k, v, SCALE, 40, None)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        attention_sdpa.blocked_attention, (q, k, v, SCALE, 40, None), test_utils=checks
    )
    arguments = (d_out, q, k, v, out, logsumexp, SCALE, 40, None)
    torch.library.opcheck(attention_sdpa.blocked_attention_backward, arguments, test_utils=checks)


@grouping
@pytest.mark.parametrize("window", [None, 24], ids=["all", "window"])
@pytest.mark.parametrize("masked", [False, True], ids=["causal", "documents"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_on_cuda_pytorch_s_operators_take_our_arguments(
    dtype: torch.dtype, masked: bool, window: int | None, groups: int
) -> None:
    with FakeTensorMode():
        q, k, v = (
            torch.empty(B, S, heads, D, dtype=dtype, device="cuda") for heads in (H, groups, groups)
        )
        starts = torch.zeros(B, S, dtype=torch.int64, device="cuda") if masked else None
        limits = {"starts": starts, "window": window}
        out, logsumexp = attention_sdpa.attention(q, k, v, SCALE, **limits)
        assert (out.shape, out.dtype, out.device.type) == (q.shape, dtype, "cuda")
        assert (logsumexp.shape, logsumexp.dtype) == ((B, H, S), torch.float32)
        gradients = attention_sdpa.attention_backward(
            torch.empty_like(out), q, k, v, out, logsumexp, SCALE, **limits
        )
        for gradient, value in zip(gradients, (q, k, v), strict=True):
            assert (gradient.shape, gradient.dtype) == (value.shape, dtype)


@grouping
def test_on_cuda_a_block_of_a_window_fits_pytorch_s_operators(groups: int) -> None:
    """Fewer queries than keys, and one mask for all sequences."""
    sizes = ((S, H), (2 * S, groups), (2 * S, groups))
    with FakeTensorMode():
        q, k, v = (torch.empty(B, n, heads, D, device="cuda") for n, heads in sizes)
        mask = torch.empty(1, 1, S, 2 * S, device="cuda")
        out, logsumexp = attention_sdpa._attention(q, k, v, SCALE, False, mask)
        assert (out.shape, logsumexp.shape[:2]) == (q.shape, (B, H))
        gradients = attention_sdpa._attention_backward(
            torch.empty_like(out), q, k, v, out, logsumexp, SCALE, False, mask
        )
        assert [g.shape for g in gradients] == [x.shape for x in (q, k, v)]


# -- cuDNN ----------------------------------------------------------------------------------------


def imported(name: str, capability: tuple[int, int] | None) -> ModuleType:
    """A kernel's module as a machine with such a GPU, or with none, imports it."""
    ours = f"llamac.runtime.kernels.attention.{name}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, ours, raising=False)
        patch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        patch.setattr(torch.backends.cudnn, "is_available", lambda: True)
        module = importlib.import_module(ours)
        patch.delitem(sys.modules, ours)
    return module


@grouping
def test_cudnn_s_operators_take_our_arguments(groups: int) -> None:
    module = imported("attention_cudnn", (9, 0))
    with FakeTensorMode():
        q, k, v = (
            torch.empty(B, S, heads, D, dtype=torch.bfloat16, device="cuda")
            for heads in (H, groups, groups)
        )
        out, logsumexp = module.attention(q, k, v, SCALE)
        assert (out.shape, out.dtype, out.device.type) == (q.shape, q.dtype, "cuda")
        assert out.is_contiguous()
        assert (logsumexp.shape, logsumexp.dtype) == ((B, H, S), torch.float32)
        gradients = module.attention_backward(torch.empty_like(out), q, k, v, out, logsumexp, SCALE)
        for gradient, value in zip(gradients, (q, k, v), strict=True):
            assert (gradient.shape, gradient.dtype) == (value.shape, value.dtype)
            assert gradient.is_contiguous()


@grouping
def test_cudnn_is_called_as_it_wants_to_be(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by a stand-in that reads [B, H, S, D] and gives the log-sum-exp a last dim of 1."""
    module = imported("attention_cudnn", (9, 0))

    def forward(q, k, v, bias, compute_log_sumexp, dropout, causal, debug, *, scale):
        assert (bias, compute_log_sumexp, dropout, debug) == (None, True, 0.0, False)
        assert q.shape[1::2] == (H, D)
        assert k.shape == v.shape == (B, groups, S, D)
        heads_last = [x.transpose(1, 2) for x in (q, k, v)]
        out, total = attention_math.attention(*heads_last, scale=scale)
        return out.transpose(1, 2), total.unsqueeze(-1), None, None, S, S, None, None, None

    def backward(d_out, q, k, v, out, total, seed, offset, bias, cum_q, cum_k, *rest, scale):
        assert (bias, cum_q, cum_k, rest) == (None, None, None, (S, S, 0.0, True))
        assert total.shape == (B, H, S, 1)
        given = [x.transpose(1, 2) for x in (d_out, q, k, v, out)]
        rest = {"logsumexp": total.squeeze(-1), "scale": scale}
        found = attention_math.attention_backward(*given, **rest)
        return tuple(gradient.transpose(1, 2) for gradient in found)

    played = SimpleNamespace(
        _scaled_dot_product_cudnn_attention=forward,
        _scaled_dot_product_cudnn_attention_backward=backward,
    )
    monkeypatch.setattr(module, "aten", played)
    q, k, v = qkv(groups)
    d_out = torch.randn_like(q)
    out, logsumexp = module.attention(q, k, v, SCALE)
    gradients = module.attention_backward(d_out, q, k, v, out, logsumexp, SCALE)
    for found, wanted in zip((out, *gradients), by_autograd(q, k, v, d_out), strict=True):
        assert_close(found, wanted, "attention")


@pytest.mark.parametrize(
    ("capability", "why"),
    [(None, "no CUDA device"), ((8, 0), "capability 9.0")],
    ids=["no-cuda", "ampere"],
)
def test_without_hopper_pytorch_s_kernels_take_over_from_cudnn_and_say_so(
    capability: tuple[int, int] | None, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = imported("attention_cudnn", capability)
    assert module.attention is attention_sdpa.attention
    assert module.attention_backward is attention_sdpa.attention_backward
    said = capsys.readouterr().err
    assert "PyTorch's kernels in place of cuDNN's" in said
    assert why in said


@pytest.mark.parametrize(
    ("capability", "installed", "used"),
    [((9, 0), True, True), ((9, 0), False, False), ((10, 0), True, False), (None, True, False)],
)
def test_flash_attention_3_is_used_on_hopper_where_it_is_installed(
    capability: tuple[int, int] | None,
    installed: bool,
    used: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    activated = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    spec = "there" if installed else None
    monkeypatch.setattr(flash3.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(flash3.attention, "activate_flash_attention_impl", activated.append)
    assert flash3.use_flash3() is used
    assert activated == ["FA3"] * used


# -- documents on CUDA -----------------------------------------------------------------------------

WIDTH = attention_documents.WIDTH


def pieces(bounds: Tensor) -> list[slice]:
    """Of a list of bounds, as the flash kernel reads it: empty pieces are allowed."""
    assert bounds.dtype == torch.int32
    ends = bounds.tolist()
    assert ends[0] == 0
    assert ends == sorted(ends)
    return [slice(a, b) for a, b in itertools.pairwise(ends) if b > a]


def varlen_forward(q, k, v, bounds, bounds_k, max_q, max_k, dropout, causal, debug, *, scale):
    """As aten._flash_attention_forward of sequences of unequal lengths: q [tokens, H, D]."""
    assert (dropout, causal, debug) == (0.0, True, False)
    assert bounds is bounds_k
    out, total = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0])
    for piece in pieces(bounds):
        assert piece.stop - piece.start <= max_q == max_k
        rows = [x[None, piece] for x in (q, k, v)]
        made = attention_math.attention(*rows, scale=scale)
        out[piece], total[:, piece] = made[0][0], made[1][0]
    return out, total, None, None, None


def varlen_backward(d, q, k, v, out, total, bounds, bounds_k, *rest, scale):
    assert rest[:4] == (rest[0], rest[0], 0.0, True)
    assert total.shape == (q.shape[1], q.shape[0])
    found = [torch.empty_like(x) for x in (q, k, v)]
    for piece in pieces(bounds):
        rows = [x[None, piece] for x in (d, q, k, v, out)]
        made = attention_math.attention_backward(
            *rows, logsumexp=total[None, :, piece], scale=scale
        )
        for whole, part in zip(found, made, strict=True):
            whole[piece] = part[0]
    return tuple(found)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flash kernel for unequal lengths, played on the CPU in float64."""
    played = SimpleNamespace(
        _flash_attention_forward=varlen_forward, _flash_attention_backward=varlen_backward
    )
    monkeypatch.setattr(attention_documents, "aten", played)
    monkeypatch.setattr(attention_sdpa, "_uses_flash", lambda q: True)


def starts_of(*rows: list[int]) -> Tensor:
    """The position at which each token's document begins, from the documents' lengths."""
    return torch.tensor([[sum(row[:n]) for n, size in enumerate(row) for _ in range(size)]
                         for row in rows])  # fmt: skip


LAYOUTS = {
    "all short": [[1] * 300, [100, 100, 100]],
    "one long": [[300], [300]],
    "at the limit": [[WIDTH, WIDTH + 1, 300 - 2 * WIDTH - 1], [WIDTH + 1, WIDTH + 1, 42]],
    "gaps between long ones": [[1, 130, 2, 3, 140, 24], [130, 1, 1, 168]],
    "a part of a block": [[200, 37], [5, 232]],
    "less than a block": [[20, 30], [50]],
    "whole blocks": [[WIDTH, WIDTH], [2 * WIDTH]],
}


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("groups", [4, 2])
def test_documents_on_cuda_see_what_the_mask_shows(layout: list[list[int]], groups: int) -> None:
    starts = starts_of(*layout)
    torch.manual_seed(0)
    q, k, v, d_out = (
        torch.randn(*starts.shape, heads, 8, dtype=torch.float64)
        for heads in (4, groups, groups, 4)
    )
    out, logsumexp = attention_sdpa.attention(q, k, v, SCALE, starts=starts)
    found = attention_sdpa.attention_backward(d_out, q, k, v, out, logsumexp, SCALE, starts=starts)
    wanted = attention_math.attention(q, k, v, SCALE, starts=starts)
    gradients = attention_math.attention_backward(d_out, q, k, v, *wanted, SCALE, starts=starts)
    for one, other in zip((out, logsumexp, *found), (*wanted, *gradients), strict=True):
        assert one.shape == other.shape
        assert_close(one, other, "documents", 1.0)


class Layer(torch.autograd.Function):
    """Attention as an emitted block calls it."""

    @staticmethod
    def forward(ctx, x: Tensor, starts: Tensor) -> Tensor:
        out, logsumexp = attention_sdpa.attention(x, x, x, SCALE, starts=starts)
        ctx.save_for_backward(x, out, logsumexp, starts)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor, None]:
        x, out, logsumexp, starts = ctx.saved_tensors
        gradients = attention_sdpa.attention_backward(
            d_out, x, x, x, out, logsumexp, SCALE, starts=starts
        )
        return gradients[0] + gradients[1] + gradients[2], None


@pytest.mark.usefixtures("flash")
def test_layers_share_what_is_computed_of_a_micro_batch_s_documents(monkeypatch) -> None:
    computed: list[Tensor] = []

    def counted(starts: Tensor, long: Tensor, dtype: torch.dtype) -> Tensor:
        computed.append(starts)
        return block_mask(starts, long, dtype)

    block_mask = attention_documents.block_mask
    monkeypatch.setattr(attention_documents, "block_mask", counted)
    before = len(attention_documents._layouts)
    for layout in ([150, 150], [300]):
        starts = starts_of(layout)
        x = torch.randn(1, 300, 2, 8, dtype=torch.float64, requires_grad=True)
        y = x
        for _ in range(3):
            y = Layer.apply(y, starts)
        y.sum().backward()
    assert len(computed) == 2
    assert torch.equal(computed[0], starts_of([150, 150]))
    del starts, y
    computed.clear()
    assert len(attention_documents._layouts) == before


@pytest.mark.usefixtures("flash")
def test_a_short_document_s_strong_scores_do_not_reach_its_neighbours() -> None:
    """A gap is attended to as one piece: what its dropped rows hold must not be multiplied in."""
    starts = starts_of([130, 60, 60, 140])
    torch.manual_seed(0)
    q, k, v, d_out = (torch.randn(1, 390, 2, 8, dtype=torch.float64) for _ in range(4))
    q[:, 190:250] *= 500
    out, logsumexp = attention_sdpa.attention(q, k, v, SCALE, starts=starts)
    found = attention_sdpa.attention_backward(d_out, q, k, v, out, logsumexp, SCALE, starts=starts)
    assert all(bool(one.isfinite().all()) for one in (out, *found))
    wanted = attention_math.attention(q, k, v, SCALE, starts=starts)
    gradients = attention_math.attention_backward(d_out, q, k, v, *wanted, SCALE, starts=starts)
    for one, other in zip(found, gradients, strict=True):
        assert_close(one, other, "documents", 1.0)


@grouping
def test_on_cuda_pytorch_s_operators_take_documents(groups: int) -> None:
    """What the operator for documents calls, which fake tensors do not look into."""
    length, blocks = 300, B * 3

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="cuda")

    with FakeTensorMode():
        q, k, v = (empty(B, length, heads, D) for heads in (H, groups, groups))
        bounds = empty(12, dtype=torch.int32)
        out, total = attention_documents.flash_forward(q, k, v, bounds, SCALE)
        assert (out.shape, total.shape) == (q.shape, (B, H, length))
        gradients = attention_documents.flash_backward(
            torch.empty_like(q), q, k, v, out, total, bounds, SCALE
        )
        assert [g.shape for g in gradients] == [x.shape for x in (q, k, v)]
        q, k, v = empty(blocks, WIDTH, H, D), *(empty(blocks, 2 * WIDTH, groups, D),) * 2
        mask = empty(blocks, 1, WIDTH, 2 * WIDTH)
        out, total = attention_sdpa._attention(q, k, v, SCALE, False, mask)
        assert (out.shape, total.shape) == (q.shape, (blocks, H, WIDTH))
        d_out = torch.empty_like(out)
        made = attention_sdpa._attention_backward(d_out, q, k, v, out, total, SCALE, False, mask)
        assert [g.shape for g in made] == [x.shape for x in (q, k, v)]


def test_documents_on_cuda_make_no_square() -> None:
    """And their bounds have a length that no token changes."""
    length, most = 4096, 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal most
            made = function(*args, **(kwargs or {}))
            for one in made if isinstance(made, tuple) else (made,):
                most = max(most, one.numel() if isinstance(one, Tensor) else 0)
            return made

    sizes = set()
    for row in ([1] * length, [length], [130] * 31 + [66]):
        starts = starts_of(row)
        with Watch():
            long = attention_documents.long_documents(starts)
            sizes.add(attention_documents.document_bounds(starts, long).shape)
            attention_documents.block_mask(starts, long, torch.bfloat16)
    assert len(sizes) == 1
    assert most == 2 * WIDTH * length < length**2 / 8


# -- a stand-in for xformers -----------------------------------------------------------------------


class LowerTriangularMask:
    pass


def _flat(x: Tensor) -> Tensor:
    """[B, M, G, H, K] → [B, M, G·H, K]; [B, M, H, K] as it is."""
    return x.flatten(2, 3) if x.ndim == 5 else x


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: object = None,
    p: float = 0.0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """As xformers.ops.fmha.memory_efficient_attention_forward_requires_grad: BMHK, or BMGHK."""
    _check(query, key, value, attn_bias, scale)
    out, logsumexp = attention_math.attention(_flat(query), _flat(key), _flat(value), scale or 0)
    if query.ndim == 5:
        logsumexp = logsumexp.unflatten(1, query.shape[2:4])
    return out.reshape(query.shape).contiguous(), logsumexp


def _backward(
    grad: Tensor,
    output: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: object = None,
    p: float = 0.0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As xformers.ops.fmha.memory_efficient_attention_backward."""
    _check(query, key, value, attn_bias, scale)
    assert query.ndim == 4, "no backward operator of xformers' supports BMGHK"
    assert grad.shape == output.shape == query.shape
    assert lse.shape == (query.shape[0], query.shape[2], query.shape[1])
    d_q, d_k, d_v = attention_math.attention_backward(
        grad, query, key, value, output, lse, scale or 0
    )
    return d_q.contiguous(), d_k.contiguous(), d_v.contiguous()


def _check(query: Tensor, key: Tensor, value: Tensor, bias: object, scale: object) -> None:
    assert isinstance(bias, LowerTriangularMask)
    assert scale == SCALE
    assert query.shape == key.shape == value.shape  # keys are given as often as they are read
    assert query.ndim == 4 or key.stride(3) == 0 or key.shape[3] == 1


@pytest.fixture(scope="module")
def kernel() -> Iterator[ModuleType]:
    """`attention_xformers`, importing the stand-in."""
    ops, fmha = ModuleType("xformers.ops"), ModuleType("xformers.ops.fmha")
    vars(ops).update(LowerTriangularMask=LowerTriangularMask, fmha=fmha)
    vars(fmha).update(
        memory_efficient_attention_forward_requires_grad=_forward,
        memory_efficient_attention_backward=_backward,
    )
    modules = {"xformers": ModuleType("xformers"), "xformers.ops": ops, "xformers.ops.fmha": fmha}
    ours = "llamac.runtime.kernels.attention.attention_xformers"
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, ours, raising=False)
        with pytest.MonkeyPatch.context() as importing:
            importing.setattr(torch.cuda, "is_available", lambda: True)
            module = importlib.import_module(ours)
        # The operators are those of the copy that this process imported first (`opaque`).
        copy = vars(torch.ops.llamac)["definitions"]["xformers_attention"]._init_fn.__globals__
        for name in ("LowerTriangularMask", *vars(fmha)):
            if name in vars(module):
                patch.setitem(copy, name, vars(module)[name])
        yield module
        sys.modules.pop(ours)


@grouping
def test_xformers_is_called_as_it_wants_to_be(kernel: SimpleNamespace, groups: int) -> None:
    q, k, v = qkv(groups)
    d_out = torch.randn_like(q)
    out, logsumexp = kernel.attention(q, k, v, SCALE)
    assert logsumexp.shape == (B, H, S)
    gradients = kernel.attention_backward(d_out, q, k, v, out, logsumexp, SCALE)
    for found, wanted in zip((out, *gradients), by_autograd(q, k, v, d_out), strict=True):
        assert_close(found, wanted, "attention")


@grouping
def test_xformers_is_one_operator_to_torch_compile(kernel: SimpleNamespace, groups: int) -> None:
    def there_and_back(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        out, logsumexp = kernel.attention(q, k, v, SCALE)
        return out, *kernel.attention_backward(d_out, q, k, v, out, logsumexp, SCALE)

    q, k, v = (x.float() for x in qkv(groups))
    d_out = torch.randn_like(q)
    compiled = torch.compile(there_and_back, fullgraph=True, backend="eager")
    with torch.no_grad():
        wanted = there_and_back(d_out, q, k, v)
        for found, value in zip(compiled(d_out, q, k, v), wanted, strict=True):
            assert torch.equal(found, value)


@grouping
def test_xformers_operators_describe_themselves_truly(kernel: SimpleNamespace, groups: int) -> None:
    q, k, v = (x.float() for x in qkv(groups))
    out, logsumexp = kernel.attention(q, k, v, SCALE)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(kernel.attention, (q, k, v, SCALE), test_utils=checks)
    arguments = (torch.randn_like(q), q, k, v, out, logsumexp, SCALE)
    torch.library.opcheck(kernel.attention_backward, arguments, test_utils=checks)


@pytest.mark.parametrize("cuda", [False, True], ids=["no-cuda", "no-xformers"])
def test_without_cuda_or_xformers_pytorch_s_kernels_take_over_and_say_so(
    cuda: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "llamac.runtime.kernels.attention.attention_xformers"
    monkeypatch.delitem(sys.modules, ours, raising=False)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    module = importlib.import_module(ours)
    sys.modules.pop(ours)
    assert module.attention is attention_sdpa.attention
    assert module.attention_backward is attention_sdpa.attention_backward
    said = capsys.readouterr().err
    assert "PyTorch's kernels in place of xformers" in said
    assert ("no CUDA device" in said) is not cuda
