"""overlap: what runs beside what, in which order, in how much memory, and that it is the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from llamac.emit.functions import backward_source, functions_used
from llamac.ir.execute import run_graph
from llamac.ir.graph import Builder, op_of, ops_in, output_of, placeholders, type_of
from llamac.ir.op import Op
from llamac.ir.parser import parse_program
from llamac.ir.printer import print_program
from llamac.ir.program import Program, Region
from llamac.ir.shards import rank_coordinates
from llamac.ir.types import TensorType
from llamac.ir.values import operands_of
from llamac.ir.verifier import verify
from llamac.ops.async_collectives import is_start, is_wait
from llamac.ops.collectives import all_gather, all_reduce, reduce_scatter
from llamac.ops.elementwise import add
from llamac.ops.linear import linear
from llamac.passes.analysis.liveness import peak_bytes
from llamac.passes.analysis.timing import TimingModel, timeline
from llamac.passes.overlap import LOCAL, Overlap
from llamac.passes.pass_list import compile_spec, stages
from llamac.runtime.distributed import collectives
from llamac.spec import load_spec
from llamac.verify.oracle import TOLERANCE, errors, make_oracle
from llamac.verify.simulated_ranks import run_on_ranks
from llamac.verify.twin import shrink
from llamac.verify.verdicts import run_program
from tests.compare import SHIPPED, shipped
from tests.passes.programs import program, same, text

LAYOUTS = {
    "sequence": ("parallel.tensor=2",),
    "tensor alone": ("parallel.tensor=2", "parallel.sequence=false"),
    "context": ("parallel.context=2",),
    "both": ("parallel.tensor=2", "parallel.context=2"),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@cache
def checkpointed(name: str, layout: str, *overrides: str) -> Program:
    spec = shipped(name, *LAYOUTS[layout], *overrides)
    *_, last = stages(spec, stop_after="checkpoint")
    return last.program


def lines(module: fx.GraphModule | None) -> list[str]:
    """The names of a graph's values, each behind its op."""
    assert module is not None
    return [f"{op_of(node).name} {node.name}" for node in ops_in(module.graph)]


def between(module: fx.GraphModule | None, name: str) -> list[str]:
    """The ops between a collective's start and its wait."""
    shown = lines(module)
    begin = next(i for i, line in enumerate(shown) if line.endswith(f"_start {name}_started"))
    end = next(i for i, line in enumerate(shown) if line.endswith(f"_wait {name}"))
    return shown[begin + 1 : end]


def kinds(module: fx.GraphModule, axis: str) -> list[str]:
    """The collectives of one axis in order of their starts, by the name of the result."""
    return [
        node.name.removesuffix("_started")
        for node in ops_in(module.graph)
        if node.kwargs.get("axis") == axis and not is_wait(node) and op_of(node) not in LOCAL
    ]


def modules(of: Program) -> list[tuple[str, fx.GraphModule, tuple[str, ...]]]:
    """(name, graph, what outlives it) of every graph."""
    return [
        (f"{region.name}.{direction}", module, kept)
        for region in of.regions.values()
        for direction, module, kept in (
            ("forward", region.forward, region.saved),
            ("backward", region.backward, ()),
        )
        if module is not None
    ]


# -- what it does to a layer -----------------------------------------------------------------------


def test_weight_gradients_run_while_input_gradients_are_summed() -> None:
    block = Overlap().apply(checkpointed("65b", "sequence")).regions["block"]
    assert "linear_weight_gradient d_w2" in between(block.backward, "d_ffn_in")
    assert "linear_weight_gradient d_wo" in between(block.backward, "d_attn_in")
    shown = lines(block.backward)
    for dgrad, wgrad in (("d_ffn_in_gathered", "d_w13"), ("d_attn_in_gathered", "d_wqkv")):
        first = shown.index(f"linear_input_gradient {dgrad}")
        assert first < shown.index(f"linear_weight_gradient {wgrad}")


