"""Direct preference optimisation: learn from pairs of a chosen and a rejected answer.

Of n pairs, rows 2i and 2i + 1 of a batch are the chosen and the rejected sequence. A *reward* is
beta · (log-probability of the answer - that under the reference, the weights that training began
from). The loss of a pair is -log sigmoid(reward of chosen - reward of rejected) (Rafailov et al.
2023, equation 7); label_smoothing takes a fraction of the pairs to be labelled the wrong way round
(Mitchell 2023, conservative DPO).
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

EVERY = 30.0  # seconds between messages on a reference that is computed
FILE, NOTE = "reference.npy", "reference.json"
MEANS = ("loss", "reward_chosen", "reward_rejected", "reward_accuracy")


def count_pairs(labels: Tensor) -> Tensor:
    """Count the pairs of a batch that are not padding alone: an int64 scalar."""
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
    """Return the loss of a batch's pairs with what is reported, and the loss's gradient.

    log_probabilities, reference: of sequences [2n]. labels: int64 [2n, S]; pairs of padding alone
    count nothing. Returns sums over pairs, of `MEANS` [4], and d_log_probabilities [2n].
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
    """Steps and evaluations of a model that learns from pairs."""

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
        """scores: the reference's log-probabilities of each split's answers, float32 [2 · pairs].

        reduce_each: whether gradients are reduced after each micro-batch, not after the last.
        """
        self.model, self.mesh, self.scores = model, mesh, scores
        self.options = {"beta": beta, "label_smoothing": label_smoothing}
        self.reduce_each = reduce_each

    def batch(self, pairs: Pairs, start: int, count: int, micro_batch: int) -> list[Tensor]:
        """Return this rank's tokens, labels and reference log-probabilities of a batch.

        As `Mesh.batch`; the last float32 [n].
        """
        tokens, labels = self.mesh.batch(pairs, start, count, micro_batch)
        rows = pairs.answers(self.mesh.sequence_starts(start, count, micro_batch), micro_batch)
        scores = self.scores[pairs.split][torch.from_numpy(rows).clamp(min=0)]
        return [tokens, labels, scores.to(self.mesh.device)]

    def accumulate(
        self, batch: list[Tensor], micro_batch: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Accumulate the gradients of the micro-batches of a `batch`.

        Returns the sum of this rank's losses, the number of its pairs, and the means over all
        ranks' pairs.
        """
        total = torch.zeros(len(MEANS), device=self.mesh.device)
        parts = list(zip(*(x.split(micro_batch) for x in batch), strict=True))
        for number, (tokens, labels, reference) in enumerate(parts, 1):
            self.mesh.set_gradient_sync(self.model, self.reduce_each or number == len(parts))
            found = self.model(tokens, labels)  # log-probabilities of the answers
            sums, d_found = preference(found.detach(), reference, labels, **self.options)
            found.backward(d_found)
            total += sums
        pairs = count_pairs(batch[1])
        return total[0], pairs, self._means(total, pairs)

    @torch.no_grad()
    def evaluate(self, pairs: Pairs, rows: int, micro_batch: int) -> dict[str, float]:
        """Return the means over the first `rows` held-out answers, for a row of metrics."""
        total, count = torch.zeros(len(MEANS), device=self.mesh.device), 0
        together = micro_batch * self.mesh.data_ranks
        for start in range(0, min(rows, len(pairs)), together):
            tokens, labels, known = self.batch(pairs, start, together, micro_batch)
            total += preference(self.model(tokens, labels), known, labels, **self.options)[0]
            count += count_pairs(labels)
        means = self._means(total, torch.as_tensor(count))
        return {f"validation_{name}": value.item() for name, value in means.items()}

    def _means(self, sums: Tensor, pairs: Tensor) -> dict[str, Tensor]:
        """Return the means over all ranks' pairs, for a row of metrics, without synchronisation.

        sums: of this rank, as from `preference`. pairs: their number.
        """
        total = self.mesh.total(torch.cat([sums, pairs.to(sums).unsqueeze(0)]))
        means = dict(zip(MEANS, total[:-1] / total[-1].clamp(min=1), strict=True))
        return means | {"reward_margin": means["reward_chosen"] - means["reward_rejected"]}


def preferences_of(
    model: nn.Module,
    mesh: Mesh,
    splits: tuple[Pairs, ...],
    micro_batch: int,
    run: Path,
    found: Path | None,
    settings: Mapping[str, Any],
    **options: Any,
) -> Preferences:
    """Return a run's preferences, with the reference read from it or computed at its start.

    model: with the starting weights, if the run is at its start. found: the checkpoint that the run
    resumes from, whose run has the reference. settings: identify weights and data. options:
    of `Preferences`. All ranks call this. Raises RunError if the reference is missing, damaged, or
    of other weights or data.
    """
    of = {key: settings.get(key) for key in ("prepared_data", "init", "adapters")}
    homes = [run, *([found.resolve().parent.parent] if found else [])]
    scores = mesh.ranks.on_first(lambda: _read(homes, of, found, splits))
    if scores is None:
        pairs = sum(one.pairs for one in splits)
        mesh.log(f"reference: {pairs:,} pairs under the weights that training begins from")
        scores = {one.split: _computed(model, mesh, one, micro_batch) for one in splits}
        mesh.ranks.on_first(lambda: (run / NOTE).unlink(missing_ok=True))
    mesh.ranks.on_first(lambda: _write(run, of, scores))
    tensors = {split: torch.from_numpy(values) for split, values in scores.items()}
    return Preferences(model, mesh, tensors, **options)


@torch.no_grad()
def _computed(model: nn.Module, mesh: Mesh, pairs: Pairs, micro_batch: int) -> np.ndarray:
    ordered, together = OrderedPairs(pairs), micro_batch * mesh.data_ranks
    scores = torch.zeros(-(-2 * pairs.pairs // together) * together, device=mesh.device)
    said = time.monotonic()
    for start in range(0, len(scores), together):
        if time.monotonic() > said + EVERY:
            mesh.log(f"reference: {start // 2:,} of {pairs.pairs:,} pairs of {pairs.split}")
            said = time.monotonic()
        tokens, labels = mesh.batch(ordered, start, together, micro_batch)
        (own,) = mesh.sequence_starts(start, together, micro_batch)
        scores[own : own + micro_batch] = model(tokens, labels).float()
    return mesh.total(scores)[: 2 * pairs.pairs].cpu().numpy()


def _read(
    homes: list[Path], of: Mapping[str, Any], found: Path | None, splits: tuple[Pairs, ...]
) -> dict[str, np.ndarray] | None:
    home = next((one for one in homes if (one / NOTE).is_file()), None)
    if home is None and found is None:
        return None
    where = f"{home or homes[-1]}/{FILE}, the reference of the run's loss,"
    again = "restore it, or start a new run with -o DIR (train.py: --run DIR)"
    try:
        note = durable_files.read_note((home or homes[-1]) / NOTE)
        if note is None:
            raise RunError(f"{where} is missing: {again}")
        if note["of"] != of:
            if found is None:  # of a run that never saved a step
                return None
            raise RunError(f"{where} is of other weights or data: {again}")
        path = durable_files.check(Path(home or homes[-1], FILE), note["scores_sha256"])
        scores = np.split(np.load(path), np.cumsum([2 * one.pairs for one in splits])[:-1])
    except (OSError, ValueError) as error:
        raise RunError(f"{where} cannot be read: {error}; {again}") from error
    return {one.split: values for one, values in zip(splits, scores, strict=True)}


def _write(run: Path, of: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> None:
    if (run / NOTE).is_file():
        return
    sha256 = durable_files.write_array(run / FILE, np.concatenate(list(scores.values())))
    durable_files.write_note(run / NOTE, {"of": dict(of), "scores_sha256": sha256})
