"""`llamac check SPEC`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from llamac.cli.common.options import JsonOption, SetOption, SpecArgument, describe_heads, load
from llamac.cli.preflight.chosen_dtype import slow_on_this_cpu
from llamac.cli.preflight.needed_files import missing_elsewhere
from llamac.look.console import show
from llamac.look.text_table import TextTable
from llamac.spec import Spec, SpecError
from llamac.spec.data import Data
from llamac.spec.launch import Launch
from llamac.spec.model import Model
from llamac.spec.parallel import AXES, Parallel
from llamac.spec.validation.errors import Diagnostic, Location, printable

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def check(
    spec: SpecArgument,
    overrides: SetOption = None,
    elsewhere: Annotated[
        bool,
        typer.Option(
            "--elsewhere", help="Do not check that files exist, as for a run on another machine"
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Validate SPEC and report all errors with file, line and a suggested fix.

    Files that it names must exist; missing files of the shipped specs are only noted.
    """
    try:
        loaded = load(spec, overrides, files=not elsewhere)
        if loaded.recompute.budget is not None:
            _require_budget(loaded)
    except SpecError as error:
        if not as_json:
            raise
        print(json.dumps({"valid": False, "errors": [_json(one) for one in error.diagnostics]}))
        raise typer.Exit(error.exit_code) from None
    missing = [] if elsewhere else missing_elsewhere(loaded)
    slow = "" if elsewhere else slow_on_this_cpu(loaded)
    if as_json:
        found = {"missing": missing, "warnings": [slow] if slow else []}
        print(json.dumps(_facts(loaded) | found, indent=1))
        return
    show(_summary(loaded, missing, slow))


def _require_budget(spec: Spec) -> None:
    """Raise SpecError unless the compiler can keep within recompute.budget."""
    from llamac.passes.budget import BudgetError
    from llamac.passes.pass_list import saved_sets

    try:
        saved_sets(spec)
    except BudgetError as error:
        where, _, message = str(error).partition(": ")
        file, _, line = where.rpartition(":")
        at = Location(file, int(line)) if line.isdecimal() else Location(where)
        raise SpecError([Diagnostic(at, message)]) from None


def _json(diagnostic: Diagnostic) -> dict[str, Any]:
    at = diagnostic.location
    found = {"file": at.file, "line": at.line, "column": at.column}
    return found | {"message": diagnostic.message, "help": diagnostic.help}


def _facts(spec: Spec) -> dict[str, Any]:
    batch, steps = spec.batch, spec.total_steps
    return {
        "valid": True,
        "name": spec.name,
        "parameters": spec.model.parameters(batch.sequence_length),
        "steps": steps,
        "tokens": steps * batch.tokens,
        "tokens_per_step": batch.tokens,
        "ranks": spec.parallel.ranks,
        "spec": spec.toml_values(),
    }


def _rows(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield the summary of a spec as (label, text) rows."""
    batch, schedule = spec.batch, spec.schedule
    yield "parameters", f"{spec.model.parameters(batch.sequence_length):,}"
    yield "model", _shape(spec.model)
    yield "data", _mixture(spec.data)
    yield (
        "batch",
        f"{batch.tokens:,} tokens = {batch.sequences:,} sequences of "
        f"{batch.sequence_length:,}, {batch.micro_batch:,} at a time",
    )
    yield (
        "schedule",
        f"{spec.total_steps:,} steps = {_short(spec.total_steps * batch.tokens)} "
        f"tokens, {schedule.kind} after {schedule.warmup_steps:,} steps of warm-up",
    )
    yield "optimizer", f"{spec.optimizer.kind}, learning rate {spec.optimizer.lr:g}"
    device = spec.hardware.device + (f" for {spec.hardware.gpu}" if spec.hardware.gpu else "")
    yield (
        "compute",
        f"{spec.precision.compute}, {spec.recompute.policy} checkpointing, device {device}",
    )
    if spec.parallel.ranks > 1:
        yield "ranks", _layout(spec.parallel, spec.launch)


def _summary(spec: Spec, missing: list[str], slow: str) -> TextTable:
    rows = [(Text(word, "head"), Text(text)) for word, text in _rows(spec)]
    if slow:
        rows.append((Text("slow here", "warn"), Text(f"bf16: {slow}", "warn")))
    if missing:
        more = f", and {len(missing) - 1} more" if missing[1:] else ""
        rows.append((Text("not here", "warn"), Text(f"{printable(missing[0])}{more}", "warn")))
    return TextTable(Text(f"{spec.name} is valid", "good"), ("", ""), rows, "<<")


def _shape(model: Model) -> str:
    return (
        f"{model.n_layers} layers of {model.dim:,}, {describe_heads(model)}, "
        f"ffn {model.ffn_dim:,}, "
        f"{model.norm_position}-{model.norm}, {model.activation}, {model.position}, "
        f"vocabulary {model.vocab_size:,}{_extras(model)}"
    )


BIASES = {
    True: "biases",
    "qkv": "biases of q, k and v",
    "attention": "biases in attention",
    "feed_forward": "biases in the feed-forward network",
}


def _extras(model: Model) -> str:
    """Return the features beyond LLaMA's: `, tied embeddings, rope scaled 8× (llama3)`."""
    found = ["tied embeddings"] if model.tied_embeddings else []
    found += [BIASES[model.bias]] if model.bias else []
    found += ["norms of q and k"] * model.qk_norm
    if model.sliding_window is not None:
        found.append(f"a window of {model.sliding_window:,}")
    if model.position == "rope" and (scaling := model.rope_scaling) is not None:
        found.append(f"rope scaled {scaling.factor:g}× ({scaling.kind})")
    return "".join(f", {word}" for word in found)


def _layout(parallel: Parallel, launch: Launch) -> str:
    """Return a layout as text: 16 = pipeline 2 × tensor 8, on 2 nodes of 8."""
    degrees = [f"{key} {n}" for key in AXES.values() if (n := getattr(parallel, key)) > 1]
    nodes = launch.nodes(parallel.ranks)
    where = "one node" if nodes == 1 else f"{nodes:,} nodes of {launch.gpus_per_node}"
    return f"{parallel.ranks:,} = {' × '.join(degrees)}, on {where}"


def _mixture(data: Data) -> str:
    total = sum(source.share for source in data.source)
    return ", ".join(f"{source.name} {source.share / total:.1%}" for source in data.source)


def _short(count: float) -> str:
    """Format a count: 1_400_000_000_000 → 1.4T."""
    unit = ""
    for larger in ("K", "M", "B", "T"):
        if count < 1000:
            break
        count, unit = count / 1000, larger
    return f"{count:.3g}{unit}"
