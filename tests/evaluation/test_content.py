"""Content scores: by hand, and against plain float64 numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclestyle.errors import DataError
from cyclestyle.evaluation.content import (
    change,
    convolve,
    diversity,
    edge_correlation,
    luminance,
    luminance_correlation,
    psnr,
    ssim,
)


def pictures(num: int, size: tuple[int, int] = (24, 31), *, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth blobs with some grain, in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    blobs = torch.rand(num, channels, 4, 4, generator=random) * 1.6 - 0.8
    grain = torch.rand(num, channels, *size, generator=random) * 0.4 - 0.2
    return torch.nn.functional.interpolate(blobs, size, mode="bilinear") + grain


def test_luminance_by_hand() -> None:
    red, green, blue = (torch.tensor(v)[None, :, None, None] for v in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1]))
    for primary, weight in ((red, 0.299), (green, 0.587), (blue, 0.114)):
        assert luminance(primary).item() == pytest.approx(2 * weight - 1, abs=1e-6)
    assert luminance(torch.full((2, 3, 4, 5), 0.3)).shape == (2, 1, 4, 5)
    assert torch.allclose(luminance(torch.full((2, 3, 4, 5), 0.3)), torch.tensor(0.3))
    for channels in (1, 2, 4):
        images = pictures(2, channels=channels)
        assert torch.allclose(luminance(images), images.mean(dim=1, keepdim=True))


def test_luminance_correlation_is_pearsons() -> None:
    x, y = pictures(4, seed=1), pictures(4, seed=2)
    ours = luminance_correlation(x, y)
    for index in range(4):
        plain = np.corrcoef(luminance(x)[index].flatten().numpy(), luminance(y)[index].flatten().numpy())[0, 1]
        assert ours[index].item() == pytest.approx(plain, abs=1e-5)
    assert torch.allclose(luminance_correlation(x, 0.3 * x - 0.4), torch.ones(4), atol=1e-5)
    assert torch.allclose(luminance_correlation(x, -x), -torch.ones(4), atol=1e-5)
    # A colour that keeps luminance changes nothing: grey against coloured.
    assert torch.allclose(luminance_correlation(x, luminance(x)), torch.ones(4), atol=1e-5)


@pytest.mark.parametrize("correlation", [luminance_correlation, edge_correlation])
@pytest.mark.parametrize("level", [-1.0, 0.3, 0.7, 1.0])
def test_flat_pictures_correlate_with_nothing(correlation: object, level: float) -> None:
    assert callable(correlation)
    # Big enough that sums of rounding errors would show.
    x, flat = pictures(2, (128, 128)), torch.full((2, 3, 128, 128), level)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for first, second in ((x, flat), (flat, x), (flat, flat)):
            assert torch.equal(correlation(first.to(dtype), second.to(dtype)).float(), torch.zeros(2))
    # One pixel by one 8-bit step is no flat picture.
    speck = flat.clone()
    speck[:, :, 40, 50] -= math.copysign(2 / 255, level)
    assert torch.allclose(correlation(speck, speck), torch.ones(2), atol=1e-3)


def test_edges_are_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy's filters are the reference")
    x, y = pictures(3, seed=3), pictures(3, seed=4)
    taps = np.array([1, 4, 6, 4, 1]) / 16

    def strength(image: Tensor) -> np.ndarray:
        grey = np.tensordot([0.299, 0.587, 0.114], image.double().numpy(), 1)
        blurred = ndimage.convolve(grey, np.outer(taps, taps))
        lengths = np.hypot(ndimage.sobel(blurred, axis=0), ndimage.sobel(blurred, axis=1))
        return lengths[3:-3, 3:-3].ravel()  # windows wholly inside

    ours = edge_correlation(x, y)
    for index in range(3):
        assert ours[index].item() == pytest.approx(np.corrcoef(strength(x[index]), strength(y[index]))[0, 1], abs=1e-5)
    assert torch.allclose(edge_correlation(x, x), torch.ones(3), atol=1e-5)
    assert torch.allclose(edge_correlation(x, 0.2 - 0.5 * x), torch.ones(3), atol=1e-5)  # a negative has the same edges
    assert torch.equal(edge_correlation(x, y), edge_correlation(y, x))


def test_a_step_and_its_shift_share_no_edge() -> None:
    step, moved = torch.full((1, 1, 40, 40), -0.5), torch.full((1, 1, 40, 40), -0.5)
    step[..., 12:], moved[..., 28:] = 0.5, 0.5
    assert edge_correlation(step, moved).item() < 0
    across = step.mT  # edges along the other axis cross in one spot
    assert abs(edge_correlation(step, across).item()) < 0.1


def plain_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Wang et al. 2004 window by window, weighted moments about the window's own mean; x and y start at 0 for black."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(window, window) / window.sum() ** 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            p, q = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            var_p, var_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
            cov = (weights * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + c1) * (2 * cov + c2) / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
            )
    return float(np.mean(values))


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_equals_the_paper_on_8_bit_values(channels: int) -> None:
    x = pictures(3, channels=channels, seed=5)
    y = 0.7 * x + 0.3 * pictures(3, channels=channels, seed=6)
    ours = ssim(x, y)
    for index in range(3):
        # The reference works on 0..255, as the paper does.
        grey_x, grey_y = ((luminance(v)[index, 0].double().numpy() + 1) * 127.5 for v in (x, y))
        assert ours[index].item() == pytest.approx(plain_ssim(grey_x, grey_y, 255.0), abs=1e-5)


def test_ssim_closed_forms() -> None:
    x = pictures(3, seed=7)
    assert torch.allclose(ssim(x, x), torch.ones(3), atol=1e-6)
    assert torch.equal(ssim(x, -x), ssim(-x, x))
    assert ssim(x, -x).max() < 0.5
    # Flat pictures: only the first factor is left, (2 a b + C1) / (a^2 + b^2 + C1) from black = 0.
    a, b, c1 = 0.5, 1.5, 0.02**2
    flat_a, flat_b = torch.full((1, 3, 12, 12), a - 1), torch.full((1, 3, 12, 12), b - 1)
    assert ssim(flat_a, flat_b).item() == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1), abs=1e-5)
    black, white = torch.full((1, 3, 11, 11), -1.0), torch.ones(1, 3, 11, 11)
    assert ssim(black, white).item() == pytest.approx(c1 / (4 + c1), abs=1e-6)


def test_change_by_hand() -> None:
    black, white = torch.full((2, 3, 4, 4), -1.0), torch.ones(2, 3, 4, 4)
    assert torch.equal(change(black, white), torch.ones(2))
    assert torch.equal(change(black, black), torch.zeros(2))
    half = black.clone()
    half[1, :, :2] = 0.0  # half of the second picture by half of the range
    assert torch.equal(change(black, half), torch.tensor([0.0, 0.25]))
    assert torch.equal(change(black[:, :1], half), change(half, black[:, :1]))


def test_psnr_by_hand() -> None:
    black = torch.full((3, 3, 4, 4), -1.0)
    other = torch.stack([black[0], black[0] + 0.2, -black[0]])
    # Equal; a tenth of the range: 10 log10(1 / 0.01); the whole range.
    assert psnr(black, other).tolist() == pytest.approx([math.inf, 20.0, 0.0], abs=1e-4)
    one_pixel = black.clone()
    one_pixel[:, 0, 0, 0] += 2 / 255  # of 48 values
    assert psnr(black, one_pixel)[0].item() == pytest.approx(10 * math.log10(255**2 * 48), abs=1e-2)


def test_diversity() -> None:
    x = pictures(6, (32, 48), seed=8)
    assert diversity(x, x) == pytest.approx(1.0)
    assert diversity(x, x.flip(0)) == pytest.approx(1.0)
    assert diversity(x, -0.5 * x + 0.3) == pytest.approx(0.25, rel=1e-5)
    assert diversity(x, x[:1].expand(6, -1, -1, -1)) == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(diversity(x[:1].expand(6, -1, -1, -1), x))
    # Two flat pictures of each: variances (a - b)^2 / 2.
    sources, outputs = (torch.tensor(v)[:, None, None, None].expand(-1, 3, 20, 20) for v in ([0.0, 0.5], [0.1, 0.2]))
    assert diversity(sources, outputs) == pytest.approx(0.1**2 / 0.5**2, rel=1e-5)
    # Fine strokes vanish in thumbnails.
    checks = torch.ones(32, 48)
    checks[::2, ::2], checks[1::2, 1::2] = -1, -1
    strokes = x + 0.3 * checks * torch.tensor([1, -1, 1, -1, 1, -1])[:, None, None, None]
    assert diversity(x, strokes) == pytest.approx(1.0, rel=1e-4)


def test_convolve_is_the_plain_filter() -> None:
    images, taps = pictures(2), [0.5, 0.0, -0.25, 2.0]
    for stride in (1, 2, 3):
        kernel = torch.outer(torch.tensor(taps), torch.tensor(taps))[None, None].expand(3, 1, 4, 4)
        expected = torch.nn.functional.conv2d(images, kernel, stride=stride, groups=3)
        ours = convolve(images, taps, stride=stride)
        assert ours.shape == expected.shape
        assert torch.allclose(ours, expected, atol=1e-5)


SCORES = (luminance_correlation, edge_correlation, ssim, change, psnr)


@pytest.mark.parametrize("score", SCORES)
def test_each_picture_for_itself_in_any_dtype_and_layout(score: object) -> None:
    assert callable(score)
    x, y = pictures(4, seed=9).bfloat16(), pictures(4, seed=10).bfloat16()
    exact = score(x.double(), y.double())
    assert exact.dtype == torch.float64
    assert exact.shape == (4,)
    for dtype in (torch.bfloat16, torch.float32):
        ours = score(x.to(dtype).requires_grad_(), y.to(dtype))
        assert ours.dtype == torch.float32
        assert not ours.requires_grad
        assert torch.allclose(ours.double(), exact, atol=1e-5)
    assert torch.allclose(score(x.to(memory_format=torch.channels_last), y).double(), exact, atol=1e-5)
    assert torch.allclose(score(x[2:3], y[2:3]).double(), exact[2:3], atol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_values_that_are_not_finite_show(score: object) -> None:
    assert callable(score)
    x, broken = pictures(3), pictures(3, seed=1)
    broken[1, 0, 12, 12] = math.nan
    assert score(x, broken).isnan().tolist() == [False, True, False]
    assert math.isnan(diversity(x, broken))


def test_errors() -> None:
    x = pictures(2)
    with pytest.raises(DataError, match=r"SSIM of pictures of 31 x 10 px .* at least 11 px"):
        ssim(x[:, :, :10], x[:, :, :10])
    with pytest.raises(DataError, match=r"edges of pictures of 31 x 7 px .* at least 8 px"):
        edge_correlation(x[:, :, :7], x[:, :, :7])
    with pytest.raises(DataError, match="at least 2 pictures, got 1"):
        diversity(x, x[:1])
    for score in SCORES:
        with pytest.raises(AssertionError, match="unequal shapes"):
            score(x, x[:, :, 1:])
        with pytest.raises(AssertionError, match="unequal shapes"):
            score(x, x[:1])
    with pytest.raises(AssertionError, match="channels"):
        change(x, x[:, :2])