def test_without_sequence_parallelism_they_run_under_the_all_reduce() -> None:
    block = Overlap().apply(checkpointed("65b", "tensor alone")).regions["block"]
    for name in ("d_ffn_in", "d_attn_in"):
        assert f"all_reduce_start {name}_started" in lines(block.backward)
        assert [one for one in between(block.backward, name) if "weight_gradient" in one], name


def test_what_recompute_gathers_again_is_gathered_under_other_work() -> None:
    block = Overlap().apply(checkpointed("65b", "sequence")).regions["block"]
    for name in ("ffn_in_gathered", "attn_in_gathered"):
        assert any("gradient" in line for line in between(block.backward, name)), name


def test_most_of_the_backward_s_communication_is_hidden() -> None:
    """By the estimate, of the paper's 65B model on 8 ranks."""
    before = compile_before("65b", 8)
    after = Overlap().apply(before)
    timing = TimingModel(before.symbols, before.mesh)
    old, new = (
        timeline(ops_in(one.regions["block"].backward.graph), timing)  # type: ignore[union-attr]
        for one in (before, after)
    )
    assert old.exposed == pytest.approx(old.communication)
    assert new.communication == pytest.approx(old.communication)
    assert new.exposed < 0.25 * old.exposed
    assert new.seconds == pytest.approx(old.seconds - (old.exposed - new.exposed))


def compile_before(name: str, tensor: int) -> Program:
    *_, last = stages(load_spec(name, [f"parallel.tensor={tensor}"]), stop_after="checkpoint")
    return last.program


def test_a_chain_with_nothing_beside_it_stays_whole() -> None:
    before = checkpointed("65b", "sequence")
    after = Overlap().apply(before)
    for name in ("embed", "block", "evaluate"):
        assert after.regions[name].forward is before.regions[name].forward


@pytest.mark.parametrize("name", SHIPPED)
def test_a_program_of_one_rank_is_left_alone(name: str) -> None:
    given = compile_spec(shipped(name))
    assert Overlap().apply(given) is given


def test_it_can_be_turned_off() -> None:
    given = checkpointed("65b", "sequence")
    assert Overlap(enabled=False).apply(given) is given


CHAINS = """
    block.forward:
      input %x: f32[B,S/tp,8]@tp:S(1)
      input %y: f32[B,S,8]
      param w as %w: f32[8,8]
      %product: f32[B,S,8] = linear(%y, w)
      %gathered: f32[B,S,8] = all_gather(%x, axis='tp', dim=1, size=2)
      %out: f32[B,S,8] = add(%product, %gathered)
      return %out
    """
HEADER = """\
    mesh tp=2
    parameter w: f32[8,8] = normal(0.1)
    """


def two_chains() -> Program:
    return program(CHAINS, HEADER.replace("mesh", "symbols B=2 S=4 S/tp=2\n    mesh"))


def test_it_starts_at_once_and_waits_for_its_reader() -> None:
    same(
        text(Overlap().apply(two_chains())),
        """
        block.forward:
          input %x: f32[B,S/tp,8]@tp:S(1)
          input %y: f32[B,S,8]
          param w as %w: f32[8,8]
          %gathered_started: f32[B,S,8] = all_gather_start(%x, axis='tp', dim=1, size=2)
          %product: f32[B,S,8] = linear(%y, w)
          %gathered: f32[B,S,8] = all_gather_wait(%gathered_started, axis='tp', dim=1)
          %out: f32[B,S,8] = add(%product, %gathered)
          return %out
        """,
    )


# -- what it must not change -----------------------------------------------------------------------


