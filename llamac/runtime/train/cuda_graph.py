"""CUDA graph of a micro-batch: one launch in place of one for each of its kernels.

A small model's kernels take less time than the host needs to launch them, and the GPU waits. A
graph records the launches of a forward and backward pass once, with their addresses, and repeats
them: the same kernels on the same inputs in the same order, and so the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..machine import say

if TYPE_CHECKING:
    from .master_weights import MasterWeights

WARM_UP = 3
"""Micro-batches before the capture: the first compiles, others may still choose algorithms."""


class Recorder(Protocol):
    """Interface to the device: what `CudaStream` does on CUDA."""

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        """Run `work` where it would be captured."""
        ...

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record the kernels of `work` without running them; return (replay, its output)."""
        ...


class CudaStream:
    """The stream on which warm-up and capture run.

    It is one for both: autograd remembers the stream on which it first saw a parameter, and a
    capture must not wait for another stream. Captures look at errors of their own thread only,
    since a checkpoint may be written in another.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            found = work()
        torch.cuda.current_stream().wait_stream(self.stream)
        return found

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            found = work()
        return graph.replay, found


class CudaGraph:
    """Forward and backward of one micro-batch, whose gradients add up in the optimizer's.

    On CUDA, calls after the first `WARM_UP` replay a graph, unless a micro-batch has other shapes.
    If a capture fails, it says why and goes on without one; the results are the same. Activations
    stay reserved between replays, so evaluations need memory beside them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: MasterWeights,
        device: torch.device,
        recorder: Recorder | None = None,
    ) -> None:
        """recorder: `CudaStream` by default, where `device` is CUDA."""
        self.model, self.optimizer = model, optimizer
        self._recorder = CudaStream(device) if device.type == "cuda" else recorder
        self._warm, self._replay = 0, None
        self._inputs: tuple[Tensor, ...] = ()
        self._loss: Tensor | None = None
        if self._recorder is not None:
            optimizer.keeps_gradients = True  # a graph adds to the addresses it was captured with

    @property
    def captured(self) -> bool:
        return self._replay is not None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the loss of a micro-batch; the next call may overwrite it."""
        if self._recorder is None:
            return self._run(inputs)
        if self._warm < WARM_UP:
            self._warm += 1
            return self._recorder.run(lambda: self._run(inputs))
        if self._replay is None:
            self._capture(self._recorder, inputs)
        if self._replay is None or _shapes(inputs) != _shapes(self._inputs):
            return self._run(inputs)
        for static, new in zip(self._inputs, inputs, strict=True):
            static.copy_(new)
        self._replay()
        assert self._loss is not None
        return self._loss

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        loss = self.model(*inputs)
        loss.backward()
        return loss.detach()

    def _capture(self, recorder: Recorder, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(x.clone() for x in inputs)
        try:
            self._replay, self._loss = recorder.capture(lambda: self._run(self._inputs))
        except RuntimeError as error:
            self._recorder = None
            for name in self.optimizer.shadowed:  # what was captured has no values
                self.optimizer.parameters[name].grad = None
            why = str(error).partition("\n")[0]
            say(f"no CUDA graph: its capture failed ({why}); kernels.cuda_graphs = false avoids it")


def accumulate(graph: CudaGraph, tokens: Tensor, labels: Tensor, micro_batch: int) -> Tensor:
    """Accumulate the gradients of a step's micro-batches; return the sum of their losses.

    tokens, labels: int64 [n, S]. micro_batch: sequences in each forward and backward pass.
    """
    total = torch.zeros((), device=tokens.device)
    for part in zip(tokens.split(micro_batch), labels.split(micro_batch), strict=True):
        total += graph(*part)
    return total


def _shapes(inputs: tuple[Tensor, ...]) -> list[Any]:
    return [(x.shape, x.dtype) for x in inputs]
