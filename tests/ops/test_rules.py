"""Each op's rules agree with each other: types, eager results, gradients, emitted source, FLOPs."""

from __future__ import annotations

import importlib
from functools import reduce
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import llamac.ops  # noqa: F401
from llamac.emit.functions import forward_source, functions_used
from llamac.ir.execute import run_graph
from llamac.ir.graph import Builder, output_of, placeholders
from llamac.ir.op import OPS
from llamac.ir.program import Region
from llamac.ir.types import DTYPES, TensorType, TypeRuleError
from llamac.passes.differentiate import augment, differentiate
from tests.compare import assert_close
from tests.ops.examples import (
    EXAMPLES,
    FORMULA,
    REFUSED,
    SIZES,
    TAKES_ANYTHING,
    Example,
    concrete,
)

# What one process can run; collectives are tested between ranks: tests/runtime/distributed/.
LOCAL = {name: op for name, op in OPS.items() if op.dims is not None}

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=str)


def test_every_op_has_an_example() -> None:
    assert {example.op for example in EXAMPLES} == set(LOCAL)


def test_every_op_with_a_gradient_has_a_formula() -> None:
    assert set(FORMULA) == {name for name, op in LOCAL.items() if op.vjp or op.augmented}


def test_every_forward_op_refuses_something() -> None:
    forward = {name for name, op in LOCAL.items() if op.vjp} - TAKES_ANYTHING
    plain = {name for name in forward if "with_gradients" not in name}
    assert plain <= {example.op for example, _ in REFUSED}


def several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


# -- types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
@every_example
def test_inferred_types_are_those_of_the_eager_result(example: Example, dtype: str) -> None:
    kinds = several(example.the_op.infer(*example.types(dtype), **example.attributes))
    values = several(example.the_op(*example.tensors(dtype), **example.attributes))
    for kind, value in zip(kinds, values, strict=True):
        assert (tuple(value.shape), value.dtype) == (concrete(kind), DTYPES[kind.dtype])


@pytest.mark.parametrize(
    ("example", "words"), REFUSED, ids=[f"{example}-{n}" for n, (example, _) in enumerate(REFUSED)]
)
def test_wrong_operands_are_refused_in_words(example: Example, words: str) -> None:
    with pytest.raises(TypeRuleError, match=words):
        example.the_op.infer(*example.types("f64"), **example.attributes)


def test_a_refusal_in_a_graph_shows_the_operands() -> None:
    build = Builder()
    x = build.placeholder("x", TensorType("f32", ("B", "S", 8)))
    y = build.placeholder("y", TensorType("f32", ("B", "S", 4)))
    with pytest.raises(TypeRuleError, match=r"^add\(f32\[B,S,8\], f32\[B,S,4\]\): .* differ$"):
        build.op(OPS["add"], x, y)


# -- one op as a region ----------------------------------------------------------------------------


def region_of(example: Example, *picked: int, dtype: str = "f64") -> Region:
    """A region of one op that returns the result picked, or the product of those picked."""
    build = Builder()
    operands = []
    for index, kind in enumerate(example.types(dtype)):
        role = "constant" if example.op == "rope" and index > 0 else "input"
        operands.append(kind and build.placeholder(f"operand_{index}", kind, role))
    kinds = example.the_op.infer(*example.types(dtype), **example.attributes)
    names = tuple(f"result_{n}" for n in range(len(several(kinds))))
    name = names if isinstance(kinds, tuple) else names[0]
    results = several(build.op(example.the_op, *operands, name=name, **example.attributes))
    product = reduce(lambda x, y: build.op(OPS["mul"], x, y), [results[i] for i in picked])
    return Region("block", build.output(product))


def named(tensors: list[Tensor | None]) -> dict[str, Tensor]:
    return {f"operand_{n}": tensor for n, tensor in enumerate(tensors) if tensor is not None}


# -- values and gradients --------------------------------------------------------------------------


def differentiable_results(example: Example) -> list[tuple[int, ...]]:
    """Which results to send gradients through, at once."""
    if example.op.startswith(("attention", "linear_cross_entropy", "linear_log_probability")):
        return [(0,)]  # the others are for its own backward pass
    kinds = several(example.the_op.infer(*example.types("f64"), **example.attributes))
    together = tuple(range(len(kinds)))
    return [together, (1,)] if example.op == "add_rms_norm" else [together]


