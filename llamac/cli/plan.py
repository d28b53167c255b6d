"""`llamac plan SPEC`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llamac.cli import plan_search as forms
from llamac.cli.common import SetOption, load, writable, write

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Framework(StrEnum):
    llamac = "llamac"
    compiled = "compiled"
    eager = "eager"
    megatron = "megatron"
    megatron_core = "megatron-core"
    aleph_alpha = "aleph-alpha"
    nanotron = "nanotron"


class Sharding(StrEnum):
    none = "none"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"


class Law(StrEnum):
    chinchilla_1 = "chinchilla-1"
    chinchilla_2 = "chinchilla-2"
    chinchilla_3 = "chinchilla-3"
    refitted = "refitted"
    kaplan = "kaplan"
    llama = "llama"


@app.command()
def plan(
    spec: Annotated[
        str | None,
        typer.Argument(metavar="SPEC", help="A spec file, or a shipped spec: tiny, 65b, …"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A device, or a file of --calibrate [the spec's hardware.gpu]"
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="How many: data ranks follow [the spec's ranks]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: nothing but JSON")] = False,
    ops: Annotated[
        bool, typer.Option("--ops", help="Where the time goes, op by op, region by region")
    ] = False,
    collectives: Annotated[
        bool, typer.Option("--collectives", help="Every collective: bytes, group, link, time")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a step as a Perfetto or Chrome trace (JSON)"),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw memory over a step, as .svg or .png"),
    ] = None,
    framework: Annotated[
        Framework, typer.Option(help="Whose habits: kernels, overlap, reductions")
    ] = Framework.llamac,
    sharding: Annotated[
        Sharding | None,
        typer.Option(help="What data ranks share [as the emitted trainer has it]"),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine, a minute, for --device")
    ] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Try every layout of these GPUs; the fastest that fit")
    ] = False,
    top: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Of --search: how many to show [10]")
    ] = None,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Why layout A beats B: ranks of --search, or names such as tp8,pp4,mb1,selective",
        ),
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(metavar="FLOPS", help="Size a model: what so much training, 1e22, buys"),
    ] = None,
    gpu_days: Annotated[
        float | None,
        typer.Option("--gpu-days", metavar="N", help="Size a model: for days of one --device"),
    ] = None,
    choose: Annotated[
        Law | None,
        typer.Option(help="Whose size -o writes [refitted]; llama: half of it, to the same loss"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write what was found as a spec, or a device"
        ),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Say before a run whether it fits, how fast it is, how long it takes, and why; find its best
    layout (--search), or the model that a budget trains best (--compute)."""
    sizing = compute is not None or gpu_days is not None
    shown = {"--ops": ops, "--collectives": collectives, "--trace": trace, "--picture": picture}
    run = {"SPEC": spec, "--gpus": gpus, "--json": as_json, "--sharding": sharding}
    run |= {"--framework": framework is not Framework.llamac}
    forms.refuse(
        {"--calibrate": calibrate, "--search": search, "--why": why}
        | {"--compute": compute, "--gpu-days": gpu_days},
        (shown if search or why or sizing or calibrate else {})
        | (run if sizing or calibrate else {})
        | ({"--device": device, "--set": overrides} if calibrate else {})
        | {"--top": top and not search, "--choose": choose and not (sizing and output)},
    )
    if sizing:
        law = (choose or Law.refitted).value
        forms.size(compute, gpu_days, device, law, overrides or (), output)
        return
    if calibrate:
        _calibrate(output or Path("my.toml"))
        return
    if spec is None:
        raise typer.BadParameter("give a spec, such as tiny or 65b", param_hint="SPEC")
    if output is not None and not search:
        ways = "--calibrate, --search, --compute or --gpu-days writes"
        raise typer.BadParameter(f"it is where {ways}", param_hint="-o")
    if picture is not None and picture.suffix.lower() not in (".svg", ".png"):
        raise typer.BadParameter(f"{picture} ends in neither .svg nor .png", param_hint="--picture")
    loaded = load(spec, overrides)

    from llamac.plan.predict import predict
    from llamac.plan.target import device_for, on_gpus, setting_for

    chosen = device_for(loaded, device)
    count = gpus or loaded.parallel.ranks
    if search or why is not None:
        shares = sharding.value if sharding else None
        setting = setting_for(loaded, chosen, framework.value, shares)
        if why is not None:
            forms.explain(setting, count, why, as_json)
        else:
            forms.find(setting, count, top or 10, as_json, output, spec, overrides or ())
        return
    loaded = on_gpus(loaded, count)
    setting = setting_for(loaded, chosen, framework.value, sharding.value if sharding else None)
    program = setting.compile()
    prediction = predict(setting, program)
    from llamac.plan.timeline.step import StepTimeline

    step = StepTimeline(prediction, program)
    if trace is not None:
        from llamac.plan.timeline.trace import trace_json

        write(trace, json.dumps(trace_json(step)), "--trace")
    if picture is not None:
        from llamac.plan.render.canvas import png, svg
        from llamac.plan.render.memory_picture import memory_picture

        drawing = memory_picture(prediction, program)
        drawn = png(drawing) if picture.suffix.lower() == ".png" else svg(drawing)
        write(picture, drawn, "--picture")
    if as_json:
        from llamac.plan.timeline.breakdown import breakdown_json

        found = prediction.to_json() | breakdown_json(step, ops, collectives)
        print(json.dumps(found, indent=2))
    else:
        from llamac.plan.render.report import op_sections, show, transfer_section

        more = [*(op_sections(step) if ops else ())]
        more += [transfer_section(step)] if collectives else []
        show(prediction, more)


def _calibrate(path: Path) -> None:
    """Measure this machine into a device file."""
    if path.suffix != ".toml":
        raise typer.BadParameter(f"{path} does not end in .toml", param_hint="-o")

    writable(path)

    from llamac.plan.device.calibrate import calibrate, device_toml

    device, remarks = calibrate(say=print)
    write(path, device_toml(device, remarks))
    print(f"wrote {path}: llamac plan SPEC --device {path}")
