"""Generate inference.py: functions that generate text with a key-value cache."""

from __future__ import annotations

import re

import llamac
from llamac.emit.functions import forward_source, runtime_imports, shape, wrap_statement
from llamac.emit.model import rope_call
from llamac.emit.python_source import environment
from llamac.emit.sizes import Sizes
from llamac.ir.graph import is_op, operands, ops_in, output_of, placeholders, type_of
from llamac.ir.program import Program
from llamac.ops.linear import packed_linear

ORDER = ("embed", "prefill", "visible", "decode", "logits")
"""Regions whose functions inference.py contains, in order."""


def render_inference(program: Program, module: str = "model") -> str:
    """Return the text of inference.py for a Program after the pass `cache`.

    module: name of the emitted module that defines the Model with the weights.
    """
    regions, sizes = [program.regions[name] for name in ORDER], Sizes.from_program(program)
    sources = {region.name: forward_source(region, sizes) for region in regions}
    text = "\n".join(sources.values())
    extra = [("kernels.documents", "document_starts")] if program.eos is not None else []
    [head] = _packed(program, "logits")
    tied = head == "tok_embeddings"  # the embedding needs the plain layout
    extra += [("kernels.packed_linear", "pack_weight" if tied else "pack_weights")]
    extra += [("kernels.packed_linear", "pack_weights")] if tied else []
    extra += [("generate.compiled", "compile_step")]
    buffer = next(iter(program.buffers.values()), None)
    extra += [("kernels.rope", "rope_tables")] if buffer else []
    named = {"N_KV_HEADS", "HEAD_DIM"} | {n for n in sizes.values if re.search(rf"\b{n}\b", text)}
    named |= {"EOS"} if program.eos is not None else set()
    named -= {"WINDOW"}  # model.py has no WINDOW if training's sequences are not longer
    own = f"from {module} import {', '.join([*sorted(named, key=str.lower), 'Model'])}"
    imports = [*runtime_imports(regions, "runtime", extra)]
    imports.insert(0 if module < "runtime" else len(imports), own)
    values = {
        "name": program.name,
        "version": llamac.__version__,
        "module": module,
        "imports": imports,
        "functional": "F." in text,
        "window": [line for line in sizes.constants() if line.startswith("WINDOW ")],
        "sources": sources,
        "calls": {name: _call(program, name) for name in ("embed", "visible", "logits")},
        "tables": {name: _tables(program, name) for name in ("prefill", "decode")},
        "packed": list(wrap_statement("", _pack_call(_packed(program, "decode")), indent=8)),
        "tied": tied,
        "learned": "pos_embeddings" in program.parameters,
        "rope": buffer and list(rope_call(dict(buffer.arguments), sizes, "length")),
        "rope_shape": buffer and shape(buffer.type).replace("S", "B, 1"),
        "eos": program.eos,
        "dim": type_of(output_of(program.regions["embed"].forward.graph)).shape[-1],
        "vocab_size": type_of(output_of(program.regions["logits"].forward.graph)).shape[-1],
    }
    return environment().get_template("inference.py.j2").render(values)


def _call(program: Program, region: str) -> str:
    """Return the arguments with which inference.py calls a region's function."""
    nodes = placeholders(program.regions[region].forward.graph)
    text = ", ".join(
        f"model.{n.meta['param']}" if n.meta["role"] == "param" else n.name for n in nodes
    )
    return text.replace("model.tok_embeddings", "head(model)") if region == "logits" else text


def _pack_call(names: list[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"pack_weights(layer, {quoted})"


def _packed(program: Program, region: str) -> list[str]:
    """Return the names of the weights of a region's linears, within a layer or the model."""
    nodes = ops_in(program.regions[region].forward.graph)
    weights = [operands(node)[1] for node in nodes if is_op(node, packed_linear)]
    return [weight.meta["param"].removeprefix("layers.*.") for weight in weights]


def _tables(program: Program, region: str) -> str:
    """Return a layer's arguments between its caches and its weights."""
    nodes = placeholders(program.regions[region].forward.graph, "constant")
    return "".join(f"{node.name}, " for node in nodes)
