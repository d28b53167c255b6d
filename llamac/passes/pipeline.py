"""The pipeline: the only list of passes, and what happens between them."""

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

if TYPE_CHECKING:
    from llamac.spec import Spec


class Pass(Protocol):
    """A frozen dataclass: its fields are its options."""

    @property
    def name(self) -> str: ...

    def apply(self, program: Program) -> Program: ...


SavedSets = tuple[tuple[str, ...], ...]
"""Under a budget: the names of the values that each variant of a layer keeps."""


@dataclass(frozen=True)
class Row:
    """A pass of the pipeline: made from the spec with the options that this gives it.

    optional: a Program can do without it, so `--disable` takes its name.
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
    """Return the passes after `lower`, in order, with the options the spec gives them."""
    return tuple(row.make(spec, decided) for row in ROWS)


def _select_kernels(spec: Spec) -> Pass:
    return SelectKernels(
        attention=spec.kernels.attention,
        device=spec.hardware.kernels_for,
        chunks=context_chunks(spec.parallel),
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
            micro_batches=spec.micro_batches,
            pipeline=parallel.pipeline,
            virtual=parallel.pipeline_virtual,
            overlap=parallel.overlap,
        )
    )


@dataclass(frozen=True)
class Stage:
    """The Program as one pass left it; seconds the pass took, and checking what it made."""

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
    """Compile: yields each stage once it is verified. Raises VerificationError inside the IR.

    decided: under a budget, what `saved_sets` found for another spec; its own is not looked at.
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
    """Return the Program after the last pass."""
    *_, last = stages(spec, disable)
    return last.program


def on_one_rank(spec: Spec) -> Spec:
    """Return the same model for one process, which makes text: a budget is for training."""
    trains = {"recompute.policy": "selective", "recompute.budget": None}
    return spec.replace(WHOLE | (trains if spec.recompute.budget else {}))


def compile_inference(spec: Spec, disable: Collection[str] = ()) -> Program:
    """Return the Program that generates text: of one rank, whatever the ranks that train."""
    *_, last = stages(on_one_rank(spec), disable, stop_after=SelectKernels.name)
    program = Cache().apply(last.program)
    verify(program)
    return program


def saved_sets(spec: Spec) -> SavedSets:
    """Return what each variant of a layer keeps under the spec's budget; nothing if it has none."""
    if spec.recompute.budget is None:
        return ()
    *_, last = stages(spec, stop_after="checkpoint")
    return tuple(last.program.regions[name].saved for name, _ in variants(last.program))


def variants(program: Program) -> list[tuple[str, int]]:
    """Return the regions that layers run, and how many layers each, in order of their first."""
    return [(name, program.layers.count(name)) for name in dict.fromkeys(program.layers)]
