"""Prepare data on a SLURM cluster: a script that submits an array job for each step."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence

from llamac.data.executor import Job, Step
from llamac.runtime.errors import RunError


def slurm_script(steps: Sequence[Step], command: Sequence[str], tasks: int, options: str) -> str:
    """Return a bash script that submits each step as a SLURM array job, to run after the previous.

    command: arguments of llamac, such as ["data", "prepare", "SPEC"]. tasks: maximum array size.
    options: further options of sbatch, such as "--partition=cpu --time=600".
    """
    return "\n".join(_lines(steps, command, tasks, options)) + "\n"


def _lines(
    steps: Sequence[Step], command: Sequence[str], tasks: int, options: str
) -> Iterator[str]:
    run = shlex.join([sys.executable, "-m", "llamac.cli", *command])
    yield "#!/usr/bin/env bash"
    yield "# Prepares data on a SLURM cluster, in a directory that all nodes share."
    yield "# Each step starts after the one before has succeeded. If a task fails or is killed, the"
    yield "# later steps do not run: submit again; finished jobs are skipped."
    yield "set -euo pipefail"
    yield f"options=({shlex.join(shlex.split(options))})"
    yield f"command={shlex.quote(run)}"
    yield "job="
    yield ""
    yield "step() {  # number, tasks, name"
    yield "    local after=(${job:+--dependency=afterok:$job --kill-on-invalid-dep=yes})"
    yield '    job=$(sbatch --parsable --job-name="llamac-data-$1" --array="0-$(($2 - 1))" \\'
    yield '        --cpus-per-task=1 --output="prepare-$1-%a.log" --open-mode=append --requeue \\'
    yield '        "${after[@]}" "${options[@]}" \\'
    yield '        --wrap="$command --step $1 --task \\$SLURM_ARRAY_TASK_ID/$2")'
    yield '    echo "$3: job $job, $2 tasks"'
    yield "}"
    yield ""
    for number, step in enumerate(steps):
        yield f"step {number} {min(tasks, len(step.jobs))} {shlex.quote(step.name)}"


def parse_task(text: str) -> tuple[int, int]:
    """Parse "3/64" as (task, tasks) = (3, 64). Raises ValueError unless 0 ≤ task < tasks."""
    number, slash, tasks = text.partition("/")
    if not (slash and number.isdecimal() and tasks.isdecimal() and int(number) < int(tasks)):
        raise ValueError(f"{text!r} is not a task number: give I/N, for instance 0/64 to 63/64")
    return int(number), int(tasks)


def run_task(steps: Sequence[Step], number: int, task: int, tasks: int) -> int:
    """Run the unfinished jobs of one task of step `number`; return the task's number of jobs.

    Task `task` of `tasks` has every `tasks`-th job. Raises RunError if the step is unknown, or the
    previous step is unfinished.
    """
    if not 0 <= number < len(steps):
        raise RunError(f"unknown step {number}: steps are numbered 0 to {len(steps) - 1}")
    if number:
        previous = steps[number - 1]
        unfinished = sum(not job.is_done for job in previous.jobs)
        if unfinished:
            raise RunError(
                f"step {number} ({steps[number].name}) cannot begin: {unfinished} of "
                f"{len(previous.jobs)} jobs of step {number - 1} ({previous.name}) are unfinished"
            )
    task_jobs: Sequence[Job] = steps[number].jobs[task::tasks]
    for job in task_jobs:
        if not job.is_done:
            job.run()
    return len(task_jobs)
