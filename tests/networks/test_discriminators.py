"""Discriminators: names as in the usual checkpoints, sizes of their maps, and how far each score sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cyclestyle.config.rules import discriminator_output_size, receptive_field
from cyclestyle.config.schema import DiscriminatorConfig
from cyclestyle.networks.build import build_discriminator, count_parameters

NORMS = ["instance", "batch", "none"]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_patchgan_has_the_known_number_of_parameters():
    assert count_parameters(build_discriminator(DiscriminatorConfig(), 3)) == 2_764_737


PATCHGAN = {
    "model.0.weight": (64, 3, 4, 4),
    "model.0.bias": (64,),
    "model.2.weight": (128, 64, 4, 4),
    "model.2.bias": (128,),
    "model.5.weight": (256, 128, 4, 4),
    "model.5.bias": (256,),
    "model.8.weight": (512, 256, 4, 4),
    "model.8.bias": (512,),
    "model.11.weight": (1, 512, 4, 4),
    "model.11.bias": (1,),
}


def test_patchgan_state_dict():
    assert shapes_of(build_discriminator(DiscriminatorConfig(), 3)) == PATCHGAN


def test_patchgan_state_dict_without_norm():
    """Same names as with instance norm, so that the one loads into the other."""
    assert shapes_of(build_discriminator(DiscriminatorConfig(norm="none"), 3)) == PATCHGAN


def test_patchgan_state_dict_with_batch_norm():
    """First and last convolution keep their bias; norms at 3, 6, 9."""
    expected = {name: shape for name, shape in PATCHGAN.items() if name not in {f"model.{i}.bias" for i in (2, 5, 8)}}
    for index, channels in ((3, 128), (6, 256), (9, 512)):
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"model.{index}.{part}"] = (channels,)
        expected[f"model.{index}.num_batches_tracked"] = ()
    assert shapes_of(build_discriminator(DiscriminatorConfig(norm="batch"), 3)) == expected


@pytest.mark.parametrize(("layers", "widths"), [(1, [8, 16]), (2, [8, 16, 32]), (4, [8, 16, 32, 64, 64])])
def test_patchgan_widths(layers, widths):
    """Channels double up to eightfold: with four layers the fifth convolution is as wide as the fourth."""
    net = build_discriminator(DiscriminatorConfig(filters=8, layers=layers), 3)
    convs = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [*widths, 1]
    assert [conv.stride for conv in convs] == [(2, 2)] * layers + [(1, 1)] * 2


PIXEL = {
    "net.0.weight": (64, 3, 1, 1),
    "net.0.bias": (64,),
    "net.2.weight": (128, 64, 1, 1),
    "net.2.bias": (128,),
    "net.5.weight": (1, 128, 1, 1),
    "net.5.bias": (1,),
}


def test_pixel_state_dict():
    assert shapes_of(build_discriminator(DiscriminatorConfig(name="pixel"), 3)) == PIXEL


def test_pixel_state_dict_with_batch_norm():
    """The original leaves out the last bias too, the only network where it does."""
    expected = {name: shape for name, shape in PIXEL.items() if name not in ("net.2.bias", "net.5.bias")}
    expected |= {f"net.3.{part}": (128,) for part in ("weight", "bias", "running_mean", "running_var")}
    expected["net.3.num_batches_tracked"] = ()
    assert shapes_of(build_discriminator(DiscriminatorConfig(name="pixel", norm="batch"), 3)) == expected


def test_multiscale_state_dict():
    net = build_discriminator(DiscriminatorConfig(name="multiscale", scales=3), 3)
    expected = {f"scales.{scale}.{name}": shape for scale in range(3) for name, shape in PATCHGAN.items()}
    assert shapes_of(net) == expected


@pytest.mark.parametrize(
    ("config", "pixels"),
    [
        (DiscriminatorConfig(filters=2, norm="none", layers=1), 16),
        (DiscriminatorConfig(filters=2, norm="none", layers=2), 34),
        (DiscriminatorConfig(filters=2, norm="none", layers=3), 70),
        (DiscriminatorConfig(filters=2, norm="none", layers=4), 142),
        (DiscriminatorConfig(filters=2, norm="none", name="pixel"), 1),
        # Half the size, where a score sees 70 pixels: 2 * 69 + 3 with the pooling's own three pixels.
        (DiscriminatorConfig(filters=2, norm="none", name="multiscale", scales=2), 141),
        (DiscriminatorConfig(filters=2, norm="none", name="multiscale", layers=1, scales=3), 67),
        (DiscriminatorConfig(filters=2, norm="none", layers=1, antialias=True), 18),
        (DiscriminatorConfig(filters=2, norm="none", layers=2, antialias=True), 40),
        (DiscriminatorConfig(filters=2, norm="none", layers=3, antialias=True), 84),
        (DiscriminatorConfig(filters=2, norm="none", name="multiscale", layers=2, antialias=True), 81),
    ],
)
def test_receptive_field(config, pixels):
    """The pixels that one score depends on, from its gradient, are as many as the rule says."""
    net = build_discriminator(config, 1)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):  # all positive, so that no paths cancel
            nn.init.constant_(part.weight, 0.5)
    x = torch.ones(1, 1, 320, 320, requires_grad=True)
    scores = net(x)[-1]
    center = scores.shape[-1] // 2
    scores[0, 0, center, center].backward()
    assert int((x.grad.sum(dim=(0, 1, 2)) != 0).sum()) == pixels
    assert int((x.grad.sum(dim=(0, 1, 3)) != 0).sum()) == pixels
    assert receptive_field(config) == pixels


CONFIGS = [
    *(DiscriminatorConfig(filters=2, layers=layers, norm="none") for layers in (1, 2, 3, 4)),
    DiscriminatorConfig(filters=2, name="pixel", norm="none"),
    *(DiscriminatorConfig(filters=2, name="multiscale", layers=2, scales=scales, norm="none") for scales in (1, 2, 3)),
    *(DiscriminatorConfig(filters=2, layers=layers, norm="none", antialias=True) for layers in (1, 2, 3)),
    DiscriminatorConfig(filters=2, name="multiscale", layers=2, scales=2, norm="none", antialias=True),
]


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda config: f"{config.name}{config.layers}x{config.scales}{config.antialias}"
)
@pytest.mark.parametrize("size", [8, 23, 24, 37, 64, 79])
def test_output_size(config, size):
    """What the rule says comes out, and where it says nothing is left the network cannot run either."""
    net = build_discriminator(config, 3)
    expected = discriminator_output_size(config, size)
    if expected <= 0:
        with pytest.raises(RuntimeError):
            net(torch.zeros(1, 3, size, size))
    else:
        assert net(torch.zeros(2, 3, size, size + 16))[-1].shape[:3] == (2, 1, expected)


def test_output_sizes_by_hand():
    """256 -> 128 -> 64 -> 32 -> 31 -> 30 scores; at half the size 128 -> 16 -> 14."""
    x = torch.zeros(1, 3, 256, 256)
    patchgan = build_discriminator(DiscriminatorConfig(filters=2), 3)
    assert [scores.shape for scores in patchgan(x)] == [(1, 1, 30, 30)]
    multiscale = build_discriminator(DiscriminatorConfig(filters=2, name="multiscale", scales=3), 3)
    assert [scores.shape for scores in multiscale(x)] == [(1, 1, 30, 30), (1, 1, 14, 14), (1, 1, 6, 6)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["patchgan", "multiscale"])
def test_antialias_changes_no_name_and_no_shape(name, norm):
    plain, blurred = (
        build_discriminator(DiscriminatorConfig(name=name, filters=2, norm=norm, antialias=antialias), 3)
        for antialias in (False, True)
    )
    assert shapes_of(blurred) == shapes_of(plain)
    assert list(blurred.state_dict()) == list(plain.state_dict())
    convs = [part for part in blurred.modules() if isinstance(part, nn.Conv2d)]
    assert {conv.stride for conv in convs} == {(1, 1)}


def test_antialias_blurs_where_the_plain_one_skips():
    """The same convolutions at every place, LeakyReLU, blur, and every second place of it."""
    torch.manual_seed(0)
    config = DiscriminatorConfig(filters=3, layers=1, norm="none", antialias=True, init_gain=0.3)
    net = build_discriminator(config, 2)
    x = torch.randn(1, 2, 17, 16)
    first, second, last = (part for part in net.modules() if isinstance(part, nn.Conv2d))
    y = nn.functional.leaky_relu(nn.functional.conv2d(x, first.weight, first.bias, padding=1), 0.2)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    y = nn.functional.pad(y, [1] * 4, mode="reflect")
    y = nn.functional.conv2d(y, torch.outer(row, row).expand(3, 1, 3, 3), groups=3)[..., ::2, ::2]
    expected = last(nn.functional.leaky_relu(second(y), 0.2))
    torch.testing.assert_close(net(x)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["patchgan", "multiscale"])
def test_batch_statistics_widen_the_last_convolution_only(name):
    plain, shown = (
        build_discriminator(DiscriminatorConfig(name=name, filters=2, batch_statistics=shown), 3)
        for shown in (False, True)
    )
    differing = {key: shape for key, shape in shapes_of(shown).items() if shape != shapes_of(plain)[key]}
    prefixes = ["scales.0.", "scales.1."] if name == "multiscale" else [""]
    assert differing == {f"{prefix}model.11.weight": (1, 17, 4, 4) for prefix in prefixes}
    assert list(shapes_of(shown)) == list(shapes_of(plain))


def test_batch_statistics_reach_the_scores():
    """Each image's scores change by the weights of the last input channel times the deviation over the batch."""
    torch.manual_seed(0)
    config = DiscriminatorConfig(filters=2, layers=1, batch_statistics=True, norm="none", init_gain=0.5)
    net = build_discriminator(config, 3).double()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    features = net.model[:-2](x)
    features = nn.functional.leaky_relu(features, 0.2)
    deviation = ((features - features.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
    weight = net.model[-1].weight
    alone = nn.functional.conv2d(features, weight[:, :-1], net.model[-1].bias, padding=1)
    inside = alone[..., 1:-1, 1:-1] + deviation * weight[:, -1].sum()  # at the border it sees zeros
    torch.testing.assert_close(net(x)[0][..., 1:-1, 1:-1], inside, rtol=0, atol=1e-12)
    one_by_one = torch.cat([net(each)[0] for each in x.split(1)])
    assert (one_by_one - net(x)[0]).abs().max() > 1e-3


def test_multiscale_halves_by_averaging():
    """The second scale judges 3x3 means, at the border means of what is there."""
    torch.manual_seed(0)
    net = build_discriminator(DiscriminatorConfig(filters=2, name="multiscale", layers=1), 1)
    x = torch.randn(1, 1, 15, 16)
    half = torch.stack(
        [
            torch.stack([x[..., max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].mean() for j in range(8)])
            for i in range(8)
        ]
    )
    torch.testing.assert_close(net(x)[0], net.scales[0](x)[0])
    torch.testing.assert_close(net(x)[1], net.scales[1](half[None, None])[0])


@pytest.mark.parametrize("new", [False, True], ids=["plain", "antialias and statistics"])
@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["patchgan", "pixel", "multiscale"])
def test_every_combination_trains(name, norm, spectral_norm, new):
    torch.manual_seed(0)
    config = DiscriminatorConfig(
        name=name,
        filters=4,
        layers=2,
        norm=norm,
        spectral_norm=spectral_norm,
        antialias=new,
        batch_statistics=new,
        init_gain=0.2,
    )
    net = build_discriminator(config, 3)
    x = torch.randn(2, 3, 33, 32, requires_grad=True)
    maps = net(x)
    assert len(maps) == (2 if name == "multiscale" else 1)
    sum((scores * torch.randn_like(scores)).sum() for scores in maps).backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if "bias" not in key:
            assert parameter.grad.abs().max() > 0, key


def test_spectral_norm_covers_every_convolution():
    net = build_discriminator(DiscriminatorConfig(name="multiscale", filters=2, spectral_norm=True), 3)
    weights = {key for key in net.state_dict() if key.endswith("weight.original")}
    assert len(weights) == 2 * 5
    assert not any(key.endswith(".weight") for key in net.state_dict())
    assert count_parameters(net) == 2 * count_parameters(build_discriminator(DiscriminatorConfig(filters=2), 3))


@pytest.mark.parametrize("name", ["pixel", "multiscale"])
def test_spectral_norm_makes_the_largest_singular_value_of_every_weight_one(name):
    """Miyato et al. 2018, section 2.1: of the weight as a matrix of output channels x everything else."""
    torch.manual_seed(0)
    config = DiscriminatorConfig(
        name=name, filters=4, layers=2, spectral_norm=True, antialias=True, batch_statistics=True, init_gain=0.3
    )
    net = build_discriminator(config, 3)
    with torch.no_grad():
        for _ in range(100):  # one round of power iteration each
            net(torch.zeros(2, 3, 24, 24))
    convs = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert len(convs) == {"pixel": 3, "multiscale": 8}[name]
    for conv in convs:
        largest = torch.linalg.svdvals(conv.weight.detach().flatten(1))[0]
        assert float(largest) == pytest.approx(1.0, abs=2e-3)


def test_scores_are_not_squashed():
    torch.manual_seed(0)
    for name in ("patchgan", "pixel"):
        net = build_discriminator(DiscriminatorConfig(name=name, filters=2, norm="none", init_gain=3.0), 3)
        scores = net(100 * torch.randn(1, 3, 32, 32))[0]
        assert scores.abs().max() > 10
