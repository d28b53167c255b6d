"""What the benchmarks share: contestants with the same weights, and one training step for all."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for tests.oracles, whose HF twin is the one timed here

from llamac.verify.reference import parameter_shapes  # noqa: E402

Loss = Callable[[Tensor, Tensor], Tensor]
LLAMAC = "import sys; from llamac.cli import main; sys.exit(main())"


def build(spec: Path, directory: Path, overrides: Sequence[str] = ()) -> ModuleType:
    """Run `llamac build` in a process of its own, then import the emitted model.py."""
    settings = [argument for override in overrides for argument in ("--set", override)]
    command = [sys.executable, "-c", LLAMAC, "build", str(spec), "-o", str(directory), *settings]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return import_emitted(directory)


def import_emitted(directory: Path) -> ModuleType:
    """Import directory/model.py with the `runtime` package beside it, not one imported before."""
    for name in [name for name in sys.modules if name.split(".")[0] == "runtime"]:
        del sys.modules[name]
    found = importlib.util.spec_from_file_location(
        f"{directory.name}_model", directory / "model.py"
    )
    assert found is not None, directory
    assert found.loader is not None, directory
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(directory))
    try:
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(directory))
    return module


def random_weights(
    model: Any, sequence_length: int, seed: int = 0, device: str = "cpu"
) -> dict[str, Tensor]:
    """Canonical float32 weights: gains of one, the rest normal(0, 0.02)."""
    generator = torch.Generator(device).manual_seed(seed)
    shapes = parameter_shapes(model, sequence_length)
    return {
        name: torch.ones(shape, device=device)
        if name.endswith("norm")
        else 0.02 * torch.randn(shape, generator=generator, device=device)
        for name, shape in shapes.items()
    }


def random_batch(model: Any, sequences: int, length: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels, int64 [sequences, length]; seeded."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(model.vocab_size, (sequences, length + 1), generator=generator)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


@torch.no_grad()
def emitted_model(
    module: ModuleType, weights: Mapping[str, Tensor], device: str, dtype: torch.dtype
) -> nn.Module:
    """The emitted Model with canonical `weights`, packed as its PACKED table says."""
    model = module.Model(device=device, dtype=dtype)
    for name, parameter in model.named_parameters():
        parts = module.PACKED.get(name, ((name, parameter.shape[0]),))
        parameter.copy_(torch.cat([weights[part] for part, _ in parts]))
    return model


def mean_loss(emitted: nn.Module) -> Loss:
    """The mean of what the emitted model gives the sum of: no label here is padding."""
    return lambda tokens, labels: emitted(tokens, labels) / labels.numel()


def hf_model(
    model: Any, weights: Mapping[str, Tensor], length: int, device: str, dtype: torch.dtype
) -> nn.Module:
    """transformers' LlamaForCausalLM with scaled_dot_product_attention and the same weights."""
    from tests.oracles.hf import build_hf, load_canonical  # takes seconds to import

    with torch.device(device):  # where it is much faster to fill weights
        hf = build_hf(model, max_positions=length, attention="sdpa")
    load_canonical(hf, model, weights)
    return nn.Module.to(hf, device=torch.device(device), dtype=dtype)  # HF's `to` has no types


def hf_loss(hf: nn.Module) -> Loss:
    """Mean cross-entropy of HF's logits, in float32 as HF's own loss takes it."""

    def loss(tokens: Tensor, labels: Tensor) -> Tensor:
        logits = hf(tokens).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    return loss


def flops_per_token(model: Any, length: int) -> tuple[int, int]:
    """(FLOPs of the matmuls, of causal attention) per token, forward and backward: 6N, 6·L·d·s.

    N counts the parameters that take part in matmuls: the linear layers and the output head, not
    the embedding table (a look-up) nor the gains. A causal half of the scores is counted: PaLM's
    convention, 12·L·d·s, counts the whole square.
    """
    shapes = parameter_shapes(model, length)
    linear = [s for n, s in shapes.items() if len(s) == 2 and not n.endswith("embeddings")]
    head = model.vocab_size * model.dim if model.tied_embeddings else 0
    n = sum(rows * columns for rows, columns in linear) + head
    return 6 * n, 6 * model.n_layers * model.n_heads * model.head_dim * length


class MasterAdamW:
    """torch's fused AdamW on float32 copies of low-precision parameters, or on them if float32."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters: list[Tensor] = list(parameters)
        half = self.parameters[0].dtype != torch.float32
        self.masters: list[Tensor] | None = (
            [nn.Parameter(p.detach().float()) for p in self.parameters] if half else None
        )
        self.adamw = torch.optim.AdamW(
            self.masters or self.parameters,
            lr=1e-4,
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=0.1,
            fused=True,
        )

    def step(self) -> None:
        """Clip to norm 1, update, and drop the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        if self.masters is not None:
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                assert parameter.grad is not None
                master.grad = parameter.grad.float()
                parameter.grad = None
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        if self.masters is not None:
            with torch.no_grad():
                for master, parameter in zip(self.masters, self.parameters, strict=True):
                    parameter.copy_(master)


@dataclass(frozen=True)
class Contestant:
    """A model, how its loss is called, and its optimizer."""

    name: str
    model: nn.Module
    loss: Loss
    optimizer: MasterAdamW

    @classmethod
    def enter(cls, name: str, model: nn.Module, loss: Loss) -> Contestant:
        return cls(name, model, loss, MasterAdamW(model.parameters()))

    def first_step(self, tokens: Tensor, labels: Tensor) -> float:
        """Take a training step and return its loss."""
        loss = self.loss(tokens, labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def step(self, tokens: Tensor, labels: Tensor) -> None:
        """One whole training step: forward, backward, clip, AdamW."""
        self.loss(tokens, labels).backward()
        self.optimizer.step()


def check_agreement(
    contestants: Sequence[Contestant], tokens: Tensor, labels: Tensor, tolerance: float
) -> dict[str, float]:
    """Each one's first loss; SystemExit if losses or gradient norms differ by more, relatively."""
    losses, norms = {}, {}
    for contestant in contestants:
        loss = contestant.loss(tokens, labels)
        loss.backward()
        losses[contestant.name] = loss.item()
        grads = [p.grad for p in contestant.model.parameters() if p.grad is not None]
        norms[contestant.name] = nn.utils.get_total_norm([g.float() for g in grads]).item()
        contestant.model.zero_grad(set_to_none=True)
    for what, figures in (("losses", losses), ("gradient norms", norms)):
        low, high = min(figures.values()), max(figures.values())
        if not high - low <= tolerance * abs(low):
            raise SystemExit(f"{what} differ before the first step, nothing was timed: {figures}")
    return losses
