"""The pipeline, and what lower makes of the shipped specs."""

from __future__ import annotations

import pytest

from llamac.ir.printer import print_program
from llamac.ir.program import Program
from llamac.passes.lower import Lower
from llamac.passes.pass_list import NAMES, OPTIONAL, compile_spec, stages
from tests.compare import SHIPPED, assert_matches, oracle, shipped, shrunk

PARAMETERS = {
    "7b": 6_738_415_616,
    "13b": 13_015_864_320,
    "33b": 32_528_943_616,
    "65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters_are_counted_exactly_at_every_stage(name: str, count: int) -> None:
    for stage in stages(shipped(name)):
        assert stage.program.parameter_count == count, stage.name


def test_passes_run_in_the_order_of_their_names() -> None:
    assert tuple(stage.name for stage in stages(shrunk("tiny"))) == NAMES


@pytest.mark.parametrize("last", NAMES)
def test_it_stops_after_the_pass_named(last: str) -> None:
    names = [stage.name for stage in stages(shrunk("tiny"), stop_after=last)]
    assert names == list(NAMES[: NAMES.index(last) + 1])


@pytest.mark.parametrize("disabled", [{"pack"}, {"fuse"}, set(OPTIONAL)], ids=sorted)
@pytest.mark.parametrize("name", ["tiny", "llama2-70b", "gpt3-block", "post-norm"])
def test_without_the_optional_passes_the_result_is_the_same(name: str, disabled: set[str]) -> None:
    spec = shrunk(name)
    found = list(stages(spec, disable=disabled))
    assert [stage.name for stage in found] == [name for name in NAMES if name not in disabled]
    assert_matches(found[-1].program, oracle(spec))


def test_a_stage_is_left_as_it_was_by_those_after_it() -> None:
    spec = shrunk("tiny")
    kept, shown = [], []
    for stage in stages(spec):
        kept.append(stage.program)
        shown.append(print_program(stage.program))
    assert [print_program(program) for program in kept] == shown


def test_the_same_spec_gives_the_same_text() -> None:
    one, other = (print_program(compile_spec(shipped("65b"))) for _ in range(2))
    assert one == other


def nodes(program: Program) -> dict[str, int]:
    return {
        f"{region.name}.{direction}": len(module.graph.nodes)
        for region in program.regions.values()
        for direction, module in (("forward", region.forward), ("backward", region.backward))
        if module is not None
    }


def test_work_does_not_grow_with_layers() -> None:
    few, many = (list(stages(shipped("65b", f"model.n_layers={layers}"))) for layers in (2, 80))
    for one, other in zip(few, many, strict=True):
        assert nodes(one.program) == nodes(other.program)
        assert len(one.program.parameters) == len(other.program.parameters)


@pytest.mark.parametrize("name", SHIPPED)
def test_lower_speaks_in_the_paper_s_terms(name: str) -> None:
    program = Lower().apply(shipped(name))
    assert set(program.regions) == {"embed", "block", "head", "logits"}
    assert program.layers == ("block",) * shipped(name).model.n_layers
    assert all(not parameter.packed for parameter in program.parameters.values())
    assert all(region.backward is None for region in program.regions.values())


def test_residual_outputs_start_smaller_the_deeper_the_model() -> None:
    program = Lower().apply(shipped("7b", "model.n_layers=8", "model.init_std=0.04"))
    for name, std in (("attention.wo", 0.01), ("feed_forward.w2", 0.01), ("attention.wq", 0.04)):
        (piece,) = program.parameters[f"layers.*.{name}"].pieces
        assert (piece.init.kind, piece.init.std) == ("normal", std)
