"""`method.name` -> its class. A new method adds one entry here and one in `cyclestyle.config.methods`."""

from __future__ import annotations

from cyclestyle.config.methods import CycleGANConfig
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.methods.base import Method
from cyclestyle.methods.cyclegan import CycleGAN

METHODS = {"cyclegan": CycleGAN}


def build_method(
    config: CycleGANConfig, generator: GeneratorConfig, discriminator: DiscriminatorConfig, *, channels: int, seed: int
) -> Method:
    """The method with initialised networks, on the processor; draws weights from torch's global random state."""
    return METHODS[config.name](config, generator, discriminator, channels, seed)
