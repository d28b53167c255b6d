"""Data parallelism without sharding: replicas sum their gradients while the backward pass runs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

LARGE = 2**18
"""Elements from which a gradient is reduced on its own; smaller ones cost mostly latency."""


class Replicas:
    """All-reduce of gradients over the replicas of a whole model.

    Each large gradient is reduced as soon as it is complete, under the rest of the backward pass;
    the small ones are reduced together at the end. Plain collectives from autograd's hooks can be
    part of a CUDA graph, unlike FSDP's, and need no gathering of parameters.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.reducing = False
        self._small: list[Tensor] = []
        self._started: list[Any] = []

    def begin(self, reduce: bool) -> None:
        """Set whether the next backward pass completes the gradients and so reduces them."""
        self.reducing = reduce
        self._small, self._started = [], []  # of a capture that failed

    def watch(self, parameter: Parameter, master: Tensor) -> None:
        """Reduce `master.grad` when autograd has accumulated the gradient of `parameter`."""

        def reduce(_: Tensor) -> None:
            if not self.reducing:
                return
            assert master.grad is not None
            if master.grad.numel() < LARGE:
                self._small.append(master.grad)
            else:
                started = dist.all_reduce(master.grad, group=self.group, async_op=True)
                self._started.append(started)

        parameter.register_post_accumulate_grad_hook(reduce)

    @torch.no_grad()
    def wait(self) -> None:
        """Reduce the small gradients, and wait for all; on CUDA only the stream waits."""
        if self._small:
            flat = flatten(self._small)
            dist.all_reduce(flat, group=self.group)
            unflatten(flat, self._small)
        for started in self._started:
            started.wait()
        self._small, self._started = [], []


def flatten(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def unflatten(flat: Tensor, into: list[Tensor]) -> None:
    """Copy the parts of `flat` back into the tensors it was made of."""
    parts = flat.split([tensor.numel() for tensor in into])
    for tensor, part in zip(into, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
