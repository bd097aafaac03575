"""`method.name` -> its class, as `cyclestyle.config.methods.METHODS` names it."""

from __future__ import annotations

import pkgutil

from cyclestyle.config.methods import METHODS, MethodConfig
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.methods.base import Method


def build_method(
    config: MethodConfig, generator: GeneratorConfig, discriminator: DiscriminatorConfig, *, channels: int, seed: int
) -> Method:
    """The method with initialised networks, on the processor; draws weights from torch's global random state."""
    implementation = pkgutil.resolve_name(METHODS[config.name].implementation)
    method = implementation(config, generator, discriminator, channels, seed)
    assert isinstance(method, Method), f"{METHODS[config.name].implementation} is no Method"
    return method
