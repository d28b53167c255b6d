"""What frameworks do differently from our emitted trainer, as far as time and memory feel it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How a framework runs the ops of a graph.

    fused: are norms, activations and the loss our fused ops? traffic: bytes that ops bound by
    memory move, beside ours. kernels: how many kernels such an op is. host: seconds in which the
    host starts one; a region takes that many seconds at least.
    flash: are attention's scores never written out? core_kernels: how many kernels attention is
    where they are. attention: how fast its kernel is, beside the device's best.
    fp8: the same of fp8 matmuls. cast_bytes: that an element of their operands moves to become fp8:
    read for its scale, read, written, or less where other ops do it in passing. fp8_kept: of the
    activations' bytes, what is kept where linear layers keep their inputs in fp8.
    logit_bytes: held for each logit at the worst moment; None: as our fused loss has it.
    loss_bytes: moved for it, both ways.
    hides: of the transfers between tensor ranks, the share under other work; None: as the graph's
    schedule has it. hides_sends: run interleaved stages' sends under other work?
    overlapped: do reductions of gradients run under the backward pass? each_time: are gradients
    reduced after every micro-batch, and not once a step? gradient_bytes: of an element on the wire.
    update_bytes: that the optimizer moves for each parameter.
    """

    fused: bool = True
    traffic: float = 1.0
    kernels: float = 1.0
    host: float = 0.0
    flash: bool = True
    core_kernels: float = 12.0
    attention: float = 1.0
    fp8: float = 1.0
    cast_bytes: float = 5.0
    fp8_kept: float = 1.0
    logit_bytes: float | None = None
    loss_bytes: float = 16.0
    hides: float | None = None
    hides_sends: bool = False
    overlapped: bool = True
    each_time: bool = False
    gradient_bytes: int = 4
    update_bytes: float = 32.0

    @property
    def hides_async(self) -> float:
        """`hides`, once transfers are cut up and moved beside the matmuls they belong to."""
        return 0.43


STYLES = {
    "llamac": Style(host=4e-6),
    "compiled": Style(host=4e-6, each_time=True, hides=0.0, logit_bytes=12.0),
    "eager": Style(
        fused=False,
        traffic=2.0,
        kernels=4.0,
        host=8e-6,
        each_time=True,
        hides=0.0,
        logit_bytes=12.0,
        loss_bytes=24.0,
    ),
    "megatron": Style(
        fused=False,
        traffic=1.5,
        kernels=5.6,
        host=17e-6,
        core_kernels=19.0,
        overlapped=False,
        hides=0.0,
        logit_bytes=10.0,
    ),
    "megatron-core": Style(
        traffic=1.25,
        kernels=3.0,
        host=10e-6,
        cast_bytes=2.0,
        fp8_kept=0.7,
        hides=0.6,
        hides_sends=True,
        logit_bytes=10.0,
    ),
}
"""Ours; modules that torch.compile runs (torchtitan); PyTorch op by op (FSDP1 of llm-foundry);
Megatron-LM as of 2022; Megatron Core and NeMo, with Transformer Engine's fused kernels. The figures
of the second, third and fourth are fitted (benchmarks/plan_fit.py); the fifth's were set so that
NVIDIA's published NeMo summaries (Hopper, Blackwell) come out right on average."""
