"""Any valid spec compiles, is verified, prints and parses, and computes what the reference does."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from llamac.emit.build import files_of
from llamac.ir.parser import parse_program
from llamac.ir.printer import print_program
from llamac.ir.program import Program
from llamac.ir.verifier import verify
from llamac.passes.pass_list import stages
from llamac.spec import Spec
from llamac.verify.emitted_model import run_emitted
from llamac.verify.oracle import TOLERANCE, ModelOutput, Oracle, errors, make_oracle
from llamac.verify.twin import shrink
from llamac.verify.verdicts import run_program, verdicts
from tests.properties.strategies import disabled, specs

pytestmark = pytest.mark.slow


def bounded(examples: int) -> Callable:
    """The same examples every time, so that a failure here is a failure for everyone."""
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def assert_agrees(found: ModelOutput, oracle: Oracle) -> None:
    wrong = {key: e for key, e in errors(found, oracle.outcome).items() if not e <= TOLERANCE}
    assert not wrong


@bounded(50)
@given(specs(), disabled)
def test_every_stage_matches_eager_and_survives_printing(spec: Spec, without: set[str]) -> None:
    oracle = make_oracle(spec)
    made = list(stages(spec, without))
    read: Program | None = None
    for stage in made:
        text = print_program(stage.program)
        read = parse_program(text)
        verify(read)
        assert print_program(read) == text
        assert_agrees(run_program(stage.program, oracle), oracle)
    assert read is not None
    assert_agrees(run_program(read, oracle), oracle)
    assert_agrees(run_emitted(files_of(spec, made), oracle, made[-1].program.mesh), oracle)


@bounded(15)
@given(specs())
def test_every_twin_is_verified(spec: Spec) -> None:
    twin = shrink(spec)
    assert not [verdict for verdict in verdicts(twin, files_of) if verdict.failed]


@bounded(25)
@given(specs(), disabled)
def test_the_same_spec_compiles_to_the_same_bytes(spec: Spec, without: set[str]) -> None:
    again = Spec.model_validate(tomllib.loads(spec.to_toml()))
    assert files_of(spec, stages(spec, without)) == files_of(again, stages(again, without))
