"""Generators: sizes and names as in the usual checkpoints, shapes, and gradients that reach everything."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from cyclestyle.config.rules import generator_minimum, middle_block
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.networks.attention import SelfAttention
from cyclestyle.networks.build import build_generator, count_parameters
from cyclestyle.networks.resnet_generator import ResnetBlock, ResnetGenerator
from cyclestyle.networks.unet_generator import UnetGenerator

UPSAMPLES = ["transpose", "resize", "subpixel"]
NORMS = ["instance", "batch", "none"]
PADDINGS = ["reflect", "zero", "replicate"]

Shapes = dict[str, tuple[int, ...]]


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def conv(name: str, *shape: int, bias: int = 0) -> Shapes:
    """What one convolution adds to a state dict; `bias` is its length, 0 without."""
    return {f"{name}.weight": shape, **({f"{name}.bias": (bias,)} if bias else {})}


def batch_norm(name: str, channels: int) -> Shapes:
    values = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
    return {f"{name}.{key}": shape for key, shape in values.items()} | {f"{name}.num_batches_tracked": ()}


def instance_resnet(blocks: int, second: int) -> Shapes:
    """pytorch-CycleGAN-and-pix2pix with instance norm; `second` is the index of a block's second convolution."""
    expected = conv("model.1", 64, 3, 7, 7, bias=64)
    expected |= conv("model.4", 128, 64, 3, 3, bias=128) | conv("model.7", 256, 128, 3, 3, bias=256)
    for block in range(10, 10 + blocks):
        for index in (1, second):
            expected |= conv(f"model.{block}.conv_block.{index}", 256, 256, 3, 3, bias=256)
    expected |= conv(f"model.{10 + blocks}", 256, 128, 3, 3, bias=128)  # transposed: in, out
    expected |= conv(f"model.{13 + blocks}", 128, 64, 3, 3, bias=64)
    return expected | conv(f"model.{17 + blocks}", 3, 64, 7, 7, bias=3)


def test_resnet_9_has_the_known_number_of_parameters():
    assert count_parameters(build_generator(GeneratorConfig(name="resnet_9"), 3)) == 11_378_179


@pytest.mark.parametrize(("name", "blocks"), [("resnet_6", 6), ("resnet_9", 9)])
@pytest.mark.parametrize(("dropout", "second"), [(0.0, 5), (0.5, 6)])
def test_resnet_state_dict(name, blocks, dropout, second):
    generator = build_generator(GeneratorConfig(name=name, dropout=dropout), 3)
    assert shapes_of(generator) == instance_resnet(blocks, second)
    assert {index + 10 for index in range(blocks)} == {
        index for index, part in enumerate(generator.model) if type(part).__name__ == "ResnetBlock"
    }


def test_resnet_keys_by_name():
    keys = set(ResnetGenerator(3, 8, 9).state_dict())
    assert {"model.10.conv_block.1.weight", "model.18.conv_block.5.bias", "model.19.weight", "model.26.bias"} <= keys
    keys = set(ResnetGenerator(3, 8, 6).state_dict())
    assert {"model.15.conv_block.5.weight", "model.16.weight", "model.19.weight", "model.23.weight"} <= keys


@pytest.mark.parametrize(("padding", "indices"), [("reflect", (1, 5)), ("replicate", (1, 5)), ("zero", (0, 3))])
def test_resnet_block_indices_by_padding(padding, indices):
    keys = ResnetGenerator(3, 4, 1, padding=padding).model[10].state_dict()
    assert list(keys) == [f"conv_block.{index}.{part}" for index in indices for part in ("weight", "bias")]


def test_resnet_state_dict_with_batch_norm():
    """Only the last convolution has a bias; norms stand at 2, 5, 8, in the blocks at 2 and 6, and at 20 and 23."""
    expected = conv("model.1", 8, 3, 7, 7) | batch_norm("model.2", 8)
    expected |= conv("model.4", 16, 8, 3, 3) | batch_norm("model.5", 16)
    expected |= conv("model.7", 32, 16, 3, 3) | batch_norm("model.8", 32)
    for block in range(10, 19):
        for index in (1, 5):
            expected |= conv(f"model.{block}.conv_block.{index}", 32, 32, 3, 3)
            expected |= batch_norm(f"model.{block}.conv_block.{index + 1}", 32)
    expected |= conv("model.19", 32, 16, 3, 3) | batch_norm("model.20", 16)
    expected |= conv("model.22", 16, 8, 3, 3) | batch_norm("model.23", 8)
    expected |= conv("model.26", 3, 8, 7, 7, bias=3)
    assert shapes_of(ResnetGenerator(3, 8, 9, norm="batch")) == expected


