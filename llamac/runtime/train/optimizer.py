"""Mixed-precision AdamW: bf16 weights to compute with, fp32 masters to learn in.

A gradient step of 1e-4 times a weight of 1 vanishes in bf16 (8 bits of mantissa), so the update
happens on fp32 masters and is rounded back (Micikevicius et al. 2018, §3.1; Megatron-LM does the
same). Bytes per parameter: 2 weight + 4 master + 4 gradient + 8 moments = 18. A model computed in
fp32 is its own master: 4 + 4 + 8 = 16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from ..parameters import Pieces, canonical_views


class Outcome(NamedTuple):
    """What became of one step, on the host."""

    loss: float
    grad_norm: float
    skipped: bool


class FusedAdamW(torch.optim.AdamW):
    """torch's fused AdamW with the two on-device inputs that its kernels take from a GradScaler.

    `grad_scale` (gradients are divided by it inside the kernel) does the clipping without another
    pass over memory; `found_inf` (1.0: leave parameters, moments and step counts alone) decides
    about skipping without asking the host.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None


class MasterWeights:
    """The optimizer of one model: masters, their gradients and moments, clipping, skipping.

    `loss.backward()` as often as a step has micro-batches, then `step(lr, loss)` once.
    Gradients add up in fp32: a hook moves each bf16 gradient into its master's and frees it, so
    at most a few bf16 gradients are alive at a time.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        clip_norm: float,
    ) -> None:
        self.parameters: dict[str, Parameter] = dict(parameters)
        self.clip_norm = clip_norm
        self.masters: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            self.masters[name] = parameter
            if parameter.dtype != torch.float32:
                self.masters[name] = _shadow(parameter)
        self.shadowed = [n for n, p in self.parameters.items() if self.masters[n] is not p]

        # Gains and biases set a scale, and pulling it to zero fights the norms: matrices decay.
        matrices = [master for master in self.masters.values() if master.ndim >= 2]
        vectors = [master for master in self.masters.values() if master.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.adamw = FusedAdamW(
            [g for g in groups if g["params"]], betas=betas, eps=eps, fused=True
        )
        for master in self.masters.values():  # made now, so that a checkpoint can load into them
            self.adamw.state[master] = {
                "step": torch.zeros((), dtype=torch.float32, device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }

    @torch.no_grad()
    def step(self, lr: float, loss: Tensor) -> Tensor:
        """Clip on the global norm, update, and zero the gradients; nothing waits for the device.

        Returns float32 [3]: loss, gradient norm before clipping, 1.0 if the step was skipped
        because either is not finite (then parameters and moments are as before). `read` it.
        """
        loss, norm = self.measured(loss)
        skipped = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()
        self.adamw.grad_scale = (norm / self.clip_norm).clamp(min=1.0)
        self.adamw.found_inf = skipped
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=not self.shadowed)
        self.round_to_model()
        return torch.stack([loss.float(), norm, skipped])

    def measured(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the gradients' norm, as scalars on the device."""
        gradients = [m.grad for m in self.masters.values() if m.grad is not None]
        return loss, torch.nn.utils.get_total_norm(gradients)

    @staticmethod
    def read(outcome: Tensor) -> Outcome:
        """Bring `step`'s result to the host: the one wait for the device in a step."""
        loss, norm, skipped = outcome.tolist()
        return Outcome(loss, norm, bool(skipped))

    @torch.no_grad()
    def round_to_model(self) -> None:
        """Write the masters, rounded, into the weights that the model computes with."""
        for name in self.shadowed:
            self.parameters[name].copy_(self.masters[name])

    @property
    def updates(self) -> int:
        """Updates applied, which skipped steps are not: AdamW's bias correction counts these."""
        return int(next(iter(self.adamw.state.values()))["step"].item())

    def tensors(self, packed: Mapping[str, Pieces]) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint holds, fp32, under canonical names, as views.

        A packed parameter appears as its canonical row slices, so a checkpoint does not depend on
        how this trainer packs. Loading writes through the views; call `loaded` afterwards.
        """
        sections: dict[str, dict[str, Tensor]] = {"model": {}, "exp_avg": {}, "exp_avg_sq": {}}
        for name, master in self.masters.items():
            state = self.adamw.state[master]
            whole = {
                "model": master.detach(),
                "exp_avg": state["exp_avg"],
                "exp_avg_sq": state["exp_avg_sq"],
            }
            for section, tensor in whole.items():
                sections[section] |= canonical_views(name, tensor, packed)
        return sections

    def loaded(self, updates: int) -> None:
        """Take over tensors just loaded into `tensors()`, after `updates` applied updates."""
        for state in self.adamw.state.values():
            state["step"].fill_(updates)
        self.round_to_model()


def _shadow(parameter: Parameter) -> Tensor:
    """An fp32 master with its own gradient, fed by `parameter`'s backward."""
    master = parameter.detach().float().clone()
    master.grad = torch.zeros_like(master)

    def accumulate(computed: Tensor) -> None:
        assert master.grad is not None
        assert computed.grad is not None
        master.grad.add_(computed.grad)
        computed.grad = None

    parameter.register_post_accumulate_grad_hook(accumulate)
    return master
