"""Data parallelism without sharding: gradients are all-reduced while the backward pass runs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

OWN_REDUCTION_SIZE = 2**18
"""Gradients of fewer elements are reduced together, because their cost is mostly latency."""


class Replicas:
    """Sum of gradients over the replicas of an unsharded model.

    Each large gradient is all-reduced as soon as it is complete, while the backward pass goes on;
    the small ones are reduced together at the end. group: process group of the replicas. reducing:
    whether the next backward pass reduces. Unlike FSDP's, these collectives can be captured in
    a CUDA graph.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.reducing = False
        self._small: list[Tensor] = []
        self._started: list[Any] = []

    def begin(self, reduce: bool) -> None:
        """Set whether the next backward pass reduces gradients; drop pending reductions."""
        self.reducing = reduce
        self._small, self._started = [], []  # a failed capture may have left some

    def watch(self, parameter: Parameter, master: Tensor) -> None:
        """Register a hook that reduces `master.grad` in place once that of `parameter` is complete.

        master: the parameter itself, or its fp32 copy, which accumulates its gradient. Gradients of
        OWN_REDUCTION_SIZE elements or more are reduced asynchronously at once, smaller ones in
        `wait`. Register it after the hook that adds to `master.grad`.
        """

        def reduce(_: Tensor) -> None:
            if not self.reducing:
                return
            assert master.grad is not None
            if master.grad.numel() < OWN_REDUCTION_SIZE:
                self._small.append(master.grad)
            else:
                work = dist.all_reduce(master.grad, group=self.group, async_op=True)
                self._started.append(work)

        parameter.register_post_accumulate_grad_hook(reduce)

    @torch.no_grad()
    def wait(self) -> None:
        """Reduce the small gradients in place, and wait for all gradients.

        On CUDA only the current stream waits, not the CPU.
        """
        if self._small:
            flat = flatten(self._small)
            dist.all_reduce(flat, group=self.group)
            unflatten(flat, self._small)
        for work in self._started:
            work.wait()
        self._small, self._started = [], []


def flatten(tensors: list[Tensor]) -> Tensor:
    """Concatenate the elements of all tensors: [total number of elements]."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def unflatten(flat: Tensor, into: list[Tensor]) -> None:
    """Copy the elements of `flat` to the tensors `into` in place: the inverse of `flatten`."""
    values = flat.split([tensor.numel() for tensor in into])
    for tensor, elements in zip(into, values, strict=True):
        tensor.copy_(elements.view_as(tensor))
