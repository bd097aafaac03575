"""Owns what tells how much of a source its translation keeps, how far it went, and whether translations still differ.

All functions take N x C x H x W pictures in [-1, 1], of any floating dtype, and compute on their device in float32, or
in float64 where that was given. Sources and outputs are of the same height and width; channels may differ where only
luminance counts. Pictures with values that are not finite get nan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cyclestyle.errors import DataError

_BT601 = (0.299, 0.587, 0.114)
_FLAT = 1e-5  # a standard deviation below this is rounding; one 8-bit step in one of 256 x 256 pixels gives 3e-5
_SMALL_BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_SSIM_WINDOW = tuple(math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11))
_SSIM_C1 = (0.01 * 2.0) ** 2
_SSIM_C2 = (0.03 * 2.0) ** 2
_THUMBNAIL = 16


def luminance(images: Tensor) -> Tensor:
    """Luminance in [-1, 1], N x 1 x H x W: BT.601 of three channels, else the mean of the channels."""
    assert images.ndim == 4, f"expected N x C x H x W, got shape {tuple(images.shape)}"
    images = _working(images)
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return _BT601[0] * red + _BT601[1] * green + _BT601[2] * blue


def luminance_correlation(sources: Tensor, outputs: Tensor) -> Tensor:
    """Pearson correlation of the luminance of each source and its output, N values in [-1, 1].

    1: light and dark lie where they lay; -1: inverted like a negative; 0 also where either picture is of one luminance.
    """
    _same_size(sources, outputs)
    return _pearson(luminance(sources), luminance(outputs))


def edge_correlation(sources: Tensor, outputs: Tensor) -> Tensor:
    """Pearson correlation of the strength of edges of each source and its output, N values in [-1, 1].

    Strength is the length of the Sobel gradient of luminance blurred by a 5 x 5 binomial filter (standard deviation
    1 px), in windows that lie wholly in the picture; an inverted picture has the same edges. 0 also where either is
    without edges.

    Raises:
        DataError: pictures below 8 px on the shorter side.
    """
    _same_size(sources, outputs)
    _need_size(sources, 8, "edges")
    return _pearson(_edges(luminance(sources)), _edges(luminance(outputs)))


def ssim(sources: Tensor, outputs: Tensor) -> Tensor:
    """Structural similarity of luminance, N values in [-1, 1], 1 for equal pictures.

    Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", eq. 13, with its
    gaussian 11 x 11 window of standard deviation 1.5 px, K1 0.01 and K2 0.03, averaged over the windows that lie wholly
    in the picture. Luminance is moved to 0..2 first (data range 2): the formula is meant for values that start at 0 for
    black.

    Raises:
        DataError: pictures below 11 px on the shorter side.
    """
    _same_size(sources, outputs)
    _need_size(sources, len(_SSIM_WINDOW), "SSIM")
    x, y = luminance(sources) + 1.0, luminance(outputs) + 1.0
    dtype = torch.promote_types(x.dtype, y.dtype)
    if x.device.type != "mps":  # which knows no float64; in float32, variances of flat places are good to 1e-4 of C2
        x, y = x.double(), y.double()
    window = [tap / sum(_SSIM_WINDOW) for tap in _SSIM_WINDOW]
    mean_x, mean_y = convolve(x, window), convolve(y, window)
    var_x = convolve(x * x, window) - mean_x * mean_x
    var_y = convolve(y * y, window) - mean_y * mean_y
    cov = convolve(x * y, window) - mean_x * mean_y
    light = (2.0 * mean_x * mean_y + _SSIM_C1) / (mean_x * mean_x + mean_y * mean_y + _SSIM_C1)
    structure = (2.0 * cov + _SSIM_C2) / (var_x + var_y + _SSIM_C2)
    return (light * structure).flatten(1).mean(dim=1).to(dtype)


def change(sources: Tensor, outputs: Tensor) -> Tensor:
    """Mean absolute difference in units of the full range, N values in 0..1: 0 for a generator that does nothing.

    Grey pictures may be compared with coloured ones: their channel stands for each.
    """
    return _difference(sources, outputs).abs().flatten(1).mean(dim=1) / 2.0


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over all channels, N values in dB: 10 log10(2^2 / mean squared error).

    Infinite where the pictures are equal, which plain JSON cannot write.
    """
    return 10.0 * torch.log10(4.0 / _difference(x, y).square().flatten(1).mean(dim=1))


