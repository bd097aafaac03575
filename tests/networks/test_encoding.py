"""Features of encoders: those that `config.rules.encoder_layers` tells of, from one pass or from a part of one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cyclestyle.config.rules import encoder_layers
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.networks.build import build_generator
from cyclestyle.networks.recomputing import recompute_activations
from cyclestyle.networks.resnet_generator import ResnetBlock

CONFIGS = {
    "resnet": GeneratorConfig(filters=4, blocks=3),
    "antialias": GeneratorConfig(filters=4, blocks=4, antialias=True),
    "attention": GeneratorConfig(filters=4, blocks=3, attention=True),
    "both": GeneratorConfig(filters=4, blocks=2, antialias=True, attention=True, norm="batch"),
    "no blocks": GeneratorConfig(filters=4, blocks=0, attention=True),
    "unet": GeneratorConfig(name="unet", filters=2, depth=5, upsample="subpixel"),
    "shallow unet": GeneratorConfig(name="unet", filters=2, depth=2, norm="batch", antialias=True, attention=True),
}
EACH = pytest.mark.parametrize("name", CONFIGS)


def generator_of(name: str, channels: int = 3, **options: object) -> nn.Module:
    """With an attention that does something."""
    torch.manual_seed(0)
    config = GeneratorConfig(**{**vars(CONFIGS[name]), "init": "kaiming", **options})
    generator = build_generator(config, channels)
    for key, parameter in generator.named_parameters():
        if key.endswith("gamma"):
            nn.init.constant_(parameter, 2.0)
    return generator


def image(channels: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, 32, 64).clamp(-1, 1)


@EACH
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_and_strides_are_those_of_the_rules(name, channels):
    layers = encoder_layers(CONFIGS[name], channels)
    generator, x = generator_of(name, channels), image(channels)
    features = generator.encode(x, list(layers))
    assert [feature.shape for feature in features] == [
        (2, layer.channels, 32 // layer.stride, 64 // layer.stride) for layer in layers.values()
    ]


@EACH
def test_features_are_what_the_layers_give(name):
    """Convolutions are watched from outside, blocks too; the image is the image itself."""
    generator, x = generator_of(name), image()
    names = list(encoder_layers(CONFIGS[name], 3))
    seen: dict[str, torch.Tensor] = {}
    counts = {"down": 0, "block": 0}

    def watch(part: nn.Module, kind: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            counts[kind] += 1
            seen[f"{kind}_{counts[kind]}"] = output.clone()

        part.register_forward_hook(hook)

    for key, part in generator.named_modules():
        if isinstance(part, ResnetBlock):
            watch(part, "block")
        elif isinstance(part, nn.Conv2d) and part.kernel_size[0] in (3, 4) and "conv" not in key:
            watch(part, "down")  # those of blocks and of upsampling are named conv
    generator(x)
    found = dict(zip(names, generator.encode(x, names), strict=True))
    assert found["image"] is x
    blocks = CONFIGS[name].blocks
    if blocks:
        assert found["block_middle"].equal(seen[f"block_{(blocks + 1) // 2}"])
    for each in set(names) - {"image", "block_middle"}:
        assert found[each].equal(seen[each]), each


@EACH
@pytest.mark.parametrize("training", [False, True])
def test_one_pass_gives_the_same_bits(name, training):
    generator, x = generator_of(name).train(training), image()
    names = ["image", *reversed(list(encoder_layers(CONFIGS[name], 3)))]
    expected, features = copy.deepcopy(generator)(x), copy.deepcopy(generator).encode(x, names)
    y, found = copy.deepcopy(generator).translate_with_features(x, names)
    assert y.equal(expected)
    assert y.requires_grad
    for one, other in zip(found, features, strict=True):
        assert one.equal(other)
    assert len(found) == len(names)


@EACH
def test_encoding_stops_at_the_deepest_layer(name):
    generator, x = generator_of(name), image()
    ran: list[str] = []
    for key, part in generator.named_modules():
        if not list(part.children()):
            part.register_forward_hook(lambda *_, key=key: ran.append(key))
    assert generator.encode(x, []) == []
    assert generator.encode(x, ["image"])[0] is x
    assert ran == []
    generator.encode(x, ["down_2", "image", "down_1"])
    assert isinstance(generator.get_submodule(ran[-1]), nn.Conv2d)
    assert generator.get_submodule(ran[-1]).out_channels == encoder_layers(CONFIGS[name], 3)["down_2"].channels
    assert sum(isinstance(generator.get_submodule(key), nn.Conv2d) for key in ran) <= 3


@EACH
def test_gradients_flow_to_the_encoder_alone(name):
    generator, x = generator_of(name), image().requires_grad_(True)
    deepest = list(encoder_layers(CONFIGS[name], 3))[-1]
    (generator.encode(x, [deepest])[0] ** 2).sum().backward()
    assert x.grad.abs().max() > 0
    reached = {key for key, parameter in generator.named_parameters() if parameter.grad is not None}
    first = next(key for key, _ in generator.named_parameters())
    assert first in reached
    last = [key for key, _ in generator.named_parameters()][-1]
    assert last not in reached


@EACH
def test_what_is_recomputed_gives_the_same_values_detached(name):
    """And batch norms move once."""
    plain = generator_of(name).train()
    again = copy.deepcopy(plain)
    recompute_activations(again)
    x = image().requires_grad_(True)
    names = list(encoder_layers(CONFIGS[name], 3))
    expected, features = plain.translate_with_features(x, names)
    y, found = again.translate_with_features(x, names)
    assert y.equal(expected)
    for one, other in zip(found, features, strict=True):
        assert one.equal(other)
        assert not one.requires_grad
    for (key, one), (_, other) in zip(again.named_buffers(), plain.named_buffers(), strict=True):
        assert one.equal(other), key
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
    with torch.no_grad():
        assert again.translate_with_features(x, names)[0].equal(plain(x))


def test_unknown_names_are_our_own_mistakes():
    with pytest.raises(KeyError):
        generator_of("resnet").encode(image(), ["block_9"])
