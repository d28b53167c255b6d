"""The smallest model that keeps the contract of an emitted model.py, packed weights included."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, DIM = 400, 16
SHAPES = {
    "tok_embeddings": (VOCABULARY, DIM),
    "pair": (2 * DIM, DIM),
    "norm": (DIM,),
    "output": (VOCABULARY, DIM),
}
PACKED = {"pair": (("layers.0.w1", DIM), ("layers.0.w3", DIM))}
PARAMETERS = 2 * VOCABULARY * DIM + 2 * DIM * DIM + DIM
FLOPS_PER_TOKEN = 6 * (VOCABULARY * DIM + 2 * DIM * DIM)


class Model(nn.Module):
    tok_embeddings: nn.Parameter
    pair: nn.Parameter
    norm: nn.Parameter
    output: nn.Parameter

    def __init__(self, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        for name, shape in SHAPES.items():
            weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, weight)

    def logits(self, tokens: Tensor) -> Tensor:
        x = self.tok_embeddings[tokens]  # B S D
        gate, up = functional.linear(x, self.pair).chunk(2, dim=-1)
        x = functional.rms_norm(x + functional.silu(gate) * up, (DIM,), self.norm, 1e-5)
        return functional.linear(x, self.output)  # B S V

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        logits = self.logits(tokens).float()
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


@torch.no_grad()
def initialise(model: Model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim == 1:
            weight.fill_(1.0)
        else:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))


def compile_regions() -> None:
    """Nothing to compile."""
