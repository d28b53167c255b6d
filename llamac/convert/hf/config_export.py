"""Model classes of transformers that a spec can be exported to, and the config.json of a spec.

A family is one model class of transformers; its features are a row of `FAMILIES`. Sources:
transformers' modeling_llama.py, modeling_mistral.py, modeling_qwen2.py, modeling_qwen3.py and their
configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamac.convert.errors import ConversionError
from llamac.spec.model import Model


@dataclass(frozen=True)
class Family:
    """A model class of transformers, and the features of a spec that it supports.

    architecture: name of the class. biases: supported values of model.bias.
    qk_norm: whether it normalises queries and keys; it then requires model.qk_norm.
    windows: whether it supports sliding windows.
    defaults: the class's defaults for keys that config.json may omit.
    """

    architecture: str
    biases: tuple[bool | str, ...]
    qk_norm: bool = False
    windows: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama": Family("LlamaForCausalLM", (False, "attention", "feed_forward", True)),
    "mistral": Family(
        "MistralForCausalLM",
        (False,),
        windows=True,
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM", ("qkv",), windows=True, defaults={"num_key_value_heads": 32}
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        (False, "attention"),
        qk_norm=True,
        windows=True,
        defaults={"num_key_value_heads": 32, "head_dim": 128},
    ),
}
"""Families by model_type. An export uses the first one that supports the spec."""

LLAMA = {"norm": "rmsnorm", "norm_position": "pre", "activation": "swiglu", "position": "rope"}
"""Values of [model] that every export format requires."""


def family_of(config: Mapping[str, Any], where: str) -> str:
    """Return the model_type of a config.json, a key of `FAMILIES`.

    where: path of the file, for messages. Raises ConversionError if model_type is not supported.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return kind
    known = ", ".join(FAMILIES)
    hint = ""
    if any(key in config for key in ("num_local_experts", "num_experts", "n_routed_experts")):
        hint = "; it is a mixture of experts, which llamac does not support"
    raise ConversionError(
        f"{where} has model_type {kind!r:.60}, which cannot be imported; known: {known}{hint}"
    )


def family_for(model: Model) -> str:
    """Return the model_type of the first family that supports a [model].

    Raises ConversionError if there is none, naming a value outside `LLAMA` or the objections of
    each family.
    """
    for key, required in LLAMA.items():
        if (actual := getattr(model, key)) != required:
            raise ConversionError(
                f"transformers has no class for model.{key} = {actual!r} in such a model (its "
                f"Llama-like classes have {required!r}); use the run's generate.py and model.py "
                "instead"
            )
    for kind, family in FAMILIES.items():
        if not _objections(family, model):
            return kind
    reasons = "; ".join(
        f"{kind}: {_objections(family, model)}" for kind, family in FAMILIES.items()
    )
    raise ConversionError(
        f"transformers has no class for this [model] ({reasons}); use the run's generate.py and "
        "model.py instead"
    )


def _objections(family: Family, model: Model) -> str:
    bias, qk_norm = model.bias, model.qk_norm
    objections = []
    if bias not in family.biases:
        objections.append(f"no bias = {bias!r}".replace("True", "true").replace("False", "false"))
    if qk_norm != family.qk_norm:
        objections.append("no qk_norm" if qk_norm else "always qk_norm")
    if model.sliding_window and not family.windows:
        objections.append("no sliding_window")
    return ", ".join(objections)


def config_of(
    model: Model, context: int, begin: int | None, end: Any, dtype: str
) -> dict[str, Any]:
    """Return the contents of config.json for a [model], readable by transformers 4 and 5.

    context: maximum number of positions. begin: BOS id, or None.
    end: EOS id, a list of them, or None.
    dtype: name of the weights' dtype, such as "bfloat16".
    Raises ConversionError if transformers has no class for the model.
    """
    kind = family_for(model)
    config: dict[str, Any] = {
        "architectures": [FAMILIES[kind].architecture],
        "attention_dropout": 0.0,
        "bos_token_id": begin,
        "dtype": dtype,  # transformers 5
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
        "torch_dtype": dtype,  # transformers 4
        "use_cache": True,
        "vocab_size": model.vocab_size,
    }
    if kind == "llama":
        config |= {"attention_bias": model.biased("wo"), "mlp_bias": model.biased("w2")}
    window = model.sliding_window
    if kind == "mistral":
        config["sliding_window"] = window
    elif kind.startswith("qwen"):
        config |= {"sliding_window": window, "use_sliding_window": window is not None}
        config["max_window_layers"] = 0 if window else model.n_layers
    if kind == "qwen3":
        config["attention_bias"] = model.biased("wo")
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
