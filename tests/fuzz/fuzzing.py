"""What the fuzz tests share: how long they run, how bytes are damaged, and the limits they run under.

`CYCLESTYLE_FUZZ_EXAMPLES=20000 pytest tests/fuzz` runs longer, and with other examples each time; a find is printed
with the line that repeats it.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_WANTED = os.environ.get("CYCLESTYLE_FUZZ_EXAMPLES")

# Numbers that overflow, wrap around or turn negative somewhere.
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """Settings of a test that runs so many examples, the same each time; more and others where people ask for them."""
    return settings(
        max_examples=examples if _WANTED is None else int(_WANTED),
        derandomize=_WANTED is None,
        database=None,
        deadline=None,  # `limits` keeps the time: this would only complain after a hang has ended
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


class TooSlow(BaseException):
    """Not an `Exception`: what is tested turns those into its own."""


@contextmanager
def limits(seconds: float = 10.0, megabytes: int = 1024) -> Iterator[None]:
    """Inside, so much of the processor's time may be taken (ten times as much by the clock) and address space (Linux).

    What takes more gets `TooSlow` or `MemoryError`.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"took more than {seconds} seconds")

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for each, handler in before.items():
            signal.signal(each, handler)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with one to four injuries: flipped, cut, inserted, moved, blown up, or spliced with another."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        _INJURIES[draw(st.sampled_from(sorted(_INJURIES)))](draw, data, seeds)
    return bytes(data)


def _place(draw: st.DrawFn, data: bytearray) -> int:
    """Half of them near the start, where headers are."""
    last = max(0, len(data) - 1)
    return draw(st.integers(0, last) | st.integers(0, min(last, 96)))


def _flip(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[_place(draw, data)] = draw(st.integers(0, 255))


def _number(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    code = draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q"]))
    size = struct.calcsize(code)
    number = struct.pack(code, draw(st.sampled_from(_NUMBERS)) % 2 ** (8 * size))
    place = _place(draw, data)
    data[place : place + size] = number


def _digits(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    """A number that is written in letters: in YAML, JSON, headers."""
    start = next((i for i in range(_place(draw, data), len(data)) if 48 <= data[i] <= 57), None)
    if start is not None:
        text = draw(st.sampled_from(["0", "-1", "1e999", "NaN", "9" * 12, "9" * 30, "1" * 5000, '"x"', "[[]]", "null"]))
        data[start : start + 1] = text.encode()


def _cut(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    del data[_place(draw, data) :]


def _remove(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    place = _place(draw, data)
    del data[place : place + draw(st.integers(1, 64))]


def _insert(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    place = _place(draw, data)
    data[place:place] = draw(st.binary(min_size=1, max_size=16))


def _repeat(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    start, place = _place(draw, data), _place(draw, data)
    data[place:place] = bytes(data[start : start + draw(st.integers(1, 256))]) * draw(st.integers(1, 8))


def _splice(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = draw(st.sampled_from(seeds))
    start = draw(st.integers(0, len(other)))
    data[_place(draw, data) :] = other[start:]


_INJURIES = {
    "cut": _cut, "digits": _digits, "flip": _flip, "insert": _insert, "number": _number, "remove": _remove,
    "repeat": _repeat, "splice": _splice,
}  # fmt: skip


def anything(leaves: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Any]:
    """Whatever JSON, YAML or a pickle may hold where something else is expected."""
    numbers = st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.5, float("nan"), float("inf"), -0.0])
    words = st.text(max_size=8) | st.sampled_from(
        ["", "..", "/etc/passwd", "a/../../b", "\0", "\x1b[2J", "\ud800", "x" * 5000]
    )
    plain = st.none() | st.booleans() | numbers | words
    return st.recursive(
        plain if leaves is None else plain | leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    )
