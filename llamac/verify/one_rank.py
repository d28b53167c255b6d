"""One rank of an emitted directory, in fp32: its loss and gradients for a given batch.

    torchrun --nproc-per-node N one_rank.py IN OUT

Runs inside the directory, on its own model.py and runtime. IN: canonical weights, tokens and labels
of a whole step, micro_batch and the mesh's degrees. OUT.<rank>: the loss, averaged over ranks, and
the boxes of this rank's gradients: (canonical name, offsets, values).
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false

from __future__ import annotations

import sys

import torch


class NoUpdate(torch.optim.SGD):
    """An update rule without state, for an optimizer whose gradients alone are asked for."""

    STATES = ()


def main(given: str, out: str) -> None:
    import model as emitted
    from runtime.distributed.mesh import started
    from runtime.distributed.param_sharding import Shares, local
    from runtime.distributed.sharded_optimizer import ShardedWeights

    task = torch.load(given)
    with started(task["degrees"], torch.device("cpu")) as mesh:
        torch.set_num_threads(1)
        tables = getattr(emitted, "SHARES", {"packed": emitted.PACKED})
        shares = Shares(**tables, size=mesh.degrees["tp"], rank=mesh.at["tp"])
        model = stages(emitted, mesh, task) or mesh.model(emitted.Model, torch.float32)
        fill(model, shares, task["weights"], local)
        options = {"weight_decay": 0.0, "clip_norm": 1e9}
        optimizer = ShardedWeights(model.named_parameters(), shares, mesh, NoUpdate, **options)
        loss = backward(model, mesh, task)
        optimizer.collect()
        loss, norm = optimizer.measured(loss)
        found = [
            (canonical, box.offsets, box.tensor.clone())
            for name, held in optimizer.held.items()
            for canonical, box in shares.boxes(name, held, optimizer.masters[name].grad)
        ]
        result = {"loss": loss, "norm": norm, "gradients": found}
        torch.save(result, f"{out}.{mesh.rank}")


def stages(emitted, mesh, task):
    """The pipeline stages of this rank, if the model has any."""
    if not hasattr(emitted, "STAGES"):
        return None
    from runtime.distributed.pipeline import Pipeline

    count = len(task["tokens"]) // (task["micro_batch"] * mesh.data_ranks)
    return Pipeline(
        emitted.Model,
        len(emitted.STAGES),
        mesh,
        torch.float32,
        count,
        task["stream"],
        task["tokens"].shape[1] // mesh.degrees["cp"],
    )


@torch.no_grad()
def fill(model, shares, weights, local) -> None:
    for name, parameter in model.named_parameters():
        values = local(parameter)
        values.zero_()
        for canonical, box in shares.boxes(name, parameter, values):
            place = zip(box.offsets, box.tensor.shape, strict=True)
            box.tensor.copy_(weights[canonical][tuple(slice(o, o + n) for o, n in place)])


def backward(model, mesh, task):
    """This rank's share of a step, and the mean of its losses."""
    size = task["micro_batch"]
    sequences = len(task["tokens"])
    starts = range(mesh.data_rank * size, sequences, size * mesh.data_ranks)
    if mesh.degrees["pp"] > 1:
        own = [i for start in starts for i in range(start, start + size)]
        return model.step(*mesh.own_positions(task["tokens"][own], task["labels"][own]))
    total = torch.zeros(())
    for number, start in enumerate(starts, 1):
        own = slice(start, start + size)
        batch = mesh.own_positions(task["tokens"][own], task["labels"][own])
        mesh.reduce_gradients(model, number == len(starts))
        loss = model(*batch) / len(starts)
        loss.backward()
        total += loss.detach()
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