@pytest.mark.parametrize("upsample", ["resize", "subpixel"])
def test_other_upsampling_leaves_other_indices(upsample):
    keys = set(ResnetGenerator(3, 4, 9, upsample=upsample).state_dict())
    moved = {f"model.{index}.{part}" for index in (19, 22) for part in ("weight", "bias")}
    inside = {f"model.{index}.conv.{part}" for index in (19, 22) for part in ("weight", "bias")}
    assert keys == set(instance_resnet(9, 5)) - moved | inside


@pytest.mark.parametrize("norm", NORMS)
def test_antialias_changes_no_name_and_no_shape(norm):
    plain, blurred = (ResnetGenerator(3, 4, 2, norm=norm, antialias=antialias) for antialias in (False, True))
    assert shapes_of(blurred) == shapes_of(plain)
    assert list(blurred.state_dict()) == list(plain.state_dict())


def test_antialias_blurs_where_the_plain_one_skips():
    """Without norms: convolutions at every place, ReLU, blur, and every second place of it; the rest is the same."""
    torch.manual_seed(0)
    generator = ResnetGenerator(3, 4, 1, norm="none", antialias=True).double()
    x = torch.randn(2, 3, 12, 16, dtype=torch.float64)
    row = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    y = generator.model[:4](x)
    for index in (4, 7):
        conv = generator.model[index]
        y = nn.functional.conv2d(y, conv.weight, conv.bias, padding=1).relu()
        filters = torch.outer(row, row).expand(y.shape[1], 1, 3, 3)
        y = nn.functional.pad(y, [1] * 4, mode="reflect")
        y = nn.functional.conv2d(y, filters, groups=y.shape[1])[..., ::2, ::2]
    torch.testing.assert_close(generator(x), generator.model[10:](y), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("blocks", "place"), [(0, 10), (1, 11), (2, 11), (5, 13), (6, 13), (9, 15)])
def test_attention_comes_after_the_middle_block(blocks, place):
    generator = ResnetGenerator(3, 4, blocks, attention=True)
    assert [i for i, part in enumerate(generator.model) if isinstance(part, SelfAttention)] == [place]
    assert place == 10 + middle_block(blocks)
    attention = {f"model.{place}.{name}" for name in SelfAttention(16).state_dict()}
    keys = generator.state_dict().keys()
    assert attention <= keys
    assert f"model.{18 + blocks}.weight" in keys  # the last convolution, moved by one
    assert len(keys) == len(ResnetGenerator(3, 4, blocks).state_dict()) + len(attention)


def test_attention_starts_as_an_identity_with_the_plain_ones_weights():
    torch.manual_seed(0)
    config = GeneratorConfig(filters=4, blocks=2, attention=True)
    generator = build_generator(config, 3)
    plain = ResnetGenerator(3, 4, 2)
    weights = [value for name, value in generator.state_dict().items() if not name.startswith("model.11.")]
    plain.load_state_dict(dict(zip(plain.state_dict(), weights, strict=True)))
    x = torch.randn(1, 3, 16, 16)
    assert generator(x).equal(plain(x))
    nn.init.constant_(generator.model[11].gamma, 50.0)
    assert not generator(x).allclose(plain(x))


def unet_shapes(norm: str, filters: int, depth: int) -> Shapes:
    """Outermost conv 0, inner 1, up 3; middle conv 1, norm 2, inner 3, up 5, norm 6; innermost conv 1, up 3, norm 4."""
    widths = [filters, 2 * filters, 4 * filters, *[8 * filters] * (depth - 3)]
    with_bias = norm == "instance"
    expected = conv("model.model.0", filters, 3, 4, 4, bias=with_bias * filters)
    expected |= conv("model.model.3", 2 * filters, 3, 4, 4, bias=3)
    prefix = "model.model.1"
    for level in range(1, depth):
        outer, inner = widths[level - 1], widths[level]
        innermost = level == depth - 1
        up, concatenated = (3, inner) if innermost else (5, 2 * inner)
        expected |= conv(f"{prefix}.model.1", inner, outer, 4, 4, bias=with_bias * inner)
        expected |= conv(f"{prefix}.model.{up}", concatenated, outer, 4, 4, bias=with_bias * outer)
        if norm == "batch":
            expected |= batch_norm(f"{prefix}.model.{up + 1}", outer)
            if not innermost:
                expected |= batch_norm(f"{prefix}.model.2", inner)
        prefix += ".model.3"
    return expected


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize(("name", "depth"), [("unet_128", 7), ("unet_256", 8)])
def test_unet_state_dict(name, depth, norm):
    config = GeneratorConfig(name=name, norm=norm, filters=4, dropout=0.5)
    assert shapes_of(build_generator(config, 3)) == unet_shapes(norm, 4, depth)


