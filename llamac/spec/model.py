"""[model]: shape of the network, and options to ablate LLaMA's design."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llamac.spec.section import DERIVED, Section
from llamac.spec.units import Count, Positive
from llamac.spec.validation.errors import (
    Problem,
    describe,
    join_options,
    nearest_divisors,
    nearest_multiples,
)

Width = Annotated[int, Field(ge=1, le=2**20)]
Factor = Annotated[float, Field(ge=1, description="Factor by which the context grows.")]


GATED = ("swiglu",)
"""Values of `activation` whose feed-forward network has a gate: silu(w1·x) · w3·x."""

BIASED_NORMS = ("layernorm",)
"""Values of `norm` with a bias in addition to a gain."""

BIASED: dict[bool | str, tuple[str, ...]] = {
    False: (),
    "qkv": ("wq", "wk", "wv"),
    "attention": ("wq", "wk", "wv", "wo"),
    "feed_forward": ("w1", "w2", "w3"),
    True: ("wq", "wk", "wv", "wo", "w1", "w2", "w3"),
}
"""Canonical names of the linear layers with a bias, by value of `bias`; w3 only if gated."""


def _bias(value: Any) -> Any:
    if not isinstance(value, bool) and (not isinstance(value, str) or value not in BIASED):
        names = [f'"{name}"' for name in BIASED if isinstance(name, str)]
        raise ValueError(
            f"must be {join_options(['true', 'false', *names])}, not {describe(value)}"
        )
    return value


Bias = Annotated[bool | Literal["qkv", "attention", "feed_forward"], BeforeValidator(_bias)]


class LinearScaling(Section):
    """Position interpolation: every position is divided by `factor` (Chen et al. 2023)."""

    kind: Literal["linear"]
    factor: Factor


class Llama3Scaling(Section):
    """LLaMA 3.1's RoPE scaling: slows only rotations whose wavelength is long for the old context.

    Wavelengths, in tokens, between the two limits are scaled by interpolation.
    """

    kind: Literal["llama3"]
    factor: Factor
    low_freq_factor: Positive = Field(
        default=1.0,
        description="Wavelengths above original_context / low_freq_factor are divided by factor.",
    )
    high_freq_factor: Positive = Field(
        default=4.0,
        description="Wavelengths below original_context / high_freq_factor stay as they are.",
    )
    original_context: Count = Field(
        default=8192, description="Context length before the extension, tokens."
    )

    def rules(self) -> Iterator[Problem]:
        if self.low_freq_factor >= self.high_freq_factor:
            message = (
                f"low_freq_factor = {self.low_freq_factor} must be below "
                f"high_freq_factor = {self.high_freq_factor}"
            )
            yield Problem(("low_freq_factor",), message, "LLaMA 3.1 uses 1.0 and 4.0")


RopeScaling = Annotated[LinearScaling | Llama3Scaling, Field(discriminator="kind")]


class Model(Section):
    """The shape of the network; defaults are LLaMA's.

    After validation `n_kv_heads`, `head_dim` and `ffn_dim` are set.
    """

    dim: Width = Field(description="Width of the residual stream.")
    n_layers: Annotated[int, Field(ge=1, le=10_000)] = Field(description="Number of blocks.")
    n_heads: Width = Field(description="Query heads per layer.")
    n_kv_heads: Width = Field(
        default=DERIVED,
        description="Key and value heads per layer, shared by groups of query heads. "
        "Default: n_heads.",
    )
    head_dim: Width = Field(
        default=DERIVED, description="Width of one head. Default: dim / n_heads."
    )
    vocab_size: Annotated[int, Field(ge=2, le=2**24)] = Field(
        default=32_000, description="Tokens in the vocabulary: rows of the embedding."
    )
    multiple_of: Width = Field(
        default=256,
        description="The default ffn_dim of swiglu is rounded up to a multiple of this.",
    )
    ffn_dim: Annotated[int, Field(ge=1, le=2**22)] = Field(
        default=DERIVED,
        description="Hidden width of the feed-forward network. Default: 8·dim/3 rounded up to "
        "multiple_of for swiglu, 4·dim for gelu and relu.",
    )
    activation: Literal["swiglu", "gelu", "relu"] = Field(
        default="swiglu",
        description="Non-linearity of the feed-forward network; swiglu adds a gate (w3).",
    )
    norm: Literal["rmsnorm", "layernorm"] = Field(
        default="rmsnorm", description="Normalisation; layernorm has a bias as well as a gain."
    )
    norm_position: Literal["pre", "post"] = Field(
        default="pre",
        description="Normalise the input of each sublayer (pre) or the sum after it (post).",
    )
    norm_eps: Annotated[float, Field(gt=0, le=0.1)] = Field(
        default=1e-5, description="Added to the variance before the square root."
    )
    position: Literal["rope", "learned"] = Field(
        default="rope", description="Rotary embedding of q and k, or a learned vector per position."
    )
    rope_theta: Positive = Field(default=10_000.0, description="Base of the rotary frequencies.")
    rope_layout: Literal["interleaved", "half_split"] = Field(
        default="interleaved",
        description="Coordinates that rotate together: neighbours (interleaved, as in Meta's "
        "checkpoints) or the two halves of a head (as in Hugging Face's).",
    )
    rope_scaling: RopeScaling | None = Field(
        default=None, description="Stretches the rotary frequencies for a longer context."
    )
    sliding_window: Annotated[int, Field(ge=1, le=2**31)] | None = Field(
        default=None,
        description="Number of tokens that a query attends to, including its own (Mistral). "
        "Default: all tokens up to its own.",
    )
    tied_embeddings: bool = Field(
        default=False, description="Use the token embedding's weights for the output projection."
    )
    bias: Bias = Field(
        default=False,
        description="Biases in all linear layers of the blocks (true), or only in those of "
        'queries, keys and values ("qkv", as in Qwen2), of attention, or of the feed-forward '
        "network.",
    )
    qk_norm: bool = Field(
        default=False,
        description="RMSNorm of each query and key head before RoPE; the heads of a layer share "
        "one gain for queries and one for keys (Qwen3).",
    )
    init_std: Annotated[float, Field(gt=0, le=10)] = Field(
        default=0.02, description="Standard deviation of the initial weights."
    )

    def rules(self) -> Iterator[Problem]:
        yield from self._head_rules()
        if self.position == "learned":
            for key in sorted(self.model_fields_set):
                if key.startswith("rope_") and self.is_set(key):
                    message = f'`{key}` has no effect with position = "learned"'
                    yield Problem((key,), message, 'remove it, or use position = "rope"', at="key")

    def _head_rules(self) -> Iterator[Problem]:
        dim, heads = self.dim, self.n_heads
        given = self.is_set("head_dim")
        if not given and dim % heads:
            message = f"dim = {dim} does not divide into n_heads = {heads} heads"
            ways = f"n_heads = {join_options(nearest_divisors(heads, of=dim))}"
            ways += f" or dim = {join_options(nearest_multiples(dim, of=heads))} works"
            yield Problem(("n_heads",), message, f"{ways}; or give head_dim")
        elif self.position == "rope" and (head_dim := self.head_dim if given else dim // heads) % 2:
            message = "rotary embedding rotates pairs of coordinates, so head_dim must be even, "
            message += f"not {head_dim}"
            if not given:
                message += f" (dim / n_heads = {dim} / {heads})"
            ways = f"head_dim = {join_options(nearest_multiples(head_dim, of=2))} works"
            yield Problem(("head_dim" if given else "n_heads",), message, ways)
        if self.is_set("n_kv_heads") and heads % self.n_kv_heads:
            message = f"n_heads = {heads} is not a multiple of n_kv_heads = {self.n_kv_heads}"
            ways = f"n_kv_heads = {join_options(nearest_divisors(self.n_kv_heads, of=heads))} works"
            yield Problem(("n_kv_heads",), message, ways)

    def derived_values(self) -> dict[str, Any]:
        return {
            "n_kv_heads": self.n_kv_heads or self.n_heads,
            "head_dim": self.head_dim or self.dim // self.n_heads,
            "ffn_dim": self.ffn_dim or self._default_ffn_dim(),
        }

    def biased(self, linear: str) -> bool:
        """Return whether a linear layer of the blocks has a bias. linear: `wq`, …, `w3`."""
        return linear in BIASED[self.bias]

    def window(self, sequence_length: int) -> int | None:
        """Return the sliding window in tokens, or None if it is unset or spans a whole sequence."""
        window = self.sliding_window
        return window if window is not None and window < sequence_length else None

    @property
    def gated(self) -> bool:
        """Return whether the feed-forward network has a gate projection, w3."""
        return self.activation in GATED

    def _default_ffn_dim(self) -> int:
        """Return 2/3·4d for swiglu, whose three matrices then cost as two of 4d (LLaMA, 2.2)."""
        if not self.gated:
            return 4 * self.dim
        return self.multiple_of * -(-(8 * self.dim // 3) // self.multiple_of)

    def toml_values(self) -> dict[str, Any]:
        learned = self.position == "learned"
        keys = super().toml_values()
        return {key: keys[key] for key in keys if not (learned and key.startswith("rope_"))}

    def parameters(self, sequence_length: int) -> int:
        """Return the number of parameters of the whole model, without LoRA adapters.

        sequence_length: number of positions, for learned position embeddings.
        """
        queries, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        into = 2 if self.gated else 1
        outputs = {"wq": queries, "wk": keys, "wv": keys, "wo": self.dim, "w2": self.dim}
        outputs |= dict.fromkeys(("w1", "w3")[:into], self.ffn_dim)
        weights = self.dim * (2 * queries + 2 * keys + (into + 1) * self.ffn_dim)
        norm = self.dim * (2 if self.norm in BIASED_NORMS else 1)
        layer = weights + 2 * norm + sum(outputs.get(name, 0) for name in BIASED[self.bias])
        layer += 2 * self.head_dim if self.qk_norm else 0
        tables = 1 if self.tied_embeddings else 2
        positions = sequence_length * self.dim if self.position == "learned" else 0
        return self.n_layers * layer + tables * self.vocab_size * self.dim + positions + norm
