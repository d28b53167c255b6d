"""Read a published row's model shape, and fill in what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from llamac.plan.published.rows import Row, RowError, count, flag, needed, number, says, text

LLAMA = ("llama", "mistral", "qwen", "olmo", "gemma", r"\byi\b", "baichuan", "internlm", "smollm")
GATED = ("swiglu", "geglu", "silu", "gated", r"\bglu")
ROUND = 0.03
"""Relative tolerance on parameter counts given in billions."""
OFF = 0.25
"""Relative tolerance on a row's stated parameter count, as papers round."""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder.

    llama: RMSNorm and rotary positions. gated: The feed-forward network has a gate.
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
        """Return the parameter count without norms and biases, about a thousandth."""
        kv = self.dim // self.heads * self.kv_heads
        layer = 2 * self.dim * (self.dim + kv) + (3 if self.gated else 2) * self.dim * self.ffn
        rows = (1 if self.tied else 2) * self.vocab + (0 if self.llama else self.positions)
        return self.layers * layer + rows * self.dim


def decoder_of(row: Row) -> DecoderShape:
    """Return a row's decoder shape, with defaults for empty columns.

    Defaults are usual values, or those closest to the row's parameter count. Raises RowError.
    """
    stated = number(row, "n_params")
    found = list(_candidates(row))
    best = found[0]
    if stated:
        best = min(found, key=lambda shape: max(ROUND, abs(shape.parameters / stated - 1)))
        if abs(best.parameters / stated - 1) > OFF:
            raise RowError(
                f"columns n_layers, d_model, d_ffn and vocab make {best.parameters:,} parameters, "
                f"n_params says {stated:,.0f}"
            )
    return best


def _candidates(row: Row) -> Iterator[DecoderShape]:
    """Yield the decoder shapes that a row allows, most likely first."""
    dim, layers = needed(row, "d_model"), needed(row, "n_layers")
    given, mlp = text(row, "family", "model"), text(row, "mlp")
    llama = says(given, *LLAMA) or (not says(given, "gpt", "opt", "mpt") and says(mlp, *GATED))
    heads = count(row, "n_heads") or max(1, dim // 128)
    gates = [says(mlp, *GATED)] if mlp else [llama, not llama]
    tied, length = flag(row, "tied_emb"), needed(row, "seq_len")
    bias = not llama and says(text(row, "framework", "family"), "megatron", "gpt", "nemo", "opt")
    for gated, one, kv, vocab in product(
        gates, [not llama, llama] if tied is None else [tied], _kv_heads(row, heads), _vocab(row)
    ):
        ffn = count(row, "d_ffn") or (-(-int(8 * dim / 3) // 256) * 256 if gated else 4 * dim)
        yield DecoderShape(dim, layers, heads, kv, ffn, vocab, llama, gated, one, bias, length)


def _kv_heads(row: Row, heads: int) -> list[int]:
    given = count(row, "n_kv_heads")
    if given:
        return [given]
    return [heads, *(n for n in (8,) if heads % n == 0 and heads > n)]


def _vocab(row: Row) -> list[int]:
    """Return the possible numbers of rows of the embedding.

    vTrain's measurements do not give one; on one tensor rank its head takes thrice as long as
    aligned matmuls would, as do GPT-2's own 50,257 rows unless they are padded.
    """
    given = count(row, "vocab")
    if given:
        assumed = "assumed" in text(row, "mfu_convention")
        return [50_257 if assumed and (count(row, "tp") or 1) == 1 else given]
    named = text(row, "model", "family")
    if says(named, r"llama.?-?3", r"\bl3\b", "llama3"):
        return [128_256]
    if says(named, *LLAMA):
        return [32_000, 128_256, 151_936]
    return [50_304, 51_200, 32_000]
