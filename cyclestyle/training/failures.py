"""What torch's errors in the middle of a training mean, in a line that names the knob."""

from __future__ import annotations

import torch

from cyclestyle.config.schema import TrainConfig
from cyclestyle.devices import is_out_of_memory
from cyclestyle.errors import ConfigError


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