GRADIENTS = [
    (example, picked)
    for example in EXAMPLES
    if example.op in FORMULA
    for picked in differentiable_results(example)
]


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.op in FORMULA], ids=str)
def test_the_eager_result_is_the_formula_s(example: Example) -> None:
    tensors = example.tensors("f64")
    found = several(example.the_op(*tensors, **example.attributes))
    wanted = several(FORMULA[example.op](*tensors, **example.attributes))
    for one, other in zip(found, wanted, strict=False):  # the formula may know only the first
        assert_close(one, other, str(example))


@pytest.mark.parametrize(("example", "picked"), GRADIENTS, ids=str)
def test_the_vjp_rule_is_the_formula_s_derivative(
    example: Example, picked: tuple[int, ...]
) -> None:
    region = differentiate(augment(region_of(example, *picked)))
    assert region.backward is not None
    tensors = named(example.tensors("f64"))
    forward = run_graph(region.forward.graph, tensors)
    out = forward[output_of(region.forward.graph).name]

    leaves = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in tensors.items()}
    results = several(FORMULA[example.op](*leaves.values(), **example.attributes))
    wanted = reduce(torch.mul, [results[i] for i in picked])
    assert_close(out, wanted.detach(), "the value")

    cotangent = torch.randn_like(out)
    wanted.backward(cotangent)
    (seed,) = placeholders(region.backward.graph, "cotangent")
    backward = run_graph(region.backward.graph, {**tensors, **forward, seed.name: cotangent})
    gradients = output_of(region.backward.graph)
    assert gradients, "something is owed a gradient"
    for name, node in gradients.items():
        if example.op.endswith("_of_x") and name != "operand_0":
            assert node is None, "it takes the place of the plain op where the weight is frozen"
            continue
        grad = leaves[name].grad
        assert grad is not None
        assert_close(backward[node.name], grad, f"the gradient of {name}")


# -- source ----------------------------------------------------------------------------------------


@every_example
def test_the_emitted_expression_computes_the_eager_result(example: Example) -> None:
    tensors = example.tensors("f64")
    wanted = several(example.the_op(*tensors, **example.attributes))
    for index, value in enumerate(wanted):
        region = region_of(example, index)
        scope: dict[str, Any] = {"torch": torch, "F": F, "Tensor": Tensor}
        for module, function in functions_used(region):
            scope[function] = getattr(importlib.import_module(f"llamac.runtime.{module}"), function)
        exec(forward_source(region), scope)
        found = scope["block_forward"](**named(tensors))
        assert torch.equal(found, value), str(example)


# -- FLOPs -----------------------------------------------------------------------------------------

COUNTED = [
    example
    for example in EXAMPLES
    if example.op.startswith(("linear", "add_linear", "packed_linear", "attention"))
    and example.attributes.get("kernel") != "sdpa"
]


@pytest.mark.parametrize("example", COUNTED, ids=str)
def test_flops_are_those_torch_counts(example: Example) -> None:
    tensors = example.tensors("f64")
    shapes = [tuple(tensor.shape) for tensor in tensors if tensor is not None]
    with FlopCounterMode(display=False) as counter:
        example.the_op(*tensors, **example.attributes)
    counted = counter.get_total_flops()
    if example.op.startswith("attention"):
        counted /= 2  # written out, attention computes the future's half too and masks it
    if window := example.attributes.get("window"):  # of a causal triangle, less what it hides
        counted *= 1 - (1 - window / SIZES["S"]) ** 2
    assert example.the_op.flops(*shapes, **example.attributes) == pytest.approx(counted, rel=1e-12)


def test_ops_without_matmuls_count_no_flops() -> None:
    fused = {OPS["cached_attention"]}  # of which torch counts nothing on a CPU
    for op in set(LOCAL.values()) - {example.the_op for example in COUNTED} - fused:
        example = next(example for example in EXAMPLES if example.the_op is op)
        with FlopCounterMode(display=False) as counter:
            op(*example.tensors("f64"), **example.attributes)
        assert counter.get_total_flops() == op.flops() == 0
