"""`llamac verify SPEC`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from llamac.cli.common.options import (
    JsonOption,
    SetOption,
    SpecArgument,
    describe_heads,
    load,
    print_status,
)

if TYPE_CHECKING:
    from llamac.spec import Spec
    from llamac.verify.processes import LayoutComparison
    from llamac.verify.verdicts import Verdict

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def verify(
    spec: SpecArgument,
    overrides: SetOption = None,
    ranks: Annotated[
        str | None,
        typer.Option(
            "--ranks",
            metavar="N,…",
            help="Also compare layouts of these numbers of processes, such as 1,2,4",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="List the error of every gradient, stage by stage")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify SPEC's compilation: compare each stage of a small twin with plain eager PyTorch."""
    loaded = load(spec, overrides)
    if not as_json:
        print_status(f"compiling a small twin of {loaded.name} …")
    counts = _counts(ranks)

    from llamac.emit.build import files_of
    from llamac.passes.pass_list import saved_sets
    from llamac.verify.twin import shrink
    from llamac.verify.verdicts import verdicts

    twin = shrink(loaded)
    if as_json:
        found = list(verdicts(twin, files_of, saved_sets(loaded)))
        sound = not any(verdict.failed for verdict in found)
        _print_json(loaded, found, _layouts(loaded, counts) if sound and counts else [])
        return
    from llamac.look.console import show

    show(*_preamble(loaded, twin))
    width = 16
    head = f"{'stage':<{width}}{'loss':>9}{'evaluate':>10}{'logits':>9}{'gradients':>11}  worst"
    show("", Text(head, "head"))
    found = []
    for verdict in verdicts(twin, files_of, saved_sets(loaded)):
        found.append(verdict)
        show(Text(f"{verdict.stage:<{width}}{_row(verdict)}", _style(verdict)))
        if verbose:
            for name, error in verdict.errors.items():
                show(f"    {name:<44}{error:>9.1e}")
    first = next((verdict for verdict in found if verdict.failed), None)
    if first is not None:
        raise VerificationFailed(_complaint(first, loaded.name))
    count = f"{len(found)} stages agree with the reference"
    show("", Text(f"{loaded.name} is compiled correctly: {count}", "good"))
    if counts:
        _on_processes(loaded, counts)


def _layouts(spec: Spec, counts: list[int]) -> list[LayoutComparison]:
    from llamac.emit.build import files_of
    from llamac.verify.processes import compare_layouts

    return list(compare_layouts(spec, counts, files_of))


def _print_json(spec: Spec, stages: list[Verdict], layouts: list[LayoutComparison]) -> None:
    """Print all findings as one JSON object; raises typer.Exit(3) if a result is wrong."""
    rows = [{"stage": one.stage, **_figures(one)} for one in stages]
    more = [{"layout": one.layout, "refused": one.refused, **_figures(one)} for one in layouts]
    verified = not any(one.failed for one in (*stages, *layouts))
    found = {"name": spec.name, "verified": verified, "stages": rows, "layouts": more}
    print(json.dumps(found, indent=1))
    if not verified:
        raise typer.Exit(VerificationFailed.exit_code)


def _figures(found: Verdict | LayoutComparison) -> dict[str, Any]:
    """Return the relative errors by name (null for NaN) and the problem, as JSON values."""
    errors = {key: e if math.isfinite(e) else None for key, e in found.errors.items()}
    return {"missed": found.failed, "problem": found.problem, "errors": errors}


def _counts(ranks: str | None) -> list[int]:
    from llamac.verify.processes import LAYOUTS

    if ranks is None:
        return []
    words = [word.strip() for word in ranks.split(",")]
    if not all(word.isdecimal() and int(word) in LAYOUTS for word in words):
        known = ", ".join(map(str, LAYOUTS))
        raise typer.BadParameter(f"{ranks!r} is not a list of {known}", param_hint="--ranks")
    return sorted({int(word) for word in words})


