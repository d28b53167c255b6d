"""Generate model.py: the regions' functions, and the nn.Module that calls them in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

import llamac
from llamac.emit.functions import (
    backward_source,
    forward_source,
    runtime_imports,
    shape,
    signature,
    source_lines,
    wrap_statement,
)
from llamac.emit.python_source import WIDTH, environment, python_literal
from llamac.emit.sizes import Sizes
from llamac.ir.graph import output_of, placeholders, type_of
from llamac.ir.program import Parameter, Program, Region
from llamac.ir.types import DTYPES
from llamac.passes.analysis.flops import flops_per_token, matmul_parameters
from llamac.runtime.kernels.padding import PADDING


def render_model(program: Program, fsdp: bool = False) -> str:
    """Return the text of model.py for a Program after the last pass.

    fsdp: whether the trainer wraps the model's layers with FSDP.
    """
    blocks = list(dict.fromkeys(program.layers))
    order = [
        "embed",
        *blocks,
        "head",
        "evaluate" if "evaluate" in program.regions else "",
        "" if program.stages else "logits",  # which a pipeline stage does not use
    ]
    regions = [program.regions[name] for name in order if name]
    matmul = matmul_parameters(program)
    sizes = Sizes.from_program(program)
    sources = [_region(region, sizes) for region in regions]
    values = {
        "name": program.name,
        "fsdp": fsdp,
        "version": llamac.__version__,
        "layers": len(program.layers),
        "sizes": sizes.constants(),
        "legend": sizes.legend(),
        "prefers": bool(type_of(output_of(program.regions["head"].forward.graph)).shape),
        "windowed": "WINDOW" in sizes.values,
        "parameters": program.parameter_count,
        "matmul_parameters": matmul,
        "flops_per_token": flops_per_token(program),
        "imports": list(runtime_imports(regions, "runtime", _own_imports(program))),
        "init": _init(program),
        "packs": {
            p.name: tuple((piece.name, sizes.rows(piece)) for piece in p.pieces)
            for p in program.parameters.values()
            if p.packed or p.type.placement("tp") == "S(0)"
        },
        "sharding": _sharding(program),
        "context": program.mesh.get("cp", 1),
        "eos": program.eos,
        "PADDING": PADDING,
        "shared_of": "tokens.shape[1]" if program.eos is None else "tokens",
        "stages": program.stages,
        "sharing": _sharing(program),
        "regions": sources,
        "functional": any("F." in text for source in sources for text in map(str, source.values())),
        "functions": [_function(r) for r in regions if r.backward is not None],
        "embed": "EmbedFunction.apply" if program.regions["embed"].backward else "embed_forward",
        "stream": shape(type_of(output_of(program.regions[blocks[0]].forward.graph))),
        "vocab_size": type_of(output_of(program.regions["logits"].forward.graph)).shape[-1],
        "dtype": str(DTYPES[next(iter(program.parameters.values())).type.dtype]),
        "block": _block(program, sizes),
        "model": _model(program, sizes),
    }
    return environment().get_template("model.py.j2").render(values)


def nodes_by_line(program: Program, source: str, sizes: Sizes) -> dict[int, fx.Node]:
    """Map line numbers of a generated source, from 1, to their graph nodes.

    Lines without a node are absent.

    source: text that contains the regions' functions, such as model.py.
    sizes: the named constants with which it was generated.
    """
    found: dict[int, fx.Node] = {}
    for region in program.regions.values():
        for direction in ("forward", "backward"):
            if direction == "forward" or region.backward is not None:
                lines = list(source_lines(region, direction, sizes))
                begin = source.find("\n".join(line for line, _ in lines) + "\n")
                if begin >= 0:  # a pipeline stage has no logits function
                    first = source.count("\n", 0, begin) + 1
                    found |= {n: node for n, (_, node) in enumerate(lines, first) if node}
    return found


def _own_imports(program: Program) -> Iterator[tuple[str, str]]:
    yield "parameters", "expand_layers"
    if not program.stages:
        yield "parameters", "initialise_parameters"
    if program.eos is not None:
        yield "kernels.documents", "document_starts"
    if program.buffers:
        yield "kernels.rope", "rope_tables"
        if "cp" in program.mesh:
            yield "distributed.collectives", "take_part"
            yield "distributed.context_parallel", "rank_order"


def _sharing(program: Program) -> int:
    """Return the number of ranks over which positions are split between layers."""
    tokens = placeholders(program.regions["embed"].forward.graph, "input")[0]
    stream = output_of(program.regions["embed"].forward.graph)
    of_tokens, of_stream = (program.symbols[str(type_of(v).shape[1])] for v in (tokens, stream))
    return of_tokens // of_stream


def _init(program: Program) -> dict[str, tuple[str, float]]:
    return {
        piece.name: (piece.init.kind, piece.init.std)
        for parameter in program.parameters.values()
        for piece in parameter.pieces
    }


def _sharding(program: Program) -> dict[str, Any] | None:
    """Return tables of how tensor-parallel ranks shard parameters, for `param_sharding`."""
    if "tp" not in program.mesh:
        return None
    parameters = program.parameters.values()
    placements = {p.name: p.type.placement("tp") for p in parameters}
    return {
        "size": program.mesh["tp"],
        "shard_dim": {name: int(place[2:-1]) for name, place in placements.items() if place != "R"},
        "replicas": {
            piece.name: piece.copies for p in parameters for piece in p.pieces if piece.copies > 1
        },
        "partial_gradients": tuple(p.name for p in parameters if "tp" in program.reduction_axes(p)),
    }


def _function(region: Region) -> str:
    return "".join(part.title() for part in region.name.split("_")) + "Function"


def _region(region: Region, sizes: Sizes) -> dict[str, Any]:
    values: dict[str, Any] = {"name": region.name, "forward": forward_source(region, sizes)}
    if region.backward is None:
        return values
    return values | {
        "function": _function(region),
        "backward": backward_source(region, sizes),
        **_wrapper(region),
    }


def _wrapper(region: Region) -> dict[str, Any]:
    """Return the parts of a region's autograd.Function, for the template.

    saves: statements that save inputs and values in `ctx`. calls: those that call the backward
    function and return its gradients, with None for inputs without one.
    """
    sign = signature(region)
    saved = "*inputs"
    saves: list[str] = []
    if sign.saved_inputs != sign.inputs:
        picked = [name if name in sign.saved_inputs else "_" for name in sign.inputs]
        saves, saved = list(_unpacked(picked, "inputs")), ", ".join(sign.saved_inputs)
    if sign.saved:
        saved += ", *saved"
    saves += wrap_statement("", f"ctx.save_for_backward({saved})", indent=8)
    weights = len(placeholders(region.forward.graph, "param"))
    before, d_each = sign.gradients[:-weights], sign.gradients[-weights:]
    activations = [name for name in before if name is not None]
    if None in d_each and weights > 1:  # some weights are frozen
        made, returned = [*activations, *filter(None, d_each)], [*before, *d_each]
    else:
        d_weights = str(d_each[0]) if weights == 1 else "*d_weights" if activations else "d_weights"
        made = [name for name in (*activations, d_weights) if name != "None"]
        returned = [*before, d_weights if weights == 1 else "*d_weights"]
    function = f"{_function(region)}.run_backward({sign.cotangent}, *ctx.saved_tensors)"
    return {
        "output": f"{sign.output}, saved" if sign.saved else sign.output,
        "returns": sign.output,
        "cotangent": sign.cotangent,
        "saves": saves,
        "calls": [
            *_unpacked(made, function),
            *wrap_statement("return ", ", ".join(map(str, returned)), indent=8),
        ],
    }


def _unpacked(names: list[str], value: str) -> Iterator[str]:
    """Yield `names = value`, with one name per line if the line is too long."""
    line = f"        {', '.join(names)} = {value}"
    lines = ["        (", *(f"            {name}," for name in names), f"        ) = {value}"]
    yield from [line] if len(line) <= WIDTH else lines


def _block(program: Program, sizes: Sizes) -> dict[str, Any]:
    region = program.regions[program.layers[0]]
    names = [node.meta["param"] for node in placeholders(region.forward.graph, "param")]
    attributes: list[str] = []
    for owner, members in _by_owner(names).items():
        if owner == "":
            attributes += [
                line
                for name in members
                for line in _parameter(f"self.{_last(name)} = ", program.parameters[name], sizes, 8)
            ]
            continue
        attributes.append(f"        self.{owner} = nn.ParameterDict(")
        attributes.append("            {")
        for name in members:
            attributes += _parameter(f'"{_last(name)}": ', program.parameters[name], sizes, 16, ",")
        attributes += ["            }", "        )"]
    weights = ", ".join(_attribute(name) for name in names)
    return {
        "attributes": attributes,
        "weights": list(wrap_statement("return ", weights, indent=8)),
        "layers": _layer_functions(program),
        # Variants differ in their saved sets only.
        "eager": f"x{', _' if signature(region).saved else ''} = "
        f"{region.name}_forward(x, *shared, *layer.weights())",
    }


def _layer_functions(program: Program) -> str:
    """Return an expression for the functions of all layers: `(BlockFunction,) * N_LAYERS`."""
    runs = program.layer_runs
    counts = ["N_LAYERS"] if len(runs) == 1 else [str(count) for _, count in runs]
    functions = [_function(program.regions[name]) for name, _ in runs]
    return " + ".join(f"({f},) * {n}" for f, n in zip(functions, counts, strict=True))


def _by_owner(names: list[str]) -> dict[str, list[str]]:
    """Group parameter names by submodule of the block: `layers.*.attention.wq` by `attention`.

    Names without one, such as `layers.*.ffn_norm`, belong to "".
    """
    owners: dict[str, list[str]] = {}
    for name in names:
        owner = name.removeprefix("layers.*.").rpartition(".")[0]
        owners.setdefault(owner, []).append(name)
    return owners


def _attribute(name: str) -> str:
    owner, _, last = name.removeprefix("layers.*.").rpartition(".")
    return f'self.{owner}["{last}"]' if owner else f"self.{last}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _parameter(
    left: str, parameter: Parameter, sizes: Sizes, indent: int, end: str = ""
) -> Iterator[str]:
    made = f"torch.empty({', '.join(map(str, sizes.shape(parameter)))}, **factory_kwargs)"
    made += "" if parameter.trainable else ", requires_grad=False"
    yield from wrap_statement(left, f"nn.Parameter({made})", end, indent)


def _model(program: Program, sizes: Sizes) -> dict[str, Any]:
    """Return the attributes of the class Model and its calls of the regions, for the template."""
    once = [p for p in program.parameters.values() if not p.per_layer]
    first = [p for p in once if p.name in _embedding(program)]
    last = [p for p in once if p not in first]
    indent = 12 if program.stages else 8  # a stage's parameters are inside an `if`
    calls = {}
    for name in ("embed", "head", "evaluate", "logits"):
        if name in program.regions:
            nodes = placeholders(program.regions[name].forward.graph)
            calls[name] = ", ".join(
                f"self.{n.meta['param']}" if n.meta["role"] == "param" else n.name for n in nodes
            )
    buffer = next(iter(program.buffers.values()), None)
    return {
        "before": [
            line for p in first for line in _parameter(f"self.{p.name} = ", p, sizes, indent)
        ],
        "after": [line for p in last for line in _parameter(f"self.{p.name} = ", p, sizes, indent)],
        "calls": calls,
        "tables": buffer and list(rope_call(dict(buffer.arguments), sizes)),
    }


def rope_call(arguments: dict[str, Any], sizes: Sizes, positions: str = "") -> Iterator[str]:
    """Yield the source lines of the call of `rope_tables`, which computes the rotary tables.

    arguments: those of the Program's `Buffer`: positions, head_dim, theta and scaling.
    sizes: constants that are written in place of numbers.
    positions: Python expression for the number of positions; "" takes it from `arguments`.
    """
    values = {key: arguments[key] for key in ("theta", "scaling") if arguments[key] is not None}
    shape = [str(sizes.attribute(key, arguments[key])) for key in ("positions", "head_dim")]
    shape[0] = positions or shape[0]
    short = [f"{key}={python_literal(value, used=-WIDTH)}" for key, value in values.items()]
    inside = ", ".join([*shape, *short, "device=device"])
    if len(inside) + 12 <= WIDTH:
        yield from wrap_statement("cos, sin = ", f"rope_tables({inside})", indent=8)
        return
    long = [
        f"{key}={python_literal(value, len(key) + 14, indent=12)}" for key, value in values.items()
    ]
    yield "        cos, sin = rope_tables("
    yield from (f"            {argument}," for argument in [*shape, *long, "device=device"])
    yield "        )"


def _embedding(program: Program) -> set[str]:
    graph = program.regions["embed"].forward.graph
    return {node.meta["param"] for node in placeholders(graph, "param")}
