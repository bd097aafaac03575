"""What the training doctor measures on a batch and its translations: sums that average over looks, and their formulas.

`statistics` gives small tensors of one look; a mean of them over looks goes into the formulas. A batch often is one
image, so that nothing here may rest on one look. Nothing draws random numbers or waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.evaluation.content import change, luminance

_MOST_IMAGES = 4  # of a batch: a look costs the same whatever its size
_LIGHT_SIZE = 64  # pixels to which images are averaged before light and dark are compared
_THUMBNAIL = 8
_LARGEST_WINDOW = 128
_SMALLEST_WINDOW = 32  # below, the frequencies of a grid have no neighbourhood of their own

GRID_POINTS = ((2, 0), (0, 2), (2, 2), (1, 0), (0, 1), (1, 1), (-1, 1), (1, 2), (2, 1))
"""Where upsampling by 2 and by 4 leaves peaks: vertical and horizontal frequency in quarters of a cycle a pixel.

2 is a period of 2 px, 1 one of 4 px; the other half of the plane mirrors these.
"""
_TWICE = torch.tensor([2.0 if 1 in map(abs, point) else 1.0 for point in GRID_POINTS])  # has a mirror image of its own

_FEWEST_POINTS = 3
# Weaker grids nobody sees: half a grey level of 255, as standard deviation in [-1, 1], of one of the points above.
_VISIBLE = 2 * 0.5 / 255
_NO_POWER = 1e-8  # far below the visible
_ALIKE = 0.02  # standard deviation in [-1, 1] below which pictures are all alike


@torch.no_grad()
def statistics(reals: Mapping[str, Tensor], fakes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Statistics of one look, each a flat float32 tensor on the images' device.

    Args:
        reals: "a", "b" -> N x C x H x W in [-1, 1].
        fakes: "ab", "ba" (or one of them) -> their translations: that of `reals["a"]` under "ab".

    Returns:
        thumbnail_<side>, thumbnail_square_<side>: of an image, 8 x 8 x C, and squared.
        grid_<side>: 9 x 3 powers at and beside `GRID_POINTS`, decibels, so that a smooth picture counts as much as one
            full of detail; absent where images are too small.
        light_<direction>: covariance of the luminance of source and translation, and variance of each.
        change_<direction>: mean difference of both as a share of the full range.
        Sides are "a" and "b" for real images and the directions for translations.
    """
    sides = [*reals, *fakes]
    images = torch.stack(
        [each[:_MOST_IMAGES].float() for each in (*reals.values(), *fakes.values())]
    )  # K x N x C x H x W
    flat = images.flatten(0, 1)  # KN x C x H x W
    light = luminance(flat)
    thumbnails = F.adaptive_avg_pool2d(flat, _THUMBNAIL).reshape(*images.shape[:2], -1)  # K x N x 64C
    found = _by_side("thumbnail", sides, thumbnails.mean(1))
    found |= _by_side("thumbnail_square", sides, thumbnails.square().mean(1))
    if min(images.shape[-2:]) >= _SMALLEST_WINDOW:
        decibels = 10 * torch.log10(grid_powers(light) + _NO_POWER)  # KN x 9 x 3
        found |= _by_side("grid", sides, decibels.reshape(*images.shape[:2], -1).mean(1))
    small = F.adaptive_avg_pool2d(light, min(_LIGHT_SIZE, *images.shape[-2:])).reshape(*images.shape[:2], -1)
    small = small - small.mean(2, keepdim=True)  # K x N x pixels
    variances = small.square().mean((1, 2))
    for direction in fakes:
        source, fake = sides.index(direction[0]), sides.index(direction)
        covariance = (small[source] * small[fake]).mean()
        found[f"light_{direction}"] = torch.stack([covariance, variances[source], variances[fake]])
        found[f"change_{direction}"] = change(images[source], images[fake]).mean().reshape(1)
    return found


def _by_side(name: str, sides: list[str], rows: Tensor) -> dict[str, Tensor]:
    return {f"{name}_{side}": row for side, row in zip(sides, rows, strict=True)}


