"""The training loop: a learning step (`learning.py`) after another, and the periodic business around them.

Its clock is `step`, counted in optimizer steps.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cyclestyle.batch import UnpairedBatch
from cyclestyle.checkpoint import save_translator
from cyclestyle.config.schema import LogConfig, TrainConfig
from cyclestyle.devices import used_memory
from cyclestyle.errors import ConfigError, DataError
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.networks.build import memory_format
from cyclestyle.training.feed import Feed
from cyclestyle.training.interruption import StopRequest, stop_on_signals
from cyclestyle.training.learner import Learner
from cyclestyle.training.previews import Previews
from cyclestyle.training.profiling import Profile
from cyclestyle.training.run_folder import RunFolder
from cyclestyle.training.speed import Speed, summary
from cyclestyle.training.tracker import Tracker
from cyclestyle.training.watch import Watch

logger = logging.getLogger("cyclestyle")


class Batches(Protocol):
    """Where batches come from: a pure function of the position, so that any step can be the first."""

    def batches(self, start_position: int, num_batches: int, batch_size: int) -> Iterator[UnpairedBatch]:
        """Batches from the `start_position`-th image of each domain on."""
        ...


class Trainer:
    """Trains a method from `step` to `num_steps`.

    Args:
        learner: networks, optimizers, moving averages, and the step.
        data, tracker, previews, folder: what is read and written.
        watch: scores translations, finds the best checkpoint, raises alarms.
        specs: name of each generator -> what its translator file says about it.
        config: the `train` section.
        log: the `log` section.
        accumulation: parts of a batch (`optimizer.accumulation`).
        num_steps: length of the run.
        settings: the whole config as plain values, kept in each checkpoint.
    """

    def __init__(
        self,
        *,
        learner: Learner,
        data: Batches,
        tracker: Tracker,
        previews: Previews,
        watch: Watch,
        folder: RunFolder,
        specs: dict[str, TranslatorSpec],
        config: TrainConfig,
        log: LogConfig,
        accumulation: int,
        device: torch.device,
        num_steps: int,
        settings: dict[str, Any],
    ) -> None:
        self.method = learner.method
        self.optimization = learner.optimization
        self.averages = learner.averages
        self.precision = learner.precision
        self.data = data
        self.tracker = tracker
        self.previews = previews
        self.watch = watch
        self.folder = folder
        self.specs = specs
        self.config = config
        self.log = log
        self.accumulation = accumulation
        self.device = device
        self.num_steps = num_steps
        self.settings = settings
        self.step = 0
        self.position = 0  # images of each domain seen
        self._saved_step = 0
        self._speed = Speed()
        self._learn = learner.step(measures=self._is_logging)

    def run(self) -> StopRequest:
        """Train to the end, or until a signal or what watches asks to stop; either way the last state is saved.

        Returns:
            The request to stop; its `signal_number` is None when no signal came.
        """
        micro_batch = self.config.batch_size // self.accumulation
        num_batches = (self.num_steps - self.step) * self.accumulation
        batches = self.data.batches(self.position, num_batches, micro_batch)
        feed = Feed(batches, self.method, self.device, self.accumulation)
        profile = Profile(self.folder.path / "profile", self.config.profile, self.device, start=self.step)
        with stop_on_signals() as stop, logging_redirect_tqdm([logger]), self._progress_bar() as bar, profile:
            while self.step < self.num_steps and stop.signal_number is None and self.watch.stop is None:
                try:
                    with profile.step():
                        self._speed.start()
                        self.learn(feed)
                        self._speed.pause()
                except DataError:  # the folders are gone, say; what was learned is not
                    self.save()
                    raise
                if self._is_logging():
                    self._log_scalars(bar, feed)
                if self._due(self.log.samples_every):
                    self._draw_samples()
                is_best = self.watch.is_evaluating(self.step, self.num_steps) and self._evaluate()
                if is_best or self._due(self.config.checkpoint_every):
                    self.save()
                bar.update()
            if self._saved_step != self.step:  # stopped between two checkpoints
                self.save()
        return stop

    def learn(self, feed: Feed) -> None:
        """Take the next step, and count it."""
        parts = feed.next()
        self.step += 1
        self.optimization.start_step(self.step - 1)
        learned = self._learn(parts)
        self.position += self.config.batch_size
        self.averages.update(self.step)
        for scalars in learned.scalars:
            self.tracker.add(scalars)
        if self._is_logging():
            self.tracker.add({f"grad_norm_{player}": norm for player, norm in learned.norms.items()})
        if self.watch.is_looking(self.step):
            self.watch.look(self.step, parts[0], learned.translations)

    def _is_logging(self) -> bool:
        return self._due(self.log.scalars_every)

    def _due(self, every: int) -> bool:
        """Whether something is due after this step: every so many steps (0: never), and once at the end."""
        return every > 0 and (self.step % every == 0 or self.step == self.num_steps)

    def _log_scalars(self, bar: tqdm[Any], feed: Feed) -> None:
        self._speed.resume()
        self._refuse_divergence()
        means = self.tracker.means()  # waits for the device, so that the time below is that of finished steps
        self._speed.pause()
        rates = self.optimization.learning_rates(self.step - 1)
        speed = self._speed.read(self.config.batch_size, feed.waited) | {"memory_gb": used_memory(self.device) / 2**30}
        feed.waited = 0.0
        self.watch.write(self.step, {**means, **{f"lr_{player}": rate for player, rate in rates.items()}, **speed})
        bar.set_postfix_str(summary(means, speed), refresh=False)

    def _draw_samples(self) -> None:
        with self.precision.autocast(self.device):
            grids = self.previews.draw(self.averages.generators, self.device, self.step)
        for grid in grids:
            self.tracker.image(f"samples/{grid.direction}", grid.pixels, self.step)
            path = self.folder.samples / f"step_{self.step:08d}_{grid.direction}.png"
            self.tracker.picture(path, grid.pixels, grid.info)

    def _evaluate(self) -> bool:
        """Score the averaged generators; whether they are the best so far."""
        self._refuse_divergence()
        return self.watch.evaluate(self.step, self._translate)

    def _translate(self, direction: str, images: Tensor) -> Tensor:
        generator = self.averages.generators[f"gen_{direction}"]
        with self.precision.autocast(self.device):
            return generator(images.to(self.device, memory_format=memory_format(self.device)))

    def save(self) -> None:
        """Write a checkpoint and the translators of the averaged generators; good ones are not replaced by NaN."""
        self._refuse_divergence()
        best = self.watch.best
        named = None if best is None or best.step is None else (best.step, best.reason)
        self.folder.save(self.state_dict(), self.config.keep_checkpoints, named)
        self._saved_step = self.step
        for name, generator in self.averages.generators.items():
            spec = self.specs[name]
            path = self.folder.translator_file(spec.source, spec.target)
            save_translator(path, generator.state_dict(), {**self._described(spec), "step": self.step})

    def _described(self, spec: TranslatorSpec) -> dict[str, Any]:
        """What a translator's file says of itself now, but for the step."""
        return {**asdict(spec), "scores": self.watch.scores_of(spec.direction, self.step)}

    def _refuse_divergence(self) -> None:
        names = self.tracker.not_finite()
        if names:
            raise ConfigError(
                f"training diverged: {', '.join(names)} not finite by step {self.step}; the newest checkpoint is "
                f"of step {self._saved_step}. Lower optimizer.generator_lr and optimizer.discriminator_lr, or set "
                "train.precision=fp32 or optimizer.clip_norm=1"
            )

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on as if it had never stopped."""
        return {
            "step": self.step,
            "num_steps": self.num_steps,
            "position": self.position,
            "config": self.settings,
            "translators": {name: self._described(spec) for name, spec in self.specs.items()},
            "method": self.method.state_dict(),
            "averages": self.averages.state_dict(),
            "optimization": self.optimization.state_dict(),
            "tracker": self.tracker.state_dict(),
            "watch": self.watch.state_dict(),
            "random": random_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.step = self._saved_step = state["step"]
        self.position = state["position"]
        self.method.load_state_dict(state["method"])
        self.averages.load_state_dict(state["averages"])
        self.optimization.load_state_dict(state["optimization"])
        self.tracker.load_state_dict(state["tracker"], self.device)
        if "watch" in state:  # not in checkpoints of version 0.1
            self.watch.load_state_dict(state["watch"])
        set_random_state(state["random"], self.device)

    def _progress_bar(self) -> tqdm[Any]:
        return tqdm(
            mininterval=0.2 if sys.stderr.isatty() else 5.0,  # a log file need not hold ten lines a second
            total=self.num_steps,
            initial=self.step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            smoothing=0.1,
        )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's global random states, of the processor and of the GPU that trains."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Go on from `random_state`; a state of a device that is not used now is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
