"""slurm.sbatch on a real cluster of one node: a run outlives its time limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.launch.cluster import Unavailable, cluster
from tests.train.conftest import SPEC

pytestmark = pytest.mark.slow

STEPS = 150
SLOW = """#!{python}
# A Python whose trainer takes half a second a step, until SLURM has started the job again.
import os, runpy, sys, time

sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    from runtime.train.metrics import Metrics

    write = Metrics.write
    Metrics.write = lambda *given: (time.sleep(0.5), write(*given))[1]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(cluster())
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield environment


def show(job: str, environment: dict[str, str]) -> dict[str, str]:
    """What SLURM knows of a job."""
    command = ["scontrol", "--oneliner", "show", "job", job]
    text = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    return dict(re.findall(r"(\w+)=(\S*)", text))


def finished(job: str, environment: dict[str, str], seconds: float = 150) -> dict[str, str]:
    """What SLURM knows of a job once it has ended for good."""
    limit, hurried = time.monotonic() + seconds, False
    while time.monotonic() < limit:
        known = show(job, environment)
        if known["JobState"] in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"):
            return known
        if known["JobState"] == "PENDING" and known["Restarts"] != "0" and not hurried:
            # SLURM keeps a requeued job for two minutes; less is enough to clean up after it.
            update = ["scontrol", "update", f"JobId={job}", "StartTime=now+6"]
            subprocess.run(update, env=environment, timeout=30, check=True)
            hurried = True
        time.sleep(0.5)
    raise AssertionError(f"job {job} is still {show(job, environment)} after {seconds:.0f} s")


def test_a_run_saves_before_its_time_is_up_queues_again_and_finishes(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    for n in range(40):
        rhyme = f"Number {n} went up the hill to fetch {n + 1} pails of water.\n" * 12
        (tmp_path / f"rhyme{n}.txt").write_text(rhyme)
        sums = (f"{n} + {k} = {n + k}; {n} * {k} = {n * k}\n" for k in range(30))
        (tmp_path / f"sums{n}.md").write_text("".join(sums))
    spec, run, python = tmp_path / "spec.toml", tmp_path / "run", tmp_path / "python"
    text = SPEC.format(texts=tmp_path).replace("steps = 12\n", f"steps = {STEPS}\n")
    text = text.replace("every = 4\n", "every = 1000\n")  # only a signal makes it save before
    spec.write_text(text)
    python.write_text(SLOW.format(python=sys.executable))
    python.chmod(0o755)

    command = [sys.executable, "-m", "llamac.cli", "launch", str(spec), "--backend", "slurm"]
    command += ["-o", str(run), "--set", "launch.time_limit=60", "--set", "launch.grace=10"]
    command += ["--set", "launch.cpus_per_rank=1", "--set", "launch.partition=all"]
    environment = slurm | {"PYTHON": str(python), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[-1]

    known = finished(job, slurm)
    log = (run / f"slurm-{job}.log").read_text()
    assert (known["JobState"], known["Restarts"], known["ExitCode"]) == ("COMPLETED", "1", "0:0"), (
        log
    )
    saved = re.search(r"SIGTERM: step (\d+) is saved", log)
    assert saved, log
    assert 0 < int(saved[1]) < STEPS
    assert f"start: after step {saved[1]} of" in log
    assert f"requeueing job {job}" in log
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


def test_a_job_from_elsewhere_fails_and_says_where_it_belongs(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "job.sbatch"
    command = [sys.executable, "-m", "llamac.cli", "launch", "tiny", "--backend", "slurm"]
    command += ["--render", "-o", str(script), "--set", "hardware.device=cpu"]
    command += ["--set", "launch.cpus_per_rank=1"]
    subprocess.run(command, check=True, timeout=60)
    submit = ["sbatch", "--parsable", str(script)]
    job = subprocess.run(
        submit, cwd=tmp_path, env=slurm, capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()
    known = finished(job, slurm)
    assert (known["JobState"], known["ExitCode"]) == ("FAILED", "2:0")
    log = (tmp_path / f"slurm-{job}.log").read_text()
    assert log == f"error: no run in {tmp_path}; submit from the run's directory\n"
