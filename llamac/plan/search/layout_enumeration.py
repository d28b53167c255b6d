"""Enumerate the layouts that a spec allows on a number of GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from llamac.plan.search.rank_layout import Layout
from llamac.spec import Spec
from llamac.spec.rules.layouts import fills_pipeline, layout_problems
from llamac.spec.validation.errors import divisors


@dataclass(frozen=True)
class ModelSplit:
    """Degrees of tensor and context parallelism.

    With the recomputation policy, they determine a layer's graphs.
    sequence: whether sequence parallelism is used; True if `tensor` is 1.
    """

    tensor: int
    sequence: bool
    context: int

    @property
    def ranks(self) -> int:
        """Return the number of ranks that share a layer."""
        return self.tensor * self.context

    def apply_to(self, spec: Spec) -> Spec:
        """Return `spec` with this split, on one data rank without a pipeline.

        The other fields of the layout, such as the micro-batch, have the defaults of `Layout`.
        """
        return Layout(self.tensor, self.sequence, self.context).apply_to(spec)


def model_splits(spec: Spec, gpus: int) -> Iterator[ModelSplit]:
    """Yield all splits whose number of ranks divides `gpus`.

    They suit the model's heads, features, vocabulary and positions (`layout_problems`). With
    `data.document_mask`, there is no context parallelism.
    """
    for tensor in divisors(gpus):
        for context in divisors(gpus // tensor):
            if context > 1 and spec.data.document_mask:
                continue
            for sequence in (True, False) if tensor > 1 else (True,):
                layout = (tensor, context)
                if not layout_problems(layout, sequence, spec.model, spec.batch):
                    yield ModelSplit(tensor, sequence, context)


@dataclass(frozen=True)
class PipelineSchedule:
    """Pipeline ranks, stages per rank (`virtual`), and micro-batches per data rank and step."""

    pipeline: int
    virtual: int
    micro_batches: int


def pipeline_schedules(spec: Spec, ranks: int, micro_batch: int) -> Iterator[PipelineSchedule]:
    """Yield all schedules that have enough micro-batches for every stage.

    Tied embeddings and `data.document_mask` allow no pipeline.

    ranks: product of pipeline and data-parallel ranks. micro_batch: sequences per micro-batch.
    """
    sequences, layers = spec.batch.sequences, spec.model.n_layers
    one_stage = spec.model.tied_embeddings or spec.data.document_mask
    for pipeline in (1,) if one_stage else divisors(ranks):
        data = ranks // pipeline
        if pipeline > layers or sequences % (micro_batch * data):
            continue
        count = sequences // (micro_batch * data)
        for virtual in range(1, layers // pipeline + 1) if pipeline > 1 else (1,):
            if fills_pipeline(count, pipeline, virtual):
                yield PipelineSchedule(pipeline, virtual, count)


def micro_batch_schedules(
    spec: Spec, gpus: int, shape: ModelSplit
) -> Iterator[tuple[int, PipelineSchedule]]:
    """Yield every (sequences per micro-batch, pipeline schedule) that a split allows on `gpus`.

    Sequences per micro-batch are the divisors of `batch.sequences`.
    """
    for micro_batch in divisors(spec.batch.sequences):
        for schedule in pipeline_schedules(spec, gpus // shape.ranks, micro_batch):
            yield micro_batch, schedule


@lru_cache(maxsize=65536)
def layouts(
    gpus: int, shape: ModelSplit, policy: str, micro_batch: int, schedule: PipelineSchedule
) -> tuple[Layout, ...]:
    """Return a layout per way to shard state over data-parallel ranks, most sharded first.

    policy: checkpointing policy. micro_batch: sequences per micro-batch.
    """
    data = gpus // shape.ranks // schedule.pipeline
    return tuple(
        Layout(
            shape.tensor,
            shape.sequence,
            shape.context,
            schedule.pipeline,
            schedule.virtual,
            data // replicas,
            replicas,
            micro_batch,
            policy,
        )
        for replicas in divisors(data)
    )
