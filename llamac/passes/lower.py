"""lower: translates a spec into a Program with one node for each operation of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from llamac.ir.graph import Builder
from llamac.ir.program import Buffer, Init, Parameter, Piece, Program, Region
from llamac.ir.types import TensorType
from llamac.ops.activation import ACTIVATIONS
from llamac.ops.attention import attention
from llamac.ops.cross_entropy import cross_entropy
from llamac.ops.elementwise import add, mul, scale_by
from llamac.ops.embedding import add_positions, embedding
from llamac.ops.linear import add_linear, linear
from llamac.ops.log_probability import log_probability
from llamac.ops.norm import NORMS, head_rms_norm
from llamac.ops.rope import rope
from llamac.ops.views import merge_heads, split_heads
from llamac.spec.model import BIASED_NORMS

if TYPE_CHECKING:
    from llamac.spec import Spec

COMPUTE_DTYPE = {"bf16": "bf16", "fp32": "f32"}
"""dtype in the IR for each value of `precision.compute`."""

HANDLED = {"position": ("rope", "learned"), "norm_position": ("pre", "post")}
"""Supported values of the [model] keys that are not looked up in a table of ops."""


@dataclass(frozen=True)
class Lower:
    """Pass that builds a Program from a spec, for one rank and without backward graphs.

    All other passes read only the Program. Raises ValueError for a model that it does not support.
    """

    name: str = "lower"

    def apply(self, spec: Spec) -> Program:
        lowering = _Lowering(spec)
        regions = (lowering.embed(), lowering.block(), lowering.logits(), lowering.head())
        return Program(
            name=spec.name,
            symbols={"B": spec.batch.micro_batch, "S": spec.batch.sequence_length},
            parameters=lowering.parameters,
            buffers=lowering.buffers,
            regions={region.name: region for region in regions},
            layers=("block",) * spec.model.n_layers,
            eos=spec.document_end,
        )


class _Lowering:
    """Builds the regions and, as parameters occur, the parameter table."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.model = spec, spec.model
        for key, values in HANDLED.items():
            if getattr(self.model, key) not in values:
                raise ValueError(
                    f"lower does not support model.{key} = {getattr(self.model, key)!r}"
                )
        self.dtype = COMPUTE_DTYPE[spec.precision.compute]
        self.stream = TensorType(self.dtype, ("B", "S", self.model.dim))
        self.tokens = TensorType("i64", ("B", "S"))
        self.parameters: dict[str, Parameter] = {}
        self.buffers = self._buffers()

    # -- regions -----------------------------------------------------------------------------

    def embed(self) -> Region:
        g = self._region("model.dim")
        tokens = g.placeholder("tokens", self.tokens)
        table = self._embedding_table(g)
        positions = None
        if self.model.position == "learned":
            rows = self.spec.batch.sequence_length
            positions = self._weight(
                g, "pos_embeddings", (rows, self.model.dim), where="model.position"
            )
        x = g.op(embedding, tokens, table, name="x" if positions is None else "embedded")
        if positions is not None:
            x = g.op(add_positions, x, positions, name="x", where=self._at("model.position"))
        return Region("embed", g.output(x))

    def block(self) -> Region:
        g = self._region("model.dim")
        x = g.placeholder("x", self.stream)
        tables = {
            name: g.placeholder(name, buffer.type, "constant", where=self._at("model.position"))
            for name, buffer in self.buffers.items()
        }
        if self.spec.data.document_mask:
            at = self._at("data.document_mask")
            tables["starts"] = g.placeholder("starts", self.tokens, "constant", where=at)
        pre = self.model.norm_position == "pre"
        weights = self._block_weights(g)

        attn_in = self._norm(g, x, weights, "attention_norm", "attn_in") if pre else x
        attn_out = self._attention(g, attn_in, tables, weights)
        h = g.op(add, x, attn_out, name="h" if pre else "h_sum")
        if not pre:
            h = self._norm(g, h, weights, "attention_norm", "h")

        ffn_in = self._norm(g, h, weights, "ffn_norm", "ffn_in") if pre else h
        ffn_out = self._feed_forward(g, ffn_in, weights)
        out = g.op(add, h, ffn_out, name="out" if pre else "out_sum")
        if not pre:
            out = self._norm(g, out, weights, "ffn_norm", "out")
        return Region("block", g.output(out))

    def head(self) -> Region:
        g = self._region("model.vocab_size")
        x = g.placeholder("x", self.stream)
        labels = g.placeholder("labels", self.tokens)
        logits = self._logits(g, x)
        op, name = (cross_entropy, "loss")
        if self.spec.finetune.is_dpo:
            op, name = log_probability, "log_probabilities"
        return Region("head", g.output(g.op(op, logits, labels, name=name)))

    def logits(self) -> Region:
        g = self._region("model.vocab_size")
        return Region("logits", g.output(self._logits(g, g.placeholder("x", self.stream))))

    # -- parts of regions --------------------------------------------------------------------

    def _attention(
        self, g: Builder, x: fx.Node, tables: dict[str, fx.Node], weights: dict[str, fx.Node]
    ) -> fx.Node:
        at = attention_at = self._at("model.n_heads")
        heads = {}
        for which in "qkv":
            flat = self._linear(g, x, weights, f"attention.w{which}", name=which, where=at)
            heads[which] = g.op(
                split_heads, flat, head_dim=self.model.head_dim, name=f"{which}_heads", where=at
            )
        if self.model.qk_norm:
            for which in "qk":
                heads[which] = g.op(
                    head_rms_norm,
                    heads[which],
                    weights[f"attention.{which}_norm"],
                    eps=self.model.norm_eps,
                    name=f"{which}_normed",
                    where=self._at("model.qk_norm"),
                )
        if "rope_cos" in tables:
            layout, at = self.model.rope_layout, self._at("model.position")
            for which in "qk":
                heads[which] = g.op(
                    rope,
                    heads[which],
                    tables["rope_cos"],
                    tables["rope_sin"],
                    layout=layout,
                    name=f"{which}_rotated",
                    where=at,
                )
        window = self.model.window(self.spec.batch.sequence_length)
        context, _ = g.op(
            attention,
            heads["q"],
            heads["k"],
            heads["v"],
            *([tables["starts"]] if "starts" in tables else []),
            scale=self.model.head_dim**-0.5,
            kernel="math",
            **({} if window is None else {"window": window}),
            name=("attn_context", "logsumexp"),
            where=self._at("kernels.attention") or attention_at,
        )
        merged = g.op(merge_heads, context, name="merged", where=attention_at)
        return self._linear(g, merged, weights, "attention.wo", name="attn_out", where=attention_at)

    def _feed_forward(self, g: Builder, x: fx.Node, weights: dict[str, fx.Node]) -> fx.Node:
        at = self._at("model.activation")
        activation = ACTIVATIONS[self.model.activation]
        if self.model.gated:
            gate = self._linear(g, x, weights, "feed_forward.w1", name="gate", where=at)
            up = self._linear(g, x, weights, "feed_forward.w3", name="up", where=at)
            activated = g.op(activation, gate, name="activated", where=at)
            hidden = g.op(mul, activated, up, name="hidden", where=at)
        else:
            wide = self._linear(g, x, weights, "feed_forward.w1", name="wide", where=at)
            hidden = g.op(activation, wide, name="hidden", where=at)
        return self._linear(g, hidden, weights, "feed_forward.w2", name="ffn_out", where=at)

    def _logits(self, g: Builder, x: fx.Node) -> fx.Node:
        weights = self._norm_weights(g, "norm", "norm")
        if self.model.tied_embeddings:
            weights["output"] = self._embedding_table(g)
        else:
            shape = (self.model.vocab_size, self.model.dim)
            weights["output"] = self._weight(g, "output", shape)
        normed = self._norm(g, x, weights, "norm", "normed")
        return g.op(linear, normed, weights["output"], name="logits")

    def _linear(
        self, g: Builder, x: fx.Node, weights: dict[str, fx.Node], key: str, **meta: Any
    ) -> fx.Node:
        bias = (weights[f"{key}_bias"],) if f"{key}_bias" in weights else ()
        down, up = (weights.get(f"{key}_lora_{half}") for half in "ab")
        if down is None or up is None:
            return g.op(linear, x, weights[key], *bias, **meta)
        name, at = meta["name"], self._at("finetune.method")
        base = g.op(linear, x, weights[key], *bias, **{**meta, "name": f"{name}_base"})
        low = g.op(linear, x, down, name=f"{name}_low_rank", where=at)
        factor = self.spec.finetune.scale
        scaled = g.op(scale_by, low, factor=factor, name=f"{name}_scaled", where=at)
        return g.op(add_linear, base, scaled, up, name=name, where=at)

    def _norm(
        self, g: Builder, x: fx.Node, weights: dict[str, fx.Node], key: str, name: str
    ) -> fx.Node:
        options: dict[str, Any] = {
            "eps": self.model.norm_eps,
            "name": name,
            "where": self._at("model.norm"),
        }
        bias = (weights[f"{key}_bias"],) if f"{key}_bias" in weights else ()
        return g.op(NORMS[self.model.norm], x, weights[key], *bias, **options)

    # -- parameters --------------------------------------------------------------------------

    def _block_weights(self, g: Builder) -> dict[str, fx.Node]:
        model = self.model
        q_rows, kv_rows = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
        attention = {
            "attention.wq": (q_rows, model.dim),
            "attention.wk": (kv_rows, model.dim),
            "attention.wv": (kv_rows, model.dim),
            "attention.wo": (model.dim, q_rows),
        }
        feed_forward = {"feed_forward.w1": (model.ffn_dim, model.dim)}
        if model.gated:
            feed_forward["feed_forward.w3"] = (model.ffn_dim, model.dim)
        feed_forward["feed_forward.w2"] = (model.dim, model.ffn_dim)
        return {
            **self._norm_weights(g, "layers.*.attention_norm", "attention_norm"),
            **self._linear_weights(g, attention),
            **self._head_norm_weights(g),
            **self._norm_weights(g, "layers.*.ffn_norm", "ffn_norm"),
            **self._linear_weights(g, feed_forward),
            **self._adapters(g, attention | feed_forward),
        }

    def _adapters(self, g: Builder, shapes: dict[str, tuple[int, int]]) -> dict[str, fx.Node]:
        """Return A and B of each adapted linear; B starts at zero, so they add nothing at first."""
        finetune, weights = self.spec.finetune, {}
        for key, (rows, columns) in shapes.items():
            if finetune.is_lora and key.rpartition(".")[2] in finetune.targets:
                # peft's: Kaiming's uniform with a = √5, whose bound is 1/√columns.
                drawn = Init("uniform", (3 * columns) ** -0.5)
                halves = {"a": ((finetune.rank, columns), drawn)}
                halves["b"] = ((rows, finetune.rank), Init("zeros"))
                for half, (shape, init) in halves.items():
                    name = f"layers.*.{key}_lora_{half}"
                    weights[f"{key}_lora_{half}"] = self._weight(
                        g, name, shape, init, where="finetune.method", trainable=True
                    )
        return weights

    def _linear_weights(self, g: Builder, shapes: dict[str, tuple[int, int]]) -> dict[str, fx.Node]:
        model, weights = self.model, {}
        residual_std = model.init_std / (2 * model.n_layers) ** 0.5  # GPT-2, section 2.3
        for key, shape in shapes.items():
            std = residual_std if key.endswith(("wo", "w2")) else model.init_std
            weights[key] = self._weight(g, f"layers.*.{key}", shape, Init("normal", std))
            if model.biased(key.rpartition(".")[2]):
                weights[f"{key}_bias"] = self._weight(
                    g, f"layers.*.{key}_bias", shape[:1], Init("zeros"), where="model.bias"
                )
        return weights

    def _norm_weights(self, g: Builder, name: str, key: str) -> dict[str, fx.Node]:
        shape = (self.model.dim,)
        weights = {key: self._weight(g, name, shape, Init("ones"), where="model.norm")}
        if self.model.norm in BIASED_NORMS:
            weights[f"{key}_bias"] = self._weight(
                g, f"{name}_bias", shape, Init("zeros"), where="model.norm"
            )
        return weights

    def _head_norm_weights(self, g: Builder) -> dict[str, fx.Node]:
        """Return the gains of the query and key norms, shared by all heads."""
        keys = ("attention.q_norm", "attention.k_norm") if self.model.qk_norm else ()
        shape, where = (self.model.head_dim,), "model.qk_norm"
        return {
            key: self._weight(g, f"layers.*.{key}", shape, Init("ones"), where=where)
            for key in keys
        }

    def _embedding_table(self, g: Builder) -> fx.Node:
        shape = (self.model.vocab_size, self.model.dim)
        return self._weight(g, "tok_embeddings", shape, where="model.vocab_size")

    def _weight(
        self,
        g: Builder,
        name: str,
        shape: tuple[int, ...],
        init: Init | None = None,
        where: str = "model.dim",
        trainable: bool = False,
    ) -> fx.Node:
        """Add a parameter and return its placeholder.

        trainable: whether it is trained even if all weights except adapters are frozen.
        """
        kind = TensorType(self.dtype, shape)
        piece = Piece(name, shape[0], init or Init("normal", self.model.init_std))
        trainable |= not self.spec.finetune.is_lora
        entry = Parameter(name, kind, (piece,), self._at(where), trainable)
        self.parameters.setdefault(name, entry)
        return g.placeholder(
            name.rpartition(".")[2], kind, "param", param=name, where=self._at(where)
        )

    # -- the rest ----------------------------------------------------------------------------

    def _buffers(self) -> dict[str, Buffer]:
        model, length = self.model, self.spec.batch.sequence_length
        if model.position != "rope":
            return {}
        scaling = model.rope_scaling and model.rope_scaling.model_dump()
        arguments = (
            ("positions", length),
            ("head_dim", model.head_dim),
            ("theta", model.rope_theta),
            ("scaling", scaling),
        )
        kind = TensorType("f32", ("S", model.head_dim // 2))
        return {name: Buffer(name, kind, arguments) for name in ("rope_cos", "rope_sin")}

    def _region(self, where: str) -> Builder:
        g = Builder()
        g.where = self._at(where)
        return g

    def _at(self, key: str) -> str:
        where = self.spec.where(key)
        return "" if where == "default" else where
