"""Arithmetic that follows from network options: validation and networks both ask here, so that they cannot disagree.

Imports no torch, so that a bad config is refused before anything slow is loaded.
"""

from __future__ import annotations

from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig

_BLOCKS = {"resnet": 9, "resnet_6": 6, "resnet_9": 9}
_DEPTHS = {"unet": 8, "unet_128": 7, "unet_256": 8}

MIN_UNET_DEPTH = 2
"""A U-Net is at least an outermost and an innermost stage."""
UNET_DROPOUT_DEPTH = 6
"""Shallower U-Nets have no middle stage (pix2pix: the repeated widest one), so `dropout` does nothing there."""


def is_unet(config: GeneratorConfig) -> bool:
    """Whether this generator is a U-Net (`depth` counts) rather than a ResNet (`blocks` counts)."""
    return config.name in _DEPTHS


def resolved_blocks(config: GeneratorConfig) -> int:
    """Residual blocks of a ResNet: what the config says, else what its name stands for. Only for ResNets."""
    assert not is_unet(config), f"{config.name} has no residual blocks"
    return _BLOCKS[config.name] if config.blocks is None else config.blocks


def resolved_depth(config: GeneratorConfig) -> int:
    """Halvings of a U-Net: what the config says, else what its name stands for. Only for U-Nets."""
    assert is_unet(config), f"{config.name} has no depth"
    return _DEPTHS[config.name] if config.depth is None else config.depth


def generator_stride(config: GeneratorConfig) -> int:
    """Height and width of a generator's input must be multiples of this: 4 for ResNets, 2 ** depth for U-Nets."""
    return int(2 ** resolved_depth(config)) if is_unet(config) else 4


def generator_minimum(config: GeneratorConfig) -> int:
    """Smallest height and width that a generator takes, a multiple of its stride.

    8 for ResNets: two pixels at a quarter of the size, the least that can be reflected and normalised.
    """
    return max(8, generator_stride(config))


def receptive_field(config: DiscriminatorConfig) -> int:
    """Width in pixels of the square that one score depends on: 70 for the paper's PatchGAN.

    For multiscale that of the coarsest scale, in pixels of the full image.
    """
    if config.name == "pixel":
        return 1
    # Backwards from one score: two 4x4 convolutions of stride 1, then `layers` of stride 2.
    field = 1 + 3 + 3
    for _ in range(config.layers):
        field = 2 * (field - 1) + 4
    if config.name == "multiscale":
        for _ in range(config.scales - 1):
            field = 2 * (field - 1) + 3  # the 3x3 average pooling of stride 2 between scales
    return field


def discriminator_output_size(config: DiscriminatorConfig, size: int) -> int:
    """Scores along one side for an input of `size` pixels along it; zero or negative: the input is too small.

    For multiscale that of the smallest scale.
    """
    if config.name == "pixel":
        return size
    if config.name == "multiscale":
        for _ in range(config.scales - 1):
            size = (size + 1) // 2  # average pooling rounds up
    for _ in range(config.layers):
        size = size // 2  # 4x4, stride 2, padding 1 rounds down
    return size - 2  # 4x4, stride 1, padding 1: one less, twice
