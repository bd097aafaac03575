"""Stopping cleanly: SIGINT, SIGTERM and SIGHUP ask the loop to save and end, a second signal ends at once.

A time limit (`train.max_seconds`) asks for the same.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from cyclestyle.distributed import is_launched, launched_processes

TIME_IS_UP = 75
"""Exit code of a run that `train.max_seconds` ended: EX_TEMPFAIL of sysexits.h, "try again later"."""

_SAME = 5.0
"""Seconds in which torchrun passes a Ctrl-C on that the terminal has sent to all already."""


@dataclass
class StopRequest:
    """Set by a signal or the clock, read by the loop after each step.

    Attributes:
        signal_number: the signal that came, or None.
        time_is_up: `train.max_seconds` are over.
    """

    signal_number: int | None = None
    time_is_up: bool = False

    @property
    def code(self) -> int:
        """A number that says it all, the higher the more urgent; 0: go on."""
        return self.signal_number + 1 if self.signal_number is not None else int(self.time_is_up)

    @code.setter
    def code(self, code: int) -> None:
        self.signal_number = code - 1 if code > 1 else None
        self.time_is_up = code == 1

    @property
    def reason(self) -> str:
        """E.g. SIGINT; empty where nothing asks to stop."""
        if self.signal_number is not None:
            return signal.Signals(self.signal_number).name
        return "train.max_seconds" if self.time_is_up else ""

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended (128 + its number), 75, or 0.

        Under a launcher of several processes always 0: torchrun would start again what it thinks has failed.
        """
        if launched_processes() > 1:
            return 0
        if self.signal_number is not None:
            return 128 + self.signal_number
        return TIME_IS_UP if self.time_is_up else 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP is kept in the request; the second acts as it always does.

    Under torchrun, which passes signals on, what comes within 5 seconds of the first is not a second one.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    watched = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):  # a closed terminal; Windows has none
        watched.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in watched}

    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.signal_number is None:
            request.signal_number, first = number, time.monotonic()
            if not is_launched():
                for each in watched:
                    signal.signal(each, signal.SIG_DFL)
        elif time.monotonic() - first >= _SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in watched:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
