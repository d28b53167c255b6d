"""Sharded programs as text, under tests/sharding/golden/: to be read beside Megatron's figures.

`pytest tests/sharding/test_goldens.py --update-goldens` rewrites them; read the diff before
committing. That they compute the right thing is shown by their twins (test_layouts_of_ranks.py).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from torch import fx

from llamac.ir.graph import op_of, ops_in
from llamac.ir.parser import parse_program
from llamac.ir.printer import print_program
from llamac.ir.program import Program
from llamac.ir.verifier import verify
from llamac.passes.pipeline import compile_spec, stages
from llamac.spec import Spec
from tests.compare import shipped

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "65b-tp8": ("65b", "parallel.tensor=8"),
    "65b-tp8-no-sequence": ("65b", "parallel.tensor=8", "parallel.sequence=false"),
    # more ranks than key heads, a vocabulary that does not divide, positions shared as well
    "llama2-70b-tp16-cp2": (
        "llama2-70b",
        "parallel.tensor=16",
        "parallel.context=2",
        "model.vocab_size=32_003",
    ),
    "gpt3-block-tp4": ("gpt3-block", "parallel.tensor=4"),
}
SHOWN = ("context", "shard", "checkpoint")
every_case = pytest.mark.parametrize("case", CASES)


def spec_of(case: str) -> Spec:
    name, *overrides = CASES[case]
    return shipped(name, "model.n_layers=2", *overrides)


@every_case
def test_the_compiler_writes_the_golden(case: str, update_goldens: bool) -> None:
    directory = GOLDEN / case
    wanted, last = {}, None
    for number, stage in enumerate(stages(spec_of(case)), 1):
        if stage.name in SHOWN and stage.program is not last:
            wanted[f"{number:02d}-{stage.name}.ir"] = print_program(stage.program)
        last = stage.program
    if update_goldens:
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            path.unlink()
        for name, text in wanted.items():
            (directory / name).write_text(text, encoding="utf-8")
    found = {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}
    assert found == wanted, "if this is what you meant: --update-goldens, and read the diff"
    for text in found.values():
        program = parse_program(text)
        verify(program)
        assert print_program(program) == text


def test_no_golden_is_stale() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)


def collectives(graph: fx.Graph) -> Counter[str]:
    names = (op_of(node).name for node in ops_in(graph))
    return Counter(name for name in names if name in COLLECTIVES)


COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce")


def layer(*overrides: str) -> tuple[Counter[str], Counter[str]]:
    """The collectives of a layer's forward and of its backward."""
    program = compile_spec(shipped("65b", "model.n_layers=2", "parallel.tensor=8", *overrides))
    block = program.regions["block"]
    assert block.backward is not None
    return collectives(block.forward.graph), collectives(block.backward.graph)


def test_a_layer_has_the_collectives_of_sequence_parallelism() -> None:
    """Korthikanti et al. 2022, fig. 5: g and its conjugate twice each way; and what a column-
    parallel linear read is gathered again for its weight's gradient, rather than kept."""
    forward, backward = layer()
    assert forward == {"all_gather": 2, "reduce_scatter": 2}
    assert backward == {"all_gather": 2 + 2, "reduce_scatter": 2}


def test_keeping_everything_gathers_nothing_again() -> None:
    _, backward = layer('activation.checkpoint="none"')
    assert backward == {"all_gather": 2, "reduce_scatter": 2}


def test_recomputing_everything_repeats_the_forward() -> None:
    _, backward = layer('activation.checkpoint="full"')
    assert backward == {"all_gather": 2 + 2, "reduce_scatter": 2 + 1}  # the last is not needed


def test_a_layer_has_the_collectives_of_tensor_parallelism() -> None:
    """Shoeybi et al. 2019, fig. 4: two all-reduces each way."""
    forward, backward = layer("parallel.sequence=false")
    assert forward == {"all_reduce": 2}
    assert backward == {"all_reduce": 2}


def test_gains_await_their_sum_over_the_ranks_that_share_positions() -> None:
    def awaiting(program: Program) -> set[str]:
        return {name for name, p in program.parameters.items() if "tp" in program.summed(p)}

    gains = {"norm", "layers.*.attention_norm", "layers.*.ffn_norm"}
    assert awaiting(compile_spec(spec_of("65b-tp8"))) == gains
    assert awaiting(compile_spec(spec_of("65b-tp8-no-sequence"))) == set()
    biases = {
        f"layers.*.{name}_bias"
        for name in ("attention_norm", "attention.wo", "ffn_norm", "feed_forward.w2")
    }
    found = awaiting(compile_spec(spec_of("gpt3-block-tp4")))
    assert found == {*gains, *biases, "norm_bias", "pos_embeddings"}
