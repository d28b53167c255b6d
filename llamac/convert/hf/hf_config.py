"""Hugging Face's config.json and the spec's [model], in both directions.

A family is a class of transformers: what it can hold is a row of `FAMILIES`. Sources: transformers'
modeling_llama.py, modeling_mistral.py, modeling_qwen2.py, modeling_qwen3.py and their configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamac.convert.errors import ConversionError
from llamac.spec.model import Model


@dataclass(frozen=True)
class Family:
    """A model class of transformers. absent: what a config.json without a key means there."""

    architecture: str
    biases: tuple[bool | str, ...]  # values of model.bias that it can hold
    qk_norm: bool = False
    windows: bool = False
    head_dim: bool = True  # may differ from dim / n_heads
    absent: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama": Family("LlamaForCausalLM", (False, True)),
    "mistral": Family(
        "MistralForCausalLM",
        (False,),
        windows=True,
        absent={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "qwen2": Family("Qwen2ForCausalLM", ("qkv",), windows=True, absent={"num_key_value_heads": 32}),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        (False,),
        qk_norm=True,
        windows=True,
        absent={"num_key_value_heads": 32, "head_dim": 128},
    ),
}
"""Families by model_type. An export takes the first that can hold the spec."""

LLAMA = {"norm": "rmsnorm", "norm_position": "pre", "activation": "swiglu", "position": "rope"}
"""Values of [model] that every format here is made for."""

NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
)


def family_of(config: Mapping[str, Any], where: str) -> str:
    """Return the config's model_type. Raises ConversionError if no family is it."""
    kind = config.get("model_type")
    if kind in FAMILIES:
        return kind
    known = ", ".join(FAMILIES)
    lacks = ""
    if any(key in config for key in ("num_local_experts", "num_experts", "n_routed_experts")):
        lacks = "; it has a mixture of experts, which llamac's models have not"
    raise ConversionError(
        f"{where} is of model_type {kind!r}, which cannot be imported: known are {known}{lacks}"
    )


