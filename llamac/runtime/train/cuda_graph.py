"""CUDA graph of a micro-batch: one launch instead of one per kernel.

A small model's kernels take less time than the host needs to launch them, so the GPU waits. A
graph records the launches of a forward and backward pass once, with their addresses, and repeats
them: the same kernels in the same order, with bitwise equal results. Collectives of tensor-parallel
ranks and of `Replicas` are captured too; all ranks capture at the same micro-batch.
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
"""Calls without a graph before its capture: the first compiles, the next may choose algorithms."""


class Recorder(Protocol):
    """Interface for capturing graphs, of `CudaStream` and of a stand-in for rehearsals on CPUs."""

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        """Run `work` on the stream on which it would be captured; return its output."""
        ...

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record the kernels of `work` without running them; return (replay, output).

        replay: function that runs the kernels. output: what `work` returned; each replay overwrites
        its values.
        """
        ...


class CudaStream:
    """Recorder on a GPU: the stream of warm-up and captures, and the graphs' shared memory pool.

    Warm-up and captures use one stream, because autograd remembers the stream on which it first saw
    a parameter, and a capture must not wait for another one. Captures check errors of their own
    thread only, since another thread may be writing a checkpoint. Graphs are replayed one at a
    time, so they can share memory for activations.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            output = work()
        torch.cuda.current_stream().wait_stream(self.stream)
        return output

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        options = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **options):
            output = work()
        return graph.replay, output


@dataclass
class CapturedGraph:
    """A CUDA graph of a micro-batch, before or after its capture.

    warm: number of warm-up calls so far. replay: function that replays the graph; None before its
    capture. loss: scalar that a replay overwrites; None before the capture.
    """

    warm: int = 0
    replay: Callable[[], None] | None = None
    loss: Tensor | None = None


class CudaGraph:
    """Forward and backward pass of one micro-batch, with a CUDA graph where possible.

    Gradients accumulate in the optimizer's masters. On CUDA, calls after the first `WARM_UP` replay
    a graph, unless a micro-batch has other shapes. With `mesh.replicas` there are two graphs, as a
    step's last micro-batch also reduces the gradients. If a capture fails, the reason is printed
    and all calls run without a graph, with the same results. The graphs' activations stay allocated
    between replays.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: MixedPrecisionOptimizer,
        mesh: Mesh,
        recorder: Recorder | None = None,
    ) -> None:
        """Prepare without capturing.

        recorder: stand-in for `CudaStream` on a CPU, where None means no graph; unused on CUDA.
        With either, `optimizer` is set to zero gradients instead of freeing them.
        """
        self.model, self.optimizer, self.mesh = model, optimizer, mesh
        self._recorder = CudaStream(mesh.device) if mesh.device.type == "cuda" else recorder
        self._graphs = {
            False: CapturedGraph(),
            True: CapturedGraph(),
        }  # by whether they reduce gradients
        self._inputs: tuple[Tensor, ...] = ()
        if self._recorder is not None:
            optimizer.keeps_gradients = True  # a graph adds to the addresses it was captured with

    @property
    def captured(self) -> bool:
        """Return whether a graph has been captured."""
        return any(graph.replay for graph in self._graphs.values())

    def __call__(self, *inputs: Tensor, last: bool = True) -> Tensor:
        """Run forward and backward; return the loss, a scalar that the next call may overwrite.

        inputs: tokens and labels, int64 [micro_batch, S]. last: whether it is the step's last
        micro-batch, after which replicas reduce gradients; equal on all ranks.
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
        self, recorder: Recorder, graph: CapturedGraph, inputs: tuple[Tensor, ...], reduces: bool
    ) -> None:
        if not self._inputs:
            self._inputs = tuple(x.clone() for x in inputs)
        try:
            graph.replay, graph.loss = recorder.capture(lambda: self._run(self._inputs, reduces))
        except RuntimeError as error:
            self._recorder = None
            for name in self.optimizer.shadowed:  # captured gradients have no values
                self.optimizer.parameters[name].grad = None
            why = str(error).partition("\n")[0]
            log(f"no CUDA graph: its capture failed ({why}); kernels.cuda_graphs = false avoids it")


def accumulate(graph: CudaGraph, tokens: Tensor, labels: Tensor, micro_batch: int) -> Tensor:
    """Accumulate the gradients of a step's micro-batches; return the sum of their losses.

    tokens, labels: this rank's sequences of the step, int64 [n, S]. micro_batch: sequences per
    forward and backward pass. The sum is a float32 scalar on their device.
    """
    total = torch.zeros((), device=tokens.device)
    parts = list(zip(tokens.split(micro_batch), labels.split(micro_batch), strict=True))
    for number, part in enumerate(parts, 1):
        total += graph(*part, last=number == len(parts))
    return total


def _shapes(inputs: tuple[Tensor, ...]) -> list[Any]:
    return [(x.shape, x.dtype) for x in inputs]
