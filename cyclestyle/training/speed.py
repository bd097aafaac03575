"""How fast a run learns and how large it is, and the words for both."""

from __future__ import annotations

import time
from collections.abc import Mapping

from cyclestyle.training.layout import is_loss_term


class Speed:
    """Wall-clock of learning, without what logging, sampling and saving take."""

    def __init__(self) -> None:
        self._learned = 0.0
        self._num_steps = 0
        self._started: float | None = None

    def start(self) -> None:
        """A step begins."""
        self._num_steps += 1
        self.resume()

    def resume(self) -> None:
        """What follows belongs to the last step too."""
        self._started = time.perf_counter()

    def pause(self) -> None:
        """A step has ended; a second call does nothing."""
        if self._started is not None:
            self._learned += time.perf_counter() - self._started
            self._started = None

    def read(self, batch_size: int, waited: float) -> dict[str, float]:
        """Means since the last reading: seconds, images of each domain a second, share of time waiting for data.

        Args:
            batch_size: images of each domain in a step.
            waited: seconds since the last reading in which a step could not begin for want of data.
        """
        scalars = {
            "seconds_per_step": self._learned / self._num_steps,
            "images_per_second": batch_size * self._num_steps / self._learned,
            "data_wait": waited / self._learned,
        }
        self._learned = 0.0
        self._num_steps = 0
        return scalars


def parameters_in_words(numbers: Mapping[str, int]) -> str:
    """Player -> number of its parameters, for people: millions, but of small networks each."""
    words = {player: f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}" for player, number in numbers.items()}
    return ", ".join(f"{number} in {player}" for player, number in words.items())


def summary(means: Mapping[str, float], speed: Mapping[str, float]) -> str:
    """What stands behind the progress bar: loss terms by kind, images/s, share of waiting for data."""
    kinds: dict[str, float] = {}
    for name, value in means.items():
        if is_loss_term(name):
            kind = name.rpartition("_")[0]
            kinds[kind] = kinds.get(kind, 0.0) + value
    short = {
        "adversarial": "adv",
        "identity": "idt",
        "nce_identity": "nce_idt",
        "discriminator": "disc",
        "gradient_penalty": "gp",
        "total_variation": "tv",
    }
    losses = " ".join(f"{short.get(kind, kind)} {value:.2f}" for kind, value in kinds.items())
    rates = f"{speed['images_per_second']:.1f} img/s, data {speed['data_wait']:.0%}, {speed['memory_gb']:.1f} GB"
    return f"{losses} | {rates}"
