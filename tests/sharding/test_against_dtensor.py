"""A layer as the shard pass makes it, between two processes, against torch's own DTensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Replicate, Shard

from llamac.ir.execute import run_graph
from llamac.ir.graph import output_of
from llamac.ir.shards import local_parameter
from llamac.passes.pass_list import compile_spec
from llamac.runtime.distributed.collectives import GROUPS, ProcessGroup
from llamac.runtime.distributed.process_group import process_group
from llamac.runtime.kernels.rope import rope, rope_tables
from llamac.spec import Spec
from tests.compare import shrunk

RANKS, BATCH = 2, 2


class Attention(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        model = spec.model
        self.head_dim, self.layout = model.head_dim, model.rope_layout
        queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
        self.wq = nn.Linear(model.dim, queries, bias=False)
        self.wk = nn.Linear(model.dim, keys, bias=False)
        self.wv = nn.Linear(model.dim, keys, bias=False)
        self.wo = nn.Linear(queries, model.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (-1, self.head_dim)) for w in (self.wq, self.wk, self.wv))
        q, k = (rope(one, cos, sin, layout=self.layout).transpose(1, 2) for one in (q, k))
        out = F.scaled_dot_product_attention(
            q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        return self.wo(out.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.w1 = nn.Linear(spec.model.dim, spec.model.ffn_dim, bias=False)
        self.w3 = nn.Linear(spec.model.dim, spec.model.ffn_dim, bias=False)
        self.w2 = nn.Linear(spec.model.ffn_dim, spec.model.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    """A LLaMA layer as one writes it in PyTorch, its parameters under our canonical names."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(spec.model.dim, spec.model.norm_eps)
        self.attention = Attention(spec)
        self.ffn_norm = nn.RMSNorm(spec.model.dim, spec.model.norm_eps)
        self.feed_forward = FeedForward(spec)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = x + self.attention(self.attention_norm(x), cos, sin)
        return h + self.feed_forward(self.ffn_norm(h))


def sharded(layer: Layer, sequence: bool) -> Layer:
    """The layer parallelised by DTensor, as torchtitan does it."""
    stream = Shard(1) if sequence else Replicate()
    plan = {
        "attention": PrepareModuleInput(
            input_layouts=(stream, None, None), desired_input_layouts=(Replicate(), None, None)
        ),
        "attention.wq": ColwiseParallel(),
        "attention.wk": ColwiseParallel(),
        "attention.wv": ColwiseParallel(),
        "attention.wo": RowwiseParallel(output_layouts=stream),
        "feed_forward": PrepareModuleInput(
            input_layouts=(stream,), desired_input_layouts=(Replicate(),)
        ),
        "feed_forward.w1": ColwiseParallel(),
        "feed_forward.w3": ColwiseParallel(),
        "feed_forward.w2": RowwiseParallel(output_layouts=stream),
    }
    if sequence:
        plan |= {"attention_norm": SequenceParallel(), "ffn_norm": SequenceParallel()}
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("tp",))
    return parallelize_module(layer, mesh, plan)  # type: ignore[return-value]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def both(rank: int, directory: str, sequence: bool) -> None:
    """One rank: DTensor's output and gradients, and ours, and that they are the same."""
    spec = small(sequence)
    program = compile_spec(spec)
    assert program.mesh == {"tp": RANKS}
    store = FileStore(f"{directory}/store", RANKS)
    with process_group("gloo", store, rank, RANKS):
        torch.manual_seed(0)
        length = spec.batch.sequence_length
        layer = Layer(spec).double()
        weights = {
            f"layers.0.{name}".removesuffix(".weight"): value.detach().clone()
            for name, value in layer.named_parameters()
        }
        x, d_out = torch.randn(2, BATCH, length, spec.model.dim, dtype=torch.float64)
        cos, sin = rope_tables(
            length, spec.model.head_dim, theta=spec.model.rope_theta, dtype=torch.float64
        )
        mine = slice(rank * length // RANKS, (rank + 1) * length // RANKS)
        part = (lambda value: value[:, mine].contiguous()) if sequence else lambda value: value

        layer = sharded(layer, sequence)
        x_part = part(x).requires_grad_()
        out = layer(x_part, cos, sin)
        out.backward(part(d_out))

        group = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("tp",)).get_group("tp")
        GROUPS["tp"] = ProcessGroup(group.group_name, RANKS, rank)
        at = {"tp": rank}
        values = {"x": part(x), "rope_cos": cos, "rope_sin": sin, "d_out": part(d_out)}
        for parameter in program.parameters.values():
            if parameter.per_layer:
                name = parameter.name.rpartition(".")[2]
                values[name] = local_parameter(parameter, weights, 0, program.mesh, at)
        block = program.regions["block"]
        forward = run_graph(block.forward.graph, values)
        close(forward[output_of(block.forward.graph).name], out.detach(), "output")
        assert block.backward is not None
        made = run_graph(block.backward.graph, {**forward, **values})
        gradients = {key: made[node.name] for key, node in output_of(block.backward.graph).items()}
        close(gradients["x"], x_part.grad, "gradient of x")
        wanted = {
            f"layers.0.{name}".removesuffix(".weight"): whole(value.grad)
            for name, value in layer.named_parameters()
            if value.grad is not None
        }
        for parameter in program.parameters.values():
            if parameter.per_layer:
                found = gradients[parameter.name]
                if "tp" in program.reduction_axes(parameter):
                    dist.all_reduce(found)
                close(
                    found, local_parameter(parameter, wanted, 0, program.mesh, at), parameter.name
                )


def close(found: Tensor, wanted: Tensor | None, what: str) -> None:
    assert wanted is not None, what
    assert found.shape == wanted.shape, what
    error = (found - wanted).abs().max() / wanted.abs().max()
    assert error < 1e-12, f"{what}: {error:.1e}"


def small(sequence: bool) -> Spec:
    return shrunk(
        "7b",
        "model.n_heads=8",
        "model.n_kv_heads=4",
        "precision.compute=fp32",
        f"parallel.tensor={RANKS}",
        f"parallel.sequence={str(sequence).lower()}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("sequence", [True, False], ids=["sequence", "tensor-alone"])
def test_a_layer_matches_dtensor(sequence: bool, tmp_path: Path) -> None:
    mp.spawn(both, (str(tmp_path), sequence), nprocs=RANKS)  # type: ignore[attr-defined]
