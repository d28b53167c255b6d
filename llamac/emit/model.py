"""Program → model.py: the regions' functions, and the nn.Module that chains them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llamac
from llamac.emit.functions import (
    assigned,
    backward_source,
    forward_source,
    runtime_imports,
    shape,
    signature,
    wrapped,
)
from llamac.emit.source import WIDTH, environment, literal
from llamac.ir.graph import output_of, placeholders, type_of
from llamac.ir.program import Parameter, Program, Region
from llamac.ir.types import DTYPES
from llamac.passes.flops import flops_per_token, matmul_parameters


def render_model(program: Program, fsdp: bool = False) -> str:
    """Return the text of model.py. Same Program, same text. fsdp: will FSDP wrap its layers?"""
    blocks = list(dict.fromkeys(program.layers))
    order = [
        "embed",
        *blocks,
        "head",
        "evaluate" if "evaluate" in program.regions else "",
        "" if program.stages else "logits",  # which are of no use to a stage
    ]
    regions = [program.regions[name] for name in order if name]
    matmul = matmul_parameters(program)
    sources = [_region(region) for region in regions]
    values = {
        "name": program.name,
        "fsdp": fsdp,
        "version": llamac.__version__,
        "layers": len(program.layers),
        "parameters": program.parameter_count,
        "matmul_parameters": matmul,
        "flops_per_token": flops_per_token(program),
        "imports": list(runtime_imports(regions, "runtime", _own_imports(program))),
        "init": _init(program),
        "packs": {
            p.name: tuple((piece.name, piece.rows) for piece in p.pieces)
            for p in program.parameters.values()
            if p.packed or p.type.placement("tp") == "S(0)"
        },
        "shares": _shares(program),
        "context": program.mesh.get("cp", 1),
        "eos": program.eos,
        "tables_of": "tokens.shape[1]" if program.eos is None else "tokens",
        "stages": program.stages,
        "sharing": _sharing(program),
        "regions": sources,
        "functional": any("F." in text for source in sources for text in map(str, source.values())),
        "functions": [_function(r) for r in regions if r.backward is not None],
        "stream": shape(type_of(output_of(program.regions[blocks[0]].forward.graph))),
        "vocab_size": type_of(output_of(program.regions["logits"].forward.graph)).shape[-1],
        "dtype": str(DTYPES[next(iter(program.parameters.values())).type.dtype]),
        "block": _block(program),
        "model": _model(program),
    }
    return environment().get_template("model.py.j2").render(values)


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
    """Return the number of ranks that share positions between layers."""
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


def _shares(program: Program) -> dict[str, Any] | None:
    """Tables of how tensor-parallel ranks share parameters, for `runtime`'s param_sharding."""
    if "tp" not in program.mesh:
        return None
    parameters = program.parameters.values()
    placements = {p.name: p.type.placement("tp") for p in parameters}
    return {
        "size": program.mesh["tp"],
        "split": {name: int(place[2:-1]) for name, place in placements.items() if place != "R"},
        "copies": {
            piece.name: piece.copies for p in parameters for piece in p.pieces if piece.copies > 1
        },
        "summed": tuple(p.name for p in parameters if "tp" in program.summed(p)),
    }


def _function(region: Region) -> str:
    return "".join(part.title() for part in region.name.split("_")) + "Function"


def _region(region: Region) -> dict[str, Any]:
    sign = signature(region)
    values: dict[str, Any] = {"name": region.name, "forward": forward_source(region)}
    if region.backward is None:
        return values
    function = _function(region)
    kept = [name for name in sign.restored if name not in sign.kept]
    if sign.kept:
        first = next(i for i, name in enumerate(sign.restored) if name in sign.kept)
        kept.insert(first, "*kept")
    gradients = [name or "None" for name in sign.gradients]
    flowing = [name for name in sign.gradients if name is not None]
    values |= {
        "function": function,
        "backward": backward_source(region),
        "output": sign.output,
        "cotangent": sign.cotangent,
        "forward_call": [
            *wrapped(
                f"{sign.output}, kept = " if sign.kept else f"{sign.output} = ",
                f"{function}.run_forward({', '.join(sign.inputs)})",
                indent=8,
            ),
            *wrapped("", f"ctx.save_for_backward({', '.join(kept)})", indent=8),
        ],
        "definition": list(
            wrapped(
                "def ",
                f"forward(ctx: Any, {', '.join(f'{name}: Tensor' for name in sign.inputs)})",
                " -> Tensor:",
            )
        ),
        "returned": list(wrapped("return ", ", ".join(gradients), indent=8)),
        "backward_call": list(
            assigned(
                flowing, f"{function}.run_backward({sign.cotangent}, *ctx.saved_tensors)", indent=8
            )
        ),
    }
    return values


