"""`llamac eval RUN`."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from llamac.cli.common.options import print_status
from llamac.cli.common.progress_line import counting_line
from llamac.cli.common.question_options import load_sets, question_places, task_names
from llamac.evaluate.tasks.known_tasks import HELDOUT, TASKS

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class MissingHarnessError(Exception):
    """lm-evaluation-harness is not installed. The message names the extra that contains it."""

    exit_code = 2


@app.command()
def eval(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of `llamac train` or `llamac import`")
    ],
    tasks: Annotated[
        str, typer.Option(metavar="NAME,…", help="Tasks; heldout: the run's own held-out text")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR|TASK=FILE", help="Directory or TASK=FILE with questions; repeatable"
        ),
    ] = None,
    shots: Annotated[
        str | None, typer.Option(metavar="N,…", help="Few-shot examples per question [the paper's]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="First N questions or windows only")
    ] = None,
    votes: Annotated[
        int, typer.Option(min=1, metavar="K", help="maj@k: the most frequent of K sampled answers")
    ] = 1,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="STEP|PATH", help="Checkpoint to use; newest: the newest undamaged one"
        ),
    ] = "newest",
    context: Annotated[
        int | None,
        typer.Option(min=16, metavar="N", help="Longest input, tokens [the model's context]"),
    ] = None,
    batch_tokens: Annotated[
        int, typer.Option(min=16, metavar="N", help="Tokens per batch, padding included")
    ] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="Seed of examples and sampled answers")] = 0,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run code written by the model, in a sandbox")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Also write the results as JSON"),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write questions and answers as JSON lines"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that llamac did not write")
    ] = False,
) -> None:
    """Evaluate a run or an import on the LLaMA paper's tasks, compared with the paper's results.

    Questions come from files, as the data sets are published; docs/evaluate.md says where each is
    found. Nothing is downloaded. Scores are the paper's: log-probability per character; for BoolQ
    and OBQA against P(answer | "Answer:"); exact match for free answers.
    """
    names, counts = task_names(tasks), _counts(shots)
    directory, given = question_places(data or [], names)
    if not run.is_dir():
        raise typer.BadParameter(f"there is no directory {run}", param_hint="RUN")
    from llamac.cli.common.output import check_output, write_output
    from llamac.runtime import durable_files

    for path, option in ((output, "-o"), (samples, "--samples")):
        if path is not None:
            check_output(path, given.values(), overwrite, option)
    for name in names:
        if name != HELDOUT and TASKS[name].runs_code and not allow_code:
            raise typer.BadParameter(
                f"{name} runs code written by the model: allow it with --allow-code",
                param_hint="--tasks",
            )
    sets = load_sets([name for name in names if name != HELDOUT], directory, given)
    if sets:
        _require_harness()
    from llamac.evaluate.loaded_model import open_for_evaluation

    model = open_for_evaluation(run, checkpoint, print_status, context)
    samples_lines: list[str] = []
    keep = (
        (lambda one: samples_lines.append(json.dumps(one, ensure_ascii=False))) if samples else None
    )
    results = []
    progress = counting_line()
    if sets:
        from llamac.evaluate.adapter import Adapter
        from llamac.evaluate.judge import evaluate_task

        lm = Adapter(model, batch_tokens, seed, progress)
        for one in sets:
            for count in counts or [one.task.shots]:
                progress(one.task.title, 0, 0)
                results.append(
                    evaluate_task(
                        lm, one, count, limit=limit, votes=votes, seed=seed, on_sample=keep
                    )
                )
    if HELDOUT in names:
        from llamac.evaluate.heldout import evaluate_heldout

        results += evaluate_heldout(model, limit, batch_tokens, partial(progress, HELDOUT))
    progress("", 0, 0)
    found = _json(run, model, results, limit, seed)
    if output is not None:
        write_output(output, json.dumps(found, indent=2) + "\n")
    if samples is not None:
        durable_files.write(
            samples.resolve(), "".join(line + "\n" for line in samples_lines).encode()
        )
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from llamac.evaluate.results import results_tables
    from llamac.look.console import show

    show(*results_tables(results))
    for note in dict.fromkeys(note for one in results for note in one.notes):
        print_status(f"note: {note}")


def _counts(shots: str | None) -> list[int]:
    parts = [part.strip() for part in (shots or "").split(",") if part.strip()]
    if (shots is not None and not parts) or not all(part.isdecimal() for part in parts):
        message = f"{shots!r} is not a list of numbers such as 0,1,5,64"
        raise typer.BadParameter(message, param_hint="--shots")
    return list(dict.fromkeys(map(int, parts)))


def _require_harness() -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress is shown here
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingHarnessError(
            "llamac eval needs lm-evaluation-harness: pip install 'llamac[eval]'"
        ) from error


def _json(run: Path, model: Any, results: Any, limit: int | None, seed: int) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    from llamac import __version__

    try:
        harness = version("lm_eval")
    except PackageNotFoundError:  # held-out text needs none
        harness = None
    return {
        "llamac": __version__,
        "lm_eval": harness,
        "run": str(run),
        "checkpoint": model.directory.checkpoint.name,
        "context": model.context,
        "limit": limit,
        "seed": seed,
        "results": [one.to_json() for one in results],
    }
