"""Framework profiles: how frameworks differ from the emitted trainer, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StageSplit = Literal["layers", "modules", "cost"]


DDP_BUCKET = 25 * 2**20
"""Bytes of gradients in a bucket of DistributedDataParallel."""


AUTOCAST_TRAFFIC = 1.9
"""`FrameworkProfile.traffic` of eager PyTorch under autocast, which casts norms, biases and
residuals between fp32 and bf16."""


@dataclass(frozen=True)
class OpBytes:
    """Bytes that an op moves in device memory per element of its input, in each pass.

    bandwidth: memory bandwidth of its kernels relative to that of large element-wise kernels.
    """

    forward: float
    backward: float
    bandwidth: float = 1.0


OP_BY_OP_RMS_NORM = OpBytes(36.0, 92.0, bandwidth=0.82)
"""RMSNorm as PyTorch ops in fp32 over bf16 input: cast (2 + 4), square (4 + 4), mean (4), scale
(4 + 4), cast (4 + 2), weight (2 + 2) forward; the gradients of each of them backward. Reductions
over rows, and over tokens for the weight, reach about 0.7 of the bandwidth instead of 0.85."""

OP_BY_OP_ROPE = OpBytes(20.0, 24.0)
"""x·cos + rotate_half(x)·sin in bf16: two products (4 + 4), negation and concatenation (2 + 4),
sum (6) forward; the same and the sum of two gradients backward."""


@dataclass(frozen=True)
class ScoreTraffic:
    """Memory traffic of attention that materialises its scores in device memory.

    Attributes:
        forward, backward: Bytes moved per score in each pass, excluding the matmuls.
        saved: Bytes per score saved for the backward pass.
        peak: Bytes per score alive at the peak of attention.
        kernels: Number of kernels in each pass.
    """

    forward: float
    backward: float
    saved: float
    peak: float
    kernels: float = 12.0


SOFTMAX_DROPOUT = ScoreTraffic(forward=8.0, backward=10.0, saved=5.0, peak=5.0)
"""Megatron's fused scale, mask and softmax in half precision (2 + 2), dropout (2 + 2). Saved
are probabilities before and after dropout and a byte mask (Korthikanti et al. 2022, sec. 4.1)."""

FUSED_SOFTMAX = ScoreTraffic(forward=4.0, backward=6.0, saved=2.0, peak=4.0)
"""Fused scale, mask and softmax without dropout, which LLaMA does not use."""

TORCH_SOFTMAX = ScoreTraffic(forward=36.0, backward=32.0, saved=6.0, peak=16.0)
"""Attention op by op in fp32: cast, scale, mask, softmax and cast, each of which reads and writes;
fp32 probabilities and their bf16 copy are saved."""


@dataclass(frozen=True)
class FrameworkProfile:
    """Differences of a framework's kernels, memory and communication from the emitted trainer.

    Attributes:
        fused: Whether norms, activations and the loss are llamac's fused ops.
        traffic: Bytes that memory-bound ops move, relative to llamac's.
        kernels: Number of kernels of a memory-bound op.
        host: Host seconds to launch a kernel. A region takes at least their sum.
        collective_host: Host seconds to launch a collective, in addition to `host`.
        captures: Whether a micro-batch runs as one CUDA graph where `cuda_graph_objections` has no
            objection.
        norm, rope: Traffic of norms and rotary embeddings that run op by op; None: as other ops.
        norm_saved_bytes: Bytes per element that such a norm saves in addition to its input.
        scores: Traffic of materialised attention scores; None: not materialised (FlashAttention).
        attention: Speed of the attention kernel relative to the device's best.
        newer_cublas: Whether matmuls are those of cuBLAS 12.4 or later, or Transformer Engine.
        fp8: Speed of fp8 matmuls relative to the device's efficiency.
        cast_bytes: Bytes moved to cast an element of a matmul's operand to fp8.
        fp8_saved: Saved activation bytes if linear layers save fp8 inputs, relative to those
            without.
        logit_bytes: Peak bytes per logit; None: llamac's fused loss.
        loss_bytes: Bytes moved per logit in both passes.
        gathers_logits: Whether each tensor-parallel rank computes the loss over all logits.
        recomputes_head: Whether full checkpointing recomputes the head's forward pass.
        hides: Share of tensor-parallel transfers that is overlapped; None: as the graph's schedule
            overlaps them.
        hides_sends: Whether sends between interleaved stages are overlapped.
        overlapped: Whether gradient reductions overlap the last backward pass.
        gathers_ahead: Whether ZeRO-1 and 2 overlap the gather of updated parameters.
        reduces_each_micro_batch: Whether gradients are reduced after every micro-batch instead of
            once per step.
        wire_bytes: Bytes of a gradient element in a reduction.
        gradient_bytes: Bytes of a gradient element in memory, all its copies together.
        all_reduces_shards: Whether ZeRO-1 and 2 all-reduce gradients instead of reduce-scattering.
        bucket_bytes: Bytes of one gradient reduction without FSDP; None: all gradients at once.
        update_bytes: Bytes that an update moves per parameter of a shard, in addition to reading
            and writing the optimizer's state.
        reduction_bytes: Bytes that casts and copies around the reduction move per parameter.
        accumulate_bytes: Bytes moved to accumulate a parameter's gradient of one micro-batch.
        stages: Quantity divided evenly among pipeline stages: `layers`; `modules`, which include
            embedding, final norm and head; or `cost`, the weights of layers and head.
        separate_gate: Whether gate and up projection are two column-parallel layers, each of which
            all-reduces the gradient of its input without sequence parallelism.
        communicator: Bytes of a process's NCCL communicators per kind of parallelism in use
            (tensor, context, pipeline, data).
    """

    fused: bool = True
    traffic: float = 1.0
    kernels: float = 1.0
    host: float = 0.0
    collective_host: float = 0.0
    captures: bool = False
    norm: OpBytes | None = None
    rope: OpBytes | None = None
    norm_saved_bytes: float = 0.0
    scores: ScoreTraffic | None = None
    attention: float = 1.0
    newer_cublas: bool = False
    fp8: float = 1.0
    cast_bytes: float = 5.0
    fp8_saved: float = 1.0
    logit_bytes: float | None = None
    loss_bytes: float = 16.0
    gathers_logits: bool = False
    recomputes_head: bool = False
    hides: float | None = None
    hides_sends: bool = False
    overlapped: bool = True
    gathers_ahead: bool = False
    reduces_each_micro_batch: bool = False
    wire_bytes: float = 4
    gradient_bytes: float = 4
    all_reduces_shards: bool = False
    bucket_bytes: float | None = None
    update_bytes: float = 16.0
    reduction_bytes: float = 0.0
    accumulate_bytes: float = 0.0
    stages: StageSplit = "layers"
    separate_gate: bool = False
    communicator: float = 0.0

    @property
    def hides_async(self) -> float:
        """Return the value of `hides` under async tensor parallelism, equal for all frameworks."""
        return 0.38


FRAMEWORKS = {
    "llamac": FrameworkProfile(host=4e-6, captures=True, newer_cublas=True, accumulate_bytes=10.0),
    "compiled": FrameworkProfile(
        traffic=1.18, host=4e-6, reduces_each_micro_batch=True, hides=0.0, logit_bytes=12.0
    ),
    "eager": FrameworkProfile(
        fused=False,
        traffic=1.3,
        kernels=4.1,
        host=8e-6,
        reduces_each_micro_batch=True,
        hides=0.0,
        logit_bytes=12.0,
        loss_bytes=29.0,
    ),
    "megatron": FrameworkProfile(
        fused=False,
        traffic=1.36,
        kernels=3.95,
        host=21e-6,
        collective_host=57e-6,
        overlapped=False,
        hides=0.0,
        accumulate_bytes=3.0,
        logit_bytes=10.0,
        loss_bytes=20.0,
    ),
    "megatron-core": FrameworkProfile(
        traffic=1.25,
        kernels=3.0,
        host=10e-6,
        fp8=0.92,
        cast_bytes=2.0,
        fp8_saved=0.7,
        hides=0.6,
        hides_sends=True,
        gathers_ahead=True,
        accumulate_bytes=3.0,
        logit_bytes=10.0,
    ),
    "aleph-alpha": FrameworkProfile(
        fused=False,
        traffic=1.0,
        kernels=4.0,
        host=21e-6,
        collective_host=57e-6,
        overlapped=False,
        hides=0.0,
        gradient_bytes=2,
        all_reduces_shards=True,
        bucket_bytes=2e9,
        reduction_bytes=24.0,
        accumulate_bytes=6.0,
        stages="modules",
        separate_gate=True,
        logit_bytes=14.0,
        loss_bytes=40.0,
        gathers_logits=True,
        recomputes_head=True,
    ),
    "nanotron": FrameworkProfile(
        fused=False,
        traffic=2.0,
        kernels=4.1,
        host=21e-6,
        collective_host=280e-6,
        hides=0.0,
        newer_cublas=True,
        gradient_bytes=8,
        all_reduces_shards=True,
        bucket_bytes=2 * DDP_BUCKET,
        accumulate_bytes=10.0,
        stages="cost",
        logit_bytes=12.0,
        loss_bytes=52.0,
    ),
}
"""Profiles by name.

