"""Arithmetic that follows from network options: validation and networks both ask here, so that they cannot disagree.

Imports no torch, so that a bad config is refused before anything slow is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class EncoderLayer:
    """Features of a generator that contrastive terms compare.

    Attributes:
        channels: of the features.
        stride: pixels of the image a place of theirs.
    """

    channels: int
    stride: int


def encoder_layers(config: GeneratorConfig, channels: int) -> dict[str, EncoderLayer]:
    """The layers of a generator's first half by name, in their order, for images of so many channels.

    image: what it is given; down_1, ...: what each widening convolution gives, before its norm; block_1, ...: the sum
    after each residual block, and block_middle another name of the middle one's (CUT's 5 of 9).
    """
    layers = {"image": EncoderLayer(channels, 1)}
    if is_unet(config):
        for level in range(resolved_depth(config)):
            layers[f"down_{level + 1}"] = EncoderLayer(config.filters * min(2**level, 8), 2 ** (level + 1))
        return layers
    # A blurred halving comes after the convolution, its norm and ReLU.
    late = 2 if config.antialias else 1
    layers["down_1"] = EncoderLayer(2 * config.filters, 2 // late)
    layers["down_2"] = EncoderLayer(4 * config.filters, 4 // late)
    blocks = resolved_blocks(config)
    for number in range(1, blocks + 1):
        layers[f"block_{number}"] = EncoderLayer(4 * config.filters, 4)
    if blocks:
        layers["block_middle"] = layers[f"block_{middle_block(blocks)}"]
    return layers


def middle_block(blocks: int) -> int:
    """Number, from 1, of the middle one of so many residual blocks: 5 of 9; 0 where there are none."""
    return (blocks + 1) // 2


def receptive_field(config: DiscriminatorConfig) -> int:
    """Width in pixels of the square that one score depends on: 70 for the paper's PatchGAN.

    For multiscale that of the coarsest scale, in pixels of the full image.
    """
    if config.name == "pixel":
        return 1
    # Backwards from one score: two 4x4 convolutions of stride 1, then `layers` of stride 2.
    field = 1 + 3 + 3
    for _ in range(config.layers):
        # Blurred: the 3x3 blur of stride 2 after a 4x4 convolution of stride 1.
        field = 2 * (field - 1) + 3 + 3 if config.antialias else 2 * (field - 1) + 4
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
        size = size // 2  # 4x4, stride 2, padding 1 rounds down; blurred too
    return size - 2  # 4x4, stride 1, padding 1: one less, twice
