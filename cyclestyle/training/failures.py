"""What ends a training in its middle, and what torch's errors there mean, in a line that names the knob."""

from __future__ import annotations

import torch

from cyclestyle.config.schema import TrainConfig
from cyclestyle.devices import is_out_of_memory
from cyclestyle.errors import ConfigError


class DivergenceError(Exception):
    """Training broke, and goes nowhere from where it stands; for who can take it back.

    Attributes:
        step: the last one.
        reason: what was seen, in words.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"training diverged at step {step}: {reason}")
        self.step = step
        self.reason = reason


def explained(error: Exception, config: TrainConfig, device: torch.device) -> ConfigError | None:
    """The error for the user behind an error of torch's; None for a mistake of ours."""
    if is_out_of_memory(error):
        return ConfigError(
            f"out of memory on {device.type}: set train.checkpointing=true, lower data.crop_size, train.batch_size or "
            f"generator.filters, or raise optimizer.accumulation (each batch of {config.batch_size} then goes through "
            "in parts); cyclestyle plan tells beforehand what fits"
        )
    if config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ConfigError(f"train.compile=true failed ({str(error).splitlines()[0]}): set train.compile=false")
    return None
