"""The compiler's pipeline: the list of passes, run in order with a verifier after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llamac.ir.program import Program
from llamac.ir.verifier import verify
from llamac.passes.activation_checkpoint import ActivationCheckpoint
from llamac.passes.async_tensor import AsyncTensor
from llamac.passes.budget import Budget, Decided, Limit
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
from llamac.spec.rules.cuda_graphs import graph_objections

if TYPE_CHECKING:
    from llamac.spec import Spec


class Pass(Protocol):
    """Interface of a pass, a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str: ...

    def apply(self, program: Program) -> Program:
        """Return the rewritten Program; the given one stays as it is."""
        ...


SavedSets = tuple[tuple[str, ...], ...]
"""Names of the values that each variant of a layer saves, under a memory budget."""


@dataclass(frozen=True)
class Row:
    """A pass of the pipeline.

    kind: its class. make: builds it with the spec's options; the second argument is as `decided` of
    `stages`. optional: whether `--disable` may remove the pass.
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
    Row(ActivationCheckpoint, lambda spec, decided: _checkpoint(spec, decided)),
    Row(Cut, lambda spec, _: Cut(stages=spec.parallel.stages)),
    Row(AsyncTensor, lambda spec, _: AsyncTensor(enabled=spec.parallel.async_tensor)),
    Row(Overlap, lambda spec, _: Overlap(enabled=spec.parallel.overlap)),
)
"""The passes after `lower`, in order."""

OPTIONAL = tuple(row.kind.name for row in ROWS if row.optional)
NAMES = (Lower.name, *(row.kind.name for row in ROWS))


def passes_for(spec: Spec, decided: SavedSets = ()) -> tuple[Pass, ...]:
    """Return the passes after `lower`, in order, with the spec's options. decided: see `stages`."""
    return tuple(row.make(spec, decided) for row in ROWS)


def _select_kernels(spec: Spec) -> Pass:
    return SelectKernels(
        attention=spec.kernels.attention,
        device=spec.hardware.kernels_for,
        chunks=context_chunks(spec.parallel),
        hopper=spec.hardware.hopper,
        deterministic=spec.kernels.deterministic,
        no_graphs=tuple(
            graph_objections(spec.kernels, spec.hardware, spec.parallel, spec.finetune)
        ),
    )


def _checkpoint(spec: Spec, decided: SavedSets) -> Pass:
    recompute, parallel = spec.recompute, spec.parallel
    if recompute.budget is None:
        return ActivationCheckpoint(policy=recompute.policy)
    if decided:
        return Decided(decided)
    return Budget(
        Limit(
            nbytes=recompute.budget,
            where=spec.where("recompute.budget"),
            dtype=spec.precision.compute,
            sharding="zero3" if parallel.sharers > 1 else "none",
            sharers=parallel.sharers,
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

    name: the pass. seconds, verifying: wall time of the pass and of the verification after it.
    """

    name: str
    program: Program
    seconds: float
    verifying: float


def stages(
    spec: Spec,
    disable: Collection[str] = (),
    stop_after: str = "",
    decided: SavedSets = (),
) -> Iterator[Stage]:
    """Compile a spec and yield the verified Program after each pass.

    Raises VerificationError, and what passes raise: NoKernelError and BudgetError.

    Args:
        spec: The spec to compile.
        disable: Names of passes to leave out.
        stop_after: Name of the last pass to run; empty: all.
        decided: Saved sets that `saved_sets` found for another spec, used in place of a budget.
    """
    program = None
    for step in (Lower(), *passes_for(spec, decided)):
        if step.name not in disable:
            start = time.perf_counter()
            program = step.apply(spec if program is None else program)  # type: ignore[arg-type]
            applied = time.perf_counter()
            verify(program)
            yield Stage(step.name, program, applied - start, time.perf_counter() - applied)
        if step.name == stop_after:
            return


def compile_spec(spec: Spec, disable: Collection[str] = ()) -> Program:
    """Return the Program after the last pass. disable, errors: as in `stages`."""
    *_, last = stages(spec, disable)
    return last.program


def on_one_rank(spec: Spec) -> Spec:
    """Return the spec with all parallel degrees 1 and no memory budget, for generation."""
    trains = {"recompute.policy": "selective", "recompute.budget": None}
    return spec.replace(WHOLE | (trains if spec.recompute.budget else {}))


def compile_inference(spec: Spec, disable: Collection[str] = ()) -> Program:
    """Return the Program that generates text on one rank, whatever layout the spec trains on.

    disable, errors: as in `stages`.
    """
    *_, last = stages(on_one_rank(spec), disable, stop_after=SelectKernels.name)
    program = Cache(spec.model.sliding_window).apply(last.program)
    verify(program)
    return program


def saved_sets(spec: Spec) -> SavedSets:
    """Return the names that each variant of a layer saves under `recompute.budget`.

    Empty if the spec sets no budget. Raises BudgetError if nothing fits it.
    """
    if spec.recompute.budget is None:
        return ()
    *_, last = stages(spec, stop_after="checkpoint")
    return tuple(last.program.regions[name].saved for name, _ in variants(last.program))


def variants(program: Program) -> list[tuple[str, int]]:
    """Return (region, number of layers) for each variant of the block, in order of first use."""
    return [(name, program.layers.count(name)) for name in dict.fromkeys(program.layers)]
