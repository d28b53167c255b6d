"""Run an emitted model.py in float64, on one rank or on simulated ranks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llamac.emit.importing import import_emitted
from llamac.ir.execute import loss_cotangent
from llamac.runtime.checkpoint.dcp import TensorChunk
from llamac.runtime.distributed.context_parallel import rank_order
from llamac.runtime.distributed.param_sharding import ParamSharding
from llamac.verify.oracle import ModelOutput, Oracle
from llamac.verify.packed_parameters import module_packing_problem
from llamac.verify.simulated_ranks import run_on_ranks, sum_losses


def run_emitted(files: Mapping[str, str], oracle: Oracle, mesh: Mapping[str, int]) -> ModelOutput:
    """Run the emitted model in float64 on the oracle's batch and return its outputs without `norm`.

    Raises ValueError if, on one rank, packing loses or moves an element.

    files: text of the emitted files by relative path.
    mesh: ranks on each axis, all simulated in this process; empty for one rank.
    """
    with import_emitted(files) as module:
        if hasattr(module, "rope_tables"):  # call the emitted code, but with float64 tables
            module.rope_tables = partial(module.rope_tables, dtype=torch.float64)
        return _run_mesh(module, oracle, mesh) if mesh else _run_alone(module, oracle)


def _run_alone(module: Any, oracle: Oracle) -> ModelOutput:
    model = module.Model(dtype=torch.float64)
    views = partial(_views, module)
    if problem := module_packing_problem(model, views, oracle.weights):
        raise ValueError(problem)
    loss = model(oracle.tokens, oracle.labels)
    loss.backward(loss_cotangent(loss.detach()))
    gradients = {
        canonical: view
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
        for canonical, view in views(name, parameter.grad)
    }
    with torch.no_grad():
        evaluated = model(oracle.tokens, oracle.labels)
    return ModelOutput(loss.detach(), evaluated, gradients, model.logits(oracle.prompt))


def _run_mesh(module: Any, oracle: Oracle, mesh: Mapping[str, int]) -> ModelOutput:
    """Run every rank and sum their gradients into canonical ones, as the optimizer would."""
    tables = getattr(module, "SHARDING", {"packed": module.PACKED})
    gradients: dict[str, Tensor] = {}
    length, (context, tensor) = oracle.tokens.shape[1], (mesh.get("cp", 1), mesh.get("tp", 1))
    prompt = F.pad(oracle.prompt, (0, length - oracle.prompt.shape[1]))
    lock = Lock()

    def rank(at: Mapping[str, int]) -> tuple[Tensor, Tensor, Tensor]:
        sharding = ParamSharding(**tables, size=tensor, rank=at.get("tp", 0))
        model = module.Model(dtype=torch.float64)
        for name, parameter in model.named_parameters():
            parameter.detach().zero_()
            for canonical, chunk in sharding.chunks(name, parameter, parameter.detach()):
                chunk.tensor.copy_(oracle.weights[canonical][_place(chunk)])

        def own(x: Tensor) -> Tensor:
            return rank_order(x, 1, context).chunk(context, 1)[at["cp"]] if context > 1 else x

        batch = own(oracle.tokens), own(oracle.labels)
        loss = model(*batch)
        loss.backward(loss_cotangent(loss.detach()))
        for name, parameter in model.named_parameters():
            if parameter.grad is None or (
                at.get("tp", 0)
                and not sharding.is_split(name)
                and not sharding.has_partial_gradient(name)
            ):
                continue  # a copy of another rank's part
            with lock:
                for canonical, chunk in sharding.chunks(name, parameter, parameter.grad):
                    whole = torch.zeros_like(oracle.weights[canonical])
                    gradients.setdefault(canonical, whole)[_place(chunk)] += chunk.tensor
        with torch.no_grad():
            return loss.detach(), model(*batch), model.logits(own(prompt))

    found = run_on_ranks(mesh, sys.modules["runtime.distributed.collectives"].GROUPS, rank)
    loss, evaluated = (sum_losses([one[i] for one in found], mesh) for i in (0, 1))
    return ModelOutput(loss, evaluated, gradients, found[0][2][:, : oracle.prompt.shape[1]])


def _place(chunk: TensorChunk) -> tuple[slice, ...]:
    pairs = zip(chunk.offsets, chunk.tensor.shape, strict=True)
    return tuple(slice(start, start + size) for start, size in pairs)


def _views(module: Any, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    parameters = sys.modules["runtime.parameters"]
    yield from parameters.canonical_views(name, tensor, module.PACKED)
