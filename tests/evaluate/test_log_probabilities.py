"""Scores are the log-probabilities of the whole sequence, whatever is shared and batched."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch

from llamac.emit.importing import import_emitted
from llamac.evaluate.log_probabilities import Scorer
from tests.emit.conftest import files, small

MODELS = {
    "plain": [],
    "learned positions": ["model.position='learned'"],
    "window": ["model.sliding_window=5"],
    "documents": ["data.document_mask=true"],
}


@pytest.mark.parametrize("sets", MODELS.values(), ids=MODELS)
def test_scores_equal_those_of_each_sequence_read_alone(sets: list[str]) -> None:
    with import_emitted(files(small(*sets)), "inference") as inference:
        holder = sys.modules["model"]
        model = holder.Model()
        holder.initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    random = torch.Generator().manual_seed(1)

    def some(count: int) -> list[int]:
        return torch.randint(331, (count,), generator=random).tolist()

    shared, other = some(12), [5, 2, *some(9)]  # 2 ends a document
    pairs = [(shared, [token]) for token in some(4)]
    pairs += [([*shared, *some(3)], some(n)) for n in (1, 2, 4, 6)]
    pairs += [(other, some(n)) for n in (3, 8, 2)] + [([7], some(20)), (some(5), some(2))]
    pairs += [pairs[0]]
    make = partial(inference.Inference, model)
    for max_tokens in (20, 64, 4096):
        done: list[tuple[int, int]] = []
        scorer = Scorer(make, torch.device("cpu"), max_tokens)
        found = scorer.score(pairs, lambda *progress, to=done: to.append(progress))
        assert done[-1][0] == done[-1][1]
        for (context, continuation), one in zip(pairs, found, strict=True):
            logits = model.logits(torch.tensor([[*context, *continuation]]))[0].log_softmax(-1)
            rows = logits[len(context) - 1 : -1]
            wanted = rows.gather(1, torch.tensor(continuation)[:, None]).sum()
            assert one.log_probability == pytest.approx(float(wanted), abs=2e-4)
            assert one.greedy == (rows.argmax(-1).tolist() == continuation)
