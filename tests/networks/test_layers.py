"""Layers against float64, closed forms and the variants they replace."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cyclestyle.networks.build import memory_format
from cyclestyle.networks.initialize import initialize
from cyclestyle.networks.layers import (
    BatchStatistics,
    BlurPool,
    Conv2d,
    InstanceNorm,
    Pad,
    ResizeConv,
    SubpixelConv,
    apply_spectral_norm,
    make_upsample,
    mixes_images,
)

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def by_definition(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def value_and_gradient(norm, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """norm(x) and the gradient of sum(weights * norm(x)) with respect to x."""
    x = x.detach().requires_grad_(True)
    y = norm(x)
    (gradient,) = torch.autograd.grad(y, x, weights.to(y.dtype))
    return y.detach(), gradient


def relative_error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


def normed_input(batch: int, layout: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = (3 * torch.randn(batch, 6, 9, 7) + torch.arange(6.0)[:, None, None]).to(dtype)
    weights = torch.randn(batch, 6, 9, 7).to(dtype)
    return x.to(memory_format=LAYOUTS[layout]), weights.to(memory_format=LAYOUTS[layout])


# fp32: a few roundings of 2^-24 in sums of 63 numbers. bf16: one rounding of 2^-9 of each result, twice that allowed.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
def test_instance_norm_matches_float64(batch, layout, dtype, tolerance):
    x, weights = normed_input(batch, layout, dtype)
    exact_value, exact_gradient = value_and_gradient(by_definition, x.double(), weights.double())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        value, gradient = value_and_gradient(InstanceNorm(6), x, weights)
    assert value.dtype == gradient.dtype == dtype
    assert relative_error(value, exact_value) < tolerance
    assert relative_error(gradient, exact_gradient) < tolerance
    assert value.is_contiguous(memory_format=LAYOUTS[layout])


# A mean of 300 deviations: a sum of 1551 such values in fp32 is off by about 1e-6 of 300 deviations.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2**-8), (torch.float64, 1e-10)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_instance_norm_without_gradients_matches_float64(offset, batch, layout, dtype, tolerance):
    x = (torch.randn(batch, 6, 33, 47) + offset).to(dtype).to(memory_format=LAYOUTS[layout])
    value = InstanceNorm(6)(x)
    assert value.dtype == dtype
    assert value.is_contiguous(memory_format=LAYOUTS[layout])
    assert relative_error(value, by_definition(x.double())) < tolerance


def test_this_input_breaks_group_norm_in_channels_last():
    """Why InstanceNorm on the CPU is no group norm: an input of the test above."""
    x = (torch.randn(1, 6, 33, 47) + 300.0).to(memory_format=torch.channels_last)
    error = relative_error(F.group_norm(x, 6, eps=1e-5), by_definition(x.double()))
    if error < 1e-2:
        pytest.skip("this release of torch does not cancel")
    assert error > 1e-2


def test_this_input_breaks_torch_instance_norm():
    """Why InstanceNorm is not torch's own: an input on which `F.instance_norm` is wrong."""
    x, weights = normed_input(1, "channels_last", torch.float32)
    exact_value, exact_gradient = value_and_gradient(by_definition, x.double(), weights.double())
    value, gradient = value_and_gradient(F.instance_norm, x, weights)
    assert relative_error(value, exact_value) < 2e-6
    if relative_error(gradient, exact_gradient) < 1e-3:
        pytest.skip("this release of torch has the gradient right")
    assert relative_error(gradient, exact_gradient) > 0.5


