"""From noisy measures to alarms that neither flicker nor forget: running means, running levels, hysteresis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_TIMESCALE = 100  # steps over which running means forget
_FEWEST = 10  # looks that a running mean rests on, however far apart
_LEVEL_POINTS = 50  # log points over which a level forgets


def share_of_newest(num_before: int, num_steps: int) -> float:
    """Weight of a new value in a running mean: the plain mean at first, then forgetting over `_TIMESCALE` steps.

    Args:
        num_before: values taken before.
        num_steps: since the last of these.
    """
    forgetting = min(1 - math.exp(-num_steps / _TIMESCALE), 1 / _FEWEST)
    return max(forgetting, 1 / (num_before + 1))


class RunningMean:
    """Running mean over steps of named statistics, which stay on their device until they are read.

    A look with a value that is not finite is left out and counted.
    """

    def __init__(self) -> None:
        self.num = 0
        self._step = 0
        self._layout: dict[str, int] = {}  # name -> number of values
        self._values: Tensor | None = None  # the mean of each value, then the number of looks that were left out

    def add(self, step: int, statistics: dict[str, Tensor]) -> None:
        """Take flat tensors in; nothing waits for the device."""
        newest = torch.cat(list(statistics.values()))
        layout = {name: len(values) for name, values in statistics.items()}
        if layout != self._layout or self._values is None:  # the first look, or images of another size after a resume
            self._layout, self._values, self.num = layout, newest.new_zeros(len(newest) + 1), 0
        self._values = self._values.to(newest.device)
        is_good = newest.isfinite().all()
        weight = share_of_newest(self.num, step - self._step)
        mean = torch.where(is_good, self._values[:-1].lerp(newest, weight), self._values[:-1])
        self._values = torch.cat([mean, self._values[-1:] + (~is_good).float()])
        self.num += 1
        self._step = step

    def read(self) -> tuple[dict[str, Tensor], int]:
        """The means on the processor (one transfer) and the number of looks that were left out since the start."""
        if self._values is None:
            return {}, 0
        values = self._values.cpu()
        return dict(zip(self._layout, values[:-1].split(list(self._layout.values())), strict=True)), int(values[-1])

    def state_dict(self) -> dict[str, Any]:
        """Plain values and a tensor on the processor."""
        values = None if self._values is None else self._values.cpu().clone()
        return {"num": self.num, "step": self._step, "layout": dict(self._layout), "values": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.num, self._step = state["num"], state["step"]
        self._layout, self._values = dict(state["layout"]), state["values"]


@dataclass
class Level:
    """Where a positive signal usually is: its geometric mean over log points, which single spikes hardly move."""

    num: int = 0
    mean_log: float = 0.0

    def surge(self, value: float) -> float:
        """How many times its level the signal is now, and take it in; 1 until there is a level."""
        log = math.log(max(abs(value), 1e-12))
        times = math.exp(min(log - self.mean_log, 100.0)) if self.num >= _FEWEST else 1.0
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
