"""Prediction of one step and of the whole run, which `llamac plan` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llamac.passes.analysis.peak_memory import Memory
from llamac.plan.setting import Setting

DAY = 86_400


@dataclass(frozen=True)
class Seconds:
    """Seconds of one step on the slowest rank: compute and each kind of wait.

    Attributes:
        compute: Forward and backward passes, with recomputation and without waits.
        tensor: Exposed transfers between tensor-parallel and context-parallel ranks.
        data: Exposed parameter gathers and gradient reductions of data-parallel ranks.
        bubble: Pipeline bubble.
        pipeline: Exposed sends between pipeline stages.
        optimizer: Accumulation of gradients over micro-batches, and the optimizer's update.
    """

    compute: float
    tensor: float
    data: float
    bubble: float
    pipeline: float
    optimizer: float

    @property
    def total(self) -> float:
        """Return the seconds of a step."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Prediction:
    """Memory, time, throughput and traffic of a setting.

    Attributes:
        setting: Spec, device and framework that the prediction is for.
        parameters: Number of parameters of the model.
        per_rank: Number of parameters of a rank of the first pipeline stage, before data-parallel
            sharding.
        flops_per_token: FLOPs of matmuls per token: 6N for N parameters in matmuls; 4 per frozen
            one.
        attention_per_token: FLOPs of attention per token: 12·L·d·s.
        hardware_flops: FLOPs of one step over all ranks, including recomputation.
        memory: Peak memory of the fullest rank, by purpose.
        seconds: Time of a step on the slowest rank, by cause.
        communication: Bytes that a rank sends per step, by mesh axis.
        reference_seconds: Seconds before the first step in which DPO's reference model scores the
            pairs; 0 for other objectives.
    """

    setting: Setting
    parameters: int
    per_rank: int
    flops_per_token: float
    attention_per_token: float
    hardware_flops: float
    memory: Memory
    seconds: Seconds
    communication: Mapping[str, float]
    reference_seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Return whether the predicted peak memory, without a margin, is within the device's."""
        return self.memory.total <= self.setting.device.memory

    @cached_property
    def tokens_per_second_per_gpu(self) -> float:
        """Return the tokens per second of the whole run divided by its ranks."""
        ranks = self.setting.spec.parallel.ranks
        return self.setting.tokens / self.seconds.total / ranks

    @property
    def peak(self) -> float:
        """Return the dense peak FLOP/s of the device in the compute dtype."""
        return self.setting.device.flops(self.setting.spec.precision.compute)

    @property
    def mfu(self) -> float:
        """Return the model FLOPs utilisation as a fraction of the peak (PaLM, appendix B).

        It counts `flops_per_token` and `attention_per_token`, without recomputation.
        """
        per_token = self.flops_per_token + self.attention_per_token
        return self.tokens_per_second_per_gpu * per_token / self.peak

    @property
    def hfu(self) -> float:
        """Return the hardware FLOPs utilisation as a fraction of the peak.

        It counts recomputation, and only the unmasked half of causal attention.
        """
        ranks = self.setting.spec.parallel.ranks
        return self.hardware_flops / ranks / self.seconds.total / self.peak

    @property
    def days(self) -> float:
        """Return the days of the whole run, including DPO's pass of the reference model."""
        steps = self.setting.spec.total_steps * self.seconds.total
        return (self.reference_seconds + steps) / DAY

    @property
    def gpu_hours(self) -> float:
        """Return the hours of the whole run, summed over ranks."""
        return self.days * 24 * self.setting.spec.parallel.ranks

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as JSON values: bytes, seconds and FLOPs; days for the run."""
        memory = {key: round(value) for key, value in vars(self.memory).items()}
        return {
            "device": self.setting.device.name,
            "kind": self.setting.device.kind,
            "gpus": self.setting.spec.parallel.ranks,
            "parameters": {"total": self.parameters, "per_rank": self.per_rank},
            "flops": {
                "per_token": self.flops_per_token,
                "attention_per_token": self.attention_per_token,
                "hardware_per_step": self.hardware_flops,
            },
            "memory": {
                "per_gpu": {**memory, "total": round(self.memory.total)},
                "capacity": self.setting.device.memory,
            },
            "fits": self.fits,
            "step_seconds": self.seconds.total,
            "seconds": dict(vars(self.seconds)),
            "tokens_per_second_per_gpu": self.tokens_per_second_per_gpu,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "communication": {f"{axis}_bytes": sent for axis, sent in self.communication.items()},
            "run": {
                "days": self.days,
                "gpu_hours": self.gpu_hours,
                "reference_seconds": self.reference_seconds,
            },
        }
