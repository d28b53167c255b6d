"""transformers' models under llamac's canonical names: oracles llamac had no part in.

HF rotates half-split pairs. For an interleaved spec the rows of wq and wk are permuted on the way
in, and those of their gradients on the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HF_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}


ROTATED = ("attention.wq", "attention.wk", "attention.q_norm", "attention.k_norm")


def build_hf(model: Any, max_positions: int = 2048, attention: str = "sdpa") -> PreTrainedModel:
    """The HF twin of a [model] section, in float32, no KV cache, its weights HF's own random ones.

    `attention` is HF's attn_implementation: "sdpa" or "eager". ValueError if the section declares
    what none of HF's classes here has.
    """
    import transformers  # takes seconds

    llama = {"norm": "rmsnorm", "norm_position": "pre", "activation": "swiglu", "position": "rope"}
    for field, wanted in llama.items():
        if (found := getattr(model, field)) != wanted:
            raise ValueError(f"LlamaForCausalLM has {field} = {wanted!r}, the spec says {found!r}")
    # A dict, as transformers 5 still takes the RoPE keywords of 4 but no longer declares them.
    config: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "intermediate_size": model.ffn_dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": max_positions,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "rope_scaling": _rope_scaling(model),
        "tie_word_embeddings": model.tied_embeddings,
        "use_cache": False,
        "attn_implementation": attention,
    }
    if (window := model.sliding_window) is not None:
        config |= {"sliding_window": window, "use_sliding_window": True, "max_window_layers": 0}
    if model.qk_norm:
        if model.bias not in (False, "attention"):
            raise ValueError(f"Qwen3ForCausalLM has biases in attention, not bias = {model.bias!r}")
        return transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(**config, attention_bias=bool(model.bias))
        )
    if model.bias == "qkv":
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**config))
    if window is not None:
        if model.bias:
            raise ValueError(f"MistralForCausalLM has bias = False, the spec says {model.bias!r}")
        return transformers.MistralForCausalLM(transformers.MistralConfig(**config))
    biases: dict[str, Any] = {
        "attention_bias": model.bias in (True, "attention"),
        "mlp_bias": model.bias in (True, "feed_forward"),
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config, **biases))


class InFloat64(TorchFunctionMode):
    """Whatever HF casts to float32, such as RoPE's angles and norms' statistics, is float64.

    Without it, a model of float64 weights computes with float32's precision.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.float:
            return args[0].double()
        wide = {torch.float32: torch.float64}
        args = [wide.get(arg, arg) if isinstance(arg, torch.dtype) else arg for arg in args]
        kwargs = {
            key: wide.get(arg, arg) if isinstance(arg, torch.dtype) else arg
            for key, arg in (kwargs or {}).items()
        }
        return function(*args, **kwargs)


def _rope_scaling(model: Any) -> dict[str, Any] | None:
    scaling = model.rope_scaling
    if scaling is None:
        return None
    config = {"rope_type": scaling.kind, "factor": scaling.factor, "rope_theta": model.rope_theta}
    if scaling.kind == "llama3":
        config["low_freq_factor"] = scaling.low_freq_factor
        config["high_freq_factor"] = scaling.high_freq_factor
        config["original_max_position_embeddings"] = scaling.original_context
    return config


def hf_name(canonical: str) -> str:
    """`layers.0.attention.wq_bias` -> `model.layers.0.self_attn.q_proj.bias`."""
    stem, kind = canonical.removesuffix("_bias"), "weight"
    if stem != canonical:
        kind = "bias"
    if not stem.startswith("layers."):
        return f"{HF_NAMES[stem]}.{kind}"
    _, layer, rest = stem.split(".", 2)
    return f"model.layers.{layer}.{HF_NAMES[rest]}.{kind}"


def _is_rotated(canonical: str, model: Any) -> bool:
    stem = canonical.removesuffix("_bias")
    return model.rope_layout == "interleaved" and stem.endswith(ROTATED)


def half_split_rows(weight: Tensor, head_dim: int) -> Tensor:
    """Rows 2i, 2i+1 of each head to i, i + head_dim/2; weight [heads * head_dim, ...]."""
    pairs = weight.unflatten(0, (-1, head_dim // 2, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


def interleaved_rows(weight: Tensor, head_dim: int) -> Tensor:
    """The inverse of `half_split_rows`."""
    halves = weight.unflatten(0, (-1, 2, head_dim // 2))
    return halves.transpose(1, 2).flatten(0, 2)


@torch.no_grad()
def load_canonical(hf: PreTrainedModel, model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy canonical `weights` into `hf`; KeyError if one has no place or a place stays empty."""
    empty = dict(hf.named_parameters())  # a tied lm_head is listed once, as the embedding
    for name, weight in weights.items():
        rows = half_split_rows(weight, model.head_dim) if _is_rotated(name, model) else weight
        empty.pop(hf_name(name)).copy_(rows)
    if empty:
        raise KeyError(f"no canonical weight for {', '.join(sorted(empty))}")


def gradients_by_canonical_name(hf: PreTrainedModel, model: Any) -> dict[str, Tensor]:
    """Every parameter's gradient after a backward, with llamac's names and row order."""
    canonical = {hf: ours for ours, hf in HF_NAMES.items()}
    gradients = {}
    for name, parameter in hf.named_parameters():
        assert parameter.grad is not None, f"{name} received no gradient"
        stem, kind = name.rsplit(".", 1)
        if stem.startswith("model.layers."):
            _, _, layer, rest = stem.split(".", 3)
            ours = f"layers.{layer}.{canonical[rest]}"
        else:
            ours = canonical[stem]
        ours += "_bias" if kind == "bias" else ""
        grad = parameter.grad
        rotated = _is_rotated(ours, model)
        gradients[ours] = interleaved_rows(grad, model.head_dim) if rotated else grad
    return gradients
