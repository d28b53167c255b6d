"""`llamac plan SPEC`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamac.cli import plan_search as forms
from llamac.cli.common.options import SetOption, load
from llamac.cli.common.output import OverwriteFile, check_output, inputs_of, write_output

if TYPE_CHECKING:
    from llamac.plan.setting import Setting
    from llamac.plan.timeline.step import StepTimeline

DOES_NOT_FIT = 3
"""Exit code if the run does not fit the device's memory."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Framework(StrEnum):
    """Frameworks whose runs `llamac plan` can predict.

    They are the keys of `FRAMEWORKS` in llamac/plan/cost/framework.py, which describes them.
    """

    llamac = "llamac"
    compiled = "compiled"
    eager = "eager"
    megatron = "megatron"
    megatron_core = "megatron-core"
    aleph_alpha = "aleph-alpha"
    nanotron = "nanotron"


class Sharding(StrEnum):
    """ZeRO stages (arXiv:1910.02054) of `llamac plan --sharding`; `none` replicates everything."""

    none = "none"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"


class Law(StrEnum):
    """Scaling laws by which `llamac plan --compute` can size a model.

    The first three are the approaches of the Chinchilla paper (arXiv:2203.15556), and `refitted` is
    its third with the coefficients of Besiroglu et al. (arXiv:2404.10102). `kaplan` is
    arXiv:2001.08361, and `llama` half the size that `refitted` gives, trained to the same loss.
    """

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
        typer.Option(metavar="NAME", help="A device, or a device file [the spec's hardware.gpu]"),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Number of GPUs; sets the data-parallel ranks [the spec's]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only")] = False,
    ops: Annotated[bool, typer.Option("--ops", help="List the time per region and per op")] = False,
    collectives: Annotated[
        bool, typer.Option("--collectives", help="List all collectives: bytes, group, link, time")
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
        Framework,
        typer.Option(
            metavar="NAME",
            help=f"Framework to predict: {', '.join(Framework)}",
        ),
    ] = Framework.llamac,
    sharding: Annotated[
        Sharding | None,
        typer.Option(help="ZeRO stage [that of the emitted trainer]"),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure this machine for use as --device (one minute)"),
    ] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Find the fastest layouts of these GPUs that fit")
    ] = False,
    top: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="With --search: number of layouts to show [10]"),
    ] = None,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Explain why layout A beats B: rows of --search, or names (tp8,pp4,mb1,selective)",
        ),
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(
            metavar="FLOPS", help="Size a model for this many training FLOPs, such as 1e22"
        ),
    ] = None,
    gpu_days: Annotated[
        float | None,
        typer.Option(
            "--gpu-days", metavar="N", help="Size a model for this many days of one --device"
        ),
    ] = None,
    choose: Annotated[
        Law | None,
        typer.Option(
            help="Law of the size that -o writes [refitted]; llama: half of it, to the same loss"
        ),
    ] = None,
    why_not: Annotated[
        str | None,
        typer.Option(
            metavar="2x",
            help="Find changes of hardware or layout that give this speed-up, such as 2x",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write the resulting spec or device file"
        ),
    ] = None,
    overwrite: OverwriteFile = False,
    overrides: SetOption = None,
) -> None:
    """Predict a run before it starts: its memory, speed and duration, and the reasons.

    --search finds the best layout, --compute the best model size for a budget. Exits with 3 if the
    run does not fit the device's memory.
    """
    forms.check(
        {
            "--calibrate": calibrate,
            "--search": search,
            "--why": why,
            "--why-not": why_not,
            "--compute": compute,
            "--gpu-days": gpu_days,
        },
        {
            "SPEC": spec,
            "--device": device,
            "--gpus": gpus,
            "--json": as_json,
            "--framework": framework is not Framework.llamac,
            "--sharding": sharding,
            "--set": overrides,
            "--ops": ops,
            "--collectives": collectives,
            "--trace": trace,
            "--picture": picture,
            "--top": top,
            "--choose": choose,
            "-o": output,
            "--overwrite": overwrite,
        },
    )
    if compute is not None or gpu_days is not None:
        law = (choose or Law.refitted).value
        forms.print_sizing(
            compute, gpu_days, device, law, overrides or (), output, overwrite, as_json
        )
        return
    if calibrate:
        _calibrate(output or Path("machine.toml"), overwrite)
        return
    if spec is None:
        raise typer.BadParameter("give a spec, such as tiny or 65b", param_hint="SPEC")
    loaded = load(spec, overrides)
    inputs = [*inputs_of(loaded), *([device] if device else [])]
    for option, path in {"-o": output, "--trace": trace, "--picture": picture}.items():
        if path is not None:
            check_output(path, inputs, overwrite, option)

    from llamac.plan.target import device_for, on_gpus, setting_for

    count = gpus or loaded.parallel.ranks
    text_lines = loaded if search or why is not None else on_gpus(loaded, count)
    shares = sharding.value if sharding else None
    setting = setting_for(text_lines, device_for(loaded, device), framework.value, shares)
    if search:
        target = forms.Target(output, spec, overrides or (), inputs, overwrite)
        forms.print_search(setting, count, top or 10, as_json, target)
    elif why is not None:
        forms.print_comparison(setting, count, why, as_json)
    elif why_not is not None:
        forms.print_advice(setting, why_not, as_json)
    else:
        files = _Files(trace, picture, inputs, overwrite)
        _show(setting, as_json, ops, collectives, files)