def model_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the [model] table that a config.json describes, every key that it decides.

    Raises ConversionError for what llamac's models cannot compute, naming it.
    """
    kind = family_of(config, where)
    family, value = FAMILIES[kind], {**FAMILIES[kind].absent, **config}
    if missing := [key for key in NEEDED if config.get(key) is None]:
        raise ConversionError(f"{where} lacks {', '.join(missing)}")
    _refuse_the_unknown(kind, value, where)
    heads = value["num_attention_heads"]
    table = {
        "dim": value["hidden_size"],
        "n_layers": value["num_hidden_layers"],
        "n_heads": heads,
        "n_kv_heads": value.get("num_key_value_heads") or heads,
        "head_dim": value.get("head_dim") or _quotient(value["hidden_size"], heads),
        "vocab_size": value["vocab_size"],
        "ffn_dim": value["intermediate_size"],
        "norm_eps": float(value.get("rms_norm_eps") or 1e-6),
        "rope_layout": "half_split",
        "tied_embeddings": bool(value.get("tie_word_embeddings") or False),
        **_rope_of(value, where),
        "bias": _bias_of(kind, value, where),
    }
    if family.qk_norm:
        table["qk_norm"] = True
    if (window := _window_of(kind, value, where)) is not None:
        table["sliding_window"] = window
    return table


def _quotient(dim: Any, heads: Any) -> Any:
    whole = type(dim) is int and type(heads) is int and heads > 0
    return dim // heads if whole else None


def _refuse_the_unknown(kind: str, config: Mapping[str, Any], where: str) -> None:
    if (act := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise ConversionError(f"{where}: hidden_act = {act!r}, and only silu's gate is known here")
    if config.get("quantization_config"):
        raise ConversionError(
            f"{where}: its weights are quantised (quantization_config): import the original ones"
        )
    partial = config.get("partial_rotary_factor") or _rope(config).get("partial_rotary_factor")
    if partial not in (None, 1, 1.0):
        raise ConversionError(f"{where}: partial_rotary_factor = {partial}: RoPE must turn all")


def _bias_of(kind: str, config: Mapping[str, Any], where: str) -> bool | str:
    if kind == "qwen2":
        return "qkv"
    pair = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    if pair == (False, False) or (pair == (True, True) and kind == "llama"):
        return pair[0]
    raise ConversionError(
        f"{where}: attention_bias = {pair[0]} with mlp_bias = {pair[1]}: biases must be in all "
        'linear layers or none, or in q, k and v (model.bias = "qkv", as Qwen2 has them)'
    )


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return RoPE's settings, as transformers 5 has them or as 4 had."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found if isinstance(found, dict) else {}


def _rope_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    rope = _rope(config)
    table: dict[str, Any] = {
        "rope_theta": float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    }
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "linear":
        table["rope_scaling"] = {"kind": kind, "factor": float(rope["factor"])}
    elif kind == "llama3":
        table["rope_scaling"] = {
            "kind": kind,
            "factor": float(rope["factor"]),
            "low_freq_factor": float(rope["low_freq_factor"]),
            "high_freq_factor": float(rope["high_freq_factor"]),
            "original_context": rope["original_max_position_embeddings"],
        }
    elif kind != "default":
        raise ConversionError(
            f"{where}: rope_type = {kind!r} is not known here: default, linear and llama3 are"
        )
    return table


def _window_of(kind: str, config: Mapping[str, Any], where: str) -> int | None:
    """Return the window of every layer; None for none. A mixture of both is refused."""
    if not FAMILIES[kind].windows:
        return None
    window, layers = config.get("sliding_window"), config["num_hidden_layers"]
    types = config.get("layer_types")
    if kind.startswith("qwen") and not config.get("use_sliding_window"):
        return None
    if not types and kind.startswith("qwen"):
        full = min(config.get("max_window_layers", 28), layers)
        types = ["full_attention"] * full + ["sliding_attention"] * (layers - full)
    sliding = {one == "sliding_attention" for one in types or ["sliding_attention"]}
    if window is None or sliding == {False}:
        return None
    if len(sliding) > 1:
        raise ConversionError(
            f"{where}: only some layers have a sliding window; model.sliding_window is for all"
        )
    return window


def family_for(model: Model) -> str:
    """Return the family that can hold a [model]. Raises ConversionError, with what would do."""
    for key, wanted in LLAMA.items():
        if (found := getattr(model, key)) != wanted:
            raise ConversionError(
                f"transformers has no class for model.{key} = {found!r} in such a model: its "
                f"Llama and kin have {wanted!r}; the run's own generate.py and model.py do run it"
            )
    for kind, family in FAMILIES.items():
        if not _objections(family, model):
            return kind
    each = "; ".join(f"{kind}: {_objections(family, model)}" for kind, family in FAMILIES.items())
    raise ConversionError(
        f"transformers has no class for this [model] ({each}); the run's own generate.py and "
        "model.py do run it"
    )


def _objections(family: Family, model: Model) -> str:
    bias, qk_norm = model.bias, model.qk_norm
    found = []
    if bias not in family.biases:
        found.append(f"no bias = {bias!r}".replace("True", "true").replace("False", "false"))
    if qk_norm != family.qk_norm:
        found.append("no qk_norm" if qk_norm else "always qk_norm")
    if model.sliding_window and not family.windows:
        found.append("no sliding_window")
    return ", ".join(found)


def config_of(model: Model, context: int, begin: int | None, end: Any) -> dict[str, Any]:
    """Return config.json for a [model], as transformers 4 and 5 both read it.

    context: max_position_embeddings. begin, end: ids of the tokens that begin and end text.
    Raises ConversionError as `family_for` does.
    """
    kind = family_for(model)
    config: dict[str, Any] = {
        "architectures": [FAMILIES[kind].architecture],
        "attention_dropout": 0.0,
        "bos_token_id": begin,
        "eos_token_id": end,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "hidden_size": model.dim,
        "initializer_range": model.init_std,
        "intermediate_size": model.ffn_dim,
        "max_position_embeddings": context,
        "model_type": kind,
        "num_attention_heads": model.n_heads,
        "num_hidden_layers": model.n_layers,
        "num_key_value_heads": model.n_kv_heads,
        "rms_norm_eps": model.norm_eps,
        **_rope_config(model),
        "tie_word_embeddings": model.tied_embeddings,
        "use_cache": True,
        "vocab_size": model.vocab_size,
    }
    if kind == "llama":
        config |= {"attention_bias": model.bias, "mlp_bias": model.bias}
    window = model.sliding_window
    if kind == "mistral":
        config["sliding_window"] = window
    elif kind.startswith("qwen"):
        config |= {"sliding_window": window, "use_sliding_window": window is not None}
        config["max_window_layers"] = 0 if window else model.n_layers
    if kind == "qwen3":
        config["attention_bias"] = False
    return config


def _rope_config(model: Model) -> dict[str, Any]:
    scaling = model.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
    return {
        "rope_parameters": {**rope, "rope_theta": model.rope_theta},  # transformers 5
        "rope_theta": model.rope_theta,  # and 4
        "rope_scaling": rope if scaling is not None else None,
    }
