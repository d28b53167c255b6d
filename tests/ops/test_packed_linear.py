"""llamac's matmul with packed weights (packed_linear.cpp) against PyTorch's in float64."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from llamac.runtime.kernels import cpp_library
from llamac.runtime.kernels import packed_linear as kernels
from llamac.runtime.kernels.packed_linear import (
    arrange_in_panels,
    pack_weight,
    packed_linear,
    panel_linear,
)

needs_kernel = pytest.mark.skipif(
    cpp_library.CAPABILITY not in cpp_library.INSTRUCTIONS or not shutil.which("g++"),
    reason="needs AVX2 and g++",
)
# outputs, inputs: whole panels; a panel and a part; less than a vector; a panel, a vector and five
# outputs, with inputs in two blocks
SHAPES = [(96, 64), (80, 24), (5, 8), (69, 513)]


@pytest.fixture
def rebuilt() -> Iterator[None]:
    """The library is built anew, and afterwards once more."""
    kernels.load_kernel.cache_clear()
    yield
    kernels.load_kernel.cache_clear()


def operands(outputs: int, inputs: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [rows, inputs], weight and bias; float32."""
    torch.manual_seed(0)
    return torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)


def assert_exact(outputs: int, inputs: int, rows: int) -> None:
    x, weight, bias = operands(outputs, inputs, rows)
    arranged, wanted = pack_weight(weight), x.double() @ weight.double().T
    for added in (None, bias):
        found = packed_linear(x, arranged, added)
        exact = wanted if added is None else wanted + added
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


@needs_kernel
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_any_sizes_and_rows_on_each_instruction_set(capability, monkeypatch, rebuilt) -> None:
    if capability == "AVX512" != cpp_library.CAPABILITY:
        pytest.skip("this CPU lacks it")
    monkeypatch.setattr(cpp_library, "CAPABILITY", capability)
    for outputs, inputs in SHAPES:
        for rows in (*range(1, 10), 19):
            assert_exact(outputs, inputs, rows)


def test_a_panel_holds_the_weights_of_an_input_side_by_side() -> None:
    weight = torch.arange(22).view(11, 2)  # a panel of six, one of two vectors of two, and a row
    panels = [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11, 12, 14, 16, 18, 13, 15, 17, 19, 20, 21]
    assert arrange_in_panels(weight, 6).tolist() == panels


@needs_kernel
def test_a_row_does_not_depend_on_the_others() -> None:
    x, weight, bias = operands(69, 513, 13)
    arranged = pack_weight(weight)
    alone = torch.cat([packed_linear(row, arranged, bias) for row in x.split(1)])
    assert torch.equal(packed_linear(x, arranged, bias), alone)


@needs_kernel
def test_operator_keeps_its_promises_to_the_compiler() -> None:
    x, weight, bias = operands(80, 24, 3)
    checks = ("test_schema", "test_faketensor")
    for rows in (x, x.view(3, 1, 24), x.T.contiguous().T):
        torch.library.opcheck(panel_linear, (rows, pack_weight(weight), bias), test_utils=checks)


def test_without_a_compiler_pytorch_s_matmul_runs(monkeypatch, rebuilt) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert pack_weight(torch.ones(64, 64)).dim() == 2
    assert_exact(80, 24, 3)
