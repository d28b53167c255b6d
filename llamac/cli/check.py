"""`llamac check SPEC`."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from llamac.cli.common import SetOption, SpecArgument, heads, load
from llamac.spec import Spec
from llamac.spec.data import Data
from llamac.spec.launch import Launch
from llamac.spec.model import Model
from llamac.spec.parallel import AXES, Parallel

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def check(spec: SpecArgument, overrides: SetOption = None) -> None:
    """Validate SPEC: every error at once, with its place and the way out."""
    loaded = load(spec, overrides)
    if loaded.activation.budget is not None:  # whether it can be met, the compiler knows
        from llamac.passes.pipeline import saved_sets

        saved_sets(loaded)
    print("\n".join(_summary(loaded)))


def _summary(spec: Spec) -> Iterator[str]:
    batch, schedule = spec.batch, spec.schedule
    yield f"{spec.name} is valid"
    yield f"  model      {_shape(spec.model)}"
    yield f"  data       {_mixture(spec.data)}"
    yield (
        f"  batch      {batch.tokens:,} tokens = {batch.sequences:,} sequences of "
        f"{batch.sequence_length:,}, {batch.micro_batch:,} at a time"
    )
    yield (
        f"  schedule   {spec.total_steps:,} steps = {_short(spec.total_steps * batch.tokens)} "
        f"tokens, {schedule.kind} after {schedule.warmup_steps:,} steps of warm-up"
    )
    yield f"  optimizer  {spec.optimizer.kind}, learning rate {spec.optimizer.lr:g}"
    yield (
        f"  compute    {spec.precision.compute}, {spec.activation.checkpoint} checkpointing, "
        f"device {spec.hardware.device}"
    )
    if spec.parallel.ranks > 1:
        yield f"  ranks      {_layout(spec.parallel, spec.launch)}"


def _shape(model: Model) -> str:
    return (
        f"{model.n_layers} layers of {model.dim:,}, {heads(model)}, ffn {model.ffn_dim:,}, "
        f"{model.norm_position}-{model.norm}, {model.activation}, {model.position}, "
        f"vocabulary {model.vocab_size:,}"
    )


def _layout(parallel: Parallel, launch: Launch) -> str:
    """16 = pipeline 2 × tensor 8, on 2 nodes of 8."""
    degrees = [f"{key} {n}" for key in AXES.values() if (n := getattr(parallel, key)) > 1]
    nodes = launch.nodes(parallel.ranks)
    where = "one node" if nodes == 1 else f"{nodes:,} nodes of {launch.gpus_per_node}"
    return f"{parallel.ranks:,} = {' × '.join(degrees)}, on {where}"


def _mixture(data: Data) -> str:
    total = sum(source.share for source in data.source)
    return ", ".join(f"{source.name} {source.share / total:.1%}" for source in data.source)


def _short(count: float) -> str:
    """1_400_000_000_000 → 1.4T."""
    unit = ""
    for larger in "KMGT":
        if count < 1000:
            break
        count, unit = count / 1000, larger
    return f"{count:.3g}{unit}"
