"""The first signal asks a run to stop; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal

import pytest

from llamac.runtime.train.stop_signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_remembered_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_at_once():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGTERM


def test_under_torchrun_ctrl_c_may_come_twice(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with StopSignals() as signals:
        for _ in range(2):  # from the terminal, and from torchrun
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
