"""Compare every stage of a twin, and its emitted trainer, with the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from llamac.ir.execute import evaluate, logits, loss_and_local_gradients
from llamac.ir.program import Program
from llamac.ir.shards import Coordinates, canonical_gradients, rank_coordinates
from llamac.ir.verifier import VerificationError, verify
from llamac.passes.cache import Cache
from llamac.passes.differentiate import Differentiate
from llamac.passes.pass_list import NAMES, SavedSets, Stage, compile_inference, stages
from llamac.runtime.distributed import collectives
from llamac.runtime.distributed.collectives import take_part
from llamac.runtime.distributed.context_parallel import rank_order
from llamac.runtime.kernels.rope import rope_tables
from llamac.spec import Spec
from llamac.verify.emitted_model import run_emitted
from llamac.verify.generation import run_emitted_inference, run_inference
from llamac.verify.oracle import TOLERANCE, ModelOutput, Oracle, errors, make_oracle, relative_error
from llamac.verify.packed_parameters import packing_problem
from llamac.verify.simulated_ranks import run_on_ranks, sum_losses

EMITTED, INFERENCE = "model.py", "inference.py"

Emit = Callable[[Spec, Sequence[Stage]], Mapping[str, str]]
"""Function (spec, stages) → emitted files by relative path: `llamac.emit.build.files_of`."""


@dataclass(frozen=True)
class Verdict:
    """Comparison of one stage with the reference.

    stage: name of the pass whose Program was run, or of the emitted model.py or inference.py.
    errors: relative error of each output by name; gradients are named `d <parameter>`.
    problem: message of the error that prevented outputs, or "".
    """

    stage: str
    errors: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def worst(self) -> tuple[str, float]:
        """(name, error) of the output with the largest error; ("nothing", 0.0) without outputs."""
        return max(self.errors.items(), key=lambda item: item[1], default=("nothing", 0.0))

    @property
    def worst_gradient(self) -> tuple[str, float]:
        """(parameter, error) of the gradient with the largest error; ("none", 0.0) without any."""
        gradients = [(key, error) for key, error in self.errors.items() if key.startswith("d ")]
        name, error = max(gradients, key=lambda item: item[1], default=("d none", 0.0))
        return name.removeprefix("d "), error

    @property
    def failed(self) -> bool:
        """Return whether the stage has no outputs, or an error exceeds `TOLERANCE`."""
        return bool(self.problem) or not self.worst[1] <= TOLERANCE


def verdicts(twin: Spec, emit: Emit, fixed_sets: SavedSets = ()) -> Iterator[Verdict]:
    """Yield a verdict for each stage in order, then for model.py, the cache and inference.py.

    If a pass returns an invalid Program, its verdict is the last.

    emit: returns the emitted files of a spec.
    fixed_sets: saved sets that the memory budget of the original spec led to; () without one.
    """
    oracle = make_oracle(twin)
    compiled: list[Stage] = []
    try:
        for stage in stages(twin, fixed_sets=fixed_sets):
            compiled.append(stage)
            yield _verdict(stage.name, oracle, partial(run_program, stage.program))
    except VerificationError as error:  # the pass returned an invalid Program
        yield Verdict(NAMES[len(compiled)], problem=str(error))
        return
    mesh = compiled[-1].program.mesh
    files = emit(twin, compiled)
    yield _verdict(EMITTED, oracle, lambda oracle: run_emitted(files, oracle, mesh))
    inputs = oracle.weights, oracle.prompt
    yield _generation_verdict(
        Cache.name, oracle, lambda: run_inference(compile_inference(twin), *inputs)
    )
    yield _generation_verdict(INFERENCE, oracle, lambda: run_emitted_inference(files, *inputs))


def _generation_verdict(stage: str, oracle: Oracle, run: Callable[[], Tensor]) -> Verdict:
    """Compare the logits of a prompt processed with a key-value cache, as in generation."""

    def measure() -> Mapping[str, float]:
        assert oracle.outcome.logits is not None
        return {"logits": relative_error(run(), oracle.outcome.logits)}

    return _guarded(stage, measure)


def _verdict(stage: str, oracle: Oracle, run: Callable[[Oracle], ModelOutput]) -> Verdict:
    return _guarded(stage, lambda: errors(run(oracle), oracle.outcome))


def _guarded(stage: str, measure: Callable[[], Mapping[str, float]]) -> Verdict:
    try:
        return Verdict(stage, measure())
    except Exception as error:  # any exception is a finding: this stage cannot be run
        return Verdict(stage, problem=f"{type(error).__name__}: {error}")


def run_program(program: Program, oracle: Oracle) -> ModelOutput:
    """Return the outputs of any stage's Program in float64, differentiated first if needed.

    A Program with a mesh runs on all its ranks, simulated in this process. Raises ValueError if,
    without a mesh, the parameter table is wrong.
    """
    if program.regions["head"].backward is None:
        program = Differentiate().apply(program)
        verify(program)
    if not program.mesh and (problem := packing_problem(program, oracle.weights)):
        raise ValueError(problem)
    with torch.no_grad():
        ranks = run_on_ranks(
            program.mesh, collectives.GROUPS, lambda at: _run_rank(program, oracle, at)
        )
        return ModelOutput(
            loss=sum_losses([loss for loss, *_ in ranks], program.mesh),
            evaluated=sum_losses([evaluated for _, evaluated, *_ in ranks], program.mesh),
            logits=ranks[0][2],
            gradients=canonical_gradients(
                program,
                [
                    (at, gradients)
                    for at, (*_, gradients) in zip(
                        rank_coordinates(program.mesh), ranks, strict=True
                    )
                ],
            ),
        )


def _run_rank(
    program: Program, oracle: Oracle, at: Coordinates
) -> tuple[Tensor, Tensor, Tensor, Mapping[tuple[str, int | None], Tensor]]:
    """Return one rank's loss, evaluation loss, logits of the prompt, and local gradients."""
    length = oracle.tokens.shape[1]
    prompt = oracle.prompt
    if program.mesh:  # pad positions to divide over ranks; causal attention ignores later ones
        prompt = F.pad(prompt, (0, length - prompt.shape[1]))
    split = program.mesh.get("cp", 1)

    def mine(x: Tensor, dim: int) -> Tensor:
        return take_part(rank_order(x, dim, split), "cp", dim) if split > 1 else x

    def tables(positions: int) -> dict[str, Tensor]:
        return {name: mine(table, 0) for name, table in _tables(program, positions).items()}

    batch = (tables(length), mine(oracle.tokens, 1), mine(oracle.labels, 1))
    loss, gradients = loss_and_local_gradients(program, oracle.weights, *batch, at)
    evaluated = evaluate(program, oracle.weights, *batch, at)
    scores = logits(program, oracle.weights, tables(prompt.shape[1]), mine(prompt, 1), at)
    return loss, evaluated, scores[:, : oracle.prompt.shape[1]], gradients


def _tables(program: Program, positions: int) -> dict[str, Tensor]:
    """Return the constant tables in float64, for this many positions."""
    if not program.buffers:
        return {}
    arguments = dict(next(iter(program.buffers.values())).arguments)
    arguments |= {"positions": positions, "dtype": torch.float64}
    cos, sin = rope_tables(**arguments)  # type: ignore[arg-type]
    return {"rope_cos": cos, "rope_sin": sin}