def luminance_correlation(light: Tensor) -> float | None:
    """Correlation of light and dark over all looks; None where sources or translations are flat.

    Pooled: a flat crop of sky, whose own correlation is that of noise, has the weight of its small variance.
    """
    covariance, source, fake = light.tolist()
    if min(source, fake) < 1e-4 or min(source, fake) < 1e-3 * max(source, fake):
        return None
    return covariance / math.sqrt(source * fake)


def variation(statistics: Mapping[str, Tensor], direction: str) -> float | None:
    """Spread of translations over that of real images, the sources or the target's, whichever differ less.

    Against both: where all pictures of the target are alike, those of their translations should be too.

    Returns:
        About 1 for a healthy generator, 0 where all come out the same; None where the real images are all alike.
    """
    source, target, fake = (_spread(statistics, side) for side in (*direction, direction))
    usual = min(source, target)
    return fake / usual if usual > _ALIKE else None


def _spread(statistics: Mapping[str, Tensor], side: str) -> float:
    """How much images differ from each other: standard deviation of a thumbnail's pixel over looks."""
    mean, square = statistics[f"thumbnail_{side}"], statistics[f"thumbnail_square_{side}"]
    return math.sqrt(max(0.0, (square - mean.square()).mean().item()))


def grid_powers(light: Tensor) -> Tensor:
    """Power of luminance at the frequencies of upsampling's grids and beside them.

    Args:
        light: N x 1 x H x W, sides of at least 32 pixels; the middle, at most 128 x 128, is looked at.

    Returns:
        N x 9 x 3, for each of `GRID_POINTS`: mean power of the 3 x 3 frequencies around it, of the bars left and right,
        and of those above and below. Power is per frequency: its sum over the plane is the image's variance.
    """
    size = min(_LARGEST_WINDOW, light.shape[-2] // 4 * 4, light.shape[-1] // 4 * 4)
    top, left = (light.shape[-2] - size) // 2, (light.shape[-1] - size) // 2
    light = light[:, 0, top : top + size, left : left + size]
    window, rows, columns = _plan(size, light.device)
    spectrum = torch.fft.fft2((light - light.mean((1, 2), keepdim=True)) * window)
    values = spectrum[:, rows, columns]  # N x 9 x (9 + 24 + 24)
    powers = (values.real.square() + values.imag.square()) / size**2
    return torch.stack([part.mean(2) for part in powers.split([9, 24, 24], dim=2)], dim=2)


@lru_cache(maxsize=4)
def _plan(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A window, and the rows and columns, 9 x 57 each, of the frequencies that `grid_powers` reads.

    Kept on the device: a copy at each look would wait for it.
    """
    hann = torch.hann_window(size, periodic=True)
    window = torch.outer(hann, hann) / hann.square().sum()  # its squares sum to 1
    near, far = range(-1, 2), [*range(-6, -2), *range(3, 7)]
    around = [(y, x) for y in near for x in near]
    offsets = torch.tensor(around + [(y, x) for y in near for x in far] + [(y, x) for y in far for x in near])
    places = (torch.tensor(GRID_POINTS)[:, None] * (size // 4) + offsets[None]) % size  # 9 x 57 x 2
    return window.to(device), places[..., 0].to(device), places[..., 1].to(device)


def checkerboard(statistics: Mapping[str, Tensor], direction: str) -> float | None:
    """How far a grid's frequencies stand out of their neighbourhood in translations, beyond what real images have.

    Returns:
        Decibels, the mean of the three strongest of `GRID_POINTS`, where invisible ones are 0: upsampling leaves peaks
        at several, strokes of one width and direction at one. None for images too small to tell.
    """
    if f"grid_{direction}" not in statistics:
        return None
    fake, real = (statistics[f"grid_{side}"].reshape(-1, 3) for side in (direction, direction[1]))
    beside = fake[:, 1:].amax(1)  # the stronger one of the bars: a line through a point is no peak
    contrast = (fake[:, 0] - beside) - (real[:, 0] - real[:, 1:].amax(1)).clamp_min(0)
    variance = (10 ** (fake[:, 0] / 10) - 10 ** (beside / 10)) * 9 * _TWICE
    seen = torch.where(variance > _VISIBLE**2, contrast, 0.0).clamp_min(0)
    return seen.topk(_FEWEST_POINTS).values.mean().item()
