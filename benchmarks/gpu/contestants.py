"""Who takes part in a race on the GPU: llamac's emitted model, and peers with the same weights.

A peer runs as its own project has it run: the same kernels, the same parts compiled. Each takes
tokens and labels int64 [B, S] and gives the mean cross-entropy. One that cannot take part says why.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from contest import (
    Contestant,
    Loss,
    build,
    emitted_model,
    hf_loss,
    hf_model,
    mean_loss,
    random_weights,
)
from gpu.emitted_trainer import EmittedTrainer
from torch import Tensor, nn
from torch.nn import functional as F

from llamac.emit.build import files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.spec import Spec, SpecError, load_spec

Weights = dict[str, Tensor]


class Absent(Exception):
    """This contestant cannot run here; the message says why."""


def llamac(
    kernel: str, path: Path, settings: list[str], directory: Path, device: str
) -> Contestant:
    """The emitted model with this attention kernel, its regions compiled."""
    settings = [*settings, f"hardware.device={device}", "precision.compute=bf16"]
    settings += [] if kernel == "auto" else [f"kernels.attention={kernel}"]
    settings += ["kernels.deterministic=false"] if kernel == "cudnn" else []
    try:
        spec = load_spec(path, settings)
    except SpecError as error:
        raise Absent(error.diagnostics[0].message) from None
    name = "llamac" if kernel == "auto" else f"llamac-{kernel}"
    module = build(path, directory / name, settings)
    if kernel != "auto" and (why_not := fallback()):
        raise Absent(why_not)
    if spec.kernels.deterministic and device == "cuda":  # as train.py does
        determinism = importlib.import_module("runtime.determinism")
        determinism.make_deterministic(torch.device(device))
    module.compile_regions()
    weights = random_weights(spec.model, spec.batch.sequence_length, device=device)
    model = emitted_model(module, weights, device, torch.bfloat16)
    return Contestant.enter(name, model, mean_loss(model))


class TrainerContestant:
    """train.py's own step: the emitted model, its optimizer, and its CUDA graph."""

    def __init__(self, trainer: EmittedTrainer) -> None:
        self.name, self.trainer = "llamac-trainer", trainer

    def first_step(self, tokens: Tensor, labels: Tensor) -> float:
        return self.trainer.step(tokens, labels).loss

    def step(self, tokens: Tensor, labels: Tensor) -> None:
        self.trainer.step(tokens, labels)


def llamac_trainer(
    path: Path, settings: list[str], directory: Path, device: str
) -> TrainerContestant:
    """The emitted train.py's step on a CUDA graph, or on the CPU with a stand-in for it."""
    kind = "auto" if device == "cpu" else device
    settings = [*settings, f"hardware.device={kind}", "precision.compute=bf16"]
    spec = load_spec(path, settings)
    write_directory(directory / "trainer", files_of(spec, stages(spec)))
    weights = random_weights(spec.model, spec.batch.sequence_length, device=device)
    trainer = EmittedTrainer(
        directory / "trainer", torch.device(device), weights, rehearse=device == "cpu"
    )
    trainer.emitted.compile_regions()
    return TrainerContestant(trainer)


def fallback() -> str:
    """Why the emitted model just imported runs another kernel than its spec asks for, or ""."""
    kernels = [m for n, m in sys.modules.items() if n.startswith("runtime.kernels.attention_")]
    return "; ".join(why for m in kernels if (why := getattr(m, "WHY_NOT", "")))


def hf_compiled(spec: Spec, weights: Weights, device: str) -> tuple[nn.Module, Loss]:
    """transformers with scaled_dot_product_attention, model and loss under torch.compile."""
    hf = hf_model(spec.model, weights, spec.batch.sequence_length, device, torch.bfloat16)
    return hf, torch.compile(hf_loss(hf))


def hf_liger(spec: Spec, weights: Weights, device: str) -> tuple[nn.Module, Loss]:
    """transformers with Liger's RoPE, norm, SwiGLU and fused linear cross-entropy, compiled."""
    if device != "cuda":
        raise Absent("Liger's kernels are Triton's, which need a GPU")
    from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
        apply_liger_kernel_to_llama,
    )

    apply_liger_kernel_to_llama()  # replaces the classes of transformers' module, in this process
    hf = hf_model(spec.model, weights, spec.batch.sequence_length, device, torch.bfloat16).train()

    def loss(tokens: Tensor, labels: Tensor) -> Tensor:
        return hf(tokens, shift_labels=labels).loss

    return hf, torch.compile(loss)


