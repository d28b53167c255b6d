"""Translate Hugging Face's config.json into the [model] table of an equivalent spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from llamac.convert.errors import ConversionError
from llamac.convert.hf.config_export import FAMILIES, family_of
from llamac.convert.typed_table import Number, Size, Table, TokenId, validate_table


class RopeSettings(Table):
    """RoPE settings in config.json: `rope_parameters` (transformers 5) or `rope_scaling` (4).

    factor: divisor of the scaled frequencies. low_freq_factor, high_freq_factor,
    original_max_position_embeddings: further settings of Llama 3's scaling.
    partial_rotary_factor: share of a head's dimensions that RoPE rotates.
    """

    rope_type: str | None = None
    type: str | None = None  # the older name
    rope_theta: Number | None = None
    factor: Number | None = None
    low_freq_factor: Number | None = None
    high_freq_factor: Number | None = None
    original_max_position_embeddings: Size | None = None
    partial_rotary_factor: Number | None = None

    @property
    def kind(self) -> str:
        """Return the kind of RoPE scaling by either name; "default" is none."""
        return self.rope_type or self.type or "default"


class HfConfig(Table):
    """Keys of config.json that determine the model, its context and its BOS and EOS tokens."""

    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    vocab_size: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    rms_norm_eps: Number | None = None
    hidden_act: str = "silu"
    tie_word_embeddings: bool | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_theta: Number | None = None
    partial_rotary_factor: Number | None = None
    sliding_window: Size | None = None
    use_sliding_window: bool | None = None
    max_window_layers: Annotated[int, Field(ge=0)] = 28
    layer_types: list[str] | None = None
    quantization_config: dict[str, Any] | None = None
    max_position_embeddings: Size = 2048
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None


def read_config(table: Mapping[str, Any], where: str) -> HfConfig:
    """Validate a config.json, with its family's defaults for missing keys.

    table: contents of the file. where: its path, for messages. Raises ConversionError if
    `model_type` is not supported, or a key is missing or invalid.
    """
    defaults = FAMILIES[family_of(table, where)].defaults
    return validate_table(HfConfig, {**defaults, **table}, where)


def model_of(kind: str, config: HfConfig, where: str) -> dict[str, Any]:
    """Return the [model] table of the spec that is equivalent to a config.json.

    kind: its model_type, a key of `FAMILIES`. where: the file, for messages.
    Raises ConversionError, naming the key, for a feature that llamac does not support and for keys
    that contradict each other.
    """
    if config.hidden_act not in ("silu", "swish"):
        raise ConversionError(
            f"{where}: hidden_act = {config.hidden_act!r}, but only silu is supported"
        )
    if config.quantization_config:
        raise ConversionError(
            f"{where}: its weights are quantised (quantization_config): import the original ones"
        )
    heads = config.num_attention_heads
    table = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": heads,
        "n_kv_heads": config.num_key_value_heads or heads,
        "head_dim": config.head_dim or config.hidden_size // heads,
        "vocab_size": config.vocab_size,
        "ffn_dim": config.intermediate_size,
        "norm_eps": config.rms_norm_eps or 1e-6,
        "rope_layout": "half_split",
        "tied_embeddings": bool(config.tie_word_embeddings),
        **_rope_of(config, where),
        "bias": _bias_of(kind, config, where),
    }
    if FAMILIES[kind].qk_norm:
        table["qk_norm"] = True
    if (window := _window_of(kind, config, where)) is not None:
        table["sliding_window"] = window
    return table


def _bias_of(kind: str, config: HfConfig, where: str) -> bool | str:
    if kind == "qwen2":
        return "qkv"
    attention, feed_forward = bool(config.attention_bias), bool(config.mlp_bias)
    bias = attention if attention == feed_forward else "attention" if attention else "feed_forward"
    if bias not in FAMILIES[kind].biases:
        raise ConversionError(
            f"{where}: attention_bias = {attention} with mlp_bias = {feed_forward}, and "
            f"transformers' {FAMILIES[kind].architecture} has no such biases"
        )
    return bias


def _rope_of(config: HfConfig, where: str) -> dict[str, Any]:
    """Return rope_theta and rope_scaling of [model]."""
    settings = [
        validate_table(RopeSettings, table, f"{where}: {key}")
        for key in ("rope_scaling", "rope_parameters")
        if (table := getattr(config, key))
    ]
    rope = settings[0] if settings else RopeSettings()
    if any(isinstance(value, dict) for value in (config.rope_parameters or {}).values()):
        raise ConversionError(f"{where}: rope_parameters differ from layer to layer")
    thetas = [source.rope_theta for source in (*settings, config) if source.rope_theta]
    for name, values in (
        ("rope_type", [source.kind for source in settings]),
        ("factor", [source.factor for source in settings]),
        ("rope_theta", thetas),
    ):
        if len(set(values)) > 1:
            raise ConversionError(
                f"{where} contradicts itself: {name} = {values[0]} and {values[1]}"
            )
    partial = config.partial_rotary_factor or rope.partial_rotary_factor or 1
    if partial != 1:
        raise ConversionError(
            f"{where}: partial_rotary_factor = {partial}, but RoPE must cover "
            "all dimensions of a head"
        )
    rope_table: dict[str, Any] = {"rope_theta": thetas[0] if thetas else 10_000.0}
    if rope.kind == "linear":
        scaling = {"factor": rope.factor}
    elif rope.kind == "llama3":
        scaling = {
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_context": rope.original_max_position_embeddings,
        }
    elif rope.kind == "default":
        return rope_table
    else:
        raise ConversionError(
            f"{where}: rope_type = {rope.kind!r} is not supported; supported: default, linear and "
            "llama3"
        )
    if missing := [key for key, value in scaling.items() if value is None]:
        raise ConversionError(f"{where}: RoPE scaling lacks {', '.join(missing)}")
    return rope_table | {"rope_scaling": {"kind": rope.kind, **scaling}}


def _window_of(kind: str, config: HfConfig, where: str) -> int | None:
    """Return the sliding window of all layers, or None; raise ConversionError if layers differ."""
    if not FAMILIES[kind].windows:
        return None
    layers, types = config.num_hidden_layers, config.layer_types
    if kind.startswith("qwen") and not config.use_sliding_window:
        return None
    if not types and kind.startswith("qwen"):
        full = min(config.max_window_layers, layers)
        types = ["full_attention"] * full + ["sliding_attention"] * (layers - full)
    sliding = {layer_type == "sliding_attention" for layer_type in types or ["sliding_attention"]}
    if config.sliding_window is None or sliding == {False}:
        return None
    if len(sliding) > 1:
        raise ConversionError(
            f"{where}: only some layers have a sliding window, but model.sliding_window applies "
            "to all"
        )
    return config.sliding_window