@pytest.mark.slow
@every_layout
@pytest.mark.parametrize("name", ["65b", "gpt3-block", "llama2-70b"])
def test_every_graph_keeps_its_order_its_bound_and_its_text(name: str, layout: str) -> None:
    before = checkpointed(name, layout)
    after = Overlap().apply(before)
    verify(after)
    shown = print_program(after)
    assert print_program(parse_program(shown)) == shown
    assert print_program(Overlap().apply(before)) == shown
    for (where, old, kept), (_, new, _) in zip(modules(before), modules(after), strict=True):
        assert_sound(old, new, kept, before, where)


def assert_sound(
    old: fx.GraphModule, new: fx.GraphModule, kept: tuple[str, ...], of: Program, where: str
) -> None:
    """Turns kept on every axis, first in, first out; no slower; memory within the bound."""
    timing = TimingModel(of.symbols, of.mesh)
    for axis in of.mesh:
        assert kinds(new, axis) == kinds(old, axis), where
        begun = [n for n in ops_in(new.graph) if is_start(n) and n.kwargs["axis"] == axis]
        ended = [n for n in ops_in(new.graph) if is_wait(n) and n.kwargs["axis"] == axis]
        assert [operands_of(wait)[0] for wait in ended] == begun, where
    assert (
        timeline(ops_in(new.graph), timing).seconds <= timeline(ops_in(old.graph), timing).seconds
    )
    moved = [
        type_of(node).nbytes(of.symbols) + type_of(operands_of(node)[0]).nbytes(of.symbols)
        for node in ops_in(old.graph)
        if op_of(node) in (all_gather, reduce_scatter, all_reduce)
    ]
    bound = peak_bytes(old.graph, kept, of.symbols) + 3 * max(moved, default=0)
    assert peak_bytes(new.graph, kept, of.symbols) <= bound, where


@pytest.mark.slow
@every_layout
@pytest.mark.parametrize("policy", ["none", "selective", "full"])
def test_ranks_compute_what_the_reference_does(layout: str, policy: str) -> None:
    chosen = (*LAYOUTS[layout], f"recompute.policy={policy}")
    spec = shrink(shipped("65b", *chosen))
    *_, last = stages(spec, stop_after="checkpoint")
    after = Overlap().apply(last.program)
    assert after is not last.program
    verify(after)
    oracle = make_oracle(spec)
    worst = max(errors(run_program(after, oracle), oracle.outcome).values())
    assert worst <= TOLERANCE


def test_a_region_of_no_headroom_does_not_grow() -> None:
    before = checkpointed("65b", "sequence")
    after = Overlap(headroom=0).apply(before)
    for (where, old, kept), (_, new, _) in zip(modules(before), modules(after), strict=True):
        peaks = [peak_bytes(module.graph, kept, before.symbols) for module in (old, new)]
        assert peaks[1] <= peaks[0], where
    assert after is not before, "there is something to gain even so"


# -- memory ----------------------------------------------------------------------------------------


def test_the_peak_counts_what_is_alive_at_once() -> None:
    given = two_chains()
    graph = given.regions["block"].forward.graph
    part, whole = 2 * 2 * 8 * 4, 2 * 4 * 8 * 4
    # the inputs, which the caller holds, the product, what was gathered, and their sum
    assert peak_bytes(graph, (), given.symbols) == part + whole + 3 * whole


def test_a_transfer_holds_what_it_reads_until_the_wait() -> None:
    sent = """
    block.forward:
      input %x: f32[B,S/tp,8]@tp:S(1)
      input %y: f32[B,S,8]
      %double: f32[B,S/tp,8]@tp:S(1) = add(%x, %x)
      %gathered_started: f32[B,S,8] = all_gather_start(%double, axis='tp', dim=1, size=2)
      %other: f32[B,S,8] = add(%y, %y)
      %gathered: f32[B,S,8] = all_gather_wait(%gathered_started, axis='tp', dim=1)
      %out: f32[B,S,8] = add(%gathered, %other)
      return %out
    """
    given = program(sent, "symbols B=2 S=4 S/tp=2\n    mesh tp=2\n")
    graph = given.regions["block"].forward.graph
    part, whole = 2 * 2 * 8 * 4, 2 * 4 * 8 * 4
    order = list(ops_in(graph))
    assert peak_bytes(graph, (), given.symbols, order[:3]) == part + whole + part + 2 * whole