def torchtitan(spec: Spec, weights: Weights, device: str) -> tuple[nn.Module, Loss]:
    """torchtitan 0.2's Llama 3 model: each block compiled whole, and the loss, as its trainer."""
    model = spec.model
    if model.head_dim * model.n_heads != model.dim:
        raise Absent("its heads are dim / n_heads wide")
    _stand_in("datasets", "datasets.distributed", "wandb")  # of its data loader and trackers
    from torchtitan.models.llama3.model.args import (  # pyright: ignore[reportMissingImports]
        TransformerModelArgs,
    )
    from torchtitan.models.llama3.model.model import (  # pyright: ignore[reportMissingImports]
        Transformer,
    )

    titan = Transformer(
        TransformerModelArgs(
            dim=model.dim,
            n_layers=model.n_layers,
            n_heads=model.n_heads,
            n_kv_heads=model.n_kv_heads,
            vocab_size=model.vocab_size,
            multiple_of=model.ffn_dim,
            norm_eps=model.norm_eps,
            rope_theta=model.rope_theta,
            max_seq_len=spec.batch.sequence_length,
        )
    )
    named: Any = dict(titan.named_parameters())
    _fill(named, {f"{name}.weight": weight for name, weight in weights.items()})
    for parameter in named.values():  # not the complex table of angles
        parameter.data = parameter.data.to(torch.bfloat16)
    for name, block in list(titan.layers.named_children()):
        titan.layers.register_module(name, torch.compile(block, fullgraph=True))

    @torch.compile
    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    return titan, lambda tokens, labels: cross_entropy(titan(tokens), labels)


def litgpt(spec: Spec, weights: Weights, device: str) -> tuple[nn.Module, Loss]:
    """litgpt's GPT as its pretraining runs it: the model under torch.compile."""
    from litgpt.config import Config  # pyright: ignore[reportMissingImports]
    from litgpt.model import GPT  # pyright: ignore[reportMissingImports]

    from tests.oracles.hf import half_split_rows

    model = spec.model
    gpt = GPT(
        Config(
            block_size=spec.batch.sequence_length,
            n_layer=model.n_layers,
            n_embd=model.dim,
            n_head=model.n_heads,
            n_query_groups=model.n_kv_heads,
            head_size=model.head_dim,
            intermediate_size=model.ffn_dim,
            vocab_size=model.vocab_size,
            padded_vocab_size=model.vocab_size,
            norm_class_name="RMSNorm",
            norm_eps=model.norm_eps,
            mlp_class_name="LLaMAMLP",
            rope_base=int(model.rope_theta),
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
        )
    )
    named = {"lm_head": "output", "transformer.wte": "tok_embeddings", "transformer.ln_f": "norm"}
    given = {f"{theirs}.weight": weights[ours] for theirs, ours in named.items()}
    parts = {
        "norm_1": "attention_norm",
        "norm_2": "ffn_norm",
        "attn.proj": "attention.wo",
        "mlp.fc_1": "feed_forward.w1",
        "mlp.fc_2": "feed_forward.w3",
        "mlp.proj": "feed_forward.w2",
    }
    for layer in range(model.n_layers):
        before, at = f"transformer.h.{layer}", f"layers.{layer}"
        given |= {f"{before}.{theirs}.weight": weights[f"{at}.{o}"] for theirs, o in parts.items()}
        q, k, v = (weights[f"{at}.attention.w{letter}"] for letter in "qkv")
        if model.rope_layout == "interleaved":
            q, k = (half_split_rows(rows, model.head_dim) for rows in (q, k))
        given[f"{before}.attn.qkv.weight"] = torch.cat([q, k, v])
    _fill(dict(gpt.named_parameters()), given)
    gpt = gpt.to(torch.bfloat16)
    compiled = torch.compile(gpt)

    def loss(tokens: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(compiled(tokens).flatten(0, 1).float(), labels.flatten())

    return gpt, loss


@torch.no_grad()
def _fill(parameters: dict[str, Any], weights: Weights) -> None:
    if wrong := parameters.keys() ^ weights.keys():
        raise Absent(f"this release names its parameters otherwise: {sorted(wrong)[:3]}")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def _stand_in(*names: str) -> None:
    """Let a package import modules of which a model needs nothing."""
    for name in names:
        module: Any = ModuleType(name)
        module.__path__ = []
        module.__getattr__ = _anything
        sys.modules.setdefault(name, module)


def _anything(attribute: str) -> type:
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return type(attribute, (), {})


PEERS: dict[str, Callable[[Spec, Weights, str], tuple[nn.Module, Loss]]] = {
    "hf-compiled": hf_compiled,
    "hf-liger": hf_liger,
    "torchtitan": torchtitan,
    "litgpt": litgpt,
}
KERNELS = ("auto", "cudnn", "sdpa", "xformers")
NAMES = ("llamac", "llamac-trainer", *PEERS, *(f"llamac-{kernel}" for kernel in KERNELS[1:]))


def enter(
    name: str, path: Path, settings: list[str], directory: Path, device: str
) -> Contestant | TrainerContestant:
    """Build one contestant, in bf16. Raises Absent if it cannot run here."""
    if name == "llamac-trainer":
        return llamac_trainer(path, settings, directory, device)
    if name.startswith("llamac"):
        return llamac(name.partition("-")[2] or "auto", path, settings, directory, device)
    spec = load_spec(path, settings)
    weights = random_weights(spec.model, spec.batch.sequence_length, device=device)
    try:
        with torch.device(device):
            model, loss = PEERS[name](spec, weights, device)
    except (ImportError, AttributeError, TypeError) as error:  # another release, other needs
        raise Absent(f"{type(error).__name__}: {error}") from error
    return Contestant.enter(name, model, loss)
