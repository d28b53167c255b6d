"""Reference implementation of the spec's model in plain eager PyTorch, for verification.

It shares nothing with the compiler, is as straightforward as possible, calls only
`torch.nn.functional`, and runs in any floating dtype; verification uses float64.

Letters in shapes: B batch, S sequence, D dim, H heads, G kv heads, K head_dim, F ffn_dim, V vocab.
`model` is the spec's [model] section, or an object with its attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llamac.spec.model import BIASED, BIASED_NORMS, GATED

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,  # applied to the gate w1, then multiplied by w3's output (arXiv:2002.05202)
    "gelu": F.gelu,  # the exact (erf) form
    "relu": F.relu,
}
NORMS: dict[str, Callable[..., Tensor]] = {
    "rmsnorm": lambda x, gain, bias, eps: F.rms_norm(x, gain.shape, gain, eps),
    "layernorm": lambda x, gain, bias, eps: F.layer_norm(x, gain.shape, gain, bias, eps),
}
"""Formula of each `model.norm`; like `ACTIVATIONS`, it is independent of the compiler's."""

PADDING = -1
"""Label of a position without a target."""


def parameter_shapes(model: Any, sequence_length: int | None) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by canonical (Meta's) name, in order of use.

    Linear weights are [out, in]. The output projection has no bias and follows a final norm, in
    post-norm models too. Raises ValueError for learned positions without `sequence_length`, the
    number of rows of their table.

    model: the spec's [model].
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[name] = (rows, columns)
        if name.rpartition(".")[2] in BIASED[model.bias]:
            shapes[f"{name}_bias"] = (rows,)

    def norm(name: str) -> None:
        shapes[name] = (model.dim,)
        if model.norm in BIASED_NORMS:
            shapes[f"{name}_bias"] = (model.dim,)

    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    shapes["tok_embeddings"] = (model.vocab_size, model.dim)
    if model.position == "learned":
        if sequence_length is None:
            raise ValueError("learned positions need sequence_length, the rows of their table")
        shapes["pos_embeddings"] = (sequence_length, model.dim)
    for layer in (f"layers.{i}" for i in range(model.n_layers)):
        norm(f"{layer}.attention_norm")
        linear(f"{layer}.attention.wq", queries, model.dim)
        linear(f"{layer}.attention.wk", keys, model.dim)
        linear(f"{layer}.attention.wv", keys, model.dim)
        if model.qk_norm:
            shapes[f"{layer}.attention.q_norm"] = (model.head_dim,)
            shapes[f"{layer}.attention.k_norm"] = (model.head_dim,)
        linear(f"{layer}.attention.wo", model.dim, queries)
        norm(f"{layer}.ffn_norm")
        linear(f"{layer}.feed_forward.w1", model.ffn_dim, model.dim)
        linear(f"{layer}.feed_forward.w2", model.dim, model.ffn_dim)
        if model.activation in GATED:
            linear(f"{layer}.feed_forward.w3", model.ffn_dim, model.dim)
    norm("norm")
    if not model.tied_embeddings:
        shapes["output"] = (model.vocab_size, model.dim)
    return shapes


def adapter_shapes(shapes: Mapping[str, tuple[int, ...]], finetune: Any) -> dict[str, Any]:
    """Return the shapes of LoRA's A [rank, in] and B [out, rank] by canonical name.

    Empty unless finetune.method is lora.

    shapes: shapes of the model's parameters. finetune: the spec's [finetune], or None.
    """
    found: dict[str, tuple[int, ...]] = {}
    if finetune is None or finetune.method != "lora":
        return found
    for name, shape in shapes.items():
        if name.rpartition(".")[2] in finetune.targets:
            found[f"{name}_lora_a"] = (finetune.rank, shape[1])
            found[f"{name}_lora_b"] = (shape[0], finetune.rank)
    return found


def rope_frequencies(model: Any) -> Tensor:
    """Return the angle per position of each rotated pair, [K/2] float64 (arXiv:2104.09864, eq. 15).

    `linear` scaling divides all frequencies by the factor (arXiv:2306.15595). `llama3` divides
    those of long wavelengths, keeps those of short ones and interpolates between them (Llama 3.1).
    Raises ValueError for another kind of scaling.

    model: the spec's [model].
    """
    exponents = torch.arange(0, model.head_dim, 2, dtype=torch.float64) / model.head_dim
    frequencies = model.rope_theta**-exponents
    scaling = model.rope_scaling
    if scaling is None:
        return frequencies
    stretched = frequencies / scaling.factor
    if scaling.kind == "linear":
        return stretched
    if scaling.kind != "llama3":
        raise ValueError(f"unknown rope scaling {scaling.kind!r}")
    # Long wavelengths make few turns within the original context.
    turns = scaling.original_context * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return torch.lerp(stretched, frequencies, blend.clamp(0, 1))


def rotate(x: Tensor, frequencies: Tensor, layout: str) -> Tensor:
    """Return x, [B, H, S, K], with each pair rotated by its position times its frequency.

    frequencies: [K/2], radians per position.
    layout: `interleaved` pairs elements 2i and 2i+1 (Meta), `half_split` i and i + K/2 (HF); others
    raise ValueError.
    """
    positions = torch.arange(x.shape[-2], dtype=torch.float64)
    angles = torch.outer(positions, frequencies)  # S K/2
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    if layout == "half_split":
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    raise ValueError(f"unknown layout of rotary pairs {layout!r}")


class Reference(nn.Module):
    """Reference implementation of a spec's model in plain PyTorch, to compare compiled code with.

    Parameters are uninitialised until `load` is called. Raises ValueError for an unknown position
    or norm position, or learned positions without `sequence_length`.

    model: the spec's [model].
    sequence_length: rows of learned positions. dtype: dtype of parameters and arithmetic.
    eos: end-of-document token, across which attention is masked; None masks nothing.
    finetune: the spec's [finetune]. With lora, only adapters require gradients.
    """

    def __init__(
        self,
        model: Any,
        sequence_length: int | None = None,
        dtype: torch.dtype = torch.float64,
        eos: int | None = None,
        finetune: Any = None,
    ) -> None:
        super().__init__()
        if model.position not in ("rope", "learned") or model.norm_position not in ("pre", "post"):
            raise ValueError(f"unknown position {model.position!r} or {model.norm_position!r}")
        self.model, self.eos, self.finetune = model, eos, finetune
        shapes = parameter_shapes(model, sequence_length)
        adapters = adapter_shapes(shapes, finetune)
        self.weights = {
            name: nn.Parameter(torch.empty(shape, dtype=dtype))
            for name, shape in (shapes | adapters).items()
        }
        if adapters:
            for name in shapes:
                self.weights[name].requires_grad_(False)
        # nn.Module refuses the dots in canonical names, so parameters are registered by number.
        self.registered = nn.ParameterList(self.weights.values())

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """Return the parameters by canonical name, in order of use."""
        return dict(self.weights)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> Reference:
        """Copy canonical weights into the model, cast to its dtype, and return the model.

        Raises KeyError if names are missing or unexpected.
        """
        if wrong := self.weights.keys() ^ weights.keys():
            raise KeyError(f"missing or unexpected parameters: {', '.join(sorted(wrong))}")
        for name, parameter in self.weights.items():
            parameter.copy_(weights[name])
        return self

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Return x @ weight.T, plus the bias and the scaled LoRA adapter where the weight has them.

        name: canonical name of the weight. x: [..., in].
        """
        y = F.linear(x, self.weights[name], self.weights.get(f"{name}_bias"))
        if f"{name}_lora_a" not in self.weights:
            return y
        a, b = self.weights[f"{name}_lora_a"], self.weights[f"{name}_lora_b"]
        return y + self.finetune.alpha / self.finetune.rank * (x @ a.T @ b.T)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Return x, B S D, normalised along D. name: canonical name of the gain."""
        gain, eps = self.weights[name], self.model.norm_eps
        return NORMS[self.model.norm](x, gain, self.weights.get(f"{name}_bias"), eps)

    def attention(self, name: str, x: Tensor, masked: Tensor) -> Tensor:
        """Return causal self-attention, B S D -> B S D; H/G query heads share a key-value head.

        name: prefix of its weights' names, such as `layers.0.attention`.
        masked: bool, B 1 S S or S S; true where a query must not attend to a key.
        """
        model = self.model
        q, k, v = (  # B H S K, B G S K, B G S K
            self.linear(f"{name}.{w}", x).unflatten(-1, (-1, model.head_dim)).transpose(1, 2)
            for w in ("wq", "wk", "wv")
        )
        if model.qk_norm:  # of each head separately (arXiv:2505.09388, section 2)
            q, k = (
                x * (x.square().mean(-1, keepdim=True) + model.norm_eps).rsqrt() * gain
                for x, gain in (
                    (q, self.weights[f"{name}.q_norm"]),
                    (k, self.weights[f"{name}.k_norm"]),
                )
            )
        if model.position == "rope":
            frequencies = rope_frequencies(model)
            q = rotate(q, frequencies, model.rope_layout)
            k = rotate(k, frequencies, model.rope_layout)
        k, v = (t.repeat_interleave(model.n_heads // model.n_kv_heads, dim=1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(model.head_dim)  # B H S S
        mixed = F.softmax(scores.masked_fill(masked, -math.inf), dim=-1) @ v  # B H S K
        return self.linear(f"{name}.wo", mixed.transpose(1, 2).flatten(-2))

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        """Return the feed-forward network's output, B S D -> B S D.

        It is w2 f(w1 x), or w2 (f(w1 x) * w3 x) if gated. name: prefix of its weights' names.
        """
        hidden = ACTIVATIONS[self.model.activation](self.linear(f"{name}.w1", x))  # B S F
        if self.model.activation in GATED:
            hidden = hidden * self.linear(f"{name}.w3", x)
        return self.linear(f"{name}.w2", hidden)

    def block(self, name: str, x: Tensor, masked: Tensor) -> Tensor:
        """Return the output of one layer, B S D -> B S D.

        Each sublayer f computes x + f(norm(x)) with pre-norm, or norm(x + f(x)) with post-norm, as
        in the original transformer. name: such as `layers.0`. masked: as for `attention`.
        """
        if self.model.norm_position == "pre":
            attended = self.norm(f"{name}.attention_norm", x)
            x = x + self.attention(f"{name}.attention", attended, masked)
            return x + self.feed_forward(f"{name}.feed_forward", self.norm(f"{name}.ffn_norm", x))
        x = self.norm(f"{name}.attention_norm", x + self.attention(f"{name}.attention", x, masked))
        return self.norm(f"{name}.ffn_norm", x + self.feed_forward(f"{name}.feed_forward", x))

    def attention_mask(self, tokens: Tensor) -> Tensor:
        """Return a bool mask, true where a query must not attend to a key.

        Masked are later keys, keys of other documents and keys outside the window. Its shape is
        B 1 S S with `eos`, else S S. tokens: int64 [B, S].
        """
        length = tokens.shape[1]
        position = torch.arange(length, device=tokens.device)
        distance = position[:, None] - position[None, :]  # S S, from query back to key
        future = distance < 0
        if self.model.sliding_window is not None:
            future |= distance >= self.model.sliding_window
        if self.eos is None:
            return future
        ends = (tokens == self.eos).long()
        document = ends.cumsum(1) - ends  # B S: number of documents that ended before this token
        return future | (document[:, None, :, None] != document[:, None, None, :])  # B 1 S S

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits [B, S, V], in the parameters' dtype, of tokens, int64 [B, S].

        Negative tokens, which are padding, are embedded as token 0.
        """
        x = F.embedding(tokens.clamp(min=0), self.weights["tok_embeddings"])  # B S D
        masked = self.attention_mask(tokens)
        if self.model.position == "learned":
            x = x + self.weights["pos_embeddings"][: tokens.shape[1]]
        for i in range(self.model.n_layers):
            x = self.block(f"layers.{i}", x, masked)
        output = "tok_embeddings" if self.model.tied_embeddings else "output"
        return F.linear(self.norm("norm", x), self.weights[output])

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of cross-entropies over all targets, 0-d.

        For dpo, return the log-probability of each sequence [B] instead.

        tokens: int64 [B, S]. labels: the next tokens, int64 [B, S]; PADDING marks positions without
        a target.
        """
        scores, targets = self.logits(tokens).flatten(0, 1), labels.flatten()
        if self.finetune is not None and self.finetune.is_dpo:
            every = F.cross_entropy(scores, targets, ignore_index=PADDING, reduction="none")
            return -every.view_as(labels).sum(1)
        return F.cross_entropy(scores, targets, ignore_index=PADDING, reduction="sum")
