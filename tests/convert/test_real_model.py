"""A real model, SmolLM2-135M: the numbers of transformers, and the tokens of llama.cpp."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from llamac.runtime.tokenizers.loading import load_tokenizer_file
from tests.convert.conftest import (
    exports,
    imports,
    llamac,
    log_probabilities,
    make_run,
    tokens_of,
)
from tests.convert.fetched import llama_cpp, smollm2

PROMPT, COUNT = "The capital of France is", 24


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    link = tmp_path_factory.mktemp("real") / "smollm2.gguf"
    link.symlink_to(smollm2())
    return imports(link)


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' own reading of the same file, dequantised."""
    from transformers import AutoModelForCausalLM

    path = smollm2()
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


@torch.no_grad()
def greedy(model: Any, ids: list[int], count: int = COUNT) -> list[int]:
    tokens = torch.tensor([ids])
    found = model.generate(tokens, max_new_tokens=count, do_sample=False, eos_token_id=-1)
    return found[0, len(ids) :].tolist()


@pytest.mark.slow
def test_its_greedy_text_is_that_of_transformers(imported, reference, capfd) -> None:
    options = ("--prompt", PROMPT, "--temperature", 0, "--tokens", COUNT, "--json")
    capfd.readouterr()
    assert llamac("generate", imported, *options) == 0
    answer = json.loads(capfd.readouterr().out)
    ids = load_tokenizer_file(imported / "tokenizer.json").encode(PROMPT).tolist()
    assert answer["tokens"] == greedy(reference, ids)
    assert "Paris" in answer["text"]


@pytest.mark.slow
@torch.no_grad()
def test_its_perplexity_is_that_of_transformers(imported, reference) -> None:
    tokenizer = load_tokenizer_file(imported / "tokenizer.json")
    ids = tokenizer.encode("\n\n".join(topics[name] for name in sorted(topics))[:20_000])
    tokens = torch.tensor(ids[: 2 * 256]).view(2, 256)
    wanted = reference(tokens).logits.double().log_softmax(-1)
    found = log_probabilities(imported, tokens)
    next_tokens = tokens[:, 1:, None]
    ours, theirs = (
        math.exp(-float(said[:, :-1].gather(-1, next_tokens).mean())) for said in (found, wanted)
    )
    assert 2 < theirs < 60
    assert math.isclose(ours, theirs, rel_tol=1e-4)


@pytest.mark.slow
def test_it_leaves_as_the_tensors_that_it_came_with(imported, reference) -> None:
    from safetensors.torch import load_file

    held = load_file(exports(imported) / "model.safetensors")
    wanted = reference.state_dict()
    assert held.keys() == wanted.keys() - {"lm_head.weight"}
    assert all(torch.equal(held[name], wanted[name]) for name in held)


# Reads {file: [prompt, …]} of token ids, and prints the greedy continuations in the same form.
CLIENT = """
import {getLlama} from "node-llama-cpp";
const llama = await getLlama({gpu: false, maxThreads: 1, build: "never", progressLogs: false});
const found = {};
for (const [file, [prompt, count]] of Object.entries(JSON.parse(process.argv[2]))) {
  const model = await llama.loadModel({modelPath: file, gpuLayers: 0});
  const context = await model.createContext({contextSize: 128, batchSize: 64, threads: 1});
  found[file] = [];
  const options = {temperature: 0, yieldEogToken: true};
  for await (const token of context.getSequence().evaluate(prompt, options)) {
    found[file].push(token);
    if (found[file].length >= count) break;
  }
  await context.dispose();
  await model.dispose();
}
console.log(JSON.stringify(found));
process.exit(0);
"""


def continued(questions: dict[Path, tuple[list[int], int]]) -> list[list[int]]:
    """Greedy tokens of llama.cpp for GGUF files."""
    directory = llama_cpp()
    (directory / "client.mjs").write_text(CLIENT)
    asked = json.dumps({str(path): one for path, one in questions.items()})
    done = subprocess.run(
        ["node", "client.mjs", asked], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return [found[str(path)] for path in questions]


@pytest.mark.slow
def test_llama_cpp_continues_it_alike(imported, reference) -> None:
    ids = load_tokenizer_file(imported / "tokenizer.json").encode(PROMPT).tolist()
    exported = exports(imported, "--format", "gguf", "--dtype", "float32", name="gguf")
    found = continued({exported / "model.gguf": (ids, COUNT)})
    assert found == [greedy(reference, ids)]


RUNS = [
    ("model.n_kv_heads=2",),
    ("model.rope_layout=half_split", "model.tied_embeddings=true"),
    ("model.bias=true", "model.n_kv_heads=2"),
    ('model.bias="qkv"', "model.n_kv_heads=2"),
    ('model.bias="attention"', "model.n_kv_heads=2"),
    ("model.qk_norm=true", "model.n_kv_heads=2", "model.rope_layout=half_split"),
    ('model.rope_scaling={kind="llama3", factor=8.0, original_context=32}',),
    ('model.rope_scaling={kind="linear", factor=4.0}', "model.rope_theta=500.0"),
]


@pytest.mark.slow
def test_llama_cpp_continues_every_kind_of_run_alike(tmp_path: Path, tokenizer) -> None:
    llama_cpp()
    wide = ("model.dim=256", "model.head_dim=32")  # ggml wants rows of 32
    prompt = tokens_of(331, 40)[0].tolist()
    runs = [tmp_path / f"run{number}" for number in range(len(RUNS))]
    questions = {}
    for run, overrides in zip(runs, RUNS, strict=True):
        make_run(run, tokenizer, *wide, *overrides)
        exported = exports(run, "--format", "gguf", name=f"{run.name}-gguf")
        questions[exported / "model.gguf"] = (prompt, 12)
    for run, found in zip(runs, continued(questions), strict=True):
        said = log_probabilities(run, torch.tensor([[*prompt, *found]]))
        assert said[0, len(prompt) - 1 : -1].argmax(-1).tolist() == found
        assert len(found) == 12
