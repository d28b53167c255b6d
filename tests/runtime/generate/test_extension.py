"""Reading more of many rows after a prefix that is read once equals reading each row whole."""

from __future__ import annotations

import sys

import pytest
import torch

from llamac.emit.importing import import_emitted
from tests.emit.conftest import files, small

EOS = 2
MODELS = {
    "plain": [],
    "grouped": ["model.n_kv_heads=2"],
    "learned positions": ["model.position='learned'"],
    "window": ["model.sliding_window=5"],
    "documents": ["data.document_mask=true"],
}


@pytest.mark.parametrize("sets", MODELS.values(), ids=MODELS)
def test_extending_a_shared_prefix_equals_reading_everything(sets: list[str]) -> None:
    with import_emitted(files(small(*sets)), "inference") as inference:
        holder = sys.modules["model"]
        model = holder.Model()
        holder.initialise(model, 0)
    assert getattr(inference, "EOS", EOS) == EOS
    prefixes = torch.tensor([[5, 9, EOS, 7, 11, 3], [8, 4, 6, 0, 0, 0]])
    whole = [6, 3]
    rows = [  # (prefix, what follows)
        (0, [12, 13, 14]),
        (1, [15, EOS, 16, 17, 18]),
        (0, [EOS]),
        (1, [19, 20]),
    ]
    longest = max(len(more) for _, more in rows)
    shared = inference.Inference(model, 2, 6)
    last = torch.tensor(whole) - 1
    shared.prefill(prefixes, last)
    sources = torch.tensor([source for source, _ in rows])
    run = inference.Inference(model, len(rows), 10)
    run.copy_prefix(shared, torch.arange(4), sources, 6)
    tokens = torch.tensor([more + [1] * (longest - len(more)) for _, more in rows])
    ends = torch.tensor([len(more) - 1 for _, more in rows])
    first = torch.tensor(whole)[sources]
    places = [(row, column) for row, (_, more) in enumerate(rows) for column in range(len(more))]
    at, columns = map(torch.tensor, zip(*places, strict=True))
    found = run.extend(tokens, first, ends, at, columns)
    newest = torch.tensor([30, 31, 32, 33])
    decoded = run.decode(newest, first + ends + 1, 10)
    for row, (source, more) in enumerate(rows):
        text = [*prefixes[source, : whole[source]].tolist(), *more, int(newest[row])]
        logits = model.logits(torch.tensor([text]))[0, whole[source] :]
        torch.testing.assert_close(found[at == row], logits[:-1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(decoded[row], logits[-1], rtol=1e-4, atol=1e-5)
