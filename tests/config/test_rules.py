"""Arithmetic of network options, against networks that are built."""

from __future__ import annotations

import pytest
import torch

from cyclestyle.config import rules
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.networks.build import build_generator


@pytest.mark.parametrize(("blocks", "middle"), [(0, 0), (1, 1), (2, 1), (3, 2), (6, 3), (9, 5)])
def test_the_middle_block_is_cuts(blocks: int, middle: int) -> None:
    """Layer 16 of CUT's encoder, after block 5 of 9."""
    assert rules.middle_block(blocks) == middle
    layers = rules.encoder_layers(GeneratorConfig(blocks=blocks), 3)
    assert ("block_middle" in layers) == (blocks > 0)
    if blocks:
        assert layers["block_middle"] == layers[f"block_{middle}"]


@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(filters=4, blocks=3),
        GeneratorConfig(filters=6, blocks=2, antialias=True, attention=True, norm="batch"),
        GeneratorConfig(filters=4, blocks=0, padding="zero", upsample="resize"),
        GeneratorConfig(name="unet", filters=2, depth=2),
        GeneratorConfig(name="unet", filters=2, depth=5),  # four doublings of the channels at most
    ],
    ids=lambda config: f"{config.name}-{config.blocks or config.depth}",
)
@pytest.mark.parametrize("channels", [1, 3])
def test_layers_have_the_channels_and_strides_of_the_networks(config: GeneratorConfig, channels: int) -> None:
    layers = rules.encoder_layers(config, channels)
    generator = build_generator(config, channels).eval()
    height, width = 64, 32
    with torch.no_grad():
        features = generator.encode(torch.rand(1, channels, height, width), list(layers))
    found = {name: tuple(feature.shape[1:]) for name, feature in zip(layers, features, strict=True)}
    assert found == {
        name: (layer.channels, height // layer.stride, width // layer.stride) for name, layer in layers.items()
    }


def test_layers_are_named_in_their_order() -> None:
    assert list(rules.encoder_layers(GeneratorConfig(name="resnet_9"), 3)) == [
        "image", "down_1", "down_2", *(f"block_{number}" for number in range(1, 10)), "block_middle",
    ]  # fmt: skip
    assert list(rules.encoder_layers(GeneratorConfig(name="unet_128"), 3)) == [
        "image", *(f"down_{number}" for number in range(1, 8)),
    ]  # fmt: skip
