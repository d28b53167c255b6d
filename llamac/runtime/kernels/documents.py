"""First positions of the documents in packed sequences, for attention's document mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def document_starts(tokens: Tensor, eos: int) -> Tensor:
    """Return the position at which each token's document begins, int64 [B, S].

    tokens: int64 [B, S]. eos: id of the token that ends a document. A document that began in an
    earlier sequence starts at position 0.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    first = F.pad(tokens[:, :-1] == eos, (1, 0))
    return torch.where(first, positions, 0).cummax(1).values
