"""Named constants for the sizes in model.py, such as `HEAD_DIM` in place of 128."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamac.emit.python_source import python_literal
from llamac.ir.graph import ops_in, output_of, type_of
from llamac.ir.program import Parameter, Piece, Program

# Output features of wq, and of wk and wv.
QUERIES, KEYS = "N_HEADS * HEAD_DIM", "N_KV_HEADS * HEAD_DIM"
ROWS = {
    "wq": QUERIES,
    "wk": KEYS,
    "wv": KEYS,
    "wqkv": "(N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM",
    "w1": "FFN_DIM",
    "w3": "FFN_DIM",
    "w13": "2 * FFN_DIM",
    "tok_embeddings": "VOCAB_SIZE",
    "output": "VOCAB_SIZE",
    "pos_embeddings": "MAX_POSITIONS",
    "q_norm": "HEAD_DIM",
    "k_norm": "HEAD_DIM",
}
"""Expression for a parameter's rows by the last part of its name; others have DIM rows."""

COLUMNS = {"wo": QUERIES, "w2": "FFN_DIM"}
"""Expression for a matrix's columns by the last part of its name; others have DIM columns."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "eps": ("NORM_EPS",),
    "factor": ("LORA_SCALE",),
    "head_dim": ("HEAD_DIM",),
    "scale": ("HEAD_DIM**-0.5",),
    "heads": ("N_HEADS + N_KV_HEADS",),
    "vocab_size": ("VOCAB_SIZE",),
    "rows": ("VOCAB_SIZE",),
    "size": ("VOCAB_SIZE",),
    "positions": ("MAX_POSITIONS",),
    "chunk": ("LOSS_CHUNK",),
    "window": ("WINDOW",),
    "sizes": (
        "(N_HEADS, N_KV_HEADS, N_KV_HEADS)",
        f"({QUERIES}, {KEYS}, {KEYS})",
        "(FFN_DIM, FFN_DIM)",
    ),
}
"""Expressions that may replace an attribute of an op, by the attribute's name."""

SHARED = ("N_HEADS", "N_KV_HEADS", "FFN_DIM")
"""Constants whose values are divided by the number of tensor-parallel ranks."""


class Expression:
    """Python source, such as `N_HEADS * HEAD_DIM`; its `repr` is the source itself."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Sizes:
    """Named constants of a model.py, which replace numbers in its source.

    An expression replaces a number only if it evaluates to it; otherwise the literal stays.

    values: the constants by name. ranks: number of tensor-parallel ranks.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    ranks: int = 1

    @classmethod
    def from_program(cls, program: Program) -> Sizes:
        """Return the constants of a Program; under tensor parallelism, those of one rank."""
        regions = [region.forward.graph for region in program.regions.values()]
        attention = next(node for g in regions for node in ops_in(g) if "scale" in node.kwargs)
        q, k = (type_of(operand).shape for operand in attention.all_input_nodes[:2])
        attributes = {
            key: value for g in regions for node in ops_in(g) for key, value in node.kwargs.items()
        }
        table = program.parameters.get("pos_embeddings")
        buffer = next(iter(program.buffers.values()), None)
        positions = dict(buffer.arguments)["positions"] if buffer else table and table.type.shape[0]
        values = {
            "DIM": type_of(output_of(program.regions["embed"].forward.graph)).shape[-1],
            "N_HEADS": q[2],
            "N_KV_HEADS": k[2],
            "HEAD_DIM": q[3],
            "FFN_DIM": program.parameters["layers.*.feed_forward.w2"].type.shape[1],
            "VOCAB_SIZE": type_of(output_of(program.regions["logits"].forward.graph)).shape[-1],
            "MAX_POSITIONS": positions,
            "WINDOW": attributes.get("window"),
            "NORM_EPS": attributes.get("eps"),
            "LORA_SCALE": attributes.get("factor"),
            "LOSS_CHUNK": attributes.get("chunk"),
        }
        known = {name: value for name, value in values.items() if value is not None}
        return cls(known, program.mesh.get("tp", 1))

    def constants(self) -> list[str]:
        """Return one assignment per constant, with a comment where its name does not say enough."""
        notes = {
            "LOSS_CHUNK": "tokens per block of logits",
            "LORA_SCALE": "alpha / rank",
            "WINDOW": "keys that a query attends to, its own included",
        }
        if self.ranks > 1:
            notes |= dict.fromkeys(SHARED, "on one tensor-parallel rank")
        return [
            f"{name} = {python_literal(value)}" + (f"  # {notes[name]}" if name in notes else "")
            for name, value in self.values.items()
        ]

    def legend(self) -> str:
        """Return the legend of shape comments for the main sizes: `256 = DIM, 704 = FFN_DIM, …`."""
        names = ("DIM", "FFN_DIM", "VOCAB_SIZE")
        return ", ".join(f"{self.values[name]} = {name}" for name in names)

    def attribute(self, key: str, value: Any) -> Any:
        """Return an Expression for the value of an op's attribute `key`: 0.125 → `HEAD_DIM**-0.5`.

        The value itself is returned if no expression in `ATTRIBUTES` equals it.
        """
        return self._as_expression(value, ATTRIBUTES.get(key, ()))

    def shape(self, parameter: Parameter) -> list[Any]:
        """Return a parameter's shape on one rank, as Expressions where they fit, else numbers."""
        name = parameter.name.rpartition(".")[2]
        texts = (ROWS.get(name.removesuffix("_bias"), "DIM"), COLUMNS.get(name, "DIM"))
        return [
            self._as_expression(n, (text,))
            for n, text in zip(parameter.type.shape, texts, strict=False)
        ]

    def rows(self, piece: Piece) -> Any:
        """Return the number of rows of a canonical parameter over all ranks.

        On a single tensor-parallel rank it is an Expression if one fits.
        """
        name = piece.name.rpartition(".")[2].removesuffix("_bias")
        return (
            self._as_expression(piece.rows, (ROWS.get(name, "DIM"),))
            if self.ranks == 1
            else piece.rows
        )

    def _as_expression(self, value: Any, texts: tuple[str, ...]) -> Any:
        for text in texts:
            for written in (text, f"{text} // {self.ranks}"):  # the vocabulary may be sharded
                try:
                    found = eval(written, {"__builtins__": {}}, dict(self.values))
                except (
                    NameError,
                    TypeError,
                ):  # the model has no such size, or the value is a tuple
                    continue
                if found == value:
                    return Expression(written)
        return value