@dataclass(frozen=True)
class _Files:
    """Output files of a step: its trace and its picture."""

    trace: Path | None
    picture: Path | None
    inputs: Sequence[str | Path]
    overwrite: bool


def _show(setting: Setting, as_json: bool, ops: bool, collectives: bool, files: _Files) -> None:
    """Print a prediction and write its files. Raises typer.Exit(3) if it does not fit."""
    from llamac.plan.predict import predict
    from llamac.plan.timeline.step import StepTimeline

    program = setting.compile()
    prediction = predict(setting, program)
    step = StepTimeline(prediction, program)
    written = _write(step, files)
    if as_json:
        from llamac.plan.render.prediction_tables import full_json
        from llamac.plan.timeline.breakdown import breakdown_json

        found = full_json(prediction) | breakdown_json(step, ops, collectives)
        print(json.dumps(found, indent=2))
    else:
        from llamac.plan.render.prediction_tables import (
            op_sections,
            print_prediction,
            transfer_section,
        )

        more = [*(op_sections(step) if ops else ())]
        more += [transfer_section(step)] if collectives else []
        print_prediction(prediction, more)
    for path in written:
        print(f"wrote {path}", file=sys.stderr if as_json else sys.stdout)
    if not prediction.fits:
        raise typer.Exit(DOES_NOT_FIT)


def _write(step: StepTimeline, files: _Files) -> list[Path]:
    """Write the trace and the picture of a step; return where to."""
    written = []
    if files.trace is not None:
        from llamac.plan.timeline.trace import trace_json

        content = json.dumps(trace_json(step))
        write_output(files.trace, content, files.inputs, files.overwrite, "--trace")
        written.append(files.trace)
    if files.picture is not None:
        from llamac.plan.render.canvas import png, svg
        from llamac.plan.render.memory_picture import memory_picture

        drawing = memory_picture(step.prediction, step.program)
        drawn = png(drawing) if files.picture.suffix.lower() == ".png" else svg(drawing)
        write_output(files.picture, drawn, files.inputs, files.overwrite, "--picture")
        written.append(files.picture)
    return written


def _calibrate(path: Path, overwrite: bool) -> None:
    """Measure this machine into a device file."""
    if path.suffix != ".toml":
        raise typer.BadParameter(f"{path} does not end in .toml", param_hint="-o")
    check_output(path, (), overwrite)

    from llamac.plan.device.calibrate import calibrate, device_toml

    device, remarks = calibrate(log=print)
    write_output(path, device_toml(device, remarks), (), overwrite)
    print(f"wrote {path}: llamac plan SPEC --device {path}")
