"""Run steps of independent jobs, in processes on this machine or on a Ray cluster.

A job writes its results under a temporary name, renames them when they are complete, and does
nothing if they exist. The jobs of a step may therefore run anywhere, repeatedly and in any order. A
step begins after the previous one has ended.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import connection
from typing import Any

from llamac.runtime.errors import RunError


@dataclass(frozen=True)
class Job:
    """Function call that writes its results to disk once, and may run in any process.

    call: a module-level function, called with `arguments`. size: input bytes; larger jobs start
    first. done: a module-level function, called with `arguments`, that returns whether the results
    exist.
    """

    call: Callable[..., None]
    arguments: tuple[Any, ...]
    size: int
    done: Callable[..., bool]

    def run(self) -> None:
        """Call `call` with `arguments` in this process."""
        self.call(*self.arguments)

    @property
    def is_done(self) -> bool:
        """Return whether the results exist."""
        return self.done(*self.arguments)


@dataclass(frozen=True)
class Step:
    """Jobs that may run in parallel, once the previous step has ended. name: shown as progress."""

    name: str
    jobs: Sequence[Job]

    @cached_property
    def size(self) -> int:
        """Return the input bytes of all jobs."""
        return sum(job.size for job in self.jobs)


Report = Callable[[Step, int, int], None]
"""Progress callback, called with (step, jobs done, input bytes done)."""
Engine = Callable[[Iterable[Job]], Iterator[Job]]
"""Function that runs jobs and yields each when it is done, in any order."""


def run(steps: Iterable[Step], engine: Engine, report: Report) -> None:
    """Run the unfinished jobs of each step in turn, largest first.

    report: called at the beginning of each step and after each job. The first error of a job ends
    the run and is raised.
    """
    for step in steps:
        pending = [job for job in step.jobs if not job.is_done]
        done = len(step.jobs) - len(pending)
        size = step.size - sum(job.size for job in pending)
        report(step, done, size)
        pending.sort(key=lambda job: -job.size)
        for job in engine(pending):
            done, size = done + 1, size + job.size
            report(step, done, size)


@contextmanager
def process_engine(workers: int) -> Iterator[Engine]:
    """Yield an engine of `workers` processes; with one worker, jobs run in this process.

    On an error, running workers are terminated. They exit as well if this process dies. The engine
    raises RunError if a worker is killed.
    """
    if workers == 1:
        yield _run_here
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_follow_parent
    )
    try:
        yield lambda jobs: _in_pool(pool, jobs)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        # Do not wait for jobs that take hours.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    pool.shutdown()


@contextmanager
def ray(address: str | None) -> Iterator[Engine]:
    """Yield an engine on a Ray cluster, whose nodes must have llamac installed and share the disk.

    address: of the cluster; None starts or finds one as ray.init does. Raises RunError without ray.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise RunError("--engine ray needs ray: pip install 'llamac[ray]'") from None
    ray.init(address=address, log_to_driver=False)

    def on_ray(jobs: Iterable[Job]) -> Iterator[Job]:
        call = ray.remote(num_cpus=1)(Job.run)
        running = {call.remote(job): job for job in jobs}
        while running:
            done, _ = ray.wait(list(running))
            for reference in done:
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                yield running.pop(reference)

    try:
        yield on_ray
    finally:
        ray.shutdown()


def _run_here(jobs: Iterable[Job]) -> Iterator[Job]:
    for job in jobs:
        job.run()
        yield job


def _in_pool(pool: ProcessPoolExecutor, jobs: Iterable[Job]) -> Iterator[Job]:
    running: dict[Future, Job] = {pool.submit(job.run): job for job in jobs}
    try:
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield running.pop(future)
    except BrokenProcessPool:
        raise RunError(
            "a worker process was killed (out of memory?): run again to resume; use fewer "
            "--workers if memory is short"
        ) from None
    finally:
        for future in running:
            future.cancel()


def _follow_parent() -> None:
    """Exit this worker when its parent dies: the next run may be writing the same files."""
    os.environ["OMP_NUM_THREADS"] = "1"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
