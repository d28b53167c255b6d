"""Requests to stop, by SIGTERM or Ctrl-C: a run saves and stops after the current step.

`StepResults.stop_if` passes a request on to all ranks, and the loop of train.py saves.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from ..machine import log, this_command

AGENT = os.getppid()
"""Process that started this one; with torchrun, its agent."""


class StopSignals:
    """Context manager that turns SIGTERM or Ctrl-C into a request to stop after the current step.

    A second Ctrl-C interrupts at once, except under torchrun, which forwards the first one to
    processes that have already received it from the terminal. If torchrun is killed, its processes
    stop too.

    received: the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}
        self._left = threading.Event()

    @property
    def why(self) -> str:
        """Return the name of the signal, such as "SIGTERM"; "stopped" if this rank has none."""
        return self.received.name if self.received else "stopped"

    def stop_message(self, step: int) -> str:
        """Return a line with the reason for stopping and the command that resumes the run.

        step: last step, which is saved.
        """
        resume_command = this_command(without="--resume")  # from the newest checkpoint
        return f"{self.why}: step {step:,} is saved, resume with: {resume_command}"

    @property
    def exit_code(self) -> int:
        """Return the process's exit code: 130 (128 + SIGINT) after Ctrl-C, else 0."""
        return 130 if self.received == signal.SIGINT else 0

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            threading.Thread(target=self._follow_agent, daemon=True).start()
        return self

    def _follow_agent(self) -> None:
        """Request a stop if torchrun is killed, since nothing else stops or restarts its ranks."""
        while not self._left.wait(1):
            if os.getppid() != AGENT:
                log("torchrun was killed: saving, then stopping")
                self._handle(signal.SIGTERM, None)
                return

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(signal.SIGINT, signal.default_int_handler)