- llamac: the emitted trainer.
- compiled: modules that torch.compile compiles (torchtitan). Fitted by benchmarks/plan_fit.py.
- eager: PyTorch op by op (FSDP1 of llm-foundry). Fitted by benchmarks/plan_fit.py.
- megatron: Megatron-LM as of 2022. Fitted by benchmarks/plan_fit.py. Its weight gradients are
  accumulated in fp32 by the matmul (4 + 4 bytes instead of 2), half of it under the arithmetic.
- megatron-core: Megatron Core and NeMo, with Transformer Engine's fused kernels. Chosen so that
  NVIDIA's published NeMo summaries (Hopper, Blackwell) are predicted correctly on average.
- aleph-alpha: Aleph Alpha's `scaling`, from its public code, with Megatron's host costs. Gradients
  are in bf16, accumulated by autograd (6 bytes), cast and all-reduced in fp32 in buckets of 500M
  elements at the end of a step (casts and copies: 24 bytes). Logits are gathered, and are in fp32
  for the loss, its two gradients and the accuracy.
- nanotron: from its public code, with Megatron's host costs. Gradients are in fp32 (4 bytes), as
  computed (2) and in DDP's buckets of bf16 (2), and are reduced in fp32. The loss is a dozen fp32
  ops, and attention copies its inputs between layouts; with twice llamac's traffic, its published
  scaling runs are predicted with a mean error of 6 %. Under tensor parallelism on H100s, the host
  takes 4.4 ms for a layer of LLaMA: 100 kernels, and 8 collectives that split matmuls into parts.
"""
