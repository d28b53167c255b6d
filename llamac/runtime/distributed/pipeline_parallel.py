"""Pipeline parallelism: rank r of n runs stages r, r + n, … of the model's layers.

Stages exchange activations and their gradients for each micro-batch, in a schedule of
torch.distributed.pipelining: 1F1B with one stage per rank (Narayanan et al. 2019), interleaved 1F1B
with several (Narayanan et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B
from torch.nn import Parameter

from .mesh import Mesh


class Pipeline:
    """This rank's pipeline stages and their schedule.

    A stage's input is the previous stage's output, or tokens for the first one; the last one also
    takes labels and returns the loss, summed over targets.

    make: builds a stage, as `make(device, dtype, stage=number)`. count: number of stages on all
    ranks. dtype: dtype of computation and activations. micro_batches: number of micro-batches per
    step on this rank. activation_shape: shape of activations between stages, (sequences per
    micro-batch, positions, dim). positions: number of tokens per sequence on this rank. models:
    number of each of this rank's stages → its model.
    """

    def __init__(
        self,
        make: Callable[..., nn.Module],
        count: int,
        mesh: Mesh,
        dtype: torch.dtype,
        micro_batches: int,
        activation_shape: tuple[int, int, int],
        positions: int,
    ) -> None:
        self.count, self.mesh, self.dtype, self.activation_shape = (
            count,
            mesh,
            dtype,
            activation_shape,
        )
        own = range(mesh.coordinates["pp"], count, mesh.degrees["pp"])
        self.models = {n: mesh.build_model(partial(make, stage=n), dtype) for n in own}

        tokens = torch.empty(activation_shape[0], positions, dtype=torch.int64, device="meta")
        x = torch.empty(activation_shape, dtype=dtype, device="meta", requires_grad=True)
        loss = torch.empty((), device="meta", requires_grad=True)
        stages: list[Any] = [
            PipelineStage(
                model,
                number,
                count,
                mesh.device,
                input_args=x if number else tokens,
                output_args=x if number < count - 1 else loss,
                group=mesh.pipeline,
            )
            for number, model in self.models.items()
        ]
        if len(stages) == 1:
            self.schedule = Schedule1F1B(stages[0], micro_batches, _loss, scale_grads=False)
        else:
            self.schedule = ScheduleInterleaved1F1B(stages, micro_batches, _loss, scale_grads=False)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Iterate over (name in the full model, parameter) of this rank's stages."""
        return chain.from_iterable(model.named_parameters() for model in self.models.values())

    @property
    def has_first(self) -> bool:
        """Return whether this rank has the first stage, which reads the tokens."""
        return 0 in self.models

    @property
    def has_last(self) -> bool:
        """Return whether this rank has the last stage, which computes the loss."""
        return self.count - 1 in self.models

    def step(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Run forward and backward of all micro-batches of a step, accumulating gradients.

        tokens, labels: int64 [sequences, positions], of all micro-batches. All ranks of the
        pipeline call this. Returns the loss summed over targets, a scalar, on the rank with the
        last stage, and 0 on the others.
        """
        losses: list[Tensor] = []
        inputs = (tokens,) if self.has_first else ()
        named: dict[str, Any] = {"labels": labels, "target": labels} if self.has_last else {}
        self.schedule.step(*inputs, **named, losses=losses, return_outputs=False)
        return torch.stack(losses).sum().detach() if losses else self._zero_loss()

    @torch.no_grad()
    def evaluate(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of one micro-batch on the rank with the last stage, and 0 on the others.

        The loss is summed over targets. tokens, labels: int64 [sequences, positions]. All ranks of
        the pipeline call this.
        """
        ranks, group = self.mesh.degrees["pp"], self.mesh.pipeline
        loss = self._zero_loss()
        for number, model in self.models.items():
            x = tokens
            if number:
                shape = (len(tokens), *self.activation_shape[1:])
                x = torch.empty(shape, dtype=self.dtype, device=self.mesh.device)
                dist.recv(x, group=group, group_src=(number - 1) % ranks)
            out = model(x, labels)
            if number == self.count - 1:
                loss = out
            else:
                dist.send(out, group=group, group_dst=(number + 1) % ranks)
        return loss

    def _zero_loss(self) -> Tensor:
        return torch.zeros((), device=self.mesh.device)


def _loss(loss: Tensor, _target: Tensor) -> Tensor:
    """Return the last stage's output, which is the loss already."""
    return loss
