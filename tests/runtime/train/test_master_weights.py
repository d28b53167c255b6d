"""The optimizer of one rank against torch's AdamW and clip_grad_norm_; what it says of skips."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from llamac.runtime.distributed.mesh import Mesh
from llamac.runtime.distributed.param_sharding import ParamSharding
from llamac.runtime.distributed.sharded_optimizer import ShardedOptimizer
from llamac.runtime.optimizers.adamw import AdamW
from llamac.runtime.optimizers.lion import Lion
from llamac.runtime.parameters import Pieces
from llamac.spec import optimizer as spec_rules

DEGREES: dict[str, int] = dict.fromkeys(("pp", "dp_replicate", "dp_shard", "cp", "tp"), 1)
ONE = torch.ones((), dtype=torch.int64)  # target: then the loss is its own mean
SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)).to(dtype)


def masters_of(
    model: nn.Module,
    clip_norm: float = 1.0,
    packed: dict[str, Pieces] | None = None,
    algorithm: Any = AdamW,
    **hyperparameters: Any,
) -> ShardedOptimizer:
    mesh, sharding = Mesh(DEGREES, torch.device("cpu")), ParamSharding(packed or {})
    options = hyperparameters or SETTINGS
    parameters = model.named_parameters()
    return ShardedOptimizer(parameters, sharding, mesh, algorithm, clip_norm=clip_norm, **options)


def backward(model: nn.Module, seed: int, scale: float = 1.0) -> torch.Tensor:
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    loss = model(inputs.to(next(model.parameters()).dtype)).float().square().mean() * scale
    loss.backward()
    return loss.detach()


def snapshot(optimizer: ShardedOptimizer) -> list[torch.Tensor]:
    sections = optimizer.state_dict().values()
    return [chunk.tensor.clone() for section in sections for chunk in section.values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def reference_step(model: nn.Module, adamw: torch.optim.Optimizer, clip_norm: float) -> float:
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    adamw.step()
    adamw.zero_grad()
    return norm.item()


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3], ids=["clipped", "unclipped"])
def test_fp32_is_torchs_adamw_with_clipping_and_decay_on_matrices_only(clip_norm):
    ours, theirs = network(torch.float32), network(torch.float32)
    optimizer = masters_of(ours, clip_norm)
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(0.9, 0.95),
    )
    for seed in range(4):
        outcome = optimizer.read(optimizer.step(0.01, backward(ours, seed), ONE))
        backward(theirs, seed)
        assert outcome.grad_norm == pytest.approx(reference_step(theirs, adamw, clip_norm))
        assert not outcome.skipped
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_sum_over_targets_is_updated_as_their_mean():
    """However many there are: the update, the loss and the norm that clipping sees."""
    mean, total = network(torch.float32), network(torch.float32)
    ours, theirs = masters_of(total, clip_norm=0.1), masters_of(mean, clip_norm=0.1)
    for seed, targets in enumerate((1, 7, 4096)):
        summed = backward(total, seed, scale=targets)
        found = ours.read(ours.step(0.01, summed, torch.tensor(targets)))
        wanted = theirs.read(theirs.step(0.01, backward(mean, seed), ONE))
        assert found.loss == pytest.approx(wanted.loss)
        assert found.grad_norm == pytest.approx(wanted.grad_norm)
    for mine, other in zip(total.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_step_without_a_target_has_neither_loss_nor_gradient():
    model = network(torch.float32)
    optimizer = masters_of(model)
    loss = backward(model, 0, scale=0.0)
    outcome = optimizer.read(optimizer.step(0.01, loss, torch.tensor(0)))
    assert outcome == (0.0, 0.0, False)


def test_bf16_gradients_add_up_in_fp32_and_are_freed():
    model = network(torch.bfloat16)
    optimizer = masters_of(model)
    expected = {name: torch.zeros(p.shape) for name, p in model.named_parameters()}
    for seed in range(3):
        alone = copy.deepcopy(model)
        backward(alone, seed)
        for name, parameter in alone.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad.float()
        backward(model, seed)
    for name, parameter in model.named_parameters():
        gradient = optimizer.masters[name].grad
        assert parameter.grad is None
        assert gradient is not None
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, expected[name])


def test_masters_keep_what_bf16_weights_would_lose():
    model = network(torch.bfloat16)
    model.get_parameter("0.weight").data.fill_(1.0)
    optimizer = masters_of(model)
    before = optimizer.masters["0.weight"].clone()
    for seed in range(3):
        optimizer.step(1e-5, backward(model, seed), ONE)
    master = optimizer.masters["0.weight"]
    assert (master != before).all()
    assert torch.equal(model.get_parameter("0.weight"), master.bfloat16())
    assert torch.equal(master.bfloat16(), before.bfloat16())  # too small a change for bf16 to see


def test_memory_is_eighteen_bytes_per_parameter_in_bf16():
    model = network(torch.bfloat16)
    optimizer = masters_of(model)
    held = sum(p.nbytes for p in model.parameters())
    for master in optimizer.masters.values():
        assert master.grad is not None
        state = optimizer.algorithm.state[master]
        held += master.nbytes + master.grad.nbytes
        held += state["exp_avg"].nbytes + state["exp_avg_sq"].nbytes
    assert held == 18 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(dtype, broken):
    model = network(dtype)
    optimizer = masters_of(model)
    optimizer.step(0.01, backward(model, 0), ONE)
    before, weights = snapshot(optimizer), [p.clone() for p in model.parameters()]

    loss = backward(model, 1, scale=float("inf") if broken == "gradient" else 1.0)
    loss = torch.tensor(float("nan")) if broken == "loss" else torch.zeros(())
    assert optimizer.read(optimizer.step(0.01, loss, ONE)).skipped
    assert same(before, snapshot(optimizer))
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert optimizer.updates == 1

    finite = optimizer.read(
        optimizer.step(0.01, backward(model, 2), ONE)
    )  # no trace of the bad one
    assert not finite.skipped
    assert optimizer.updates == 2


def test_a_checkpoint_sees_canonical_slices_and_writes_through_them():
    model = network(torch.bfloat16)
    optimizer = masters_of(model, packed={"0.weight": (("first", 3), ("second", 5))})
    chunks = optimizer.state_dict()
    tensors = {key: {n: chunk.tensor for n, chunk in held.items()} for key, held in chunks.items()}
    assert {"first", "second", "0.bias"} <= tensors["model"].keys()
    assert "0.weight" not in tensors["model"]
    assert all(t.dtype == torch.float32 for section in tensors.values() for t in section.values())
    assert tensors["model"].keys() == tensors["exp_avg"].keys() == tensors["exp_avg_sq"].keys()

    tensors["model"]["second"].fill_(2.0)
    for name in AdamW.STATES:
        tensors[name]["second"].fill_(1.0)
    optimizer.after_load(updates=7)
    weight = model.get_parameter("0.weight")
    assert (weight[3:] == 2.0).all()
    assert (weight[:3] != 2.0).all()
    assert optimizer.updates == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_loaded_tensors_continue_bit_for_bit(dtype):
    straight = network(dtype)
    optimizer = masters_of(straight)
    for seed in range(2):
        optimizer.step(0.01, backward(straight, seed), ONE)

    resumed = network(dtype)
    other = masters_of(resumed)
    for section, chunks in other.state_dict().items():
        for name, chunk in chunks.items():
            chunk.tensor.copy_(optimizer.state_dict()[section][name].tensor)
    other.after_load(updates=2)

    for seed in range(2, 4):
        optimizer.step(0.01, backward(straight, seed), ONE)
        other.step(0.01, backward(resumed, seed), ONE)
    assert same(snapshot(optimizer), snapshot(other))


def lion_of(model: nn.Module) -> ShardedOptimizer:
    settings = {"betas": (0.9, 0.99), "weight_decay": 0.1, "clip_norm": 1e-3}
    return masters_of(model, algorithm=Lion, **settings)


def test_lion_is_the_papers_algorithm():
    """Chen et al. 2023, algorithm 2, written down again."""
    model = network(torch.float32)
    optimizer = lion_of(model)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {name: torch.zeros_like(p) for name, p in weights.items()}
    for seed in range(4):
        loss = backward(model, seed)
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}  # type: ignore[union-attr]
        norm = torch.stack([g.norm() for g in gradients.values()]).norm()
        for name, weight in weights.items():
            gradient = gradients[name] / (norm / 1e-3).clamp(min=1.0)
            update = (0.9 * moments[name] + 0.1 * gradient).sign()
            decay = 0.1 if weight.ndim >= 2 else 0.0
            weight -= 0.01 * (update + decay * weight)
            moments[name] = 0.99 * moments[name] + 0.01 * gradient
        optimizer.step(0.01, loss, ONE)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-5, atol=1e-6)
    assert optimizer.updates == 4
    assert optimizer.state_dict().keys() == {"model", "exp_avg"}


def test_lion_skips_a_step_that_is_not_finite():
    model = network(torch.float32)
    optimizer = lion_of(model)
    optimizer.step(0.01, backward(model, 0), ONE)
    before = snapshot(optimizer)
    loss = backward(model, 1, scale=float("nan"))
    outcome = optimizer.read(optimizer.step(0.01, loss, ONE))
    assert outcome.skipped
    assert same(before, snapshot(optimizer))
    assert optimizer.updates == 1


@pytest.mark.parametrize("rule", [AdamW, Lion])
def test_the_spec_knows_the_states_of_every_rule(rule: type[Any]) -> None:
    assert getattr(spec_rules, rule.__name__).STATES == rule.STATES
