"""Run one rank of an emitted trainer in fp32 on a given step, for `verify --ranks`.

    one_rank.py IN OUT

It runs inside the emitted directory, with its train.py, model.py and runtime. IN contains canonical
weights, the sequences of one step, also used for evaluation, and the clipping norm. The rank writes
to OUT.<rank>:

    loss, evaluated   training and evaluation loss
    norm              gradient norm
    gradients         clipped gradients, as (canonical name, offsets, values)
    skips             whether a step is skipped if only the last rank's gradients contain a NaN

The step is run twice and the second one is measured, so that state left over from the first would
change the results.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import sys
from functools import partial

import torch


class StepSequences:
    """Data source that yields given sequences, in place of the runtime's `Mixture`.

    rows: the sequences, int64 Tensor [N, S + 1].
    padding_input: int, id of the token that replaces padding in the model's input.
    split: name under which `Preferences` looks up their reference log-probabilities.
    """

    split = "step"

    def __init__(self, rows, padding_input):
        self.rows, self.padding_input = rows, padding_input

    def __len__(self):
        return len(self.rows)

    def read_sequences(self, starts, count):
        """Return `count` sequences from each start, an int64 array [len(starts) · count, S + 1].

        starts: iterable of int, indices of sequences. count: int.
        """
        return torch.cat([self.rows[start : start + count] for start in starts]).numpy()

    def answers(self, starts, count):
        """Return the index of each sequence that `read_sequences(starts, count)` returns.

        It is an int64 array [len(starts) · count], by which the runtime's `Preferences` looks up
        reference log-probabilities. Arguments as for `read_sequences`.
        """
        rows = torch.arange(len(self.rows))
        return torch.cat([rows[start : start + count] for start in starts]).numpy()


class TargetLoss:
    """Step and evaluation of a trainer whose loss is a sum over targets.

    train: the module train.py. model: nn.Module or Pipeline. mesh: the runtime's Mesh.
    sequences: StepSequences of the step, also used for evaluation.
    step: function that accumulates gradients and returns this rank's loss, 0-d Tensor.
    evaluate: function that returns the mean evaluation loss over all ranks, float.
    count: this rank's number of targets, 0-d Tensor.
    """

    def __init__(self, train, model, mesh, sequences):
        self.tokens, self.labels = mesh.batch(sequences, 0, train.GLOBAL_BATCH, train.MICRO_BATCH)
        self.count = train.count_targets(self.labels)
        staged = mesh.degrees["pp"] > 1
        accumulate = model.step if staged else partial(train.accumulate, model, mesh=mesh)
        self.step = lambda: accumulate(self.tokens, self.labels)
        self.evaluate = lambda: train.evaluate(model, sequences, mesh)


class PairLoss:
    """Step and evaluation of a trainer that compares pairs of sequences (dpo).

    Arguments and attributes as for `TargetLoss`; `count` is this rank's number of pairs.
    scores: log-probability of each sequence under the reference model, fp32 Tensor [N].
    """

    def __init__(self, train, model, mesh, sequences, scores):
        from runtime.train.preference_loss import Preferences, count_pairs

        scores = {sequences.split: scores}
        preferences = Preferences(model, mesh, scores, **train.PREFERENCE)
        batch = preferences.batch(sequences, 0, train.GLOBAL_BATCH, train.MICRO_BATCH)
        self.count = count_pairs(batch[1])
        self.step = lambda: preferences.accumulate(batch, train.MICRO_BATCH)[0]
        given = sequences, train.GLOBAL_BATCH, train.MICRO_BATCH
        self.evaluate = lambda: preferences.evaluate(*given)["validation_loss"]


class RecordGradients(torch.optim.Optimizer):
    """Update rule that stores the clipped gradients as its state and changes no parameter.

    params: parameters or parameter groups, as for `torch.optim.Optimizer`. `grad_scale`, a scalar
    by which gradients are divided, is set by the ShardedOptimizer before each step.
    """

    STATES = ("gradient",)

    def __init__(self, params):
        super().__init__(params, {})

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad / self.grad_scale
                self.state[parameter]["gradient"].copy_(gradient)


def main(task_file: str, out: str) -> None:
    """Run a step twice and write this rank's results to the file OUT.<rank>.

    task_file: path of IN, a dict saved with torch.save. out: OUT, the prefix of the result's path.
    """
    import model as emitted
    import train

    task = torch.load(task_file)
    mixing = getattr(train, "MIXING", {})
    sequences = StepSequences(task["sequences"], mixing.get("padding_input", 0))
    with train.start_mesh(train.DEGREES, torch.device("cpu")) as mesh:
        torch.set_num_threads(1)
        tables = getattr(emitted, "SHARDING", {"packed": emitted.PACKED})
        sharding = train.ParamSharding(
            **tables, size=mesh.degrees["tp"], rank=mesh.coordinates["tp"]
        )
        staged = mesh.degrees["pp"] > 1
        model = pipeline(train, mesh) if staged else mesh.build_model(train.Model, train.DTYPE)
        load_weights(model, sharding, task["weights"])
        options = {"weight_decay": 0.0, "clip_norm": float(task["clip_norm"])}
        parameters = model.named_parameters()
        optimizer = train.ShardedOptimizer(parameters, sharding, mesh, RecordGradients, **options)
        if hasattr(train, "PREFERENCE"):
            objective = PairLoss(train, model, mesh, sequences, task["reference"])
        else:
            objective = TargetLoss(train, model, mesh, sequences)
        evaluated = objective.evaluate()
        optimizer.step(0.0, objective.step(), objective.count)
        outcome = optimizer.read(optimizer.step(0.0, objective.step(), objective.count))
        result = {
            "loss": torch.tensor(outcome.loss),
            "evaluated": torch.tensor(evaluated),
            "norm": torch.tensor(outcome.grad_norm),
            "gradients": [
                (canonical, chunk.offsets, chunk.tensor.clone())
                for canonical, chunk in optimizer.state_dict()["gradient"].items()
            ],
        }
        loss = objective.step()
        if mesh.rank == mesh.size - 1:
            set_nan(optimizer)
        outcome = optimizer.read(optimizer.step(0.0, loss, objective.count))
        result["skips"] = outcome.skipped and bool(optimizer.algorithm.found_inf)
        torch.save(result, f"{out}.{mesh.rank}")


def set_nan(optimizer):
    """Set gradients of this rank to NaN: its shard of the first canonical parameter that it holds.

    optimizer: the runtime's ShardedOptimizer, after a backward pass.
    """
    optimizer.collect()
    for name, master in optimizer.masters.items():
        chunks = optimizer.sharding.chunks(name, optimizer.trainable[name], master.grad)
        for _, chunk in chunks:
            chunk.tensor.fill_(torch.nan)
            return


def pipeline(train, mesh):
    """Return this rank's pipeline stages as the runtime's Pipeline, built as in train.py.

    train: the module train.py. mesh: the runtime's Mesh.
    """
    shapes = train.GLOBAL_BATCH // train.GLOBAL_MICRO_BATCH, train.ACTIVATION_SHAPE, train.POSITIONS
    return train.Pipeline(train.Model, len(train.STAGES), mesh, train.DTYPE, *shapes)


@torch.no_grad()
def load_weights(model, sharding, weights) -> None:
    """Copy this rank's shards of the weights into its model; padding rows become zero.

    model: nn.Module or Pipeline. sharding: the model's ParamSharding.
    weights: dict of full tensors by canonical name.
    """
    from runtime.distributed.param_sharding import local_shard

    for name, parameter in model.named_parameters():
        values = local_shard(parameter)
        values.zero_()
        for canonical, chunk in sharding.chunks(name, parameter, values):
            place = zip(chunk.offsets, chunk.tensor.shape, strict=True)
            chunk.tensor.copy_(weights[canonical][tuple(slice(o, o + n) for o, n in place)])


if __name__ == "__main__":
    main(*sys.argv[1:])
