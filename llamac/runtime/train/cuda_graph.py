"""CUDA graph of a micro-batch: one launch in place of one for each of its kernels.

A small model's kernels take less time than the host needs to launch them, and the GPU waits. A
graph records the launches of a forward and backward pass once, with their addresses, and repeats
them: the same kernels on the same inputs in the same order, and so the same bits. Collectives of
tensor-parallel ranks and of `Replicas` are among them; all ranks capture at the same micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..machine import log

if TYPE_CHECKING:
    from ..distributed.mesh import Mesh
    from .master_weights import MixedPrecisionOptimizer

WARM_UP = 3
"""Micro-batches before a capture: the first compiles, others may still choose algorithms."""


class Recorder(Protocol):
    """Interface to the device: what `CudaStream` does on CUDA."""

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        """Run `work` where it would be captured."""
        ...

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record the kernels of `work` without running them; return (replay, its output)."""
        ...


class CudaStream:
    """The stream on which warm-up and captures run, and the memory that their graphs share.

    It is one for both: autograd remembers the stream on which it first saw a parameter, and a
    capture must not wait for another stream. Captures look at errors of their own thread only,
    since a checkpoint may be written in another. Graphs are replayed one at a time, so they can
    have their activations in the same memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            found = work()
        torch.cuda.current_stream().wait_stream(self.stream)
        return found

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        options = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **options):
            found = work()
        return graph.replay, found


@dataclass
class Captured:
    """One of the graphs: calls before its capture, its replay, and the loss that a replay sets."""

    warm: int = 0
    replay: Callable[[], None] | None = None
    loss: Tensor | None = None


class CudaGraph:
    """Forward and backward of one micro-batch, whose gradients add up in the optimizer's.

    On CUDA, calls after the first `WARM_UP` replay a graph, unless a micro-batch has other shapes.
    With `mesh.replicas` there are two: a step's last micro-batch also reduces the gradients. If a
    capture fails, it says why and goes on without; the results are the same. Activations stay
    reserved between replays, so evaluations need memory beside them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: MixedPrecisionOptimizer,
        mesh: Mesh,
        recorder: Recorder | None = None,
    ) -> None:
        """recorder: `CudaStream` by default, where the mesh is of CUDA devices."""
        self.model, self.optimizer, self.mesh = model, optimizer, mesh
        self._recorder = CudaStream(mesh.device) if mesh.device.type == "cuda" else recorder
        self._graphs = {False: Captured(), True: Captured()}  # by whether they reduce gradients
        self._inputs: tuple[Tensor, ...] = ()
        if self._recorder is not None:
            optimizer.keeps_gradients = True  # a graph adds to the addresses it was captured with

    @property
    def captured(self) -> bool:
        return any(graph.replay for graph in self._graphs.values())

    def __call__(self, *inputs: Tensor, last: bool = True) -> Tensor:
        """Return the loss of a micro-batch; the next call may overwrite it.

        last: whether it is the last of its step, which all ranks must agree about.
        """
        reduces = last and self.mesh.replicas is not None
        graph = self._graphs[reduces]
        if self._recorder is None:
            return self._run(inputs, reduces)
        if graph.warm < WARM_UP:
            graph.warm += 1
            return self._recorder.run(lambda: self._run(inputs, reduces))
        if graph.replay is None:
            self._capture(self._recorder, graph, inputs, reduces)
        if graph.replay is None or _shapes(inputs) != _shapes(self._inputs):
            return self._run(inputs, reduces)
        for static, new in zip(self._inputs, inputs, strict=True):
            static.copy_(new)
        graph.replay()
        assert graph.loss is not None
        return graph.loss

    def _run(self, inputs: tuple[Tensor, ...], reduces: bool) -> Tensor:
        self.mesh.set_gradient_sync(self.model, reduces)
        loss = self.model(*inputs)
        loss.backward()
        self.mesh.wait_for_gradients()
        return loss.detach()

    def _capture(
        self, recorder: Recorder, graph: Captured, inputs: tuple[Tensor, ...], reduces: bool
    ) -> None:
        if not self._inputs:
            self._inputs = tuple(x.clone() for x in inputs)
        try:
            graph.replay, graph.loss = recorder.capture(lambda: self._run(self._inputs, reduces))
        except RuntimeError as error:
            self._recorder = None
            for name in self.optimizer.shadowed:  # what was captured has no values
                self.optimizer.parameters[name].grad = None
            why = str(error).partition("\n")[0]
            log(f"no CUDA graph: its capture failed ({why}); kernels.cuda_graphs = false avoids it")


def accumulate(graph: CudaGraph, tokens: Tensor, labels: Tensor, micro_batch: int) -> Tensor:
    """Accumulate the gradients of a step's micro-batches; return the sum of their losses.

    tokens, labels: int64 [n, S]. micro_batch: sequences in each forward and backward pass.
    """
    total = torch.zeros((), device=tokens.device)
    parts = list(zip(tokens.split(micro_batch), labels.split(micro_batch), strict=True))
    for number, part in enumerate(parts, 1):
        total += graph(*part, last=number == len(parts))
    return total


def _shapes(inputs: tuple[Tensor, ...]) -> list[Any]:
    return [(x.shape, x.dtype) for x in inputs]
