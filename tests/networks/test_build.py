"""From config to network: presets, initialisation, arithmetic shared with validation, half precision."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from cyclestyle.config.rules import generator_stride, is_unet, resolved_blocks, resolved_depth
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.networks.build import build_discriminator, build_generator
from cyclestyle.networks.initialize import initialize
from cyclestyle.networks.layers import apply_spectral_norm
from cyclestyle.networks.resnet_generator import ResnetBlock, ResnetGenerator
from cyclestyle.networks.unet_generator import UnetGenerator, UnetStage


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        (GeneratorConfig(name="resnet"), 9),
        (GeneratorConfig(name="resnet_6"), 6),
        (GeneratorConfig(name="resnet_9"), 9),
        (GeneratorConfig(name="resnet", blocks=2), 2),
        (GeneratorConfig(name="resnet_9", blocks=0), 0),
    ],
)
def test_blocks(config, blocks):
    assert resolved_blocks(config) == blocks
    small = build_generator(GeneratorConfig(name=config.name, blocks=config.blocks, filters=2), 3)
    assert sum(isinstance(part, ResnetBlock) for part in small.modules()) == blocks
    assert generator_stride(config) == small.stride == 4
    assert not is_unet(config)


@pytest.mark.parametrize(
    ("config", "depth"),
    [
        (GeneratorConfig(name="unet"), 8),
        (GeneratorConfig(name="unet_128"), 7),
        (GeneratorConfig(name="unet_256"), 8),
        (GeneratorConfig(name="unet", depth=4), 4),
    ],
)
def test_depth(config, depth):
    assert resolved_depth(config) == depth
    small = build_generator(GeneratorConfig(name=config.name, depth=config.depth, filters=2), 3)
    assert sum(isinstance(part, UnetStage) for part in small.modules()) == depth
    assert generator_stride(config) == small.stride == 2**depth
    assert is_unet(config)


def test_every_option_reaches_the_network():
    """A generator of a config is the network with these options: same weights from one seed, same output."""
    torch.manual_seed(3)
    config = GeneratorConfig(
        filters=4,
        blocks=1,
        norm="batch",
        upsample="resize",
        padding="replicate",
        dropout=0.25,
        antialias=True,
        attention=True,
        init="xavier",
    )
    built = build_generator(config, 2)
    torch.manual_seed(3)
    options = {"norm": "batch", "upsample": "resize", "padding": "replicate", "dropout": 0.25}
    direct = ResnetGenerator(2, 4, 1, **options, antialias=True, attention=True)
    initialize(direct, "xavier", 0.02)
    assert repr(built) == repr(direct)
    assert built.state_dict().keys() == direct.state_dict().keys()
    for name, value in built.state_dict().items():
        torch.testing.assert_close(value, direct.state_dict()[name], rtol=0, atol=0)

    config = GeneratorConfig(name="unet", filters=4, depth=6, norm="batch", upsample="subpixel", dropout=0.25)
    assert repr(build_generator(config, 2)) == repr(
        UnetGenerator(2, 4, 6, norm="batch", upsample="subpixel", dropout=0.25)
    )


def conv_weights(module: nn.Module) -> list[torch.Tensor]:
    return [part.weight.detach() for part in module.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]


def test_normal_initialisation():
    """N(0, gain): of 36,864 numbers or more the mean is within 5 gain / sqrt(n) and the deviation within 5 %."""
    torch.manual_seed(0)
    generator = build_generator(GeneratorConfig(filters=32, blocks=1, init_gain=0.05), 3)
    large = [weight for weight in conv_weights(generator) if weight.numel() >= 36_864]
    assert len(large) >= 3
    for weight in large:
        assert abs(float(weight.mean())) < 5 * 0.05 / math.sqrt(weight.numel())
        assert float(weight.std()) == pytest.approx(0.05, rel=0.05)
    assert all(part.bias.eq(0).all() for part in generator.modules() if isinstance(part, nn.Conv2d))


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        ("xavier", 0.5 * math.sqrt(2 / (32 * 9 + 64 * 9))),  # gain * sqrt(2 / (fan in + fan out))
        ("kaiming", math.sqrt(2 / (32 * 9))),  # sqrt(2 / fan in), no gain
    ],
)
def test_scaled_initialisation(init, deviation):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, 3)
    initialize(conv, init, 0.5)
    assert float(conv.weight.detach().std()) == pytest.approx(deviation, rel=0.05)
    assert conv.bias.eq(0).all()


def test_orthogonal_initialisation():
    """Rows are orthogonal and `gain` long."""
    conv = nn.Conv2d(32, 64, 3)
    initialize(conv, "orthogonal", 0.5)
    rows = conv.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, 0.25 * torch.eye(64), rtol=0, atol=1e-5)


def test_batch_norm_initialisation():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(10_000)
    initialize(norm, "xavier", 0.02)
    assert float(norm.weight.detach().mean()) == pytest.approx(1.0, abs=0.001)
    assert float(norm.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert norm.bias.eq(0).all()


def test_one_seed_one_network():
    def first_weight(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return conv_weights(build_generator(GeneratorConfig(filters=2, blocks=1), 3))[0]

    assert first_weight(1).equal(first_weight(1))
    assert not first_weight(1).equal(first_weight(2))


def test_spectral_norm_comes_after_initialisation():
    """The weight underneath has the chosen deviation, not torch's default; and the other order is refused."""
    torch.manual_seed(0)
    net = build_discriminator(DiscriminatorConfig(spectral_norm=True, filters=32, init_gain=0.3), 3)
    assert float(net.state_dict()["model.8.parametrizations.weight.original"].std()) == pytest.approx(0.3, rel=0.05)
    with pytest.raises(AssertionError, match="before spectral norm"):
        initialize(net, "normal", 0.02)
    plain = build_discriminator(DiscriminatorConfig(filters=2), 3)
    apply_spectral_norm(plain)
    assert any("parametrizations" in name for name in plain.state_dict())


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_copies_are_independent_and_equal(spectral_norm):
    torch.manual_seed(0)
    net = build_discriminator(DiscriminatorConfig(filters=4, layers=1, spectral_norm=spectral_norm), 3).eval()
    x = torch.randn(1, 3, 16, 16)
    copied = copy.deepcopy(net)
    before = net(x)[0].detach()
    torch.testing.assert_close(copied(x)[0], before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2).add_(0.1)
    torch.testing.assert_close(copied(x)[0], before, rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(filters=8, blocks=2),
        GeneratorConfig(filters=8, blocks=2, upsample="resize"),
        GeneratorConfig(filters=8, blocks=2, upsample="subpixel", padding="replicate"),
        GeneratorConfig(filters=8, blocks=2, antialias=True, attention=True),
        GeneratorConfig(name="unet", filters=8, depth=3),
    ],
    ids=lambda config: f"{config.name}-{config.upsample}-{config.antialias}",
)
def test_generators_under_autocast(config, layout):
    """bf16 has 8 bits: pixels in [-1, 1] move by about its rounding (2^-8), summed over some ten layers."""
    torch.manual_seed(0)
    generator = build_generator(config, 3).to(memory_format=layout)
    x = torch.rand(1, 3, 32, 32).mul(2).sub(1).to(memory_format=layout)
    exact = generator(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = generator(x)
    assert y.dtype == torch.bfloat16
    assert exact.std() > 0.05  # there is a picture to compare
    assert (y.float() - exact).abs().mean() < 2**-7
    assert (y.float() - exact).abs().max() < 2**-4


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_discriminators_under_autocast(spectral_norm):
    torch.manual_seed(0)
    config = DiscriminatorConfig(filters=8, name="multiscale", layers=2, spectral_norm=spectral_norm, init_gain=0.1)
    net = build_discriminator(config, 3).eval()
    x = torch.rand(2, 3, 64, 64).mul(2).sub(1)
    exact = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x)
    for scores, exact_scores in zip(half, exact, strict=True):
        assert scores.dtype == torch.bfloat16
        assert (scores.float() - exact_scores).norm() < 2**-5 * exact_scores.norm()
