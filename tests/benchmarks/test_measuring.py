"""What the benchmarks count and measure, against figures known beforehand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from contest import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    Contestant,
    check_agreement,
    flops_per_token,
)
from train_cpu import activation_bytes  # noqa: E402  # pyright: ignore[reportMissingImports]

from llamac.spec import load_spec  # noqa: E402

MEGABYTE = 250_000  # float32 elements


def test_flops_leave_out_the_embedding_table_and_the_gains() -> None:
    model = load_spec(ROOT / "specs" / "7b.toml").model
    matmul, attention = flops_per_token(model, 2048)
    assert matmul == 6 * (6_738_415_616 - 32_000 * 4096 - 65 * 4096)
    assert attention == 6 * 32 * 4096 * 2048


class Toy(nn.Module):
    """A loss that keeps nothing and needs `together` megabytes at once, `times` times in a row."""

    def __init__(self, together: int, times: int = 1, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.together, self.times = together, times

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        for _ in range(self.times):
            torch.empty(self.together * MEGABYTE)
        return self.weight.sum()


@pytest.mark.parametrize(("together", "times"), [(3, 1), (3, 4), (20, 1)])
def test_activation_memory_is_the_most_alive_at_once(together: int, times: int) -> None:
    toy = Toy(together, times)
    unused = torch.empty(0)
    measured = activation_bytes(Contestant.enter("toy", toy, toy), unused, unused)
    assert measured == pytest.approx(together * 1_000_000, abs=1000)


def test_contestants_that_disagree_are_not_timed() -> None:
    toys = [Toy(1), Toy(1, weight=1.1)]
    contestants = [Contestant.enter(f"toy {i}", toy, toy) for i, toy in enumerate(toys)]
    with pytest.raises(SystemExit, match="losses differ"):
        check_agreement(contestants, torch.empty(0), torch.empty(0), tolerance=1e-4)
