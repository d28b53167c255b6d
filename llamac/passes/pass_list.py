"""The pipeline: all passes, in order, with the verifier after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llamac.ir.program import Program
from llamac.ir.verifier import verify
from llamac.passes.activation_checkpoint import ActivationCheckpoint
from llamac.passes.async_tensor import AsyncTensor
from llamac.passes.budget import Budget, FixedSavedSets, Limit
from llamac.passes.cache import Cache
from llamac.passes.context import Context
from llamac.passes.cut import Cut
from llamac.passes.differentiate import Differentiate
from llamac.passes.fuse import Fuse
from llamac.passes.lower import Lower
from llamac.passes.overlap import Overlap
from llamac.passes.pack import Pack
from llamac.passes.select_kernels import SelectKernels
from llamac.passes.shard import Shard
from llamac.spec.parallel import WHOLE
from llamac.spec.rules.attention_kernels import context_chunks
from llamac.spec.rules.cuda_graphs import cuda_graph_objections

if TYPE_CHECKING:
    from llamac.spec import Spec


class Pass(Protocol):
    """Interface of a pass: a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str:
        """Name of the pass in commands and in the names of IR files."""
        ...

    def apply(self, program: Program) -> Program:
        """Return the rewritten Program without changing the given one."""
        ...


SavedSets = tuple[tuple[str, ...], ...]
"""Names of the values that each variant of a layer saves: one or two variants, or () for none."""


@dataclass(frozen=True)
class Row:
    """Entry of `ROWS`: a pass and how it is built from a spec.

    kind: class of the pass.
    make: builds the pass from the spec and, for `checkpoint`, the fixed saved sets of `stages`.
    optional: whether `--disable` may remove the pass.
    """

    kind: type[Any]
    make: Callable[[Spec, SavedSets], Pass]
    optional: bool = False


ROWS = (
    Row(Pack, lambda spec, _: Pack(), optional=True),
    Row(Fuse, lambda spec, _: Fuse(loss_chunk=spec.kernels.loss_chunk), optional=True),
    Row(SelectKernels, lambda spec, _: _select_kernels(spec)),
    Row(Context, lambda spec, _: Context(ranks=spec.parallel.context)),
    Row(Shard, lambda spec, _: Shard(spec.parallel.tensor, spec.parallel.sequence)),
    Row(Differentiate, lambda spec, _: Differentiate()),
    Row(ActivationCheckpoint, lambda spec, fixed_sets: _checkpoint(spec, fixed_sets)),
    Row(Cut, lambda spec, _: Cut(stages=spec.parallel.stages)),
    Row(AsyncTensor, lambda spec, _: AsyncTensor(enabled=spec.parallel.async_tensor)),
    Row(Overlap, lambda spec, _: Overlap(enabled=spec.parallel.overlap)),
)
"""The passes after `lower`, in order."""

OPTIONAL = tuple(row.kind.name for row in ROWS if row.optional)
"""Names of the passes that `--disable` may remove."""

NAMES = (Lower.name, *(row.kind.name for row in ROWS))
"""Names of all passes, `lower` included, in order."""


def passes_for(spec: Spec, fixed_sets: SavedSets = ()) -> tuple[Pass, ...]:
    """Return the passes after `lower`, with the spec's options. fixed_sets: as for `stages`."""
    return tuple(row.make(spec, fixed_sets) for row in ROWS)


def _select_kernels(spec: Spec) -> Pass:
    return SelectKernels(
        attention=spec.kernels.attention,
        device=spec.hardware.kernels_for,
        chunks=context_chunks(spec.parallel),
        hopper=spec.hardware.hopper,
        deterministic=spec.kernels.deterministic,
        no_graphs=tuple(
            cuda_graph_objections(spec.kernels, spec.hardware, spec.parallel, spec.finetune)
        ),
    )


def _checkpoint(spec: Spec, fixed_sets: SavedSets) -> Pass:
    recompute, parallel = spec.recompute, spec.parallel
    if recompute.budget is None:
        return ActivationCheckpoint(policy=recompute.policy)
    if fixed_sets:
        return FixedSavedSets(fixed_sets)
    return Budget(
        Limit(
            nbytes=recompute.budget,
            where=spec.where("recompute.budget"),
            dtype=spec.precision.compute,
            sharding="zero3" if parallel.fsdp_ranks > 1 else "none",
            fsdp_ranks=parallel.fsdp_ranks,
            state_bytes=spec.optimizer.state_bytes,
            micro_batches=1 if parallel.reduces_each else spec.micro_batches,
            pipeline=parallel.pipeline,
            virtual=parallel.pipeline_virtual,
            overlap=parallel.overlap,
        )
    )


@dataclass(frozen=True)
class Stage:
    """The Program after one pass.

    name: name of the pass.
    seconds: wall time of the pass. verifying: wall time of the verifier after it, in seconds.
    """

    name: str
    program: Program
    seconds: float
    verifying: float


def stages(
    spec: Spec,
    disable: Collection[str] = (),
    stop_after: str = "",
    fixed_sets: SavedSets = (),
) -> Iterator[Stage]:
    """Compile a spec, yielding the verified Program after each pass.

    Raises VerificationError if a pass breaks a rule of the IR, NoKernelError if the requested
    attention kernel cannot run, and BudgetError if no saved sets fit the memory budget.

    Args:
        spec: The spec to compile.
        disable: Names of passes to skip.
        stop_after: Name of the last pass to run; "" runs all.
        fixed_sets: Saved sets to use in place of solving a budget, such as those that `saved_sets`
            returned for another spec.
    """
    program = None
    for step in (Lower(), *passes_for(spec, fixed_sets)):
        if step.name not in disable:
            start = time.perf_counter()
            program = step.apply(spec if program is None else program)  # type: ignore[arg-type]
            applied = time.perf_counter()
            verify(program)
            yield Stage(step.name, program, applied - start, time.perf_counter() - applied)
        if step.name == stop_after:
            return


def compile_spec(spec: Spec, disable: Collection[str] = ()) -> Program:
    """Return the spec's Program after the last pass.

    disable: names of passes to skip. Raises the errors of `stages`.
    """
    *_, last = stages(spec, disable)
    return last.program


def single_rank_spec(spec: Spec) -> Spec:
    """Return the spec with the whole model on each rank and no memory budget, for generation.

    Data-parallel degrees stay. A budget is replaced by the policy `selective`.
    """
    recompute = {"recompute.policy": "selective", "recompute.budget": None}
    return spec.replace(WHOLE | (recompute if spec.recompute.budget else {}))


def compile_inference(spec: Spec, disable: Collection[str] = ()) -> Program:
    """Return the Program that generates text on one rank, whatever the spec's parallel layout.

    disable: names of passes to skip. Raises the errors of `stages`.
    """
    *_, last = stages(single_rank_spec(spec), disable, stop_after=SelectKernels.name)
    program = Cache(spec.model.sliding_window).apply(last.program)
    verify(program)
    return program


def saved_sets(spec: Spec) -> SavedSets:
    """Return the values that each variant of a layer saves under `recompute.budget`.

    Empty if the spec sets no budget. Raises BudgetError if no saved sets fit it.
    """
    if spec.recompute.budget is None:
        return ()
    *_, last = stages(spec, stop_after="checkpoint")
    return tuple(last.program.regions[name].saved for name, _ in variants(last.program))


def variants(program: Program) -> list[tuple[str, int]]:
    """Return (region, number of layers) for each variant of the block, in order of first use."""
    return [(name, program.layers.count(name)) for name in dict.fromkeys(program.layers)]
