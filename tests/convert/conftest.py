"""Random models of each family, made by transformers, and what llamac computes from imports."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llamac.cli import main
from llamac.convert.directory import shapes_of
from llamac.convert.weights import read_weights
from llamac.emit.build import files_of
from llamac.emit.importing import import_emitted
from llamac.passes.pass_list import stages
from llamac.runtime import durable_files
from llamac.runtime.checkpoint import checkpoint
from llamac.runtime.parameters import canonical_views
from llamac.runtime.tokenizers.tokenizer import Tokenizer, train_tokenizer, training_lines
from llamac.spec import Spec, load_spec

SHAPE = {
    "vocab_size": 331,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GROUPED = {"num_key_value_heads": 2}


def hf_config(family: str = "llama", **changes: Any) -> Any:
    import transformers

    kinds = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    return getattr(transformers, f"{kinds[family]}Config")(**{**SHAPE, **changes})


def hf_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A random model; its gains and biases are random as well, so that none can be forgotten."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            parameter.copy_(1 + 0.2 * noise if name.endswith("norm.weight") else 0.07 * noise)
    return model.eval()


@pytest.fixture
def hf(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """`hf("qwen2", **config)`: a saved random model, as (directory, model)."""

    def save(family: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any):
        model = hf_model(hf_config(family, **changes), dtype)
        model.save_pretrained(tmp_path / "hf")
        return tmp_path / "hf", model

    return save


def llamac(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def imports(source: Path, name: str = "imported", *options: object) -> Path:
    """Import `source` beside itself; returns the import directory."""
    spec = source.parent / f"{name}.toml"
    assert llamac("import", source, "-o", spec, *options) == 0
    return spec.with_suffix("")


def exports(run: Path, *options: object, name: str = "exported") -> Path:
    output = run.parent / name
    assert llamac("export", run, "-o", output, *options) == 0
    return output


@torch.no_grad()
def log_probabilities(directory: Path, tokens: Tensor) -> Tensor:
    """What the model that is emitted for an import or a run says in float64: [B, S, V]."""
    spec = load_spec(str(directory / "spec.toml"))
    weights = read_weights(checkpoint.checkpoint_path(directory, checkpoint.steps(directory)[-1]))
    with import_emitted(files_of(spec, stages(spec))) as module:
        model = module.Model(dtype=torch.float64)
        for held, parameter in model.named_parameters():
            for name, view in canonical_views(held, parameter, module.PACKED):
                view.copy_(weights[name].read())
        return model.logits(tokens).double().log_softmax(-1)


@torch.no_grad()
def hf_log_probabilities(model: Any, tokens: Tensor) -> Tensor:
    return model.double()(tokens).logits.log_softmax(-1)


def divergence(wanted: Tensor, found: Tensor) -> float:
    """The largest KL divergence of a position, in nats."""
    return float((wanted.exp() * (wanted - found)).sum(-1).abs().max())


def require_same_greedy_tokens(
    model: Any, directory: Path, prompt: Tensor, count: int = 64
) -> None:
    """Assert that transformers' greedy continuation of `prompt` is the emitted model's as well."""
    new = {"max_new_tokens": count, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    tokens = model.double().generate(prompt, **new)
    chosen = log_probabilities(directory, tokens)[:, prompt.shape[1] - 1 : -1].argmax(-1)
    assert torch.equal(chosen, tokens[:, prompt.shape[1] :])
    assert tokens.shape[1] == prompt.shape[1] + count


def tokens_of(vocabulary: int, length: int = 96) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randint(vocabulary, (2, length), generator=random)


def weights_of(directory: Path) -> Mapping[str, Tensor]:
    path = checkpoint.checkpoint_path(directory, checkpoint.steps(directory)[-1])
    return {name: tensor.read() for name, tensor in read_weights(path).items()}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    text = "A tokenizer of 331 pieces, for tests: it's enough to say a few words, 0123456789.\n"
    return train_tokenizer(training_lines([text * 3]), kind="bpe", vocab_size=310)


RUN = (
    "model.dim=64",
    "model.n_layers=2",
    "model.n_heads=8",
    "model.ffn_dim=96",
    "model.vocab_size=331",
    "batch.sequence_length=128",
    "batch.sequences=2",
    "batch.micro_batch=2",
)


def random_tensors(spec: Spec, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(3)
    return {
        name: (0.07 * torch.randn(shape, generator=random) + name.endswith("norm")).to(dtype)
        for name, shape in shapes_of(spec).items()
    }


def state_of(spec: Spec) -> dict[str, Any]:
    curve = {"model": tomllib.loads(spec.to_toml())["model"]}
    return checkpoint.checkpoint_state(checkpoint.Progress(step=7), curve, "")


def make_run(
    directory: Path,
    tokenizer: Tokenizer,
    *overrides: str,
    dtype: torch.dtype = torch.float32,
    sources: Sequence[dict[str, Any]] = (),
) -> Spec:
    """Write a run directory as a trainer leaves it, of random weights, without its code.

    sources: of its data's manifest; none: there is no manifest.
    """
    spec = load_spec("tiny", [*RUN, *overrides])
    directory.mkdir()
    (directory / "spec.toml").write_text(spec.to_toml())
    tensors = random_tensors(spec, dtype)
    state = state_of(spec)
    (directory / "data").mkdir()
    (directory / "data/tokenizer.model").write_bytes(tokenizer.model)
    if sources:
        account = {
            "tokenizer": {"pieces_sha256": tokenizer.pieces_sha256},
            "sources": list(sources),
        }
        noted = durable_files.write_note(directory / "data/manifest.json", account)
        state["curve"]["prepared_data"] = noted["sha256"]
    checkpoint.commit(directory, {"model": tensors, "exp_avg": tensors}, state, keep=1)
    return spec
