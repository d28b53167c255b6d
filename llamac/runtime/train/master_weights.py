"""Mixed-precision training with bf16 weights and fp32 master weights.

A gradient step of 1e-4 times a weight of 1 vanishes in bf16 (8 bits of mantissa), so the update
happens on fp32 masters and is rounded back (Micikevicius et al. 2018, §3.1; Megatron-LM does the
same). Bytes per parameter under AdamW: 2 weight + 4 master + 4 gradient + 8 moments = 18. A model
computed in fp32 is its own master: 4 + 4 + 8 = 16.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from ..optimizers.update_rule import Algorithm


class Outcome(NamedTuple):
    """Mean loss (nats), gradient norm before clipping, and whether the step was skipped."""

    loss: float
    grad_norm: float
    skipped: bool


class MixedPrecisionOptimizer:
    """The optimizer of one model: masters, their gradients and states, clipping, skipping.

    algorithm: the update rule, which takes `hyperparameters`.
    Call `loss.backward()` once per micro-batch, then `step(lr, loss, targets)` once. Losses and
    gradients are sums over targets; the update uses the mean, however targets are divided over
    micro-batches and ranks. Gradients accumulate in fp32: a hook adds each bf16 gradient to its
    master's and frees it, so at most a few bf16 gradients are alive at a time.
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
        self.keeps_gradients = bool(self.shadowed)  # and zeroes them, rather than free them

        # Only matrices decay: decaying gains and biases to zero would work against the norms.
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

        loss: scalar, summed over this rank's targets of the step. targets: scalar, their number.
        Returns float32 [3]: mean loss, norm of its gradient before clipping, 1.0 if the step was
        skipped because either is not finite (then parameters and moments are as before). `read` it.
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
        """Return loss, targets and L2 norm of the gradients, 0-d on the device, for one rank.

        `ShardedOptimizer` overrides it for several ranks: change both, or their norms differ.
        """
        gradients = [m.grad for m in self.masters.values() if m.grad is not None]
        return loss, targets, torch.nn.utils.get_total_norm(gradients)

    @staticmethod
    def read(outcome: Tensor) -> Outcome:
        """Copy `step`'s result to the host, the only synchronisation of a step."""
        loss, norm, skipped = outcome.tolist()
        return Outcome(loss, norm, bool(skipped))

    @torch.no_grad()
    def round_to_model(self) -> None:
        """Copy the masters, rounded, into the model's weights, in few kernels on CUDA."""
        if self.shadowed:
            weights: list[Tensor] = [self.parameters[name] for name in self.shadowed]
            masters = [self.masters[name] for name in self.shadowed]
            torch._foreach_copy_(weights, masters)  # pyright: ignore[reportPrivateImportUsage]

    @property
    def updates(self) -> int:
        """Return the number of applied updates, without skipped steps, for bias correction."""
        return int(next(iter(self.algorithm.state.values()))["step"].item())

    def after_load(self, updates: int) -> None:
        """Synchronise with masters and states just loaded, after `updates` applied updates."""
        for state in self.algorithm.state.values():
            state["step"].fill_(updates)
        self.round_to_model()


def _shadow(parameter: Parameter) -> Tensor:
    """Return an fp32 master, whose gradient accumulates that of `parameter`."""
    master = parameter.detach().float().clone()
    master.grad = torch.zeros_like(master)

    def accumulate(computed: Tensor) -> None:
        assert master.grad is not None
        assert computed.grad is not None
        master.grad.add_(computed.grad)
        computed.grad = None

    parameter.register_post_accumulate_grad_hook(accumulate)
    return master
