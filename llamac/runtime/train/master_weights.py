"""Mixed-precision training with bf16 weights and fp32 master weights.

An update of 1e-4 to a weight of 1 vanishes in bf16 (8 bits of mantissa), so fp32 masters are
updated and rounded to the weights (Micikevicius et al. 2018, §3.1; as in Megatron-LM). Bytes per
parameter with AdamW: 2 weight + 4 master + 4 gradient + 8 moments = 18. fp32 weights are their own
masters: 4 + 4 + 8 = 16.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from ..optimizers.update_rule import Algorithm


class Outcome(NamedTuple):
    """Result of a step: mean loss (nats), norm of its gradient before clipping, whether skipped."""

    loss: float
    grad_norm: float
    skipped: bool


class MixedPrecisionOptimizer:
    """Optimizer of one model, with fp32 masters, gradient clipping and skipping of bad steps.

    Call `loss.backward()` once per micro-batch, then `step(lr, loss, targets)` once. Losses and
    gradients are sums over targets; the update uses the mean, however targets are divided over
    micro-batches and ranks. Gradients accumulate in fp32: a hook adds each bf16 gradient to that of
    its master and frees it, so at most a few bf16 gradients are alive at a time. A step whose loss
    or gradient norm is not finite changes nothing.

    parameters: (name, parameter) of each. algorithm: class of the update rule, constructed with
    parameter groups and `hyperparameters`. weight_decay: applied to parameters of two or more
    dimensions. clip_norm: largest norm of the mean gradient. masters: name → fp32 master.
    keeps_gradients: whether `step` zeroes gradients instead of freeing them.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        algorithm: type[Any],
        *,
        weight_decay: float,
        clip_norm: float,
        **hyperparameters: Any,
    ) -> None:
        self.parameters: dict[str, Parameter] = dict(parameters)
        self.clip_norm = clip_norm
        self.masters: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            self.masters[name] = parameter
            if parameter.dtype != torch.float32:
                self.masters[name] = _shadow(parameter)
        self.shadowed = [n for n, p in self.parameters.items() if self.masters[n] is not p]
        self.keeps_gradients = bool(self.shadowed)  # zero gradients instead of freeing them

        # Gains and biases do not decay: gains near zero would work against the norms.
        matrices = [master for master in self.masters.values() if master.ndim >= 2]
        vectors = [master for master in self.masters.values() if master.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        used = [group for group in groups if group["params"]]
        self.algorithm: Algorithm = algorithm(used, **hyperparameters)
        # Created now, so that a checkpoint can be loaded into them.
        for master in self.masters.values():
            step = torch.zeros((), dtype=torch.float32, device=master.device)
            states = {name: torch.zeros_like(master) for name in self.algorithm.STATES}
            self.algorithm.state[master] = {"step": step, **states}

    @torch.no_grad()
    def step(self, lr: float, loss: Tensor, targets: Tensor) -> Tensor:
        """Clip by the global norm, update, and zero gradients, without device synchronisation.

        lr: learning rate. loss: scalar, summed over this rank's targets of the step. targets:
        scalar, their number.
        Returns float32 [3] on the device, for `read`: mean loss, norm of its gradient before
        clipping, and 1.0 if the step was skipped because either is not finite, else 0.0. A skipped
        step changes neither parameters nor states.
        """
        loss, targets, norm = self.loss_targets_norm(loss, targets)
        targets = targets.clamp(min=1)
        loss, norm = loss / targets, norm / targets
        skipped = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()
        self.algorithm.grad_scale = targets * (norm / self.clip_norm).clamp(min=1.0)
        self.algorithm.found_inf = skipped
        for group in self.algorithm.param_groups:
            group["lr"] = lr
        self.algorithm.step()
        self.algorithm.zero_grad(set_to_none=not self.keeps_gradients)
        self.round_to_model()
        return torch.stack([loss.float(), norm, skipped])

    def loss_targets_norm(self, loss: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, number of targets and the gradients' L2 norm over all ranks, as scalars.

        This is the definition for one rank, which leaves `loss` and `targets` unchanged.
        `ShardedOptimizer` overrides it for several; keep the two definitions equal.
        """
        gradients = [m.grad for m in self.masters.values() if m.grad is not None]
        return loss, targets, torch.nn.utils.get_total_norm(gradients)

    @staticmethod
    def read(outcome: Tensor) -> Outcome:
        """Return on the host what `step` returned as `outcome`; waits for the device."""
        loss, norm, skipped = outcome.tolist()
        return Outcome(loss, norm, bool(skipped))

    @torch.no_grad()
    def round_to_model(self) -> None:
        """Write the masters, rounded, to the model's weights in place, in few kernels on CUDA."""
        if self.shadowed:
            weights: list[Tensor] = [self.parameters[name] for name in self.shadowed]
            masters = [self.masters[name] for name in self.shadowed]
            torch._foreach_copy_(weights, masters)  # pyright: ignore[reportPrivateImportUsage]

    @property
    def updates(self) -> int:
        """Return the number of applied updates, without skipped steps; waits for the device."""
        return int(next(iter(self.algorithm.state.values()))["step"].item())

    def after_load(self, updates: int) -> None:
        """Set step counts and round weights, after masters and states were loaded in place.

        updates: number of updates applied so far, without skipped steps.
        """
        for state in self.algorithm.state.values():
            state["step"].fill_(updates)
        self.round_to_model()


def _shadow(parameter: Parameter) -> Tensor:
    """Return an fp32 copy of `parameter`, to whose gradient a hook adds the parameter's own."""
    master = parameter.detach().float().clone()
    master.grad = torch.zeros_like(master)

    def accumulate(computed: Tensor) -> None:
        assert master.grad is not None
        assert computed.grad is not None
        master.grad.add_(computed.grad)
        computed.grad = None

    parameter.register_post_accumulate_grad_hook(accumulate)
    return master
