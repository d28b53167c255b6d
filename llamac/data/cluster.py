"""Preparation on a cluster: a script that gives SLURM an array of tasks for each step."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence

from llamac.data.executor import Job, Step
from llamac.runtime.errors import RunError


def slurm_script(steps: Sequence[Step], command: Sequence[str], tasks: int, options: str) -> str:
    """A bash script that submits every step to begin when the one before has ended well.

    command: `llamac data prepare SPEC …`, as it is called here. tasks: the most that a step is cut
    into. options: further ones of sbatch, such as `--partition=cpu --time=600`.
    """
    return "\n".join(_lines(steps, command, tasks, options)) + "\n"


def _lines(
    steps: Sequence[Step], command: Sequence[str], tasks: int, options: str
) -> Iterator[str]:
    run = shlex.join([sys.executable, "-m", "llamac.cli", *command])
    yield "#!/usr/bin/env bash"
    yield "# Prepares data on a SLURM cluster, from a directory that all nodes share. A step begins"
    yield "# when the one before has ended well. If a task fails or is killed, no step after it is"
    yield "# run: submit again, and what is done is not done twice."
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
    """`3/64` → (3, 64). ValueError if it is not one of the tasks 0 to 63."""
    number, slash, tasks = text.partition("/")
    if not (slash and number.isdecimal() and tasks.isdecimal() and int(number) < int(tasks)):
        raise ValueError(f"{text!r} is not a task, such as 0/64 to 63/64")
    return int(number), int(tasks)


def run_task(steps: Sequence[Step], number: int, task: int, tasks: int) -> int:
    """Does one task's jobs of a step; returns how many. RunError if the step before is not done."""
    if not 0 <= number < len(steps):
        raise RunError(f"there is no step {number}: they are 0 to {len(steps) - 1}")
    if number:
        before = steps[number - 1]
        left = sum(not job.is_done for job in before.jobs)
        if left:
            raise RunError(
                f"step {number} ({steps[number].name}) cannot begin: of step {number - 1} "
                f"({before.name}) {left} of {len(before.jobs)} jobs are not done"
            )
    mine: Sequence[Job] = steps[number].jobs[task::tasks]
    for job in mine:
        if not job.is_done:
            job.run()
    return len(mine)
