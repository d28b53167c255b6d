"""Compare layouts with one rank, on real processes with gloo in fp32.

The processes run the step and the evaluation of the emitted trainer.
"""

from __future__ import annotations

import math
import re
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamac.ir.execute import loss_cotangent
from llamac.passes.pass_list import saved_sets, stages
from llamac.runtime.kernels.padding import count_targets
from llamac.runtime.train.preference_loss import count_pairs, preference
from llamac.spec import Spec, SpecError
from llamac.spec.finetune import Finetune
from llamac.spec.parallel import ONE_RANK
from llamac.verify import one_rank
from llamac.verify.oracle import ModelOutput, Oracle, errors, make_oracle
from llamac.verify.rank_server import TIMED_OUT, RankServer
from llamac.verify.twin import shrink
from llamac.verify.verdicts import Emit

ROUNDING = 1e-5
"""Tolerance on relative errors in fp32, where layouts differ in the order of summation."""

NEGLIGIBLE_FP32 = 1e-2
"""`oracle.NEGLIGIBLE` for fp32: gradients that are zero in exact arithmetic are sums of
cancelling values, with seven digits each.
"""

CLIPPED = 0.5
"""Clipping norm as a fraction of the gradient norm."""

ERROR_LINE = re.compile(r"^(?:\[rank\d+\]: ?)?((?:[\w.]+(?:Error|Exception)|error)\b.*)", re.M)
"""Pattern of the line in a traceback that names the error; torch.distributed prefixes the rank."""

SEQUENCES = 4  # of a step, over all ranks
SECONDS = 300  # timeout of one layout
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"one rank": {}},
    2: {
        "tp2": {"tensor": 2, "sequence": False},
        "tp2+sp": {"tensor": 2},
        "tp2+sp async": {"tensor": 2, "async_tensor": True},
        "cp2": {"context": 2},
        "fsdp2": {"data_shard": 2},
        "ddp2": {"data_replicate": 2},
        "pp2": {"pipeline": 2},
        "pp2·vpp2": {"pipeline": 2, "pipeline_virtual": 2},
    },
    4: {
        "tp4": {"tensor": 4, "sequence": False},
        "tp4+sp": {"tensor": 4},
        "tp2·cp2": {"tensor": 2, "context": 2},
        "tp2·fsdp2": {"tensor": 2, "data_shard": 2},
        "cp2·fsdp2": {"context": 2, "data_shard": 2},
        "fsdp4": {"data_shard": 4},
        "hsdp2×2": {"data_replicate": 2, "data_shard": 2},
        "tp2·pp2": {"tensor": 2, "pipeline": 2},
        "pp2·fsdp2": {"pipeline": 2, "data_shard": 2},
        "pp2·vpp2·fsdp2": {"pipeline": 2, "pipeline_virtual": 2, "data_shard": 2},
        "pp4": {"pipeline": 4},
    },
}
"""Settings of [parallel] for each layout, by number of ranks and by name."""


@dataclass(frozen=True)
class LayoutComparison:
    """Errors of a layout relative to one rank, or of one rank relative to the eager reference.

    layout: name in `LAYOUTS`. errors: relative error of each output, as from `oracle.errors`.
    refused: reason why the spec does not allow the layout, or "".
    problem: message of the error that prevented a result, or "".
    """

    layout: str
    errors: Mapping[str, float]
    refused: str = ""
    problem: str = ""

    @property
    def worst(self) -> tuple[str, float]:
        """(name, error) of the output with the largest error; ("nothing", 0.0) without outputs."""
        return max(self.errors.items(), key=lambda item: item[1], default=("nothing", 0.0))

    @property
    def failed(self) -> bool:
        """Return whether there is a problem or an error above `ROUNDING`.

        A refused layout has not failed.
        """
        return bool(self.problem) or not self.worst[1] <= ROUNDING


def compare_layouts(spec: Spec, counts: list[int], emit: Emit) -> Iterator[LayoutComparison]:
    """Run a small twin of a spec in each parallel layout; yield each comparison with one rank.

    One rank itself, if 1 is in `counts`, is compared with the eager reference in float64. It always
    runs; if it fails, its comparison is the only one.

    counts: numbers of ranks, keys of `LAYOUTS`. emit: returns the emitted files of a spec.
    """
    twin, fixed_sets = divisible_twin(spec), saved_sets(spec)
    objective = Objective(twin.finetune)
    whole = twin.replace({"batch.micro_batch": SEQUENCES})
    oracle = make_oracle(whole, gradient=objective.gradient)
    weights = {name: weight.float() for name, weight in oracle.weights.items()}
    expected = objective.mean(oracle)
    assert expected.norm is not None
    task = {"weights": weights, "sequences": oracle.sequences, "clip_norm": CLIPPED * expected.norm}
    task["reference"] = objective.reference.float()
    with RankServer() as server:
        try:
            single = _run(server, emit(twin, list(stages(twin, fixed_sets=fixed_sets))), twin, task)
        except RuntimeError as error:
            yield LayoutComparison("one rank", {}, problem=str(error))
            return
        for count in counts:
            for name, degrees in LAYOUTS[count].items():
                if count == 1:
                    yield LayoutComparison(name, errors(single, expected, NEGLIGIBLE_FP32))
                    continue
                try:
                    layout = twin.replace({f"parallel.{key}": n for key, n in degrees.items()})
                except SpecError as error:
                    yield LayoutComparison(name, {}, refused=error.diagnostics[0].message)
                    continue
                try:
                    made = list(stages(layout, fixed_sets=fixed_sets))
                    found = _run(server, emit(layout, made), layout, task)
                    yield LayoutComparison(name, errors(found, single, NEGLIGIBLE_FP32))
                except RuntimeError as error:
                    yield LayoutComparison(name, {}, problem=str(error))