def diversity(sources: Tensor, outputs: Tensor) -> float:
    """How much outputs vary among each other against how much their sources do.

    The variance across pictures of each pixel of 16 x 16 thumbnails (area means), averaged over pixels and channels;
    that of the outputs divided by that of the sources. Coarse colours count, strokes do not.

    Returns:
        1: as varied as the sources; 0: all outputs are the same (mode collapse); above 1: more varied; nan where the
        sources are all the same, so that nothing can be said.

    Raises:
        DataError: fewer than 2 pictures.
    """
    if min(len(sources), len(outputs)) < 2:
        raise DataError(f"diversity needs at least 2 pictures, got {min(len(sources), len(outputs))}")
    variation = _variation(sources)
    return math.nan if variation < _FLAT**2 else _variation(outputs) / variation


def convolve(images: Tensor, taps: Sequence[float], *, stride: int = 1) -> Tensor:
    """The separable filter of K taps along rows and columns, in windows that lie wholly in the picture.

    Sums of slices instead of a convolution: the same bits on any number of threads, and no reduced precision on GPUs.

    Args:
        images: N x C x H x W.
        taps: K weights, the same along both axes.
        stride: step between windows, pixels.

    Returns:
        N x C x ((H - K) // stride + 1) x ((W - K) // stride + 1).
    """
    return _along(_along(images, taps, 2, stride), taps, 3, stride)


def _along(images: Tensor, taps: Sequence[float], axis: int, stride: int = 1) -> Tensor:
    """The filter along one axis."""
    last = images.shape[axis] - len(taps) + 1
    views = [images.narrow(axis, start, last) for start in range(len(taps))]
    if stride > 1:
        views = [view[:, :, ::stride] if axis == 2 else view[..., ::stride] for view in views]
    total = views[0] * taps[0]
    for view, tap in zip(views[1:], taps[1:], strict=True):
        if tap != 0.0:
            total.add_(view, alpha=tap)
    return total


def _edges(grey: Tensor) -> Tensor:
    """Length of the Sobel gradient of blurred luminance: N x 1 x H x W -> N x 1 x (H - 6) x (W - 6)."""
    blurred = convolve(grey, _SMALL_BLUR)
    across, smooth = (-0.5, 0.0, 0.5), (0.25, 0.5, 0.25)
    horizontal = _along(_along(blurred, across, 3), smooth, 2)
    vertical = _along(_along(blurred, across, 2), smooth, 3)
    return torch.hypot(horizontal, vertical)


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of each picture's values; 0 where either is constant."""
    x, y = x.flatten(1), y.flatten(1)
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    std_x, std_y = x.square().mean(dim=1).sqrt(), y.square().mean(dim=1).sqrt()
    correlation = ((x * y).mean(dim=1) / (std_x * std_y)).clamp(-1.0, 1.0)
    return torch.where((std_x < _FLAT) | (std_y < _FLAT), torch.zeros_like(correlation), correlation)


def _variation(images: Tensor) -> float:
    thumbnails = F.adaptive_avg_pool2d(_working(images), _THUMBNAIL)
    return thumbnails.var(dim=0).mean().item()


def _working(images: Tensor) -> Tensor:
    images = images.detach()
    return images if images.dtype == torch.float64 else images.float()


def _difference(x: Tensor, y: Tensor) -> Tensor:
    _same_size(x, y)
    assert x.shape[1] == y.shape[1] or 1 in (x.shape[1], y.shape[1]), f"{x.shape[1]} and {y.shape[1]} channels"
    return _working(x) - _working(y)


def _same_size(x: Tensor, y: Tensor) -> None:
    same = (x.shape[0], *x.shape[2:]) == (y.shape[0], *y.shape[2:])
    assert same, f"pictures of unequal shapes {tuple(x.shape)} and {tuple(y.shape)}"


def _need_size(images: Tensor, least: int, what: str) -> None:
    if min(images.shape[2:]) < least:
        size = f"{images.shape[3]} x {images.shape[2]}"
        raise DataError(f"{what} of pictures of {size} px cannot be compared: at least {least} px are needed")
