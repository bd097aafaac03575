"""From noisy measures to alarms that neither flicker nor forget: running means, running levels, hysteresis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_TIMESCALE = 100  # steps over which running means forget
FEWEST = 10
"""Looks or log points that a running mean or level rests on, however far apart they are."""
_LEVEL_POINTS = 50  # log points over which a level forgets


def forgetting(num_steps: int) -> float:
    """Weight of a new value in a running mean.

    Args:
        num_steps: since the value before.
    """
    return min(1 - math.exp(-num_steps / _TIMESCALE), 1 / FEWEST)


@dataclass
class Smoothed:
    """Running mean of a scalar over log points: of all of them at first."""

    value: float = 0.0
    num: int = 0
    step: int = 0

    def add(self, step: int, value: float) -> float:
        """Take a value in; the mean."""
        self.num += 1
        self.value += max(forgetting(step - self.step), 1 / self.num) * (value - self.value)
        self.step = step
        return self.value


class RunningMean:
    """Running mean of named statistics over looks; they stay on their device until they are read.

    A look with a value that is not finite is left out and counted.
    """

    def __init__(self) -> None:
        self._step = 0
        self._layout: dict[str, int] = {}  # name -> number of values
        # Weighted sums of all values, then the sum of weights, the number of looks and that of those left out.
        self._sums: Tensor | None = None

    def add(self, step: int, statistics: dict[str, Tensor]) -> None:
        """Take flat tensors in; nothing waits for the device."""
        layout = {name: len(values) for name, values in statistics.items()}
        newest = torch.cat([*statistics.values(), next(iter(statistics.values())).new_ones(1)])
        if layout != self._layout or self._sums is None:
            self._layout, self._sums = layout, newest.new_zeros(len(newest) + 2)
        sums = self._sums.to(newest.device)
        is_good = newest.isfinite().all()
        means = torch.where(is_good, sums[:-2].lerp(newest, forgetting(step - self._step)), sums[:-2])
        self._sums = torch.cat([means, sums[-2:] + torch.stack([is_good, ~is_good])])
        self._step = step

    def read(self) -> tuple[dict[str, Tensor], int, int]:
        """The means on the processor (one transfer), the number of looks behind them, and that of those left out."""
        if self._sums is None:
            return {}, 0, 0
        sums = self._sums.cpu()
        weight, num, num_bad = sums[-3:].tolist()
        means = (sums[:-3] / weight).split(list(self._layout.values()))
        return dict(zip(self._layout, means, strict=True)), int(num), int(num_bad)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and a tensor on the processor."""
        sums = None if self._sums is None else self._sums.cpu()
        return {"step": self._step, "layout": dict(self._layout), "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._step, self._layout, self._sums = state["step"], dict(state["layout"]), state["sums"]


@dataclass
class Level:
    """Where a positive signal usually is: its geometric mean over log points, which single spikes hardly move."""

    num: int = 0
    mean_log: float = 0.0

    def surge(self, value: float) -> float:
        """How many times its level the signal is now, and take it in; 1 until there is a level."""
        log = math.log(max(abs(value), 1e-12))
        times = math.exp(min(log - self.mean_log, 100.0)) if self.num >= FEWEST else 1.0
        self.num += 1
        self.mean_log += (log - self.mean_log) / min(self.num, _LEVEL_POINTS)
        return times


@dataclass(frozen=True)
class Rule:
    """When an alarm starts and ends.

    Attributes:
        start, end: it starts beyond `start` and ends on the other side of `end`, which is laxer.
        points, steps: for at least so many log points in a row, which span at least so many steps.
        grace: nothing is judged up to this step of a run.
    """

    start: float
    end: float
    points: int = 3
    steps: int = 100
    grace: int = 300

    @property
    def is_ceiling(self) -> bool:
        """Whether large values are bad, and not small ones."""
        return self.start > self.end


@dataclass
class Alarm:
    """One alarm's memory.

    Attributes:
        since: first step of the breach that started it; None: it does not ring.
        num: log points in a row that speak for a change of state.
        first: step of the first of them.
    """

    rule: Rule
    since: int | None = None
    num: int = 0
    first: int = 0

    def update(self, step: int, value: float | None) -> bool:
        """Take a value in; whether the alarm started or ended now. None: nothing could be measured, nothing changes."""
        if value is None or step <= self.rule.grace:
            return False
        sign = 1 if self.rule.is_ceiling else -1
        speaks = sign * value > sign * self.rule.start if self.since is None else sign * value < sign * self.rule.end
        if not speaks:
            self.num = 0
            return False
        self.num += 1
        if self.num == 1:
            self.first = step
        if self.num < self.rule.points or (self.since is None and step - self.first < self.rule.steps):
            return False
        self.since = self.first if self.since is None else None
        self.num = 0
        return True
