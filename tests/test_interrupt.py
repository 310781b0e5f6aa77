import logging
import os
import signal
import time

import pytest
from rich.console import Console

from mulligan import interrupt
from mulligan.interrupt import StoppedEarly, StopRequest, waiting

SILENT = Console(quiet=True)


def press(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_asks_to_stop_and_interrupts_nothing(number):
    stop = StopRequest()
    with stop.listening(SILENT):
        assert not stop()
        press(number)
        assert stop()


def test_two_signals_stop_at_once():
    stop = StopRequest()
    with pytest.raises(KeyboardInterrupt), stop.listening(SILENT):
        press(signal.SIGINT)
        press(signal.SIGINT)


def test_a_stop_is_made_where_everything_is_saved():
    stop = StopRequest()
    stop.check("step 1")
    with stop.listening(SILENT):
        press(signal.SIGINT)
    with pytest.raises(StoppedEarly, match="step 2"):
        stop.check("step 2")


def test_ctrl_c_says_what_happens_next(capsys):
    with StopRequest().listening(Console(width=100)):
        press(signal.SIGINT)
    assert "Press Ctrl-C again to stop at once" in capsys.readouterr().out


def test_signals_mean_afterwards_what_they_meant_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest().listening(SILENT):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_short_wait_is_not_worth_a_line(caplog):
    with caplog.at_level(logging.INFO, "mulligan"), waiting("loading"):
        pass
    assert caplog.messages == []


def test_a_long_wait_is_said_while_it_lasts(caplog, monkeypatch):
    monkeypatch.setattr(interrupt, "PATIENCE", 0.01)
    end = time.monotonic() + 60
    with caplog.at_level(logging.INFO, "mulligan"), waiting("loading smollm2-135m"):
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.01)
        assert caplog.messages == ["loading smollm2-135m ..."]
