"""Setting of a prediction: a spec, a device and a framework."""

from __future__ import annotations

from dataclasses import dataclass

from llamac.ir.program import Program
from llamac.passes.analysis.peak_memory import Sharding
from llamac.passes.pass_list import compile_spec
from llamac.plan.cost.framework import FRAMEWORKS, FrameworkProfile
from llamac.plan.device.device import Device
from llamac.spec import Spec
from llamac.spec.rules.cuda_graphs import cuda_graph_objections


@dataclass(frozen=True)
class Setting:
    """A spec on a device, run by a framework.

    Attributes:
        profile: Differences of the framework from the emitted trainer.
        sharding: State that is sharded over data-parallel ranks, as a ZeRO stage; None: as in the
            emitted trainer.
        fp8: Whether linear layers multiply in fp8.
        recomputes_attention: Whether attention is recomputed in the backward pass (Megatron's
            selective recomputation).
        micro_batches: Micro-batches per data-parallel rank and step, if the framework uses fewer
            than llamac's schedules allow; None: the spec's.
    """

    spec: Spec
    device: Device
    profile: FrameworkProfile = FRAMEWORKS["llamac"]
    sharding: Sharding | None = None
    fp8: bool = False
    recomputes_attention: bool = False
    micro_batches: int | None = None

    @property
    def rank_micro_batches(self) -> int:
        """Return the number of micro-batches per data-parallel rank and step."""
        return self.micro_batches or self.spec.micro_batches

    @property
    def tokens(self) -> int:
        """Return the number of tokens per step over all ranks."""
        batch = self.spec.batch
        tokens = self.rank_micro_batches * batch.micro_batch * batch.sequence_length
        return tokens * self.spec.parallel.data_ranks

    @property
    def captures(self) -> bool:
        """Return whether a micro-batch runs as one CUDA graph, as the emitted trainer decides."""
        spec = self.spec
        sections = spec.kernels, spec.hardware, spec.parallel, spec.finetune
        able = self.profile.captures and self.device.is_gpu
        return able and not any(cuda_graph_objections(*sections))

    def compile(self) -> Program:
        """Compile the spec, without the `fuse` pass if the framework's ops are not fused."""
        return compile_spec(self.spec, () if self.profile.fused else ("fuse",))