def _on_processes(spec: Spec, counts: list[int]) -> None:
    """Print a row per layout; raise VerificationMissed at the end if one differs from one rank."""
    from llamac.emit.build import files_of
    from llamac.look.console import show
    from llamac.verify.processes import ROUNDING, compare_layouts

    head = f"{'layout':<16}{'loss':>9}{'evaluate':>10}{'norm':>9}{'gradients':>11}  worst"
    show(
        "",
        "the emitted model in processes, over gloo in fp32, against one rank, and that against "
        f"eager PyTorch in float64: largest relative error, tolerance {ROUNDING:g}",
        "",
        Text(head, "head"),
    )
    rows: list[LayoutComparison] = []
    for found in compare_layouts(spec, counts, files_of):
        show(Text(f"{found.layout:<16}{_layout_row(found)}", _style(found)))
        rows.append(found)
    first = next((found for found in rows if found.failed), None)
    if first is not None:
        key, error = first.worst
        what = first.problem or f"relative error {error:.1e} in {_kind(key)}"
        raise VerificationFailed(f"{spec.name} on {first.layout} differs from one rank: {what}")
    refused = sum(bool(found.refused) for found in rows)
    count = f"{len(rows) - refused}, {refused} refused" if refused else f"{len(rows)}"
    said = f"{spec.name} computes the same on every layout ({count})"
    show("", Text(said, "good"))


def _style(found: Verdict | LayoutComparison) -> str:
    return "bad" if found.failed else ""


def _layout_row(found: LayoutComparison) -> str:
    if found.problem:
        return "   failed"
    if found.refused:
        return f"   refused: {found.refused}"
    gradients = {key[2:]: error for key, error in found.errors.items() if key.startswith("d ")}
    name, worst = max(gradients.items(), key=lambda item: item[1])
    loss, evaluated, norm = (found.errors[key] for key in ("loss", "evaluated", "norm"))
    mark = "   FAILED" if found.failed else "" if loss or worst else "   bit-equal"
    return f"{loss:>9.1e}{evaluated:>10.1e}{norm:>9.1e}{worst:>11.1e}  {name}{mark}"


class VerificationFailed(Exception):
    """A stage or layout differs from the reference. The message says which, and by how much."""

    exit_code = 3


def _preamble(spec: Spec, twin: Spec) -> Iterator[str]:
    from llamac.verify.oracle import TOLERANCE
    from llamac.verify.twin import attention_kernel

    model, batch = twin.model, twin.batch
    yield (
        f"{spec.name}, shrunk: {model.n_layers} layers of {model.dim}, {describe_heads(model)}, "
        f"ffn {model.ffn_dim}, vocabulary {model.vocab_size}; {batch.sequences} sequences of "
        f"{batch.sequence_length}, loss {twin.kernels.loss_chunk} tokens at a time"
    )
    parallel = twin.parallel
    if parallel.tensor * parallel.context > 1:
        yield (
            f"{parallel.tensor} tensor × {parallel.context} context ranks, simulated in this "
            f"process, for the spec's {spec.parallel.tensor} × {spec.parallel.context}"
        )
    requested, run = attention_kernel(spec), attention_kernel(twin)
    if requested != run:
        yield (
            f"attention: the spec runs {requested}, which has 16-bit CUDA kernels only; "
            f"verified with {run}"
        )
    yield f"largest relative error against eager PyTorch, float64 on CPU, tolerance {TOLERANCE:g}"


def _row(verdict: Verdict) -> str:
    if verdict.problem:
        return "   cannot be verified"
    name, error = verdict.worst_gradient
    measured = {**verdict.errors, "gradient": error}
    widths = {"loss": 9, "evaluated": 10, "logits": 9, "gradient": 11}
    if "loss" not in verdict.errors:  # a program that only generates
        measured, name = {"logits": verdict.errors["logits"]}, ""
    figures = (
        f"{measured[key]:>{n}.1e}" if key in measured else f"{'–':>{n}}"
        for key, n in widths.items()
    )
    mark = "   FAILED" if verdict.failed else ""
    return f"{''.join(figures)}  {name}{mark}".rstrip()


def _complaint(verdict: Verdict, name: str) -> str:
    from llamac.verify.oracle import TOLERANCE

    if verdict.problem:
        what = verdict.problem if "\n" not in verdict.problem else f"\n{verdict.problem}"
    else:
        key, error = verdict.worst
        what = f"relative error {error:.1e} in {_kind(key)}; the tolerance is {TOLERANCE:g}"
    return f"{name} is wrong from stage `{verdict.stage}` on: {what}"


def _kind(key: str) -> str:
    """Return a description of the quantity that a key of `errors` measures."""
    return f"the gradient of {key[2:]}" if key.startswith("d ") else WHAT[key]


WHAT = {
    "loss": "the loss",
    "evaluated": "the loss in evaluation",
    "logits": "the logits of a prompt",
    "norm": "the gradient norm",
}
