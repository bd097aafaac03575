"""The training doctor: what may go wrong in a training, when an alarm is raised over it, and which knob helps.

It only looks: nothing here changes what is learned. Thresholds were chosen on a dozen real runs, healthy ones (the
quickstart, photographs to Van Gogh) and broken ones; what these showed stands beside each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.yaml_text import read_yaml
from cyclestyle.training import detectors
from cyclestyle.training.layout import is_loss_term
from cyclestyle.training.signals import FEWEST, Alarm, Level, Rule, RunningMean, Smoothed

_DIRECTIONS = ("ab", "ba")
_NORMS_WANDER = 5.0


@dataclass(frozen=True)
class Ailment:
    """Something that goes wrong.

    Attributes:
        rule: when its alarm starts and ends.
        seen: what is wrong, in words.
        figure: what was measured; an ended alarm shows it too.
        knobs: what may help, each of them. Not said is one that names an option which the method does not have, that
            lowers what is 0, or that sets what is so already.
        otherwise: knobs where none of those turns anything.
        The texts may name {source}, {target}, {x} and {y} (the letters of these), {value} and {what}.
    """

    rule: Rule
    seen: str
    figure: str
    knobs: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


AILMENTS = {
    "color_inversion": Ailment(
        Rule(start=0.1, end=0.25),  # healthy: 0.74 and more from step 150 on; the paper's without identity: to -0.44
        "light and dark do not stay where they were from {source} to {target}",
        "luminance correlation {value:.2f}",
        (
            "raise method.weights.identity_{y}",
            "raise method.weights.nce_identity_{y}",
            "raise method.weights.consistency_{x}{y}",
            "start anew with another seed",
        ),
    ),
    "does_nothing": Ailment(
        Rule(start=0.03, end=0.04, points=5, steps=300),  # healthy: 0.05 to 0.15
        "{source} comes out as it went in, not as {target}",
        "mean change {value:.1%} of the full range",
        (
            "lower method.weights.identity_{y}",
            "lower method.weights.cycle_a and method.weights.cycle_b",
            "lower method.weights.nce_{x}{y}",
            "raise method.weights.adversarial_{x}{y}",
        ),
    ),
    "mode_collapse": Ailment(
        Rule(start=0.2, end=0.35),  # healthy: 0.7 to 1.3
        "all {source} come out alike as {target}",
        "they vary {value:.2f} times as much as real pictures",
        (
            "raise method.weights.cycle_{x}",
            "raise method.weights.nce_{x}{y}",
            "lower optimizer.discriminator_lr",
            "set method.weights.gradient_penalty=0.1",
        ),
    ),
    "checkerboard": Ailment(
        Rule(start=6.0, end=4.0),  # resize: at most 1.5; transpose: 8 to 20, less as training goes on
        "{source} to {target} carries a fine grid",
        "periods of 2 and 4 px stand out by {value:.1f} dB, beyond those of real {target}",
        ("start anew with generator.upsample=resize",),
        otherwise=("lower optimizer.generator_lr", "raise ema.decay"),
    ),
    "discriminator_wins": Ailment(
        Rule(start=0.985, end=0.96, points=5, steps=300),  # healthy: at most 0.88
        "the discriminator of {target} is hardly ever fooled, so that the generator learns nothing from it",
        "{value:.1%} of its decisions are right",
        (
            "lower optimizer.discriminator_lr",
            "set method.weights.gradient_penalty=0.1",
            "start anew with discriminator.spectral_norm=true",
            "where pictures are few set discriminator.augment=[color,translation,cutout]",
        ),
    ),
    "discriminator_blind": Ailment(
        Rule(start=0.51, end=0.53, points=5, steps=600),  # the quickstart's disc_a is so for 150 steps, and recovers
        "the discriminator of {target} cannot tell real from translated, so that the generator learns nothing from it",
        "{value:.1%} of its decisions are right, 50% is chance",
        (
            "raise optimizer.discriminator_lr",
            "start anew with more discriminator.filters",
            "lower method.weights.gradient_penalty",
            "lower discriminator.noise",
        ),
    ),
    "memorisation": Ailment(
        Rule(start=0.5, end=0.6, points=1, steps=0, grace=0),  # healthy: 1.0 to 1.4
        "{source} to {target} copies training pictures",
        "{value:.2f} times as far from them as unseen pictures are",
        (
            "stop here",
            "add training pictures of {target}",
            "set discriminator.augment=[color,translation,cutout] or data.augment",
        ),
    ),
    "exploding": Ailment(
        Rule(start=4.0, end=2.0, points=2, steps=0, grace=0),  # healthy: losses 1.0, a single norm 15
        "training gets out of hand",
        "{what} {value:.0f} times as large as usual",
        ("set optimizer.clip_norm=1", "lower optimizer.generator_lr and optimizer.discriminator_lr"),
    ),
    "non_finite": Ailment(
        Rule(start=0.5, end=0.1, points=1, steps=0, grace=0),
        "training broke",
        "{value:.0f} values not finite{what}",
        ("set train.precision=fp32 or optimizer.clip_norm=1", "lower optimizer.generator_lr"),
    ),
    "starving": Ailment(
        Rule(start=0.3, end=0.2, points=5, grace=0),  # healthy: 0.01
        "training waits for data",
        "{value:.0%} of the time",
        ("set data.cache=on", "raise data.num_workers", "store smaller pictures"),
    ),
}
"""Alarms by name, without side."""

# What the clock says is no part of a checkpoint: those of a resumed run are, bit for bit, the uninterrupted run's.
_TIMED = ("data_wait", "starving")

_OPTION = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")
_SETTING = re.compile(rf"({_OPTION.pattern})=(\S+)")


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


class Doctor:
    """Looks at batches now and then, judges at log points.

    Args:
        every: steps between looks; 0: never.
        names: of domain A and domain B.
        options: the config, dotted keys -> plain values, for what to do about an alarm.
    """

    def __init__(self, *, every: int, names: tuple[str, str], options: Mapping[str, Any]) -> None:
        self._every = every
        self._options = options
        self._names = {"a": names[0], "b": names[1]}
        self._looks = RunningMean()
        self._num_bad = 0  # looks with values that are not finite, when last asked
        self._means: dict[str, Smoothed] = {}
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
        scalars: dict[str, float] = {}
        statistics, num_looks, num_bad = self._looks.read()
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if num_bad > self._num_bad:
            bad.append("translations")
        self._num_bad = num_bad
        changes = self._judge(step, "non_finite", "", len(bad), what=f": {', '.join(bad)}" if bad else "")
        if num_looks >= FEWEST:
            for direction in (each for each in _DIRECTIONS if f"light_{each}" in statistics):
                changes += self._judge_direction(step, direction, statistics, scalars)
        for side in "ab":
            changes += self._judge_discriminator(step, side, means, scalars)
        changes += self._judge_surges(step, means, scalars)
        wait = self._smooth("data_wait", step, means)
        if wait is not None:
            scalars["doctor_data_wait"] = wait
        return scalars, changes + self._judge(step, "starving", "", wait)

    def _judge_direction(
        self, step: int, direction: str, statistics: Mapping[str, Tensor], scalars: dict[str, float]
    ) -> list[Change]:
        """The measures of one direction, noted in `scalars`, and the alarms over them."""
        variation = detectors.variation(statistics, direction)
        correlation = detectors.luminance_correlation(statistics[f"light_{direction}"])
        values = {
            "color_inversion": None if _is_alike(variation) else correlation,
            "does_nothing": statistics[f"change_{direction}"].item(),
            "mode_collapse": variation,
            "checkerboard": detectors.checkerboard(statistics, direction),
        }
        measures = ("luminance_correlation", "change", "variation", "checkerboard")
        changes = []
        for (kind, value), measure in zip(values.items(), measures, strict=True):
            changes += self._judge(step, kind, direction, value)
            if value is not None:
                scalars[f"doctor_{measure}_{direction}"] = value
        return changes

    def _judge_discriminator(
        self, step: int, side: str, means: Mapping[str, float], scalars: dict[str, float]
    ) -> list[Change]:
        """How often the discriminator of a domain is right; methods without a boundary between scores do not say."""
        accuracy = self._smooth(f"accuracy_{side}", step, means)
        real, fake = (self._smooth(f"score_{kind}_{side}", step, means) for kind in ("real", "fake"))
        if accuracy is None:
            return []
        scalars[f"doctor_accuracy_{side}"] = accuracy
        # One that rates all images below the boundary, real ones less so, is not blind: half of their distance counts.
        told_apart = accuracy if real is None or fake is None else max(accuracy, 0.5 + (real - fake) / 2)
        return [
            *self._judge(step, "discriminator_wins", side, accuracy),
            *self._judge(step, "discriminator_blind", side, told_apart),
        ]

    def _smooth(self, name: str, step: int, means: Mapping[str, float]) -> float | None:
        """Running mean of a scalar of the row; None where it is absent or not finite."""
        value = means.get(name, math.nan)
        return self._means.setdefault(name, Smoothed()).add(step, value) if math.isfinite(value) else None

    def _judge_surges(self, step: int, means: Mapping[str, float], scalars: dict[str, float]) -> list[Change]:
        """Losses and gradients against their own levels."""
        signals = {name: value for name, value in means.items() if name.startswith("grad_norm_")}
        losses = [abs(value) for name, value in means.items() if is_loss_term(name)]
        if losses:
            signals["losses"] = sum(losses)
        times = {
            name: self._levels.setdefault(name, Level()).surge(value)
            for name, value in signals.items()
            if math.isfinite(value)
        }
        if not times:
            return []
        for name, value in times.items():
            scalars[f"doctor_surge_{name.removeprefix('grad_norm_')}"] = value
        # Norms are of single steps and wander more than losses, which are means over many.
        weighed = {name: value if name == "losses" else value / _NORMS_WANDER for name, value in times.items()}
        worst = max(weighed, key=lambda name: weighed[name])
        what = "losses" if worst == "losses" else f"gradients of {worst.removeprefix('grad_norm_')}"
        return self._judge(step, "exploding", "", weighed[worst], what=what, shown=times[worst])

    def judged(self, step: int, scores: Mapping[str, float]) -> list[Change]:
        """Judge an evaluation by its flat scores, such as memorisation_ab."""
        changes = []
        for direction in _DIRECTIONS:
            value = scores.get(f"memorisation_{direction}", math.nan)
            if math.isfinite(value):
                changes += self._judge(step, "memorisation", direction, value)
        return changes

    def _judge(
        self, step: int, kind: str, side: str, value: float | None, *, what: str = "", shown: float | None = None
    ) -> list[Change]:
        """Hand a value to its alarm; what is said if that started or ended. `shown` stands in for it in the words."""
        name, ailment = f"{kind}_{side}" if side else kind, AILMENTS[kind]
        alarm = self._alarms.setdefault(name, Alarm(ailment.rule))
        began = alarm.since
        if not alarm.update(step, value):
            return []
        source, target = side[:1], side[-1:]
        words = {
            "value": value if shown is None else shown,
            "what": what,
            "x": source,
            "y": target,
            "source": self._names.get(source, ""),
            "target": self._names.get(target, ""),
        }
        figure = ailment.figure.format(**words)
        if alarm.since is None:
            self._lines.pop(name, None)
            return [Change(name, False, f"{name} is over: {figure} (it began at step {began})")]
        cure = self._advice([knob.format(**words) for knob in ailment.knobs]) or self._advice(ailment.otherwise)
        line = f"{name}: {ailment.seen.format(**words)} ({figure}, since step {alarm.since}): {cure}"
        self._lines[name] = line
        return [Change(name, True, line)]

    def _advice(self, knobs: Sequence[str]) -> str:
        """Those knobs that there are, and that would turn something."""
        there = [knob for knob in knobs if self._turns(knob)]
        return ", or ".join([", ".join(there[:-1]), there[-1]] if len(there) > 1 else there)

    def _turns(self, knob: str) -> bool:
        keys = _OPTION.findall(knob)
        if not all(key in self._options for key in keys):
            return False
        if knob.startswith("lower "):
            return any(self._options[key] for key in keys)
        settings = _SETTING.findall(knob)
        return not settings or any(self._options[key] != read_yaml(value, knob)[0] for key, value in settings)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors on the processor: a resumed run judges as an uninterrupted one would."""
        return {
            "looks": self._looks.state_dict(),
            "num_bad": self._num_bad,
            "means": {
                name: (mean.value, mean.num, mean.step) for name, mean in self._means.items() if name not in _TIMED
            },
            "levels": {name: (level.num, level.mean_log) for name, level in self._levels.items()},
            "alarms": {
                name: (alarm.since, alarm.num, alarm.first)
                for name, alarm in self._alarms.items()
                if name not in _TIMED
            },
            "lines": {name: line for name, line in self._lines.items() if name not in _TIMED},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._looks.load_state_dict(state["looks"])
        self._num_bad = state["num_bad"]
        self._means = {name: Smoothed(*values) for name, values in state["means"].items()}
        self._levels = {name: Level(*values) for name, values in state["levels"].items()}
        self._alarms = {name: Alarm(_ailment(name).rule, *values) for name, values in state["alarms"].items()}
        self._lines = dict(state["lines"])


def _ailment(name: str) -> Ailment:
    """What an alarm is over, by its name with side."""
    return AILMENTS[name] if name in AILMENTS else AILMENTS[name.rpartition("_")[0]]


def _is_alike(variation: float | None) -> bool:
    """Whether translations are so much alike that they cannot go with their sources: that is one ailment, not two."""
    return variation is not None and variation < AILMENTS["mode_collapse"].rule.end
