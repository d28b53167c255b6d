"""Direct preference optimisation (DPO): learn from pairs of a chosen and a rejected answer.

Rows 2i and 2i + 1 of a batch are the chosen and the rejected sequence of pair i. The reference is
the model with the weights that training began from. The reward of an answer is beta · (its
log-probability - its log-probability under the reference), and the loss of a pair is
-log sigmoid(reward of chosen - reward of rejected) (Rafailov et al. 2023, equation 7).
label_smoothing is the assumed fraction of pairs with swapped labels (Mitchell 2023, conservative
DPO).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import durable_files
from ..data.preference_pairs import OrderedPairs, Pairs
from ..distributed.mesh import Mesh
from ..errors import RunError
from ..kernels.padding import PADDING

EVERY = 30.0  # seconds between messages while the reference is computed
FILE, NOTE = "reference.npy", "reference.json"  # in a run: the reference's scores, their origin
# Names of the values that are averaged over pairs; accuracy: reward of chosen above rejected.
MEANS = ("loss", "reward_chosen", "reward_rejected", "reward_accuracy")


def count_pairs(labels: Tensor) -> Tensor:
    """Return the number of pairs in a batch that are not only padding, an int64 scalar.

    labels: int64 [2n, S]; rows 2i and 2i + 1 are the chosen and rejected sequence of pair i.
    """
    return _counted(labels).sum()


def _counted(labels: Tensor) -> Tensor:
    return (labels[::2] != PADDING).any(-1)


def preference(
    log_probabilities: Tensor,
    reference: Tensor,
    labels: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return a batch's loss and rewards, and the gradient of the loss.

    log_probabilities, reference: log-probability of each sequence under the model and under the
    reference, [2n]; rows 2i and 2i + 1 are the chosen and rejected sequence of pair i. labels:
    int64 [2n, S]; pairs that are only padding do not count. beta: scale of rewards.
    label_smoothing: assumed fraction of pairs with swapped labels. Returns (sums over pairs of the
    values in `MEANS` [4], gradient of the summed loss for log_probabilities [2n]).
    """
    rewards = beta * (log_probabilities - reference)
    chosen, rejected = rewards.unflatten(0, (-1, 2)).unbind(1)  # [n]
    margin, counted = chosen - rejected, _counted(labels).to(rewards.dtype)
    loss = -F.logsigmoid(margin)  # -log sigmoid(-margin) is margin more
    values = (loss + label_smoothing * margin, chosen, rejected, (margin > 0).to(margin.dtype))
    d_margin = (label_smoothing - torch.sigmoid(-margin)) * counted
    d_rows = beta * torch.stack([d_margin, -d_margin], 1).flatten()
    return (torch.stack(values) * counted).sum(1), d_rows


