"""The training doctor: what may go wrong in a training, when an alarm is raised over it, and which knob helps.

It only looks: nothing here changes what is learned. Thresholds were chosen on real runs, see `RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.training import detectors
from cyclestyle.training.signals import Alarm, Level, Rule, RunningMean, share_of_newest

_DIRECTIONS = ("ab", "ba")
_FEWEST_LOOKS = 10

RULES = {
    "color_inversion": Rule(start=0.1, end=0.25),  # correlation
    "does_nothing": Rule(start=0.02, end=0.025, points=5, steps=300),  # share of the full range
    "mode_collapse": Rule(start=0.2, end=0.35),  # spread of outputs over that of inputs
    "checkerboard": Rule(start=8.0, end=5.0),  # decibels
    "discriminator_wins": Rule(start=0.985, end=0.96, points=5, steps=300),  # accuracy
    "discriminator_blind": Rule(start=0.52, end=0.55, points=5, steps=300),  # accuracy
    "memorisation": Rule(start=0.4, end=0.5, points=1, steps=0, grace=0),  # ratio of distances
    "exploding": Rule(start=5.0, end=2.5, points=2, steps=0, grace=0),  # times the usual level
    "non_finite": Rule(start=0.5, end=0.1, steps=0, points=1, grace=0),  # values
    "starving": Rule(start=0.3, end=0.2, points=5, grace=0),  # share of a step
}
"""Start and end of each alarm, and how long its reason must last."""

SEEN = {
    "color_inversion": "{source} turns dark where it was light as {target}: luminance correlation {value:.2f}",
    "does_nothing": "{source} to {target} changes next to nothing: {value:.1%} of the full range",
    "mode_collapse": "{source} to {target} comes out much alike: varies {value:.2f} times as much as the real pictures",
    "checkerboard": "{source} to {target} carries a grid of 2 or 4 px: {value:.0f} dB above what real {target} has",
    "discriminator_wins": "the discriminator of {target} is never fooled: {value:.1%} of its decisions are right",
    "discriminator_blind": "the discriminator of {target} cannot tell: {value:.1%} of its decisions are right",
    "memorisation": "{source} to {target} copies training pictures: {value:.2f} times as far from them as unseen ones",
    "exploding": "{what} are {value:.0f} times their usual level",
    "non_finite": "not finite: {what}",
    "starving": "{value:.0%} of the time goes into waiting for data",
}

KNOBS = {
    "color_inversion": "raise method.weights.identity_{y} (5 in the paper), or start anew with another seed",
    "does_nothing": "lower method.weights.identity_{y}, method.weights.cycle_a and method.weights.cycle_b, "
    "or raise method.weights.adversarial_{x}{y}",
    "mode_collapse": "raise method.weights.cycle_{x}, lower optimizer.discriminator_lr, "
    "or set method.weights.gradient_penalty=0.1",
    "checkerboard": "start anew with generator.upsample=resize",
    "checkerboard_resize": "lower optimizer.generator_lr, or raise ema.decay",
    "discriminator_wins": "lower optimizer.discriminator_lr, or set discriminator.spectral_norm=true "
    "and method.weights.gradient_penalty=0.1",
    "discriminator_blind": "raise optimizer.discriminator_lr or discriminator.filters, "
    "or lower method.weights.gradient_penalty",
    "memorisation": "stop here, add training pictures of {target}, or set data.augment",
    "exploding": "set optimizer.clip_norm=1, or lower optimizer.generator_lr and optimizer.discriminator_lr",
    "non_finite": "set train.precision=fp32 or optimizer.clip_norm=1, or lower optimizer.generator_lr",
    "starving": "set data.cache=on, raise data.num_workers, or store smaller pictures",
}


@dataclass(frozen=True)
class Change:
    """An alarm that started or ended.

    Attributes:
        name: of the alarm, such as color_inversion_ab.
        started: or ended.
        line: what is seen with its figure, since when, and which knob to turn.
    """

    name: str
    started: bool
    line: str


@dataclass
class _Point:
    """A running mean of a scalar over log points."""

    value: float = 0.0
    num: int = 0
    step: int = 0

    def add(self, step: int, value: float) -> float:
        self.value += share_of_newest(self.num, step - self.step) * (value - self.value)
        self.num, self.step = self.num + 1, step
        return self.value


class Doctor:
    """Looks at batches now and then, judges at log points.

    Args:
        every: steps between looks; 0: never.
        upsample: `generator.upsample`, for what to do about a checkerboard.
        names: of domain A and domain B.
    """

    def __init__(self, *, every: int, upsample: str, names: tuple[str, str]) -> None:
        self._every = every
        self._upsample = upsample
        self._names = {"a": names[0], "b": names[1]}
        self._looks = RunningMean()
        self._num_bad = 0
        self._means: dict[str, _Point] = {}
        self._levels: dict[str, Level] = {}
        self._alarms: dict[str, Alarm] = {}
        self._lines: dict[str, str] = {}

    @property
    def active(self) -> dict[str, str]:
        """Alarms that ring: name -> the line it started with."""
        return dict(self._lines)

    def is_due(self, step: int) -> bool:
        """Whether this step is to be looked at."""
        return self._every > 0 and step % self._every == 0

    def look(self, step: int, batch: UnpairedBatch, fakes: Mapping[str, Tensor]) -> None:
        """Measure a batch and its translations; waits for nothing.

        Args:
            step: the step that used them.
            batch: as it was trained on.
            fakes: "ab", "ba" (or one of them) -> N x C x H x W in [-1, 1], detached.
        """
        self._looks.add(step, detectors.statistics({"a": batch.real_a, "b": batch.real_b}, fakes))

    def log(self, step: int, means: Mapping[str, float]) -> tuple[dict[str, float], list[Change]]:
        """Judge at a log point.

        Args:
            means: the row about to be written: loss terms, grad_norm_..., accuracy_a (0..1), data_wait, ...

        Returns:
            Scalars "doctor_<measure>_<side>", and the alarms that started or ended.
        """
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        statistics, num_bad = self._looks.read()
        if num_bad > self._num_bad:
            bad.append("translations")
        self._num_bad = num_bad
        changes = self._judge(step, "non_finite", "", float(len(bad)), what=", ".join(bad))
        scalars: dict[str, float] = {}
        if self._looks.num >= _FEWEST_LOOKS:
            for direction in (each for each in _DIRECTIONS if f"light_{each}" in statistics):
                changes += self._judge_direction(step, direction, statistics, scalars)
        for side in "ab":
            accuracy = means.get(f"accuracy_{side}")
            if accuracy is not None and math.isfinite(accuracy):
                value = scalars[f"doctor_accuracy_{side}"] = self._mean(f"accuracy_{side}", step, accuracy)
                changes += self._judge(step, "discriminator_wins", side, value)
                changes += self._judge(step, "discriminator_blind", side, value)
        wait = means.get("data_wait")
        if wait is not None and math.isfinite(wait):
            value = scalars["doctor_waiting"] = self._mean("waiting", step, wait)
            changes += self._judge(step, "starving", "", value)
        changes += self._judge_surges(step, means, scalars)
        return scalars, changes

    def _judge_direction(
        self, step: int, direction: str, statistics: Mapping[str, Tensor], scalars: dict[str, float]
    ) -> list[Change]:
        """The measures of one direction, noted in `scalars`, and the alarms over them."""
        values = {
            "color_inversion": detectors.luminance_correlation(statistics[f"light_{direction}"]),
            "does_nothing": statistics[f"change_{direction}"].item(),
            "mode_collapse": detectors.variation(statistics, direction),
            "checkerboard": detectors.checkerboard(statistics, direction),
        }
        measures = ("luminance_correlation", "change", "variation", "checkerboard")
        changes = []
        for (kind, value), measure in zip(values.items(), measures, strict=True):
            changes += self._judge(step, kind, direction, value)
            if value is not None:
                scalars[f"doctor_{measure}_{direction}"] = value
        return changes

    def _judge_surges(self, step: int, means: Mapping[str, float], scalars: dict[str, float]) -> list[Change]:
        """Losses and gradients against their own levels."""
        losses = [abs(value) for name, value in means.items() if _is_loss(name)]
        signals = {name: value for name, value in means.items() if name.startswith("grad_norm_")}
        if losses:
            signals["losses"] = sum(losses)
        times = {
            name: self._levels.setdefault(name, Level()).surge(value)
            for name, value in signals.items()
            if math.isfinite(value)
        }
        if not times:
            return []
        # The norm is that of a single step and wanders more than the losses, which are means over many.
        weighed = {name: value if name == "losses" else value / 4 for name, value in times.items()}
        what = max(weighed, key=lambda name: weighed[name])
        for name, value in times.items():
            scalars[f"doctor_surge_{name.removeprefix('grad_norm_')}"] = value
        return self._judge(step, "exploding", "", weighed[what], what=what, shown=times[what])

    def judged(self, step: int, scores: Mapping[str, float]) -> list[Change]:
        """Judge an evaluation by its flat scores, such as memorisation_ab."""
        changes = []
        for direction in _DIRECTIONS:
            value = scores.get(f"memorisation_{direction}", math.nan)
            if math.isfinite(value):
                changes += self._judge(step, "memorisation", direction, value)
        return changes

    def _mean(self, name: str, step: int, value: float) -> float:
        return self._means.setdefault(name, _Point()).add(step, value)

    def _judge(
        self, step: int, kind: str, side: str, value: float | None, *, what: str = "", shown: float | None = None
    ) -> list[Change]:
        """Hand a value to its alarm; what is said if that started or ended."""
        name = f"{kind}_{side}" if side else kind
        alarm = self._alarms.setdefault(name, Alarm(RULES[kind]))
        before = alarm.since
        if not alarm.update(step, value):
            return []
        words = {
            "value": value if shown is None else shown,
            "what": what,
            "x": side[:1],
            "y": side[-1:],
            "source": self._names.get(side[:1], ""),
            "target": self._names.get(side[-1:], ""),
        }
        seen = SEEN[kind].format(**words)
        if alarm.since is None:
            self._lines.pop(name, None)
            ended = seen if kind != "non_finite" else "all finite again"
            return [Change(name, False, f"{name} is over, it began at step {before}; now {ended}")]
        knob = KNOBS.get(f"{kind}_{self._upsample}", KNOBS[kind]).format(**words)
        self._lines[name] = f"{name}: {seen}, since step {alarm.since}; {knob}"
        return [Change(name, True, self._lines[name])]

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors on the processor: a resumed run judges as an uninterrupted one would."""
        return {
            "looks": self._looks.state_dict(),
            "num_bad": self._num_bad,
            "means": {name: (mean.value, mean.num, mean.step) for name, mean in self._means.items()},
            "levels": {name: (level.num, level.mean_log) for name, level in self._levels.items()},
            "alarms": {name: (alarm.since, alarm.num, alarm.first) for name, alarm in self._alarms.items()},
            "lines": dict(self._lines),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._looks.load_state_dict(state["looks"])
        self._num_bad = state["num_bad"]
        self._means = {name: _Point(*values) for name, values in state["means"].items()}
        self._levels = {name: Level(*values) for name, values in state["levels"].items()}
        self._alarms = {name: Alarm(_rule(name), *values) for name, values in state["alarms"].items()}
        self._lines = dict(state["lines"])


def _rule(name: str) -> Rule:
    """The rule of an alarm by its name with side."""
    return RULES[name] if name in RULES else RULES[name.rpartition("_")[0]]


def _is_loss(name: str) -> bool:
    """Whether a scalar of a row is a loss term, by the names that terms have: <kind>_<side>."""
    kind, _, side = name.rpartition("_")
    return side in ("a", "b", "ab", "ba") and not kind.startswith(("score", "accuracy", "doctor"))
