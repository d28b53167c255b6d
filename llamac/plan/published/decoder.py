"""Read the model shape of a published row, with defaults for what it omits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from llamac.plan.published.rows import (
    Row,
    RowError,
    count,
    flag,
    mentions,
    number,
    required_count,
    text,
)

LLAMA = ("llama", "mistral", "qwen", "olmo", "gemma", r"\byi\b", "baichuan", "internlm", "smollm")
GATED = ("swiglu", "geglu", "silu", "gated", r"\bglu")
ROUND = 0.03
"""Relative precision of parameter counts that are given in billions: smaller deviations of shapes
count as equal."""
OFF = 0.25
"""Largest relative deviation of a shape from a row's parameter count, which papers round."""


@dataclass(frozen=True)
class DecoderShape:
    """Shape of a decoder.

    Attributes:
        ffn: Width of the feed-forward network. vocab: Rows of the token embedding.
        llama: Whether it has RMSNorm and rotary positions.
        gated: Whether the feed-forward network has a gate.
        tied: Whether the head shares the embedding's weights.
        bias: Whether linear layers have biases.
        positions: Rows of a learned position embedding, unless `llama`.
    """

    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    llama: bool
    gated: bool
    tied: bool
    bias: bool
    positions: int

    @property
    def parameters(self) -> int:
        """Return the parameter count without norms and biases, which are about a thousandth."""
        kv = self.dim // self.heads * self.kv_heads
        layer = 2 * self.dim * (self.dim + kv) + (3 if self.gated else 2) * self.dim * self.ffn
        rows = (1 if self.tied else 2) * self.vocab + (0 if self.llama else self.positions)
        return self.layers * layer + rows * self.dim


def decoder_of(row: Row) -> DecoderShape:
    """Return the decoder shape of a row, with defaults for empty columns.

    Defaults are the most common values, or those that match the row's parameter count best.
    Raises RowError if no shape is within `OFF` of it, or a required column is empty or invalid.
    """
    stated = number(row, "n_params")
    candidates = list(_candidates(row))
    best = candidates[0]
    if stated:
        best = min(candidates, key=lambda shape: max(ROUND, abs(shape.parameters / stated - 1)))
        if abs(best.parameters / stated - 1) > OFF:
            raise RowError(
                f"columns n_layers, d_model, d_ffn and vocab make {best.parameters:,} parameters, "
                f"n_params says {stated:,.0f}"
            )
    return best


def _candidates(row: Row) -> Iterator[DecoderShape]:
    """Yield the decoder shapes that a row allows, most likely first."""
    dim, layers = required_count(row, "d_model"), required_count(row, "n_layers")
    names, mlp = text(row, "family", "model"), text(row, "mlp")
    llama = mentions(names, *LLAMA) or (
        not mentions(names, "gpt", "opt", "mpt") and mentions(mlp, *GATED)
    )
    heads = count(row, "n_heads") or max(1, dim // 128)
    gates = [mentions(mlp, *GATED)] if mlp else [llama, not llama]
    tied, length = flag(row, "tied_emb"), required_count(row, "seq_len")
    bias = not llama and mentions(
        text(row, "framework", "family"), "megatron", "gpt", "nemo", "opt"
    )
    for gated, tied_embeddings, kv, vocab in product(
        gates, [not llama, llama] if tied is None else [tied], _kv_heads(row, heads), _vocab(row)
    ):
        ffn = count(row, "d_ffn") or (-(-int(8 * dim / 3) // 256) * 256 if gated else 4 * dim)
        yield DecoderShape(
            dim, layers, heads, kv, ffn, vocab, llama, gated, tied_embeddings, bias, length
        )


def _kv_heads(row: Row, heads: int) -> list[int]:
    kv_heads = count(row, "n_kv_heads")
    if kv_heads:
        return [kv_heads]
    return [heads, *(n for n in (8,) if heads % n == 0 and heads > n)]


def _vocab(row: Row) -> list[int]:
    """Return the possible numbers of rows of the embedding.

    vTrain's measurements do not give one; on one tensor rank its head takes thrice as long as
    aligned matmuls would, as do GPT-2's own 50,257 rows unless they are padded.
    """
    rows = count(row, "vocab")
    if rows:
        assumed = "assumed" in text(row, "mfu_convention")
        return [50_257 if assumed and (count(row, "tp") or 1) == 1 else rows]
    names = text(row, "model", "family")
    if mentions(names, r"llama.?-?3", r"\bl3\b", "llama3"):
        return [128_256]
    if mentions(names, *LLAMA):
        return [32_000, 128_256, 151_936]
    return [50_304, 51_200, 32_000]
