"""Imports continue texts as transformers does: 64 greedy tokens of each family, in batches too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llamac.convert.weights import read_weights
from llamac.emit.build import files_of
from llamac.emit.importing import import_emitted
from llamac.passes.pass_list import stages
from llamac.runtime.checkpoint import checkpoint
from llamac.runtime.generate.engine import Generation
from llamac.runtime.generate.sampling import Sampling
from llamac.runtime.parameters import canonical_views
from llamac.spec import Spec, load_spec
from tests.convert.conftest import GROUPED, LLAMA3, imports, tokens_of

FAMILIES = [
    ("llama", {}),
    ("llama", {"rope_parameters": LLAMA3, **GROUPED}),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("mistral", {"sliding_window": 16, **GROUPED}),
    ("qwen2", {"tie_word_embeddings": True, **GROUPED}),
    ("qwen3", {"head_dim": 16, **GROUPED}),
]
LENGTHS = (3, 40, 17)
COUNT = 64


@torch.no_grad()
def continued(spec: Spec, directory: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Return what the inference program emitted for the spec adds to the prompts, in float64."""
    weights = read_weights(checkpoint.checkpoint_path(directory, 0))
    with import_emitted(files_of(spec, stages(spec)), "inference") as inference:
        holder = sys.modules["model"]
        model = holder.Model(dtype=torch.float64)
        for held, parameter in model.named_parameters():
            for name, view in canonical_views(held, parameter, holder.PACKED):
                view.copy_(weights[name].read())
        rows = Generation(
            lambda rows, length: inference.Inference(model, rows, length),
            prompts,
            COUNT,
            context=128,
            device=torch.device("cpu"),
            sampling=Sampling(temperature=0.0),
            seed=0,
        )
        for _ in rows:
            pass
    return [made[len(prompt) :] for made, prompt in zip(rows.tokens, prompts, strict=True)]


@torch.no_grad()
def hf_continued(model: Any, prompt: list[int]) -> list[int]:
    """Return what transformers adds, reading everything again for every token.

    Raises AssertionError where the two likeliest tokens are too close to tell.
    """
    tokens: Tensor = torch.tensor([prompt])
    for _ in range(COUNT):
        best = model(tokens, use_cache=False).logits[0, -1].topk(2)
        assert best.values[0] - best.values[1] > 1e-6
        tokens = torch.cat([tokens, best.indices[:1].unsqueeze(0)], dim=1)
    return tokens[0, len(prompt) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"), FAMILIES, ids=[f"{f}-{'-'.join(c) or 'plain'}" for f, c in FAMILIES]
)
def test_greedy_tokens_are_those_of_transformers(family, changes, hf) -> None:
    source, model = hf(family, **changes)
    prompts = [tokens_of(331, length)[0].tolist() for length in LENGTHS]
    wanted = [hf_continued(model.double(), prompt) for prompt in prompts]
    directory = imports(source)
    spec = load_spec(str(directory / "spec.toml"))
    assert continued(spec, directory, prompts) == wanted
    assert [continued(spec, directory, [prompt])[0] for prompt in prompts] == wanted


@pytest.mark.slow
def test_a_window_holds_in_text_that_outgrows_trainings_sequences(hf) -> None:
    source, model = hf("mistral", sliding_window=16, **GROUPED)
    prompts = [tokens_of(331, length)[0].tolist() for length in LENGTHS]
    directory = imports(source)
    spec = load_spec(str(directory / "spec.toml")).replace({"batch.sequence_length": 8})
    wanted = [hf_continued(model.double(), prompt) for prompt in prompts]
    assert continued(spec, directory, prompts) == wanted
