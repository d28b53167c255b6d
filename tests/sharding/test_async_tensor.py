"""Collectives that join the matmul before or after them: the same numbers, and none left alone."""

from __future__ import annotations

from collections import Counter

import pytest
from torch import fx

from llamac.emit.build import files_of
from llamac.emit.model import render_model
from llamac.ir.graph import op_of, ops_in
from llamac.ir.parser import parse_program
from llamac.ir.printer import print_program
from llamac.ir.program import Region
from llamac.passes.analysis.timing import TimingModel, timeline
from llamac.passes.pass_list import compile_spec, stages
from llamac.verify.twin import shrink
from llamac.verify.verdicts import verdicts
from tests.compare import shipped

ASYNC = ("parallel.tensor=4", "parallel.async_tensor=true")
NAMES = (
    "gather_linear",
    "gather_input_gradient",
    "linear_scatter",
    "input_gradient_scatter",
    "all_gather",
    "reduce_scatter",
)


def block(*overrides: str) -> Region:
    return compile_spec(shipped("65b", "model.n_layers=2", *ASYNC, *overrides)).regions["block"]


def counts(graph: fx.Graph) -> Counter[str]:
    names = (op_of(node).name.removesuffix("_start") for node in ops_in(graph))
    return Counter(name for name in names if name in NAMES)


def test_every_collective_of_a_layer_that_a_matmul_can_hide_is_joined_to_it() -> None:
    region = block()
    assert region.backward is not None
    assert counts(region.forward.graph) == {"gather_linear": 2, "linear_scatter": 2}
    assert counts(region.backward.graph) == {
        "gather_input_gradient": 2,
        "input_gradient_scatter": 2,
        "all_gather": 2,  # of what recompute has again, for the weights' gradients
    }


def test_of_several_readers_one_matmul_joins() -> None:
    """Unpacked, wq, wk and wv read one gathered value; their inputs' gradients are one sum."""
    made = {stage.name: stage for stage in stages(shipped("tiny", *ASYNC), disable=("pack",))}
    forward = counts(made["async_tensor"].program.regions["block"].forward.graph)
    assert forward == {"gather_linear": 2, "linear_scatter": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("recompute.policy=full",),
        ("recompute.policy=none", "parallel.context=2"),
        ("model.bias=true", "parallel.overlap=false"),
    ],
    ids=str,
)
def test_it_computes_what_one_rank_does(overrides: tuple[str, ...]) -> None:
    twin = shrink(shipped("tiny", *ASYNC, *overrides))
    assert twin.parallel.async_tensor
    failed = [verdict for verdict in verdicts(twin, files_of) if verdict.failed]
    assert not failed


def test_it_is_read_back_and_emitted() -> None:
    program = compile_spec(shipped("65b", "model.n_layers=2", *ASYNC))
    text = print_program(program)
    assert print_program(parse_program(text)) == text
    emitted = render_model(program)
    assert '_, qkv = gather_linear(attn_in, wqkv, "tp")' in emitted
    assert 'attn_out = linear_scatter(merged, wo, "tp")' in emitted


def test_the_estimate_hides_what_is_transferred_under_the_matmul() -> None:
    plain = compile_spec(shipped("65b", "model.n_layers=2", "parallel.tensor=4"))
    joined = compile_spec(shipped("65b", "model.n_layers=2", *ASYNC))
    timing = TimingModel(plain.symbols, plain.mesh)
    before, after = (
        timeline(ops_in(program.regions["block"].forward.graph), timing)
        for program in (plain, joined)
    )
    assert before.exposed > 0
    assert after.exposed == 0
    assert after.seconds < before.seconds