def test_unet_256_has_the_known_number_of_parameters():
    """54,413,955 with batch norm: what pix2pix prints for its generator (54.414 M)."""
    with torch.device("meta"):
        assert count_parameters(UnetGenerator(3, 64, 8, norm="batch")) == 54_413_955


@pytest.mark.parametrize(("depth", "dropouts"), [(3, 0), (5, 0), (6, 1), (8, 3)])
def test_unet_dropout_is_in_the_middle_stages(depth, dropouts):
    """pix2pix: one a stage between the four outer ones and the innermost."""
    unet = UnetGenerator(3, 2, depth, dropout=0.5)
    names = {name for name, part in unet.named_modules() if isinstance(part, nn.Dropout)}
    assert names == {"model.model.1" + ".model.3" * (3 + i) + ".model.7" for i in range(dropouts)}


def assert_trains(generator: nn.Module, height: int, width: int) -> None:
    """One step forward and backward: right shape and range, and a finite gradient for every parameter."""
    torch.manual_seed(0)
    for part in generator.modules():  # larger than the usual start, so that no gradient is lost in rounding
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, 0, 0.2)
    x = torch.randn(2, generator.channels, height, width).clamp(-1, 1)
    y = generator(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.endswith("weight"):  # instance norm takes biases away again, so theirs may be zero
            assert parameter.grad.abs().max() > 0, name


def test_resnet_block_adds_to_its_input():
    """Silenced convolutions leave the input as it is, negative values too: no activation after the sum."""
    block = ResnetBlock(2, norm="none", padding="reflect", dropout=0.0)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 2, 4, 4)
    assert block(x).equal(x)


@pytest.mark.parametrize(("upsample", "norm", "padding"), list(itertools.product(UPSAMPLES, NORMS, PADDINGS)))
def test_resnet_combinations_train(upsample, norm, padding):
    generator = ResnetGenerator(3, 4, 2, norm=norm, upsample=upsample, padding=padding, dropout=0.3)
    assert_trains(generator, 16, 20)


@pytest.mark.parametrize(("norm", "blocks"), list(itertools.product(NORMS, [0, 2])))
def test_resnet_with_antialias_and_attention_trains(norm, blocks):
    generator = ResnetGenerator(3, 4, blocks, norm=norm, upsample="resize", antialias=True, attention=True)
    for part in generator.modules():
        if isinstance(part, SelfAttention):
            nn.init.constant_(part.gamma, 0.3)  # at 0 nothing reaches what is behind it
    assert_trains(generator, 16, 20)


@pytest.mark.parametrize(("upsample", "norm"), list(itertools.product(UPSAMPLES, NORMS)))
def test_unet_combinations_train(upsample, norm):
    assert_trains(UnetGenerator(3, 4, 3, norm=norm, upsample=upsample), 16, 24)


@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("channels", [1, 4])
def test_unet_depths_and_channels(depth, channels):
    generator = UnetGenerator(channels, 2, depth)
    assert generator.stride == 2**depth
    x = torch.randn(1, channels, 2**depth, 2 ** (depth + 1))
    assert generator(x).shape == x.shape


def test_unet_refuses_less_than_two_stages():
    with pytest.raises(AssertionError, match="at least 2"):
        UnetGenerator(3, 4, 1)


@pytest.mark.parametrize("name", ["resnet_6", "unet_128"])
def test_smallest_input_and_stride(name):
    config = GeneratorConfig(name=name, filters=2)
    generator = build_generator(config, 1).eval()
    assert generator.stride == {"resnet_6": 4, "unet_128": 128}[name]
    x = torch.zeros(1, 1, generator_minimum(config) + generator.stride, generator_minimum(config))
    assert generator(x).shape == x.shape
    with pytest.raises((RuntimeError, ValueError)):
        generator(x[..., : generator_minimum(config) - generator.stride])


def test_unet_skips_carry_the_outermost_features():
    """With the inner stage silenced, the image still comes through beside it."""
    torch.manual_seed(0)
    unet = UnetGenerator(1, 2, 2, norm="none")
    for parameter in unet.model.model[1].parameters():
        nn.init.zeros_(parameter)
    assert unet(torch.randn(1, 1, 8, 8)).std() > 0
