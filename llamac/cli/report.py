"""`llamac report RUN…`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamac.cli.common.options import JsonOption, print_status
from llamac.cli.common.output import OverwriteFile, check_output, write_output

if TYPE_CHECKING:
    from llamac.report.recorded_run import Run

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run directories of `llamac train`")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The page to write [report.html]"),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--png", metavar="DIR", help="Also write the curves as PNG files into DIR"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page on this machine and update it")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port of --watch; 0: any free one")
    ] = 8065,
    as_json: JsonOption = False,
    overwrite: OverwriteFile = False,
) -> None:
    """Show runs: loss curves, speed, data, samples, events, and the differences of their specs.

    Runs may be unfinished or damaged; the page says what is missing.
    """
    if watch and output:
        raise typer.BadParameter("they are mutually exclusive", param_hint="--watch and -o")
    if as_json and (watch or output or figures):
        message = "it cannot be combined with --watch, -o or --png"
        raise typer.BadParameter(message, param_hint="--json")
    page = output or Path("report.html")
    inputs = [file for run in runs for file in _inputs(run)]
    if not watch and not as_json:
        check_output(page, inputs, overwrite)

    from llamac.report.recorded_run import Run

    found = [Run(run) for run in runs]
    if figures:
        _write_figures(found, figures, overwrite)
    if watch:
        _watch(found, port)
        return
    from llamac.report.report_page import report_page
    from llamac.report.summary import report as data_of

    if as_json:
        print(json.dumps(data_of(found), indent=1, allow_nan=False))
        return
    data = data_of(found)
    write_output(page, report_page(data), inputs, overwrite)
    for run in found:
        for note in run.notes:
            print_status(f"note: {run.directory}: {note}")
    _show(data)
    print(page)


def _show(data: dict[str, Any]) -> None:
    """Print a row per run: progress, losses and speed."""
    from llamac.look.console import show
    from llamac.look.text_table import TextTable
    from llamac.plan.render.prediction_tables import digits, percent, quantity

    def cell(value: float | None, form: Callable[[float], str]) -> str:
        return "" if value is None else form(value)

    rows = []
    for run in data["runs"]:
        last, median = (run["summary"].get(key, {}) for key in ("last", "median"))
        rows.append(
            (
                run["title"],
                cell(last.get("step"), "{:,}".format),
                cell(last.get("tokens"), quantity),
                cell(run["summary"].get("loss"), "{:.4f}".format),
                cell(run["validation"][-1][2] if run["validation"] else None, "{:.4f}".format),
                cell(median.get("tokens_per_second"), digits),
                cell(median.get("mfu"), percent),
            )
        )
    head = ("run", "step", "tokens", "loss", "validation", "tokens/s", "MFU")
    show(TextTable("", head, rows, "<>>>>>>"), "")


def _write_figures(runs: list[Run], directory: Path, overwrite: bool) -> None:
    from llamac.report.figures import figures

    directory.mkdir(exist_ok=True)
    for name, picture in figures(runs):
        path = directory / f"{name}.png"
        write_output(path, picture, (), overwrite, "--png")
        print(path)


def _inputs(run: Path) -> list[Path]:
    return [run / name for name in ("metrics.jsonl", "events.jsonl", "spec.toml", "plan.json")]


def _watch(runs: list[Run], port: int) -> None:
    from llamac.report.serve import HOST, server

    try:
        serving = server(runs, port)
    except OSError as error:
        message = f"port {port} is not available ({error.strerror}): choose another, or 0"
        raise typer.BadParameter(message, param_hint="--port") from None
    with serving:
        print(f"http://{HOST}:{serving.server_port}/ (Ctrl-C ends it)", flush=True)
        serving.serve_forever()
