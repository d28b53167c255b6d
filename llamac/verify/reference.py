"""The model a spec declares, written out in plain eager PyTorch: the yardstick of every pass.

Nothing here is shared with the compiler. The code is the most obvious that is correct, calls only
`torch.nn.functional`, and runs in any floating dtype; verification uses float64.

Letters in shapes: B batch, S sequence, D dim, H heads, G kv heads, K head_dim, F ffn_dim, V vocab.
`model` is everywhere the spec's [model] section, or anything with its attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llamac.spec.model import BIASED_NORMS, GATED

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,  # of the gate w1, times w3's output (arXiv:2002.05202)
    "gelu": F.gelu,  # in its erf form
    "relu": F.relu,
}
NORMS: dict[str, Callable[..., Tensor]] = {
    "rmsnorm": lambda x, gain, bias, eps: F.rms_norm(x, gain.shape, gain, eps),
    "layernorm": lambda x, gain, bias, eps: F.layer_norm(x, gain.shape, gain, bias, eps),
}
"""Plain formulas by `model.activation` and `model.norm`; nothing of the compiler's is used."""

PADDING = -1
"""The label of a position that has no target."""


def parameter_shapes(model: Any, sequence_length: int | None) -> dict[str, tuple[int, ...]]:
    """Canonical name (Meta's) to shape, in order of use. Every linear weight is [out, in].

    `sequence_length` is the number of learned positions, needed only there. The output layer has no
    bias. A final norm stands before it with pre- and post-norm alike.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[name] = (rows, columns)
        if model.bias is True or (model.bias == "qkv" and name.endswith(("wq", "wk", "wv"))):
            shapes[f"{name}_bias"] = (rows,)

    def norm(name: str) -> None:
        shapes[name] = (model.dim,)
        if model.norm in BIASED_NORMS:
            shapes[f"{name}_bias"] = (model.dim,)

    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    shapes["tok_embeddings"] = (model.vocab_size, model.dim)
    if model.position == "learned":
        if sequence_length is None:
            raise ValueError("learned positions: pass sequence_length, the rows of their table")
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


def rope_frequencies(model: Any) -> Tensor:
    """Angle per position of each rotated pair, [K/2] float64 (RoFormer, arXiv:2104.09864, eq. 15).

    `linear` scaling stretches every wavelength (arXiv:2306.15595). `llama3` stretches the long
    ones, keeps the short ones and blends between (Llama 3.1).
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
    # The fewer turns a pair makes within the original context, the longer its wavelength.
    turns = scaling.original_context * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return torch.lerp(stretched, frequencies, kept.clamp(0, 1))


def rotate(x: Tensor, frequencies: Tensor, layout: str) -> Tensor:
    """Rotate each pair of x [B, H, S, K] by its position's angle.

    `interleaved` pairs elements 2i and 2i+1 (Meta); `half_split` pairs i and i + K/2 (HF).
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
    """The whole model; parameters start uninitialised, `load` fills them.

    eos: the token after which a document begins that attention must not leave; None: no such.
    """

    def __init__(
        self,
        model: Any,
        sequence_length: int | None = None,
        dtype: torch.dtype = torch.float64,
        eos: int | None = None,
    ) -> None:
        super().__init__()
        if model.position not in ("rope", "learned") or model.norm_position not in ("pre", "post"):
            raise ValueError(f"unknown position {model.position!r} or {model.norm_position!r}")
        self.model, self.eos = model, eos
        self.weights = {
            name: nn.Parameter(torch.empty(shape, dtype=dtype))
            for name, shape in parameter_shapes(model, sequence_length).items()
        }
        # Canonical names hold dots, which nn.Module refuses: it knows the parameters by number.
        self.registered = nn.ParameterList(self.weights.values())

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """Canonical name to parameter, in order of use."""
        return dict(self.weights)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> Reference:
        """Copy canonical weights in, cast to this dtype; KeyError unless the names are the same."""
        if wrong := self.weights.keys() ^ weights.keys():
            raise KeyError(f"names on one side only: {', '.join(sorted(wrong))}")
        for name, parameter in self.weights.items():
            parameter.copy_(weights[name])
        return self

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[name], self.weights.get(f"{name}_bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        gain, eps = self.weights[name], self.model.norm_eps
        return NORMS[self.model.norm](x, gain, self.weights.get(f"{name}_bias"), eps)

    def attention(self, name: str, x: Tensor, unseen: Tensor) -> Tensor:
        """Causal self-attention, B S D -> B S D; H/G query heads share each key and value head.

        unseen: bool, B 1 S S or S S; True where a query must not see a key.
        """
        model = self.model
        q, k, v = (  # B H S K, B G S K, B G S K
            self.linear(f"{name}.{w}", x).unflatten(-1, (-1, model.head_dim)).transpose(1, 2)
            for w in ("wq", "wk", "wv")
        )
        if model.qk_norm:  # of each head by itself (arXiv:2505.09388, section 2)
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
        mixed = F.softmax(scores.masked_fill(unseen, -math.inf), dim=-1) @ v  # B H S K
        return self.linear(f"{name}.wo", mixed.transpose(1, 2).flatten(-2))

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        """Feed-forward network, B S D -> B S D, of one projection or of a gate (w1) and w3."""
        hidden = ACTIVATIONS[self.model.activation](self.linear(f"{name}.w1", x))  # B S F
        if self.model.activation in GATED:
            hidden = hidden * self.linear(f"{name}.w3", x)
        return self.linear(f"{name}.w2", hidden)

    def block(self, name: str, x: Tensor, unseen: Tensor) -> Tensor:
        """Pre-norm: x + f(norm(x)). Post-norm, as in the original transformer: norm(x + f(x))."""
        if self.model.norm_position == "pre":
            attended = self.norm(f"{name}.attention_norm", x)
            x = x + self.attention(f"{name}.attention", attended, unseen)
            return x + self.feed_forward(f"{name}.feed_forward", self.norm(f"{name}.ffn_norm", x))
        x = self.norm(f"{name}.attention_norm", x + self.attention(f"{name}.attention", x, unseen))
        return self.norm(f"{name}.ffn_norm", x + self.feed_forward(f"{name}.feed_forward", x))

    def unseen(self, tokens: Tensor) -> Tensor:
        """Return the keys that each query must not see.

        They are those ahead, those of other documents, and those at least a window's length back.
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
        document = ends.cumsum(1) - ends  # B S: how many have ended before this token
        return future | (document[:, None, :, None] != document[:, None, None, :])  # B 1 S S

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B, S] -> [B, S, V] in the parameters' dtype."""
        x = F.embedding(tokens, self.weights["tok_embeddings"])  # B S D
        unseen = self.unseen(tokens)
        if self.model.position == "learned":
            x = x + self.weights["pos_embeddings"][: tokens.shape[1]]
        for i in range(self.model.n_layers):
            x = self.block(f"layers.{i}", x, unseen)
        output = "tok_embeddings" if self.model.tied_embeddings else "output"
        return F.linear(self.norm("norm", x), self.weights[output])

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross-entropies of all targets, 0-d.

        labels: the next tokens, int64 [B, S]; one of PADDING is no target.
        """
        scores, targets = self.logits(tokens).flatten(0, 1), labels.flatten()
        return F.cross_entropy(scores, targets, ignore_index=PADDING, reduction="sum")
