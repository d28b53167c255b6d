"""Cache of compiled graphs: specs that differ only in depth, stages or micro-batch share them.

So do specs that differ only in data-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from llamac.ir.program import Program, Region
from llamac.passes.activation_checkpoint import ActivationCheckpoint
from llamac.passes.lower import Lower
from llamac.passes.pass_list import NAMES, passes_for
from llamac.spec import Spec


def block_program(spec: Spec, policy: str, fused: bool = True) -> Program:
    """Return one layer of `spec` on one stage and one data rank, checkpointed by `policy`."""
    return _checkpointed(_Alike(spec, fused), policy)


class _Alike:
    """Cache key: equal for specs whose graphs differ only in the saved set."""

    def __init__(self, spec: Spec, fused: bool) -> None:
        self.spec, self.fused = spec, fused
        numbers = {"n_layers", "pipeline", "pipeline_virtual", "data_shard", "data_replicate"}
        sections = (spec.model, spec.parallel, spec.precision, spec.kernels)
        given = [value for one in sections for key, value in one if key not in numbers]
        given += [spec.batch.sequence_length, spec.hardware.kernels_for]
        self.key = (fused, spec.document_end, *given)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike) and self.key == other.key

    def small(self) -> Spec:
        parallel = self.spec.parallel
        kept = ("tensor", "sequence", "context", "async_tensor", "overlap")
        return self.spec.replace(
            {
                **{f"parallel.{key}": getattr(parallel, key) for key in kept},
                "model.n_layers": 1,
                "batch.sequences": parallel.context,
                "batch.micro_batch": 1,
                "parallel.pipeline": 1,
                "parallel.pipeline_virtual": 1,
                "parallel.data_shard": 1,
                "parallel.data_replicate": 1,
                "recompute.policy": "none",
                "recompute.budget": None,
                "launch.gpus_per_node": parallel.tensor * parallel.context,
            }
        )


@lru_cache(maxsize=512)
def _differentiated(alike: _Alike) -> tuple[Spec, Program]:
    """Return the spec and Program before the pass `checkpoint`, cached."""
    small = alike.small()
    program = Lower().apply(small)
    for step in passes_for(small)[: _first()]:
        if alike.fused or step.name != "fuse":
            program = step.apply(program)
    return small, program


@lru_cache(maxsize=512)
def _checkpointed(alike: _Alike, policy: str) -> Program:
    small, program = _differentiated(alike)
    recompute = small.recompute.model_copy(update={"policy": policy})
    for step in passes_for(small.model_copy(update={"recompute": recompute}))[_first() :]:
        program = step.apply(program)
    return program


def _first() -> int:
    """Return the index of `checkpoint` among the passes after `lower`."""
    return NAMES.index(ActivationCheckpoint.name) - NAMES.index(Lower.name) - 1


def with_layout(
    program: Program,
    spec: Spec,
    stages: Sequence[int],
    layers: Sequence[str] = (),
    regions: Sequence[Region] = (),
) -> Program:
    """Return `program` with the layers, stages and micro-batches of `spec`.

    stages: number of layers of each. layers: the region of each, where they differ. regions: those
    that `program` lacks.
    """
    return replace(
        program,
        regions={**program.regions, **{region.name: region for region in regions}},
        layers=tuple(layers) or program.layers[:1] * spec.model.n_layers,
        stages=tuple(stages) if len(stages) > 1 else (),
        symbols={**program.symbols, "B": spec.batch.micro_batch},
    )