def test_instance_norm_second_derivative():
    """The gradient penalty differentiates a gradient; the norm must allow that."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(InstanceNorm(3), (x,))


def test_instance_norm_has_no_state():
    assert InstanceNorm(4).state_dict() == {}
    assert list(InstanceNorm(4).parameters()) == []


def test_padding_by_hand():
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    assert Pad("reflect", 1)(x)[0, 0, 0].tolist() == [5, 4, 5, 6, 5]
    assert Pad("replicate", 1)(x)[0, 0, 0].tolist() == [1, 1, 2, 3, 3]
    assert Pad("zero", 1)(x)[0, 0, 0].tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("padding", ["reflect", "zero", "replicate"])
def test_padding_and_resizing_keep_half_precision(padding):
    x = torch.randn(1, 2, 4, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert Pad(padding, 1)(x).dtype == torch.bfloat16
        assert ResizeConv(2, 3, padding=padding, bias=True)(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("function", "module"),
    [("batch_norm", InstanceNorm(2)), ("interpolate", ResizeConv(2, 2, padding="zero", bias=True))],
)
def test_autocast_is_off_where_gpus_would_widen(monkeypatch, function, module):
    """Autocast leaves these alone on the CPU, so what is looked at is whether it is on when they are called."""
    original, seen = getattr(F, function), []

    def recorded(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(*args, **kwargs)

    monkeypatch.setattr(F, function, recorded)
    with torch.autocast("cpu", torch.bfloat16):
        module(torch.randn(1, 2, 4, 4, requires_grad=True))
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False]


def blurred_by_definition(x: Tensor) -> Tensor:
    """Mean of a pixel and its neighbours with weights 1 2 1, down and across, beyond the border those within."""
    x = torch.cat([x[..., 1:2, :], x, x[..., -2:-1, :]], 2)
    x = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
    x = torch.cat([x[..., 1:2], x, x[..., -2:-1]], 3)
    return ((x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4)[..., ::2, ::2]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 2), (5, 4), (8, 7), (9, 12)])
def test_blurred_halving_by_definition(size, layout):
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=LAYOUTS[layout])
    pool = BlurPool().double()
    y = pool(x)
    assert y.shape == (2, 3, -(-size[0] // 2), -(-size[1] // 2))
    assert y.is_contiguous(memory_format=LAYOUTS[layout])
    torch.testing.assert_close(y, blurred_by_definition(x), rtol=0, atol=1e-14)
    half = pool(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), blurred_by_definition(x.bfloat16().double()), rtol=2**-8, atol=2**-8)


def test_blurred_halving_keeps_nothing_of_a_grid_and_half_precision_under_autocast():
    grid = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    assert grid[..., ::2, ::2].eq(1).all()  # what a plain halving makes of it
    with torch.autocast("cpu", torch.bfloat16):
        assert BlurPool()(grid.bfloat16()).dtype == torch.bfloat16
        assert BlurPool()(grid).dtype == torch.float32
    assert BlurPool()(grid).eq(0).all()


def test_blurred_halving_has_no_state_and_never_lies_on_the_meta_device():
    """No file would fill it there (`inference.fit.empty_generator`)."""
    assert BlurPool().state_dict() == {}
    assert list(BlurPool().parameters()) == []
    with torch.device("meta"):
        pool = BlurPool()
    assert pool.filter.flatten().mul(16).tolist() == [1, 2, 1, 2, 4, 2, 1, 2, 1]


def test_blurred_halving_second_derivative():
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(BlurPool().double(), (x,))


def test_resizing_is_the_antialiased_doubling_of_cut():
    """CUT (models/networks.py, Upsample): pad by replication, a transposed convolution, and cut what is too much."""
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    weight = torch.outer(row, row)
    weight = (weight / weight.sum() * 4).expand(3, 1, 4, 4)
    doubled = F.conv_transpose2d(F.pad(x, [1] * 4, mode="replicate"), weight, stride=2, padding=2, groups=3)
    doubled = doubled[..., 1:, 1:][..., :-1, :-1]
    torch.manual_seed(0)
    up = ResizeConv(3, 4, padding="reflect", bias=True).double()
    torch.testing.assert_close(up(x), up.conv(F.pad(doubled, [1] * 4, mode="reflect")), rtol=0, atol=1e-13)


def test_batch_statistics_by_hand():
    """Two images, apart by 2 in one of two channels, by 4 in half the places of the other: deviations 1 and 2 / 2."""
    x = torch.zeros(2, 2, 3, 4, dtype=torch.float64)
    x[1, 0] = 2
    x[1, 1, :, :2] = 4
    y = BatchStatistics()(x)
    assert y.shape == (2, 3, 3, 4)
    assert y[:, :2].equal(x)
    assert y[:, 2].unique().numel() == 1
    assert float(y[0, 2, 0, 0]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_statistics_against_the_definition(layout):
    x = torch.randn(5, 4, 3, 2, dtype=torch.float64).to(memory_format=LAYOUTS[layout]).requires_grad_(True)
    y = BatchStatistics()(x)
    variance = ((x - x.mean(0)) ** 2).mean(0)
    expected = (variance + 1e-8).sqrt().mean()
    torch.testing.assert_close(y[:, 4], expected.expand(5, 3, 2), rtol=0, atol=1e-12)
    assert y.is_contiguous(memory_format=LAYOUTS[layout])
    assert torch.autograd.gradgradcheck(BatchStatistics(), (x,))


def test_batch_statistics_of_one_image_are_about_zero():
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    y = BatchStatistics()(x)
    assert y[:, 3].abs().max() < 2e-4
    y.sum().backward()
    assert x.grad.equal(torch.ones_like(x))


def test_batch_statistics_are_computed_in_fp32():
    """Rounded to bf16 once: of images 0, 0, d the deviation is d sqrt(2) / 3. Variances in bf16 would miss some."""
    for step in range(128):
        d = 1 + step / 128
        x = torch.tensor([0.0, 0.0, d]).view(3, 1, 1, 1).expand(3, 2, 2, 2).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            y = BatchStatistics()(x)
        expected = torch.tensor((2 * d * d / 9 + 1e-8) ** 0.5, dtype=torch.float64).bfloat16()
        assert y.dtype == torch.bfloat16
        assert y[:, 2].eq(expected).all(), d


def test_which_networks_mix_images():
    assert mixes_images(nn.Sequential(nn.BatchNorm2d(2)))
    assert mixes_images(nn.Sequential(nn.Sequential(BatchStatistics())))
    assert not mixes_images(nn.Sequential(InstanceNorm(2), nn.Conv2d(2, 2, 1), BlurPool()))


def test_resize_is_bilinear():
    """Half-pixel centres: between 0 and 4 lie 1 and 3. The convolution here passes its centre on."""
    up = ResizeConv(1, 1, padding="zero", bias=False)
    nn.init.zeros_(up.conv.weight)
    up.conv.weight.data[0, 0, 1, 1] = 1
    assert up(torch.tensor([[[[0.0, 4.0]]]]))[0, 0].tolist() == [[0, 1, 3, 4], [0, 1, 3, 4]]


@pytest.mark.parametrize("kernel_size", [3, 4])
@pytest.mark.parametrize("name", ["transpose", "resize", "subpixel"])
def test_upsampling_doubles(name, kernel_size):
    up = make_upsample(name, 4, 2, kernel_size=kernel_size, padding="reflect", bias=True)
    assert up(torch.randn(2, 4, 5, 3)).shape == (2, 2, 10, 6)


def checkerboard(name: str, padding: str) -> float:
    """Spread, inside the image, of what one upsampling makes of a constant; zero: no grid."""
    torch.manual_seed(0)
    up = make_upsample(name, 4, 2, kernel_size=3, padding=padding, bias=True)
    y = up(torch.ones(1, 4, 8, 8)).detach()[..., 2:-2, 2:-2]
    return float(y.std(dim=(2, 3)).max())


@pytest.mark.parametrize("padding", ["reflect", "zero", "replicate"])
def test_resize_of_a_constant_is_constant_inside(padding):
    assert checkerboard("resize", padding) < 1e-6
    assert checkerboard("transpose", padding) > 1e-2  # what resize is there to avoid


@pytest.mark.parametrize("init", ["normal", "xavier", "kaiming", "orthogonal"])
def test_subpixel_starts_without_checkerboard(init):
    up = SubpixelConv(4, 3, padding="reflect", bias=True)
    initialize(up, init, 0.02)
    y = up(torch.randn(2, 4, 5, 6)).detach()
    nearest = F.interpolate(y[..., ::2, ::2], scale_factor=2, mode="nearest")
    assert y.abs().max() > 0
    torch.testing.assert_close(y, nearest, rtol=0, atol=0)
    assert len(up.conv.weight[::4].flatten(1).unique(dim=0)) == 3  # while output channels differ


def test_spectral_norm_has_largest_singular_value_one():
    torch.manual_seed(0)
    net = nn.Sequential(Conv2d(3, 8, 4), nn.LeakyReLU(0.2), Conv2d(8, 6, 3))
    apply_spectral_norm(net)
    for _ in range(40):
        net(torch.randn(1, 3, 8, 8))  # one round of power iteration each
    for conv in (net[0], net[2]):
        largest = torch.linalg.svd(conv.weight.detach().flatten(1)).S[0]
        assert float(largest) == pytest.approx(1.0, abs=1e-4)
        unnormalised = torch.linalg.svd(conv.parametrizations.weight.original.detach().flatten(1)).S[0]
        assert abs(float(unnormalised) - 1) > 0.1


def test_spectral_norm_round_trips():
    torch.manual_seed(0)
    net = nn.Sequential(Conv2d(3, 8, 4))
    apply_spectral_norm(net)
    x = torch.randn(1, 3, 8, 8)
    for _ in range(3):
        net(x)
    twin = nn.Sequential(Conv2d(3, 8, 4))
    apply_spectral_norm(twin)
    twin.load_state_dict(net.state_dict())
    copied = copy.deepcopy(net)
    for _ in range(2):  # the second pass shows that the power iteration goes on from the same vectors
        expected = net(x)
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
        torch.testing.assert_close(copied(x), expected, rtol=0, atol=0)


class Product(nn.Module):
    """A parametrization whose arithmetic autocast narrows on the CPU, as it does spectral norm's on a GPU."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight.flatten(1) @ torch.eye(weight[0].numel())).view_as(weight)