def divisible_twin(spec: Spec) -> Spec:
    """Return the spec's twin for one rank in fp32, with sizes that divide over four ranks.

    Grouped-query attention keeps two key-value heads, fewer than four ranks.
    """
    twin = shrink(spec.replace(ONE_RANK))
    model = twin.model
    heads = math.lcm(model.n_heads, 4)
    kv_heads = heads if model.n_kv_heads == model.n_heads else 2
    return twin.replace(
        {
            "model.n_heads": heads,
            "model.n_kv_heads": kv_heads,
            "model.ffn_dim": math.lcm(model.ffn_dim, 4),
            "model.n_layers": 4,
            "batch.sequence_length": 24,
            "batch.sequences": SEQUENCES,
            "batch.micro_batch": 2 if spec.finetune.is_dpo else 1,
            "precision.compute": "fp32",
            "kernels.compile": "never",
        }
    )


class Objective:
    """The loss that a trainer computes from the model's output, in float64.

    finetune: the spec's [finetune], which sets the loss.
    reference: random log-probabilities [B] in place of the reference model's, for dpo.
    """

    def __init__(self, finetune: Finetune) -> None:
        self.finetune = finetune
        random = torch.Generator().manual_seed(1)
        self.reference = -10 * torch.rand(SEQUENCES, dtype=torch.float64, generator=random)

    def gradient(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of the summed loss with respect to the head's output, of its shape.

        output: 0-d loss, or for dpo log-probabilities [B]. labels: int64 [B, S].
        """
        if not self.finetune.is_dpo:
            return loss_cotangent(output)
        return self._preference(output, labels)[1]

    def mean(self, oracle: Oracle) -> ModelOutput:
        """Return the oracle's loss per target or pair, and gradients clipped as a trainer does.

        `norm` is the gradient norm before clipping to `CLIPPED` times it; both losses are the same.
        """
        loss, count = oracle.outcome.loss, count_targets(oracle.labels)
        if self.finetune.is_dpo:
            loss = self._preference(loss, oracle.labels)[0][0]
            count = count_pairs(oracle.labels)
        gradients = {name: g / count for name, g in oracle.outcome.gradients.items()}
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients.values()]))
        clipped = {name: CLIPPED * gradient for name, gradient in gradients.items()}
        return ModelOutput(loss / count, loss / count, clipped, norm=norm)

    def _preference(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        options = self.finetune.beta, self.finetune.label_smoothing
        return preference(output, self.reference, labels, *options)


def _run(
    server: RankServer, files: Mapping[str, str], spec: Spec, task: dict[str, Any]
) -> ModelOutput:
    """Run a layout's emitted trainer for one step, in one process per rank."""
    parallel = spec.parallel
    with tempfile.TemporaryDirectory(prefix="llamac-verify-") as directory:
        for name, text in files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        script = Path(directory, "one_rank.py")
        script.write_text(Path(one_rank.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        torch.save(task, Path(directory, "task"))
        _start(server, script, parallel.ranks)
        results = [torch.load(Path(directory, f"found.{rank}")) for rank in range(parallel.ranks)]
    for rank, result in enumerate(results):
        if not result["skips"]:
            raise RuntimeError(f"rank {rank} does not skip a step with a NaN among its gradients")
    gradients: dict[str, Tensor] = {}
    for result in results:
        for name, offsets, values in result["gradients"]:
            place = zip(offsets, values.shape, strict=True)
            unknown = torch.full_like(task["weights"][name], torch.nan)
            whole = gradients.setdefault(name, unknown)
            whole[tuple(slice(o, o + n) for o, n in place)] = values
    first = results[0]
    return ModelOutput(first["loss"], first["evaluated"], gradients, norm=first["norm"])


def _start(server: RankServer, script: Path, ranks: int) -> None:
    done = server.run(script, "task", "found", ranks=ranks, timeout=SECONDS)
    if done.returncode == TIMED_OUT:
        raise RuntimeError(f"the ranks did not finish within {SECONDS} seconds")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        cause = " (out of memory?)" if name == "SIGKILL" else ""
        raise RuntimeError(f"rank {done.failed} was killed by {name}{cause}")
    if done.returncode:
        said = ERROR_LINE.search(done.stderr)
        silent = f"exit code {done.returncode} and no message"
        raise RuntimeError(f"rank {done.failed}: {said[1] if said else silent}")
