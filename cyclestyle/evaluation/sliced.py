"""Owns the sliced Wasserstein distance between patches of two sets of pictures, per level of a Laplacian pyramid.

Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation", section 5: fine levels
compare strokes and grain, coarse ones composition. No network is needed. All is float32 on the CPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cyclestyle.errors import DataError
from cyclestyle.evaluation.content import convolve

LEAST_SIZE = 16
"""Shorter side of the coarsest level, pixels."""

_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson 1983, a = 3/8
_IMAGES_AT_ONCE = 32  # bounds the memory of the pyramids
_PROJECTIONS_AT_ONCE = 64
_LEAST_STD = 1e-4  # what is flatter is rounding noise; an 8-bit step is 0.008


def laplacian_pyramid(images: Tensor, num_levels: int) -> list[Tensor]:
    """What each halving of the pictures loses, finest first; the last level is what remains (Burt and Adelson 1983).

    Args:
        images: N x C x H x W, any range.
        num_levels: at least 1.

    Returns:
        `num_levels` float32 tensors, N x C x ceil(H / 2^k) x ceil(W / 2^k). Enlarging the last and adding the one
        before, and so on, gives back the pictures.

    Raises:
        DataError: a level that is to be halved is below 3 px.
    """
    assert images.ndim == 4, f"expected N x C x H x W, got shape {tuple(images.shape)}"
    assert num_levels >= 1
    current = images.detach().to("cpu", torch.float32)
    levels = []
    for _ in range(num_levels - 1):
        if min(current.shape[2:]) < 3:
            size = f"{images.shape[3]} x {images.shape[2]}"
            raise DataError(f"pictures of {size} px are too small for a pyramid of {num_levels} levels: ask for fewer")
        smaller = _halve(current)
        levels.append(current - _enlarge(smaller, current.shape[2], current.shape[3]))
        current = smaller
    return [*levels, current]


def sliced_wasserstein(
    images_x: Tensor,
    images_y: Tensor,
    *,
    num_levels: int | None = None,
    patch_size: int = 7,
    num_patches: int = 128,
    num_projections: int = 256,
    seed: int = 0,
) -> dict[int, float]:
    """How much the patches of two sets of pictures differ, per level of their Laplacian pyramids.

    Per level: patches are cut at random places, each set's are brought to mean 0 and standard deviation 1 per channel
    (as the paper does: a uniform shift or gain of a level is not seen, its structure is), projected onto random
    directions, and the 1-D Wasserstein distances are averaged. The value for two sets of one kind is above 0 and
    shrinks with the number of pictures: compare values of equal numbers only. Both sets are cut at the same places.

    Args:
        images_x: N x C x H x W in [-1, 1], any floating dtype.
        images_y: M x C x H' x W' in [-1, 1], of the same shorter side; N and M may differ.
        num_levels: None: as many as keep the coarsest level's shorter side at 16 px or more.
        patch_size: width and height of a patch, pixels.
        num_patches: patches a picture and level.
        num_projections: random directions a level.
        seed: of places and directions; the global random state is neither read nor changed.

    Returns:
        Distances times 1000, as the paper prints them, keyed by the level's shorter side in pixels, finest first.

    Raises:
        DataError: a side without pictures, unequal channels or shorter sides, pictures too small for the levels.
    """
    sizes = _level_sizes(images_x, images_y, num_levels, patch_size)
    random = torch.Generator().manual_seed(seed)
    num_places = max(len(images_x), len(images_y))
    # Where the patches lie, as shares of the way from the first to the last place: rows, then columns.
    places = [torch.rand(2, num_places, num_patches, generator=random) for _ in sizes]
    length = images_x.shape[1] * patch_size**2
    directions = [torch.randn(num_projections, length, generator=random) for _ in sizes]
    descriptors_x = _descriptors(images_x, places, patch_size)
    descriptors_y = _descriptors(images_y, places, patch_size)
    return {
        size: 1000.0 * _mean_distance(x, y, F.normalize(direction))
        for size, x, y, direction in zip(sizes, descriptors_x, descriptors_y, directions, strict=True)
    }


def _level_sizes(images_x: Tensor, images_y: Tensor, num_levels: int | None, patch_size: int) -> list[int]:
    """Shorter sides of the levels, finest first; raises DataError where the two sets cannot be compared."""
    for images in (images_x, images_y):
        assert images.ndim == 4, f"expected N x C x H x W, got shape {tuple(images.shape)}"
        if len(images) == 0:
            raise DataError("the sliced Wasserstein distance needs at least 1 picture on each side, got none")
    if images_x.shape[1] != images_y.shape[1]:
        channels = f"{images_x.shape[1]} and {images_y.shape[1]}"
        raise DataError(f"the sliced Wasserstein distance needs pictures of equal channels, got {channels}")
    size = min(images_x.shape[2:])
    if size != min(images_y.shape[2:]):
        shorter = f"{size} and {min(images_y.shape[2:])}"
        raise DataError(
            f"the sliced Wasserstein distance needs pictures of equal size, got shorter sides of {shorter} px"
        )
    least = max(LEAST_SIZE, patch_size)
    sizes = [size]
    while len(sizes) != num_levels and (num_levels is not None or (sizes[-1] + 1) // 2 >= least):
        sizes.append((sizes[-1] + 1) // 2)
    if sizes[-1] < least:
        raise DataError(
            f"the sliced Wasserstein distance over {len(sizes)} level(s) needs {least} px on the shorter side of the "
            f"coarsest, got {sizes[-1]} (pictures of {size}): give larger pictures or ask for fewer levels"
        )
    return sizes


def _halve(images: Tensor) -> Tensor:
    """N x C x H x W -> N x C x ceil(H / 2) x ceil(W / 2), without aliasing."""
    return convolve(F.pad(images, (2, 2, 2, 2), mode="reflect"), _BINOMIAL, stride=2)


def _enlarge(images: Tensor, height: int, width: int) -> Tensor:
    """N x C x ceil(height / 2) x ceil(width / 2) -> N x C x height x width."""
    spread = images.new_zeros(*images.shape[:2], height, width)
    spread[:, :, ::2, ::2] = images
    # Reflection keeps the parity of a position, so that zeros stay between samples; three quarters of all are zeros.
    return convolve(F.pad(spread, (2, 2, 2, 2), mode="reflect"), [2 * tap for tap in _BINOMIAL])


def _descriptors(images: Tensor, places: list[Tensor], patch_size: int) -> list[Tensor]:
    """Normalised patches of each level: (N * P) x (C * patch_size^2), in the order of the pictures."""
    parts: list[list[Tensor]] = [[] for _ in places]
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        chunk = images[start : start + _IMAGES_AT_ONCE]
        for level, place, part in zip(laplacian_pyramid(chunk, len(places)), places, parts, strict=True):
            part.append(_patches(level, place[:, start : start + len(chunk)], patch_size))
    return [_normalized(torch.cat(part)) for part in parts]


def _patches(images: Tensor, places: Tensor, patch_size: int) -> Tensor:
    """(N * P) x C x patch_size^2 patches of N x C x H x W; places 2 x N x P in [0, 1)."""
    _, channels, height, width = images.shape
    rows = (places[0] * (height - patch_size + 1)).long()
    columns = (places[1] * (width - patch_size + 1)).long()
    offsets = torch.arange(patch_size)
    offsets = (offsets[:, None] * width + offsets).flatten()  # patch_size^2
    pixels = ((rows * width + columns)[:, :, None] + offsets).flatten(1)  # N x (P * patch_size^2)
    values = images.flatten(2).gather(2, pixels[:, None].expand(-1, channels, -1))
    return values.unflatten(2, (-1, patch_size**2)).transpose(1, 2).flatten(0, 1)


def _normalized(patches: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 per channel over the whole set; K x C x P -> K x (C * P)."""
    std, mean = torch.std_mean(patches, dim=(0, 2), keepdim=True, correction=0)
    return ((patches - mean) / std.clamp(min=_LEAST_STD)).flatten(1)