def test_parametrized_weights_are_computed_in_fp32_under_autocast():
    torch.manual_seed(0)
    conv, plain = Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    for module in (conv, plain):
        parametrize.register_parametrization(module, "weight", Product())
    seen: list[torch.dtype] = []
    for module in (conv, plain):
        module.parametrizations.weight.register_forward_hook(lambda _, __, weight: seen.append(weight.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            assert module(torch.randn(1, 3, 5, 5)).dtype == torch.bfloat16  # the convolution follows autocast
    assert seen == [torch.float32, torch.bfloat16]  # ours, and the trouble that ours avoids


def test_spectral_norm_trains_under_autocast():
    torch.manual_seed(0)
    # Tanh, since rounding would carry some values across the kink of a LeakyReLU.
    net = nn.Sequential(Conv2d(3, 8, 4), nn.Tanh(), Conv2d(8, 1, 3))
    apply_spectral_norm(net)
    x = torch.randn(2, 3, 8, 8)

    def loss_and_gradient(enabled: bool) -> tuple[float, Tensor]:
        twin = copy.deepcopy(net)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = twin(x).float().square().mean() + twin(-x).float().square().mean()  # two passes, one backward
        loss.backward()
        return loss.item(), twin[0].parametrizations.weight.original.grad

    (loss, gradient), (exact_loss, exact_gradient) = loss_and_gradient(True), loss_and_gradient(False)
    assert gradient.dtype == torch.float32
    assert loss == pytest.approx(exact_loss, rel=2**-6)
    assert relative_error(gradient, exact_gradient.double()) < 2**-5


def test_memory_formats():
    cpu, cuda, mps = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
    last, first = torch.channels_last, torch.contiguous_format
    assert [memory_format(device) for device in (cpu, cuda, mps)] == [last, last, first]
