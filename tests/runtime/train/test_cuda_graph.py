"""Capture and replay of micro-batches, with a stand-in that repeats the Python on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llamac.runtime.distributed.mesh import Mesh
from llamac.runtime.optimizers.adamw import AdamW
from llamac.runtime.train.cuda_graph import WARM_UP, CudaGraph, accumulate
from llamac.runtime.train.master_weights import MixedPrecisionOptimizer
from llamac.spec.parallel import AXES
from llamac.verify.graph_rehearsal import GraphRehearsal

MESH = Mesh(dict.fromkeys(AXES, 1), torch.device("cpu"))
ONE = torch.ones(())


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(16, 8).to(dtype))

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        logits = self.table[tokens] @ self.table.T
        flat = logits.flatten(0, 1).float()
        return nn.functional.cross_entropy(flat, labels.flatten(), reduction="sum")


def trained(
    dtype: torch.dtype, rehearse: bool, steps: int = 4, fails: bool = False
) -> tuple[list[float], Tensor, GraphRehearsal | None]:
    """Losses of steps of three micro-batches, the last of which is smaller, and the weights."""
    model = Net(dtype)
    optimizer = MixedPrecisionOptimizer(
        model.named_parameters(),
        AdamW,
        weight_decay=0.1,
        clip_norm=1.0,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    recorded = GraphRehearsal(optimizer, fails) if rehearse else None
    graph = CudaGraph(model, optimizer, MESH, recorded)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        text = torch.randint(16, (5, 7), generator=generator)
        total = accumulate(graph, text[:, :-1], text[:, 1:], 2)
        losses.append(optimizer.read(optimizer.step(0.01, total, ONE * 30)).loss)
    return losses, model.table.detach(), recorded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replays_give_the_bits_of_plain_calls(dtype):
    plain, weights, _ = trained(dtype, rehearse=False)
    losses, ours, recorded = trained(dtype, rehearse=True)
    assert losses == plain
    assert torch.equal(ours, weights)
    assert recorded is not None
    assert recorded.runs == WARM_UP
    assert recorded.replays == 2 * 3  # of three steps: their smaller micro-batch is not replayed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_failed_capture_is_reported_once_and_changes_nothing(dtype, capsys):
    plain, weights, _ = trained(dtype, rehearse=False)
    losses, ours, recorded = trained(dtype, rehearse=True, fails=True)
    assert losses == plain
    assert torch.equal(ours, weights)
    assert recorded is not None
    assert recorded.replays == 0
    said = capsys.readouterr().out
    assert said.count("no CUDA graph: its capture failed (operation not permitted when") == 1
    assert "kernels.cuda_graphs = false" in said
