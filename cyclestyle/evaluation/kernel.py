"""Owns the kernel distance (squared maximum mean discrepancy, MMD^2) between two sets of features, and how sure it is.

Over Inception features it is the KID of Binkowski et al. 2018, "Demystifying MMD GANs", with their polynomial kernel.
The estimate is unbiased whatever the number of images: it scatters about the true value, and around 0, also below it,
where both sets are of one kind. FID (`frechet.py`) is biased upwards where there are few images.

All is computed in float64 on the CPU, from sums of kernel values in blocks of rows: time grows with N x M x D, memory
with N.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cyclestyle.errors import DataError

_BLOCK = 1024  # rows of a kernel matrix that are held at a time

Kernel = Callable[[Tensor], Tensor]
"""Kernel values of inner products."""


def kernel_distance(
    features_x: Tensor, features_y: Tensor, *, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> float:
    """The unbiased estimate of MMD^2 with the kernel (gamma x.y + coef0)^degree (Gretton et al. 2012, lemma 6, eq. 3).

    Args:
        features_x: N x D, any floating dtype and device.
        features_y: M x D; N and M may differ.
        degree: of the polynomial; 3 for KID.
        gamma: factor of the inner product; None: 1 / D.
        coef0: constant term.

    Returns:
        About 0 for sets of one kind, slightly negative values included; nan where features are not finite.

    Raises:
        DataError: fewer than 2 images on a side.
    """
    x, y = _pair(features_x, features_y)
    kernel = _polynomial(x.shape[1], degree, gamma, coef0)
    return _unbiased(
        _within(x, _ones(x), kernel).sum().item(), _between(x, y, _ones(y), kernel).sum().item(),
        _within(y, _ones(y), kernel).sum().item(), len(x), len(y),
    )  # fmt: skip


def kernel_distance_over_subsets(
    features_x: Tensor, features_y: Tensor, *, num_subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over random subsets, as KID is usually printed.

    Subsets are drawn without replacement, in the order in which torch-fidelity draws them: equal seeds and sizes give
    its numbers. The deviation tells how much subsets of this size differ: they overlap, so that it is no standard
    error of the distance of all images; that is `kernel_distance_error`.

    Args:
        features_x: N x D.
        features_y: M x D.
        num_subsets: at least 1.
        subset_size: images of each side in a subset; None: half of the smaller side, at least 2, at most 1000.
        seed: of the draws; the global random state is neither read nor changed.

    Raises:
        DataError: fewer than 2 images on a side, or a subset size below 2 or above the smaller side.
    """
    x, y = _pair(features_x, features_y)
    smaller = min(len(x), len(y))
    size = max(2, min(1000, smaller // 2)) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise DataError(
            f"subsets of {size} images cannot be drawn from {len(x)} and {len(y)} images: "
            f"give a subset size from 2 to {smaller}, or more images"
        )
    random = np.random.RandomState(seed)
    drawn_x, drawn_y = x.new_zeros(len(x), num_subsets), y.new_zeros(len(y), num_subsets)  # 1: in the subset
    for subset in range(num_subsets):
        drawn_x[torch.from_numpy(random.choice(len(x), size, replace=False)), subset] = 1.0
        drawn_y[torch.from_numpy(random.choice(len(y), size, replace=False)), subset] = 1.0
    kernel = _polynomial(x.shape[1])
    sums_xx = (drawn_x * _within(x, drawn_x, kernel)).sum(dim=0)  # one sum a subset
    sums_xy = (drawn_x * _between(x, y, drawn_y, kernel)).sum(dim=0)
    sums_yy = (drawn_y * _within(y, drawn_y, kernel)).sum(dim=0)
    distances = (sums_xx + sums_yy) / (size * (size - 1)) - 2.0 * sums_xy / size**2
    return distances.mean().item(), distances.std(correction=0).item()


def kernel_distance_error(features_x: Tensor, features_y: Tensor) -> float:
    """Standard error of `kernel_distance` (with its default kernel) by the delete-one jackknife for two samples.

    The variance is (N-1)/N sum_i (d_-i - mean)^2 + (M-1)/M sum_j (d_-j - mean)^2, d_-i the distance without image i
    (Arvesen 1969, "Jackknifing U-statistics"); each d_-i follows from the sum of one row of the kernel matrices. Where
    both sets are of one kind it is too large, by up to a factor of 1.4: a difference that exceeds it is one all the
    more.

    Args:
        features_x: N x D.
        features_y: M x D.

    Returns:
        In the units of `kernel_distance`; nan for 2 images on a side, from which none can be left out.

    Raises:
        DataError: fewer than 2 images on a side.
    """
    x, y = _pair(features_x, features_y)
    kernel = _polynomial(x.shape[1])
    num_x, num_y = len(x), len(y)
    if min(num_x, num_y) < 3:
        return math.nan
    rows_xx, rows_yy = _row_sums_within(x, kernel), _row_sums_within(y, kernel)
    rows_xy, rows_yx = _row_sums_between(x, y, kernel), _row_sums_between(y, x, kernel)
    return math.sqrt(
        _jackknife_variance(_without_each(rows_xx, rows_xy, num_y))
        + _jackknife_variance(_without_each(rows_yy, rows_yx, num_x))
    )


def kernel_difference_error(features_x1: Tensor, features_x2: Tensor, features_y: Tensor) -> float:
    """Standard error of kernel_distance(x1, y) - kernel_distance(x2, y), x1[i] and x2[i] being of the same source i.

    A paired jackknife: source i is left out of both, and so is each reference. What both distances share (easy sources,
    the references that happen to be there) cancels, so that this is mostly far below the error of either distance: it
    tells whether two checkpoints differ beyond noise.

    Args:
        features_x1: N x D, translations by one checkpoint.
        features_x2: N x D, translations of the same sources in the same order by another.
        features_y: M x D, the references.

    Returns:
        In the units of `kernel_distance`; 0 for equal features; nan for 2 images on a side.

    Raises:
        DataError: fewer than 2 images on a side.
    """
    assert features_x1.shape == features_x2.shape, "x1 and x2 must be translations of the same sources"
    x1, y = _pair(features_x1, features_y)
    x2, _ = _pair(features_x2, features_y)
    kernel = _polynomial(y.shape[1])
    num_x, num_y = len(x1), len(y)
    if min(num_x, num_y) < 3:
        return math.nan
    within = _row_sums_within(x1, kernel) - _row_sums_within(x2, kernel)
    rows_xy = _row_sums_between(x1, y, kernel) - _row_sums_between(x2, y, kernel)
    rows_yx = _row_sums_between(y, x1, kernel) - _row_sums_between(y, x2, kernel)
    # The references' own kernel values are the same in both distances and cancel.
    return math.sqrt(
        _jackknife_variance(_without_each(within, rows_xy, num_y))
        + _jackknife_variance(_without_each(torch.zeros_like(rows_yx), rows_yx, num_x))
    )


def _pair(features_x: Tensor, features_y: Tensor) -> tuple[Tensor, Tensor]:
    for features in (features_x, features_y):
        assert features.ndim == 2, f"expected N x D features, got shape {tuple(features.shape)}"
    assert features_x.shape[1] == features_y.shape[1], "features of two extractors cannot be compared"
    if min(len(features_x), len(features_y)) < 2:
        raise DataError(
            f"the kernel distance needs at least 2 images on each side, got {len(features_x)} and {len(features_y)}"
        )
    return features_x.detach().to("cpu", torch.float64), features_y.detach().to("cpu", torch.float64)


def _polynomial(num_features: int, degree: int = 3, gamma: float | None = None, coef0: float = 1.0) -> Kernel:
    scale = 1.0 / num_features if gamma is None else gamma
    return lambda products: products.mul(scale).add_(coef0).pow_(degree)


def _between(x: Tensor, y: Tensor, weights: Tensor, kernel: Kernel) -> Tensor:
    """sum_j k(x_i, y_j) w_js: N x S for weights M x S."""
    return torch.cat([kernel(rows @ y.T) @ weights for rows in x.split(_BLOCK)])


def _within(x: Tensor, weights: Tensor, kernel: Kernel) -> Tensor:
    """sum_{j != i} k(x_i, x_j) w_js: N x S for weights N x S."""
    return _between(x, x, weights, kernel) - kernel(x.square().sum(dim=1, keepdim=True)) * weights


def _ones(x: Tensor) -> Tensor:
    return x.new_ones(len(x), 1)


def _row_sums_between(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    return _between(x, y, _ones(y), kernel)[:, 0]


def _row_sums_within(x: Tensor, kernel: Kernel) -> Tensor:
    return _within(x, _ones(x), kernel)[:, 0]


def _unbiased(sum_xx: float, sum_xy: float, sum_yy: float, num_x: int, num_y: int) -> float:
    """MMD^2 from the sums of kernel values, those within a set without the pairs of an image with itself."""
    return sum_xx / (num_x * (num_x - 1)) + sum_yy / (num_y * (num_y - 1)) - 2.0 * sum_xy / (num_x * num_y)


def _without_each(within: Tensor, between: Tensor, num_others: int) -> Tensor:
    """The distance without image i of a set, for each i, but for the other set's own term, which is constant.

    Args:
        within: N, sums over the rows of the set's own kernel matrix, without the diagonal.
        between: N, sums over the rows of the kernel matrix with the other set.
        num_others: images of the other set.
    """
    num = len(within)
    own = (within.sum() - 2.0 * within) / ((num - 1) * (num - 2))  # i's row and i's column go
    return own - 2.0 * (between.sum() - between) / ((num - 1) * num_others)


def _jackknife_variance(without: Tensor) -> float:
    return (len(without) - 1) * without.var(correction=0).item()