def _block(program: Program) -> dict[str, Any]:
    region = program.regions[program.layers[0]]
    names = [node.meta["param"] for node in placeholders(region.forward.graph, "param")]
    attributes: list[str] = []
    for owner, members in _by_owner(names).items():
        if owner == "":
            attributes += [
                line
                for name in members
                for line in _parameter(f"self.{_last(name)} = ", program.parameters[name], 8)
            ]
            continue
        attributes.append(f"        self.{owner} = nn.ParameterDict(")
        attributes.append("            {")
        for name in members:
            attributes += _parameter(f'"{_last(name)}": ', program.parameters[name], 16, ",")
        attributes += ["            }", "        )"]
    weights = ", ".join(_attribute(name) for name in names)
    return {
        "attributes": attributes,
        "weights": list(wrapped("return ", weights, indent=8)),
        "layers": _layer_functions(program),
        # Variants differ in what they keep, not in what they compute.
        "eager": f"x{', _' if signature(region).kept else ''} = "
        f"{region.name}_forward(x, *tables, *layer.weights())",
    }


def _layer_functions(program: Program) -> str:
    """Return the function of each layer, as an expression: `(BlockFunction,) * 6`."""
    return " + ".join(
        f"({_function(program.regions[name])},) * {count}" for name, count in program.layer_runs
    )


def _by_owner(names: list[str]) -> dict[str, list[str]]:
    """`layers.*.attention.wq` belongs to `attention`, `layers.*.ffn_norm` to the block itself."""
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


def _parameter(left: str, parameter: Parameter, indent: int, end: str = "") -> Iterator[str]:
    sizes = ", ".join(map(str, parameter.type.shape))
    yield f"{' ' * indent}{left}nn.Parameter(torch.empty({sizes}, **placement)){end}"


def _model(program: Program) -> dict[str, Any]:
    """Return the attributes of Model, and how it calls each region."""
    once = [p for p in program.parameters.values() if not p.per_layer]
    deeper = 12 if program.stages else 8  # under an `if`: the first stage's, or the last's
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
            line for p in once if p.name in _embedding(program) for line in _once(p, deeper)
        ],
        "after": [
            line for p in once if p.name not in _embedding(program) for line in _once(p, deeper)
        ],
        "calls": calls,
        "tables": buffer and list(_tables(dict(buffer.arguments))),
    }


def _tables(arguments: dict[str, Any]) -> Iterator[str]:
    """Yield the call that makes the rotary tables, on as many lines as it takes."""
    values = {key: arguments[key] for key in ("theta", "scaling") if arguments[key] is not None}
    sizes = [str(arguments["positions"]), str(arguments["head_dim"])]
    short = [f"{key}={literal(value, used=-WIDTH)}" for key, value in values.items()]
    inside = ", ".join([*sizes, *short, "device=device"])
    if len(inside) + 12 <= WIDTH:
        yield from wrapped("cos, sin = ", f"rope_tables({inside})", indent=8)
        return
    long = [f"{key}={literal(value, len(key) + 14, indent=12)}" for key, value in values.items()]
    yield "        cos, sin = rope_tables("
    yield from (f"            {argument}," for argument in [*sizes, *long, "device=device"])
    yield "        )"


def _embedding(program: Program) -> set[str]:
    graph = program.regions["embed"].forward.graph
    return {node.meta["param"] for node in placeholders(graph, "param")}


def _once(parameter: Parameter, indent: int) -> Iterator[str]:
    return _parameter(f"self.{parameter.name} = ", parameter, indent)
