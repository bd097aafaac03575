"""Stopping cleanly: SIGINT, SIGTERM and SIGHUP ask the loop to save and end, a second signal ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Set by a signal, read by the loop after each step.

    Attributes:
        signal_number: the signal that came, or None.
    """

    signal_number: int | None = None

    @property
    def name(self) -> str:
        """E.g. SIGINT."""
        return signal.Signals(self.signal_number).name if self.signal_number is not None else ""

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 128 + its number."""
        return 128 + (self.signal_number or 0)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP is kept in the request; the second acts as it always does."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    watched = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):  # a closed terminal; Windows has none
        watched.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in watched}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        for each in watched:
            signal.signal(each, signal.SIG_DFL)

    for number in watched:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
