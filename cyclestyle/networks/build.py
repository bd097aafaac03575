"""From a config section to an initialised network, on the CPU, drawn from torch's global generator (the caller seeds).

A new generator or discriminator is one file and one entry here.
"""

from __future__ import annotations

import torch
from torch import nn

from cyclestyle.config import rules
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.networks.discriminators import MultiscaleDiscriminator, PatchDiscriminator, PixelDiscriminator
from cyclestyle.networks.initialize import initialize
from cyclestyle.networks.layers import apply_spectral_norm
from cyclestyle.networks.resnet_generator import ResnetGenerator
from cyclestyle.networks.unet_generator import UnetGenerator


def build_generator(config: GeneratorConfig, channels: int) -> nn.Module:
    """The generator that `config` describes, initialised.

    N x channels x H x W in [-1, 1] to the same shape and range. Its attributes `stride` (H and W must be multiples of
    it) and `channels` say what it takes.
    """
    generator: nn.Module
    if rules.is_unet(config):
        generator = UnetGenerator(
            channels,
            filters=config.filters,
            depth=rules.resolved_depth(config),
            norm=config.norm,
            dropout=config.dropout,
            upsample=config.upsample,
        )
    else:
        generator = ResnetGenerator(
            channels,
            filters=config.filters,
            blocks=rules.resolved_blocks(config),
            norm=config.norm,
            upsample=config.upsample,
            padding=config.padding,
            dropout=config.dropout,
            antialias=config.antialias,
            attention=config.attention,
        )
    initialize(generator, config.init, config.init_gain)
    return generator


def build_discriminator(config: DiscriminatorConfig, channels: int) -> nn.Module:
    """The discriminator that `config` describes, initialised, then with spectral norm if the config wants it.

    N x channels x H x W in [-1, 1] to a list of N x 1 x h x w raw scores, one map a scale, the finest first.
    """
    discriminator: nn.Module
    options = {"antialias": config.antialias, "batch_statistics": config.batch_statistics}
    if config.name == "pixel":
        discriminator = PixelDiscriminator(channels, config.filters, config.norm)
    elif config.name == "multiscale":
        discriminator = MultiscaleDiscriminator(
            channels, config.filters, config.layers, config.scales, config.norm, **options
        )
    else:
        discriminator = PatchDiscriminator(channels, config.filters, config.layers, config.norm, **options)
    initialize(discriminator, config.init, config.init_gain)
    if config.spectral_norm:
        apply_spectral_norm(discriminator)
    return discriminator


def count_parameters(module: nn.Module) -> int:
    """Number of learned values in `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def memory_format(device: torch.device) -> torch.memory_format:
    """Layout of networks and images: channels_last on CPU and NVIDIA GPUs, contiguous elsewhere."""
    return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format
