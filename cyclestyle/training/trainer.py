"""The training loop: a learning step (`learning.py`) after another, and the periodic business around them.

Its clock is `step`, counted in optimizer steps.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cyclestyle.batch import Domain, UnpairedBatch
from cyclestyle.checkpoint import save_translator
from cyclestyle.config.schema import LogConfig, TrainConfig
from cyclestyle.devices import used_memory
from cyclestyle.distributed import GroupError, gathered, group_rank, highest, is_first
from cyclestyle.errors import DataError
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.networks.build import memory_format
from cyclestyle.training.failures import DivergenceError
from cyclestyle.training.feed import Feed
from cyclestyle.training.interruption import StopRequest, stop_on_signals
from cyclestyle.training.learner import Learner
from cyclestyle.training.learning import Learned
from cyclestyle.training.own_state import own_state, set_random_state, with_own_state
from cyclestyle.training.previews import Previews
from cyclestyle.training.profiling import Profile
from cyclestyle.training.run_folder import RunFolder
from cyclestyle.training.speed import Speed, summary
from cyclestyle.training.tracker import Tracker
from cyclestyle.training.watch import Watch

logger = logging.getLogger("cyclestyle")

LR_AFTER_SETBACK = 0.5
"""What each return to a checkpoint multiplies the learning rates by."""


class Batches(Protocol):
    """Where batches come from: a pure function of the position, so that any step can be the first."""

    def batches(self, start_position: int, num_batches: int, batch_size: int) -> Iterator[UnpairedBatch]:
        """Batches from the `start_position`-th image of each domain on."""
        ...


class HeldOutImages(Protocol):
    """Where images come from that are not trained on: a pure function of the position too."""

    def images(self, position: int, num_images: int) -> dict[Domain, Tensor]:
        """So many of each domain that was asked for, from the `position`-th on, N x C x H x W."""
        ...


class Trainer:
    """Trains a method from `step` to `num_steps`.

    Args:
        learner: networks, optimizers, moving averages, and the step.
        data, tracker, previews, folder: what is read and written.
        held_out: what `Method.adapt` looks at; None: the method does not ask for it.
        watch: scores translations, finds the best checkpoint, raises alarms.
        specs: name of each generator -> what its translator file says about it.
        config: the `train` section.
        log: the `log` section.
        num_steps: length of the run.
        settings: the whole config as plain values, kept in each checkpoint.

    Attributes:
        deadline: of `time.monotonic`, when to save and stop.
        setbacks: how often the run went back to a checkpoint.
    """

    def __init__(
        self,
        *,
        learner: Learner,
        data: Batches,
        held_out: HeldOutImages | None,
        tracker: Tracker,
        previews: Previews,
        watch: Watch,
        folder: RunFolder,
        specs: dict[str, TranslatorSpec],
        config: TrainConfig,
        log: LogConfig,
        device: torch.device,
        num_steps: int,
        settings: dict[str, Any],
    ) -> None:
        self.method = learner.method
        self.optimization = learner.optimization
        self.averages = learner.averages
        self.precision = learner.precision
        self.data = data
        self.held_out = held_out
        self.tracker = tracker
        self.previews = previews
        self.watch = watch
        self.folder = folder
        self.specs = specs
        self.config = config
        self.log = log
        self.accumulation = learner.optimization.config.accumulation
        self.device = device
        self.num_steps = num_steps
        self.settings = settings
        self.step = 0
        self.position = 0  # images of each domain seen
        self.setbacks = 0
        self.deadline = math.inf
        self._start_step = self._saved_step = 0
        self._is_save_due = False
        self._speed = Speed()
        self._learn = learner.step()
        self._share = learner.optimization.share

    def run(self) -> StopRequest:
        """Train to the end, or until a signal or what watches asks to stop; either way the last state is saved.

        Returns:
            The request to stop; its `signal_number` is None when no signal came.

        Raises:
            DivergenceError: training broke, and does not recover by itself; nothing of that is saved.
        """
        micro_batch = self.config.batch_size // self.accumulation
        num_batches = (self.num_steps - self.step) * self.accumulation
        batches = self.data.batches(self.position, num_batches, micro_batch)
        feed = Feed(batches, self.method, self.device, self.accumulation)
        profile = Profile(
            self.folder.path / "profile", self.config.profile if is_first() else 0, self.device, start=self.step
        )
        with stop_on_signals() as stop, logging_redirect_tqdm([logger]), self._progress_bar() as bar, profile:
            while self.step < self.num_steps:
                with profile.step():
                    self._speed.start()
                    parts = self._fetch(feed, stop)
                    if parts is None:
                        break
                    self.learn(feed.hand_over(parts))
                    self._speed.pause()
                if self._is_logging():
                    self._log_scalars(bar, feed)
                if self._due(self.log.samples_every) and is_first():
                    self._draw_samples()
                is_best = self.watch.is_evaluating(self.step, self.num_steps) and self._evaluate()
                self._is_save_due |= is_best or self._due(self.config.checkpoint_every)
                # Not amid steps that are skipped: what is saved is what a setback returns to.
                if self._is_save_due and int(self.optimization.streak) == 0:
                    self.save()
                bar.update()
            if self._saved_step != self.step:  # stopped between two checkpoints
                self.save()
        return stop

    def _fetch(self, feed: Feed, stop: StopRequest) -> list[UnpairedBatch] | None:
        """The parts of the next batch; None where one of the processes wants to stop, which all then know of.

        Raises:
            DataError: there is no batch, the folders are gone, say; what was learned is saved.
        """
        parts, failure = None, None
        try:
            parts = feed.fetch()
        except DataError as error:
            failure = error
        # Not before the first step: a limit that the start alone takes up would bring nothing, however often.
        stop.time_is_up = self.step > self._start_step and time.monotonic() >= self.deadline
        # The most urgent wish counts: a signal or the clock, a failure, what watches.
        agreed = highest(stop.code * 4 or 2 * (failure is not None) or int(self.watch.stop is not None))
        if agreed == 0:
            return parts
        stop.code = agreed // 4
        if agreed == 2:
            self.save()
            raise failure or GroupError("another process has no data")
        return None

    def learn(self, parts: list[UnpairedBatch]) -> None:
        """Take the next step, and count it.

        Args:
            parts: of its batch, with their draws, on the device.
        """
        self.step += 1
        self.optimization.start_step(self.step - 1)
        learned = self._learn(parts)
        self.position += self.config.batch_size
        self.averages.update(self.step)
        if self.method.adapt_every and self.step % self.method.adapt_every == 0:
            self._adapt(parts[0], learned)
        for scalars in learned.scalars:
            self.tracker.add(scalars)
        if self._is_logging():
            self.tracker.add({f"grad_norm_{player}": norm for player, norm in learned.norms.items()})
        if self.watch.is_looking(self.step) and is_first():
            self.watch.look(self.step, parts[0], learned.translations)

    def _adapt(self, batch: UnpairedBatch, learned: Learned) -> None:
        """Let the method turn what is no weight, by the first part of the last batch and by held-out images."""
        images: dict[Domain, Tensor] = {}
        if self.held_out is not None:
            # Any places do, but those of a step are its own, and of several processes each has others.
            first = self.position + group_rank() * len(batch)
            images = self.held_out.images(first, len(batch))
        layout = memory_format(self.device)
        with self.precision.autocast(self.device):
            self.method.adapt(
                batch,
                learned.translations,
                {domain: each.to(self.device, memory_format=layout) for domain, each in images.items()},
            )

    def _is_logging(self) -> bool:
        return self._due(self.log.scalars_every)

    def _due(self, every: int) -> bool:
        """Whether something is due after this step: every so many steps (0: never), and once at the end."""
        return every > 0 and (self.step % every == 0 or self.step == self.num_steps)

    def _log_scalars(self, bar: tqdm[Any], feed: Feed) -> None:
        self._speed.resume()
        self._refuse_divergence()
        means = self.tracker.means(
            self._share
        )  # waits for the device, so that the time below is that of finished steps
        self._speed.pause()
        rates = self.optimization.learning_rates(self.step - 1)
        means |= {f"lr_{player}": rate for player, rate in rates.items()}
        if num_skipped := int(self.optimization.num_skipped):
            means["skipped_steps"] = num_skipped
            self.optimization.num_skipped.zero_()
        speed = self._speed.read(self.config.batch_size, feed.waited) | {"memory_gb": used_memory(self.device) / 2**30}
        feed.waited = 0.0
        if is_first():
            self.watch.write(self.step, {**means, **speed})
        bar.set_postfix_str(summary(means, speed), refresh=False)

    def _draw_samples(self) -> None:
        with self.precision.autocast(self.device):
            grids = self.previews.draw(self.averages.generators, self.device, self.step)
        for grid in grids:
            self.tracker.image(f"samples/{grid.direction}", grid.pixels, self.step)
            path = self.folder.samples / f"step_{self.step:08d}_{grid.direction}.png"
            self.tracker.picture(path, grid.pixels, grid.info)

    def _evaluate(self) -> bool:
        """Score the averaged generators, all processes together; whether they are the best so far."""
        self._refuse_divergence()
        return highest(int(self.watch.evaluate(self.step, self._translate))) == 1

    def _translate(self, direction: str, images: Tensor) -> Tensor:
        generator = self.averages.generators[f"gen_{direction}"]
        with self.precision.autocast(self.device):
            return generator(images.to(self.device, memory_format=memory_format(self.device)))

    def save(self) -> None:
        """Write a checkpoint and the translators of the averaged generators; good ones are not replaced by NaN.

        Raises:
            DivergenceError: there is no more good to be had from this state.
        """
        self._refuse_divergence()
        for owner in (self.method, *self.averages.generators.values()):
            broken = [name for name, value in owner.state_dict().items() if _is_broken(value)]
            if broken:
                raise DivergenceError(self.step, f"{len(broken)} weights are not finite, {broken[0]} among them")
        state = self.state_dict()
        self._saved_step, self._is_save_due = self.step, False
        if not is_first():
            return
        best = self.watch.best
        named = None if best is None or best.step is None else (best.step, best.reason)
        self.folder.save(state, self.config.keep_checkpoints, named)
        for name, generator in self.averages.generators.items():
            spec = self.specs[name]
            path = self.folder.translator_file(spec.source, spec.target)
            save_translator(path, generator.state_dict(), {**self._described(spec), "step": self.step})

    def _described(self, spec: TranslatorSpec) -> dict[str, Any]:
        """What a translator's file says of itself now, but for the step."""
        return {**asdict(spec), "scores": self.watch.scores_of(spec.direction, self.step)}

    def _refuse_divergence(self) -> None:
        """Waits for the device."""
        streak = int(self.optimization.streak)
        if streak >= self.optimization.config.max_skipped:
            raise DivergenceError(self.step, f"{streak} steps in a row were skipped, their gradients are not finite")

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on as if it had never stopped; asked for by all processes together.

        What they have in common stands there once, as the first one has it; "others" holds what the others have of
        their own.
        """
        own = own_state(self.method, self.tracker, self.device)
        others = gathered(None if is_first() else own)[1:]
        return {
            "step": self.step,
            "num_steps": self.num_steps,
            "setbacks": self.setbacks,
            "position": self.position,
            "config": self.settings,
            "translators": {name: self._described(spec) for name, spec in self.specs.items()},
            "method": self.method.state_dict(),
            "averages": self.averages.state_dict(),
            "optimization": self.optimization.state_dict(),
            "watch": self.watch.state_dict(),
            "tracker": own["tracker"],
            "random": own["random"],
            "others": others,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, with as many processes as it has or with another number."""
        state = with_own_state(state, own_state(self.method, self.tracker, self.device))
        self.step = self._start_step = self._saved_step = state["step"]
        self.setbacks = state.get("setbacks", 0)
        self.position = state["position"]
        self.method.load_state_dict(state["method"])
        self.averages.load_state_dict(state["averages"])
        self.optimization.load_state_dict(state["optimization"])
        self.tracker.load_state_dict(state["tracker"], self.device)
        if "watch" in state:  # not in checkpoints of version 0.1
            self.watch.load_state_dict(state["watch"])
        set_random_state(state["random"], self.device)

    def set_back(self, setbacks: int) -> None:
        """Go on more carefully, after so many returns to a checkpoint."""
        self.setbacks = setbacks
        self.optimization.lr_scale = LR_AFTER_SETBACK**setbacks

    def _progress_bar(self) -> tqdm[Any]:
        return tqdm(
            disable=not is_first(),
            mininterval=0.2 if sys.stderr.isatty() else 5.0,  # a log file need not hold ten lines a second
            total=self.num_steps,
            initial=self.step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            smoothing=0.1,
        )


def _is_broken(value: object) -> bool:
    """Whether it is a tensor with values that are not finite."""
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
