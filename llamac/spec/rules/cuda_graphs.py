"""Rules of `kernels.cuda_graphs`: whether a micro-batch can be captured as a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator

from llamac.spec.finetune import Finetune
from llamac.spec.hardware import Hardware
from llamac.spec.kernels import Kernels
from llamac.spec.parallel import Parallel


def cuda_graph_objections(
    kernels: Kernels, hardware: Hardware, parallel: Parallel, finetune: Finetune
) -> Iterator[str]:
    """Yield each reason why micro-batches cannot be captured as a CUDA graph; none if they can."""
    if not kernels.cuda_graphs:
        yield "kernels.cuda_graphs is false"
    if hardware.device == "cpu":
        yield 'hardware.device is "cpu"'
    if parallel.pipeline > 1:
        yield "the pipeline's schedule, with its transfers between stages, runs in Python"
    elif parallel.fsdp:
        yield "FSDP gathers and frees each layer's parameters from Python"
    if parallel.async_tensor:
        yield "async_tensor's symmetric memory synchronises ranks outside of a stream's order"
    if finetune.is_dpo:
        yield "the loss of preferences is computed between its forward and backward"