def _mean_distance(descriptors_x: Tensor, descriptors_y: Tensor, directions: Tensor) -> float:
    """Mean 1-D Wasserstein distance of the projections; descriptors K x L and M x L, directions S x L of length 1."""
    total = 0.0
    for some in directions.split(_PROJECTIONS_AT_ONCE):
        total += _wasserstein((some @ descriptors_x.T).numpy(), (some @ descriptors_y.T).numpy()).sum()
    return float(total / len(directions))


def _wasserstein(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1-D Wasserstein distance of each row: S x K, S x M -> S; sorts both in place.

    The mean absolute difference of the sorted values; for unequal numbers the area between the two quantile functions,
    which are steps of 1 / K and 1 / M.
    """
    x.sort(axis=1)  # numpy's sort is several times as fast as torch's
    y.sort(axis=1)
    num_x, num_y = x.shape[1], y.shape[1]
    if num_x == num_y:
        return np.abs(x - y).mean(axis=1, dtype=np.float64)
    # In units of 1 / (K M) all steps begin at integers.
    edges = np.union1d(np.arange(num_x + 1) * num_y, np.arange(num_y + 1) * num_x)
    between = np.abs(x[:, edges[:-1] // num_y] - y[:, edges[:-1] // num_x])
    return between.astype(np.float64) @ (np.diff(edges) / (num_x * num_y))