class Preferences:
    """Direct preference optimisation of a model: gradients of pairs, and held-out evaluation.

    The reference is the model with the weights that training began from.
    """

    def __init__(
        self,
        model: nn.Module,
        mesh: Mesh,
        scores: Mapping[str, Tensor],
        *,
        beta: float,
        label_smoothing: float = 0.0,
        reduce_each: bool = False,
    ) -> None:
        """Store the arguments.

        model: maps tokens and labels to the log-probability of each sequence. scores: split →
        log-probability of each answer under the reference, float32 [2 · pairs] on the CPU. beta,
        label_smoothing: as in `preference`. reduce_each: whether gradients are reduced after each
        micro-batch instead of after the last one.
        """
        self.model, self.mesh, self.scores = model, mesh, scores
        self.options = {"beta": beta, "label_smoothing": label_smoothing}
        self.reduce_each = reduce_each

    def batch(self, pairs: Pairs, start: int, count: int, micro_batch: int) -> list[Tensor]:
        """Return this rank's [tokens, labels, reference log-probabilities] of a step.

        start, count: range of the step's rows over all ranks. micro_batch: rows that a rank takes
        in turn. Tokens and labels are those of `Mesh.batch`, int64 [n, positions];
        log-probabilities are float32 [n].
        """
        tokens, labels = self.mesh.batch(pairs, start, count, micro_batch)
        rows = pairs.answers(self.mesh.sequence_starts(start, count, micro_batch), micro_batch)
        scores = self.scores[pairs.split][torch.from_numpy(rows).clamp(min=0)]
        return [tokens, labels, scores.to(self.mesh.device)]

    def accumulate(
        self, batch: list[Tensor], micro_batch: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Run forward and backward of a batch's micro-batches, accumulating gradients.

        All ranks call this. batch: from `batch`. micro_batch: rows per forward pass, two per pair.
        Returns (sum of this rank's losses, number of its pairs, means over all ranks' pairs by
        name, for a row of metrics), all scalars on the device.
        """
        total = torch.zeros(len(MEANS), device=self.mesh.device)
        parts = list(zip(*(x.split(micro_batch) for x in batch), strict=True))
        for number, (tokens, labels, reference) in enumerate(parts, 1):
            self.mesh.set_gradient_sync(self.model, self.reduce_each or number == len(parts))
            log_probabilities = self.model(tokens, labels)
            sums, gradient = preference(
                log_probabilities.detach(), reference, labels, **self.options
            )
            log_probabilities.backward(gradient)
            total += sums
        pairs = count_pairs(batch[1])
        return total[0], pairs, self._means(total, pairs)

    @torch.no_grad()
    def evaluate(self, pairs: Pairs, rows: int, micro_batch: int) -> dict[str, float]:
        """Return means over held-out pairs, as `validation_…` fields of a row of metrics.

        All ranks call this. pairs: the validation split. rows: number of rows to read, rounded up
        to full passes of all ranks, or all if there are fewer. micro_batch: rows per forward pass
        and rank, two per pair.
        """
        total, count = torch.zeros(len(MEANS), device=self.mesh.device), 0
        together = micro_batch * self.mesh.data_ranks
        for start in range(0, min(rows, len(pairs)), together):
            tokens, labels, known = self.batch(pairs, start, together, micro_batch)
            total += preference(self.model(tokens, labels), known, labels, **self.options)[0]
            count += count_pairs(labels)
        means = self._means(total, torch.as_tensor(count))
        return {f"validation_{name}": value.item() for name, value in means.items()}

    def _means(self, sums: Tensor, pairs: Tensor) -> dict[str, Tensor]:
        """Return the means over all ranks' pairs, by name, without synchronising with the device.

        sums: this rank's sums, as from `preference`. pairs: number of its pairs.
        """
        total = self.mesh.total(torch.cat([sums, pairs.to(sums).unsqueeze(0)]))
        means = dict(zip(MEANS, total[:-1] / total[-1].clamp(min=1), strict=True))
        return means | {"reward_margin": means["reward_chosen"] - means["reward_rejected"]}


def prepare_preferences(
    model: nn.Module,
    mesh: Mesh,
    splits: tuple[Pairs, ...],
    micro_batch: int,
    run: Path,
    resumed_from: Path | None,
    settings: Mapping[str, Any],
    **options: Any,
) -> Preferences:
    """Create a run's `Preferences`, reading the reference's scores or computing them at its start.

    All ranks call this. The scores are stored in RUN/reference.npy.

    Args:
        model: has the initial weights if the run is at its start.
        mesh: of all ranks.
        splits: pairs for training and, if any, for validation.
        micro_batch: sequences per forward pass.
        run: directory of the run.
        resumed_from: checkpoint that the run resumes from, whose run has the scores; None at the
            start.
        settings: those that determine the loss curve; they identify the weights and the data.
        options: further arguments of `Preferences`.

    Raises:
        RunError: the scores are missing or damaged, or belong to other weights or data.
    """
    origin = {key: settings.get(key) for key in ("prepared_data", "init", "adapters")}
    runs = [run, *([resumed_from.resolve().parent.parent] if resumed_from else [])]
    scores = mesh.ranks.on_first(lambda: _read(runs, origin, resumed_from, splits))
    if scores is None:
        count = sum(pairs.pairs for pairs in splits)
        mesh.log(f"reference: {count:,} pairs under the weights that training begins from")
        scores = {pairs.split: _score(model, mesh, pairs, micro_batch) for pairs in splits}
        mesh.ranks.on_first(lambda: (run / NOTE).unlink(missing_ok=True))
    mesh.ranks.on_first(lambda: _write(run, origin, scores))
    tensors = {split: torch.from_numpy(values) for split, values in scores.items()}
    return Preferences(model, mesh, tensors, **options)


@torch.no_grad()
def _score(model: nn.Module, mesh: Mesh, pairs: Pairs, micro_batch: int) -> np.ndarray:
    """Return the log-probability of each answer under `model`, float32 [2 · pairs]."""
    ordered, together = OrderedPairs(pairs), micro_batch * mesh.data_ranks
    scores = torch.zeros(-(-2 * pairs.pairs // together) * together, device=mesh.device)
    last_message = time.monotonic()
    for start in range(0, len(scores), together):
        if time.monotonic() > last_message + EVERY:
            mesh.log(f"reference: {start // 2:,} of {pairs.pairs:,} pairs of {pairs.split}")
            last_message = time.monotonic()
        tokens, labels = mesh.batch(ordered, start, together, micro_batch)
        (own,) = mesh.sequence_starts(start, together, micro_batch)
        scores[own : own + micro_batch] = model(tokens, labels).float()
    return mesh.total(scores)[: 2 * pairs.pairs].cpu().numpy()


def _read(
    runs: list[Path],
    origin: Mapping[str, Any],
    resumed_from: Path | None,
    splits: tuple[Pairs, ...],
) -> dict[str, np.ndarray] | None:
    """Return split → scores from the first of `runs` that has them; None if they are to compute."""
    home = next((run for run in runs if (run / NOTE).is_file()), None)
    if home is None and resumed_from is None:
        return None
    where = f"{home or runs[-1]}/{FILE}, the reference of the run's loss,"
    advice = "restore it, or start a new run with -o DIR (train.py: --run DIR)"
    try:
        note = durable_files.read_note((home or runs[-1]) / NOTE)
        if note is None:
            raise RunError(f"{where} is missing: {advice}")
        if note["of"] != origin:
            if resumed_from is None:  # left by a run that never saved a step
                return None
            raise RunError(f"{where} is of other weights or data: {advice}")
        path = durable_files.check(Path(home or runs[-1], FILE), note["scores_sha256"])
        scores = np.split(np.load(path), np.cumsum([2 * pairs.pairs for pairs in splits])[:-1])
    except (OSError, ValueError) as error:
        raise RunError(f"{where} cannot be read: {error}; {advice}") from error
    return {pairs.split: values for pairs, values in zip(splits, scores, strict=True)}


def _write(run: Path, origin: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> None:
    if (run / NOTE).is_file():
        return
    sha256 = durable_files.write_array(run / FILE, np.concatenate(list(scores.values())))
    durable_files.write_note(run / NOTE, {"of": dict(origin), "scores_sha256": sha256})
