"""One layer on bands: rows of neighbours, borders, and the statistics of the whole picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.inference.windows import (
    Canvas,
    Normalization,
    Window,
    blur,
    convolve,
    halos_of_upsample,
    rectify,
    upsample,
    with_halos,
)
from cyclestyle.networks.layers import BlurPool, InstanceNorm, make_upsample

CPU = torch.device("cpu")


def chunks(x: Tensor, *sizes: int) -> list[Tensor]:
    return [each.contiguous(memory_format=torch.channels_last) for each in x.split(list(sizes), dim=2)]


def test_with_halos_by_hand() -> None:
    rows = torch.arange(9.0).view(1, 1, 9, 1)
    windows = list(with_halos(chunks(rows, 4, 4, 1), 2, 3))
    seen = [[None if part is None else part.flatten().tolist() for part in window] for window in windows]
    assert seen == [
        [None, [0, 1, 2, 3], [4, 5, 6]],
        [[2, 3], [4, 5, 6, 7], [8]],
        [[6, 7], [8], None],
    ]


def test_with_halos_does_not_see_chunks_change_afterwards() -> None:
    """A map is replaced in place behind the window."""
    seen = []
    for window in with_halos(chunks(torch.arange(6.0).view(1, 1, 6, 1), 2, 2, 2), 1, 1):
        seen.append(window.joined().flatten().tolist())
        if window.above is not None:
            window.above.zero_()
    assert seen == [[0, 1, 2], [1, 2, 3, 4], [3, 4, 5]]


@pytest.mark.parametrize("mode", ["reflect", "constant", "replicate"])
@pytest.mark.parametrize("width", [1, 3])
def test_padding_of_a_whole_picture_is_that_of_torch(mode: str, width: int) -> None:
    x = torch.randn(1, 5, 7, 6)
    expected = F.pad(x, [width] * 4, mode=mode)
    canvas = Canvas(CPU)
    canvas.pad(Window(None, torch.full((1, 5, 9, 9), torch.nan), None), width, mode, torch.float64)  # leaves dirt
    assert torch.equal(canvas.pad(Window(None, x, None), width, mode, torch.float32), expected)


@pytest.mark.parametrize("mode", ["reflect", "constant", "replicate"])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "sizes"), [(3, 1, (4, 2, 1)), (7, 1, (8, 4)), (3, 2, (4, 4, 2)), (4, 2, (2, 4, 2))]
)
def test_convolutions(kernel_size: int, stride: int, sizes: tuple[int, ...], mode: Any) -> None:
    x = torch.randn(1, 3, sum(sizes), 8, dtype=torch.float64)
    conv = nn.Conv2d(3, 4, kernel_size, stride).double()
    # A strided one of even height never reaches the padding below.
    padding = (kernel_size - 1) // 2
    below = 0 if (kernel_size, stride) == (3, 2) else padding
    expected = conv(F.pad(x, [padding] * 4, mode=mode))
    canvas = Canvas(CPU)
    bands = [convolve(window, conv, padding, mode, canvas) for window in with_halos(chunks(x, *sizes), padding, below)]
    assert [band.shape[2] for band in bands] == [size // stride for size in sizes]
    assert (torch.cat(bands, dim=2) - expected).abs().max() < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(2,), (2, 2), (4, 2, 6), (8, 2)])
def test_blurred_halving(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    """Of a picture's border as of its inside; in any dtype, while the filter stays as it is."""
    layer, canvas = BlurPool(), Canvas(CPU)
    x = torch.randn(1, 3, sum(sizes), 6, dtype=torch.float64).to(dtype)
    bands = [blur(window, layer, canvas) for window in with_halos(chunks(x, *sizes), 1, 0)]
    assert [band.shape[2] for band in bands] == [size // 2 for size in sizes]
    torch.testing.assert_close(torch.cat(bands, dim=2), layer(x))


@pytest.mark.parametrize("padding", ["reflect", "zero", "replicate"])
@pytest.mark.parametrize("kernel_size", [3, 4])
@pytest.mark.parametrize("name", ["transpose", "resize", "subpixel"])
def test_upsampling(name: Any, kernel_size: Any, padding: Any) -> None:
    layer = make_upsample(name, 6, 4, kernel_size=kernel_size, padding=padding, bias=True).double()
    sizes = (3, 1, 4, 1)
    x = torch.randn(1, 6, sum(sizes), 5, dtype=torch.float64)
    canvas = Canvas(CPU)
    bands = [upsample(window, layer, canvas) for window in with_halos(chunks(x, *sizes), *halos_of_upsample(layer))]
    assert [band.shape[2] for band in bands] == [2 * size for size in sizes]
    assert (torch.cat(bands, dim=2) - layer(x)).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6), (torch.bfloat16, 2**-8)]
)
@pytest.mark.parametrize("channels", [1, 3, 64])
def test_instance_norm_sees_the_whole_picture(channels: int, dtype: torch.dtype, tolerance: float) -> None:
    """Against float64 arithmetic on the same values, relative to the larger of 1 and the value."""
    x = (torch.randn(1, channels, 60, 37, dtype=torch.float64) * 2 + torch.linspace(-30, 10, 60)[:, None]).to(dtype)
    wide = x.double()
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
    expected = ((wide - mean) / (variance + 1e-5).sqrt()).relu()
    norm = Normalization(InstanceNorm(channels))
    parts = chunks(x.clone(), 16, 40, 4)
    for part in parts:
        assert norm.gather(part) is part
    found = torch.cat([norm.apply(part, relu=True) for part in parts], dim=2)
    assert found.dtype == dtype
    assert ((found.double() - expected).abs() / expected.clamp(min=1)).max() < tolerance