# -- the emitted code ------------------------------------------------------------------------------


def test_it_reads_well() -> None:
    block = Overlap().apply(checkpointed("65b", "sequence")).regions["block"]
    source = backward_source(block).replace('"', "'")
    assert "d_ffn_in_started = reduce_scatter_start(d_ffn_in_gathered, 'tp', dim=1)" in source
    assert "d_ffn_in = reduce_scatter_wait(d_ffn_in_started, 'tp', dim=1)" in source
    assert ("distributed.collectives", "reduce_scatter_start") in set(functions_used(block))
    assert ("distributed.collectives", "all_gather_wait") in set(functions_used(block))


# -- random graphs ---------------------------------------------------------------------------------

R = TensorType("f32", ("B", "S", 8))
P = R.with_placement("tp", "P")
PART = TensorType("f32", ("B", "S/tp", 8)).with_placement("tp", "S(1)")
SIZES = {"B": 2, "S": 4, "S/tp": 2, "S/cp": 2}


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A region of adds, linears and collectives over two axes, in whatever order they may have."""
    build = Builder()
    values = [
        build.placeholder("r", R),
        build.placeholder("p", P),
        build.placeholder("part", PART),
        build.placeholder("q", R.with_placement("cp", "P")),
    ]
    weight = build.placeholder("w", TensorType("f32", (8, 8)), "param", param="w")
    options: dict[str, Any] = {"axis": "tp", "dim": 1, "size": 2}
    for _ in range(draw(st.integers(1, 25))):
        x = draw(st.sampled_from(values))
        kind = type_of(x)
        moves: list[tuple[Op, dict[str, Any]]] = [(add, {})]
        if kind == R:
            moves.append((linear, {}))
        if kind == PART:
            moves += 2 * [(all_gather, options)]
        if kind == P:
            moves += [(reduce_scatter, options), (all_reduce, {"axis": "tp"})]
        if kind.placement("cp") == "P":
            moves.append((all_reduce, {"axis": "cp"}))
        op, given = draw(st.sampled_from(moves))
        if op is add:
            other = draw(st.sampled_from([v for v in values if type_of(v) == kind]))
            values.append(build.op(add, x, other))
        else:
            values.append(build.op(op, x, *([weight] if op is linear else []), **given))
    unread = [v for v in values if not v.users and v.op != "placeholder"]
    module = build.output({v.name: v for v in unread})  # every value that nobody reads
    region = Region("block", module)
    return replace(two_chains(), symbols=SIZES, mesh={"tp": 2, "cp": 2}, regions={"block": region})


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(programs())
def test_random_graphs_keep_their_turns_and_their_values(of: Program) -> None:
    old = of.regions["block"].forward
    new = Overlap().apply(of).regions["block"].forward
    assert_sound(old, new, (), of, "random")
    torch.manual_seed(0)
    shapes = {node: type_of(node) for node in placeholders(old.graph)}
    values = [
        {
            node.name: torch.randn(
                [SIZES[d] if isinstance(d, str) else d for d in kind.shape],
                dtype=torch.float64,
            )
            for node, kind in shapes.items()
        }
        for _ in rank_coordinates(of.mesh)
    ]

    def run(module: fx.GraphModule) -> list[list[torch.Tensor]]:
        def rank(at: dict[str, int]) -> list[torch.Tensor]:
            env = run_graph(module.graph, values[2 * at["tp"] + at["cp"]])
            return [env[node.name] for node in output_of(module.graph).values()]

        return run_on_ranks(of.mesh, collectives.GROUPS, rank)

    for was, became in zip(run(old), run(new), strict=True):
        assert all(map(torch.equal, was, became))
