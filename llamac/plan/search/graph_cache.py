"""Cache of compiled graphs.

Specs that differ only in depth, stages, micro-batch or data-parallel ranks share graphs.
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
    """Return the compiled Program of `spec` with one layer, one stage and one data rank, cached.

    Its micro-batch is of one sequence; `with_layout` sets the spec's. policy: checkpointing policy.
    fused: whether to run the `fuse` pass.
    """
    return _checkpointed(_GraphKey(spec, fused), policy)


class _GraphKey:
    """Cache key: equal for specs whose graphs differ only in the saved set."""

    def __init__(self, spec: Spec, fused: bool) -> None:
        self.spec, self.fused = spec, fused
        numbers = {"n_layers", "pipeline", "pipeline_virtual", "data_shard", "data_replicate"}
        sections = (spec.model, spec.parallel, spec.precision, spec.kernels)
        values = [value for section in sections for key, value in section if key not in numbers]
        values += [spec.batch.sequence_length, spec.hardware.kernels_for]
        self.key = (fused, spec.document_end, *values)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _GraphKey) and self.key == other.key

    def reduced_spec(self) -> Spec:
        parallel = self.spec.parallel
        unchanged = ("tensor", "sequence", "context", "async_tensor", "overlap")
        return self.spec.replace(
            {
                **{f"parallel.{key}": getattr(parallel, key) for key in unchanged},
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
def _differentiated(key: _GraphKey) -> tuple[Spec, Program]:
    """Return the spec and Program before the pass `checkpoint`, cached."""
    small = key.reduced_spec()
    program = Lower().apply(small)
    for step in passes_for(small)[: _checkpoint_index()]:
        if key.fused or step.name != "fuse":
            program = step.apply(program)
    return small, program


@lru_cache(maxsize=512)
def _checkpointed(key: _GraphKey, policy: str) -> Program:
    small, program = _differentiated(key)
    recompute = small.recompute.model_copy(update={"policy": policy})
    for step in passes_for(small.model_copy(update={"recompute": recompute}))[
        _checkpoint_index() :
    ]:
        program = step.apply(program)
    return program


def _checkpoint_index() -> int:
    """Return the index of `checkpoint` among the passes after `lower`."""
    return NAMES.index(ActivationCheckpoint.name) - NAMES.index(Lower.name) - 1


def with_layout(
    program: Program,
    spec: Spec,
    stages: Sequence[int],
    layers: Sequence[str] = (),
    regions: Sequence[Region] = (),
) -> Program:
    """Return `program` with the number of layers and the micro-batch of `spec`, and given stages.

    stages: number of layers of each stage. layers: name of each layer's region; empty if all are
    equal. regions: further regions that `layers` names.
    """
    return replace(
        program,
        regions={**program.regions, **{region.name: region for region in regions}},
        layers=tuple(layers) or program.layers[:1] * spec.model.n_layers,
        stages=tuple(stages) if len(stages) > 1 else (),
        symbols={**program.symbols, "B": spec.batch.micro_batch},
    )