def test_statistics_of_a_mean_far_from_zero() -> None:
    """Mean 1000, deviation 1, over many bands: sums of squares in fp32 would leave nothing."""
    x = 1000 + torch.randn(1, 2, 512, 64)
    norm = Normalization(InstanceNorm(2))
    parts = chunks(x.clone(), *[8] * 64)
    for part in parts:
        norm.gather(part)
    found = torch.cat([norm.apply(part) for part in parts], dim=2).double()
    assert found.mean(dim=(2, 3)).abs().max() < 1e-3
    assert (found.std(dim=(2, 3)) - 1).abs().max() < 1e-4


def test_statistics_of_one_large_band() -> None:
    """Sums over all its 262144 pixels in fp32 would be wrong by 1e-4."""
    x = torch.randn(1, 4, 512, 512).add_(30).contiguous(memory_format=torch.channels_last)
    variance, mean = torch.var_mean(x.double(), dim=(2, 3), correction=0, keepdim=True)
    expected = (x.double() - mean) / (variance + 1e-5).sqrt()
    norm = Normalization(InstanceNorm(4))
    found = norm.apply(norm.gather(x))
    assert (found - expected).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [nn.BatchNorm2d, lambda n: nn.BatchNorm2d(n, affine=False)])
def test_batch_norm_is_the_layer_itself(make: Callable[[int], nn.BatchNorm2d], dtype: torch.dtype) -> None:
    layer = make(5).eval()
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 5, 6, 7).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = layer(x)
        assert torch.equal(Normalization(layer).apply(x.clone()), expected)


def test_nothing_is_done_where_there_is_no_norm() -> None:
    x = torch.randn(1, 5, 6, 7)
    norm = Normalization(nn.Identity())
    assert not norm.needs_statistics
    assert torch.equal(norm.apply(norm.gather(x.clone())), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rectify(dtype: torch.dtype) -> None:
    special = torch.tensor([-0.0, 0.0, torch.inf, -torch.inf, 1e-40, -1e-40])
    x = torch.cat([special, torch.randn(1000)]).to(dtype)
    assert torch.equal(rectify(x.clone()), x.relu())


def test_unknown_layers_are_refused() -> None:
    x = Window(None, torch.randn(1, 2, 4, 4), None)
    with pytest.raises(AssertionError, match="no rule for Upsample"):
        upsample(x, nn.Upsample(scale_factor=2), Canvas(CPU))
    with pytest.raises(AssertionError, match="no rule for LayerNorm"):
        Normalization(nn.LayerNorm(2))
