"""Programs that share their graphs: how many layers, stages and data ranks there are, and how large
a micro-batch is, are but numbers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from llamac.ir.program import Program, Region
from llamac.passes.pipeline import compile_spec
from llamac.spec import Spec


def block_program(spec: Spec, policy: str, fused: bool = True) -> Program:
    """A single layer of `spec` on one stage and one data rank, `policy` its checkpointing; a
    micro-batch is one sequence. Compiled once for all specs that differ in nothing else.
    Raises SpecError."""
    return _compiled(_Alike(spec, policy, fused))


class _Alike:
    """What equals all those that have the same graphs."""

    def __init__(self, spec: Spec, policy: str, fused: bool) -> None:
        self.spec, self.policy, self.fused = spec, policy, fused
        numbers = {"n_layers", "pipeline", "pipeline_virtual", "data_shard", "data_replicate"}
        sections = (spec.model, spec.parallel, spec.precision, spec.kernels)
        given = [value for one in sections for key, value in one if key not in numbers]
        given += [spec.batch.sequence_length, spec.hardware.device]
        self.key = (policy, fused, spec.data.document_mask, spec.tokenizer.eos, *given)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike) and self.key == other.key

    def compile(self) -> Program:
        context = self.spec.parallel.context
        one = self.spec.replace(
            {
                "model.n_layers": 1,
                "batch.sequences": context,
                "batch.micro_batch": 1,
                "parallel.pipeline": 1,
                "parallel.pipeline_virtual": 1,
                "parallel.data_shard": 1,
                "parallel.data_replicate": 1,
                "activation.checkpoint": self.policy,
                "launch.gpus_per_node": self.spec.parallel.tensor * context,
            }
        )
        return compile_spec(one, () if self.fused else ("fuse",))


@lru_cache(maxsize=512)
def _compiled(alike: _Alike) -> Program:
    return alike.compile()


def laid_out(
    program: Program,
    spec: Spec,
    stages: Sequence[int],
    layers: Sequence[str] = (),
    regions: Sequence[Region] = (),
) -> Program:
    """`program` with the layers, stages and micro-batches of `spec`. stages: how many layers each
    has. layers: each one's region, where they differ; regions: those that `program` lacks."""
    return replace(
        program,
        regions={**program.regions, **{region.name: region for region in regions}},
        layers=tuple(layers) or program.layers[:1] * spec.model.n_layers,
        stages=tuple(stages) if len(stages) > 1 else (),
        symbols={**program.symbols, "B": spec.batch.micro_batch},
    )
