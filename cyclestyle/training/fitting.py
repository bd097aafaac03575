"""Which batches are tried, and what lies between and beyond them: memory and time as lines over the batch.

A batch here is what goes through the networks at once: `train.batch_size` by `optimizer.accumulation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cyclestyle.training.probing import Probe

_FURTHER = 8
"""Where memory is shared, the third batch is at most so many times the largest before it: enough for a good line."""


class Take(Protocol):
    """Tries a batch; None where memory runs out."""

    def __call__(self, batch: int, *, is_short: bool) -> Probe | None:
        """`is_short`: only the peak is wanted."""
        ...


@dataclass(frozen=True)
class Line:
    """`fixed + slope * batch`."""

    fixed: float
    slope: float

    def at(self, batch: float) -> float:
        """Its value there."""
        return self.fixed + self.slope * batch

    def reach(self, value: float) -> int:
        """The largest whole batch at which it is no higher than `value`; 0 where there is none."""
        if self.slope <= 0:
            return 2**31 if self.fixed <= value else 0
        return max(0, math.floor((value - self.fixed) / self.slope))


def line_through(points: Mapping[int, float], least_slope: float = 0.0) -> Line:
    """Through the values at the two largest batches, where it is steeper than `least_slope`; else through the last.

    Args:
        points: batch -> value, at least two.
    """
    (before, low), (last, high) = sorted(points.items())[-2:]
    slope = max((high - low) / (last - before), least_slope)
    return Line(high - slope * last, slope)


@dataclass(frozen=True)
class Tried:
    """What was measured, by batch, and what follows.

    Attributes:
        probes: of batch 1 and of others.
        least_slope: bytes that each image takes at least.
        largest: the largest batch whose steps stay within the limit.
        is_sure: `largest` or more was tried; else it follows from the line.
    """

    probes: dict[int, Probe]
    least_slope: float
    largest: int = 0
    is_sure: bool = False

    @property
    def bytes_line(self) -> Line:
        """Peak memory of steps."""
        first = self.probes[1]
        return line_through(
            {0: first.idle_bytes, **{batch: each.peak_bytes for batch, each in self.probes.items()}}, self.least_slope
        )

    def bytes_at(self, batch: int) -> int:
        """Peak memory of steps of this batch, measured where it was."""
        return self.probes[batch].peak_bytes if batch in self.probes else round(self.bytes_line.at(batch))

    def seconds_at(self, batch: int, of: Callable[[Probe], float] = lambda each: each.seconds) -> float:
        """Seconds of a step, or another time `of` a probe; measured where it was."""
        if batch in self.probes:
            return of(self.probes[batch])
        return line_through({0: 0.0, **{size: of(each) for size, each in self.probes.items()}}).at(batch)


def try_batches(
    take: Take,
    first: Probe,
    wanted: int,
    *,
    limit: float,
    seconds: float,
    least_slope: float = 1.0,
    is_shared: bool = False,
) -> Tried:
    """Try two or three batches: the wanted one where time and memory allow it, and as large a one as they allow.

    Args:
        take: tries one.
        first: what batch 1 took.
        wanted: the run's batch.
        limit: bytes that steps may take.
        seconds: that the steps of one batch may take, but 2 is tried in any case.
        least_slope: bytes that each image takes at least, so that a line through noise does not fall.
        is_shared: the memory is that of other programs too, and trying must not take the last of it.
    """
    tried = Tried({1: first}, least_slope)
    most = tried.bytes_line.reach(limit)
    second = max(2, min(wanted, most, int(seconds / max(4 * first.seconds, 1e-9))))
    if most >= 1:  # a line from before the first step is too steep: even where it has 2 not fit, 2 is worth a try
        if (found := take(second, is_short=second > wanted)) is None:
            return Tried(tried.probes, least_slope, min(most, second - 1))
        tried = Tried({1: first, second: found}, least_slope)
        most = tried.bytes_line.reach(limit)
    known = max(tried.probes)
    third = min(most, line_through({0: 0.0, **{b: p.seconds for b, p in tried.probes.items()}}).reach(seconds / 2))
    if is_shared:
        third = min(third, _FURTHER * known, tried.bytes_line.reach(limit / 2))
    # Far from what is known it makes the line sure; where the run does not fit there is nothing to make sure.
    if wanted <= most and third > 1.5 * known:
        if (found := take(third, is_short=True)) is None:
            return Tried(tried.probes, least_slope, max(known, int(0.8 * third)))
        tried = Tried({**tried.probes, third: found}, least_slope)
        most = tried.bytes_line.reach(limit)
    return Tried(tried.probes, least_slope, most, 0 < most <= max(tried.probes))
