"""Owns the Fréchet distance between two sets of features: sums that batches are added to, and the closed formula.

Over Inception features it is the FID of Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a
Local Nash Equilibrium", eq. 6. Its estimate is biased upwards where there are few images (two halves of one folder are
not at distance 0), and the more so the fewer: compare values of equal numbers of images only. KID (`kernel.py`) has no
such bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cyclestyle.errors import DataError


class GaussianStatistics:
    """Mean and covariance of features that come in batches of any sizes; float64 on the CPU.

    Up to D rows are kept as they are: they take no more memory than a D x D matrix and give the exact distance by small
    matrices (`factor`). Beyond that they are folded into a sum of outer products about the mean (Chan, Golub and
    LeVeque 1983), which loses nothing where features lie far from zero.
    """

    def __init__(self) -> None:
        self.count: int = 0
        """Number of images that were added."""
        self._rows: list[Tensor] = []  # not folded yet
        self._num_folded = 0
        self._folded_mean: Tensor | None = None  # D
        self._scatter: Tensor | None = None  # D x D: sum of (x - mean)(x - mean)^T over folded rows

    def add(self, features: Tensor) -> None:
        """Adds a batch, N x D, any floating dtype and device; N may be 0, D is the same in each call."""
        assert features.ndim == 2, f"expected N x D features, got shape {tuple(features.shape)}"
        assert not self._rows or features.shape[1] == self._rows[0].shape[1], "batches of unequal numbers of features"
        if len(features) == 0:
            return
        # Not every accelerator knows float64; the copy keeps a caller's later changes out.
        self._rows.append(features.detach().to("cpu", torch.float64, copy=True))
        self.count += len(features)
        if self.count > features.shape[1]:
            self._fold()

    def _fold(self) -> None:
        rows = torch.cat(self._rows)
        mean = rows.mean(dim=0)
        scatter = (rows - mean).T @ (rows - mean)
        if self._folded_mean is None or self._scatter is None:
            self._folded_mean, self._scatter = mean, scatter
        else:
            total = self._num_folded + len(rows)
            step = mean - self._folded_mean
            self._scatter += scatter.addr_(step, step, alpha=self._num_folded * len(rows) / total)
            self._folded_mean = self._folded_mean + step * (len(rows) / total)
        self._num_folded += len(rows)
        self._rows = [rows[:0]]  # keeps D

    @property
    def mean(self) -> Tensor:
        """D, float64. Raises DataError where nothing was added."""
        if self.count == 0:
            raise DataError("no images were given for the feature statistics: at least 1 is needed")
        return torch.cat(self._rows).mean(dim=0) if self._folded_mean is None else self._folded_mean.clone()

    @property
    def covariance(self) -> Tensor:
        """D x D, float64, unbiased (divided by count - 1). Raises DataError for fewer than 2 images."""
        self._need_two()
        if self._scatter is not None:
            return self._scatter / (self.count - 1)
        factor = self.factor()
        return factor.T @ factor

    def factor(self) -> Tensor:
        """K x D float64, K <= D, whose product factor^T factor is the covariance. DataError for fewer than 2 images."""
        self._need_two()
        if self._scatter is None:
            rows = torch.cat(self._rows)
            return (rows - rows.mean(dim=0)) / math.sqrt(self.count - 1)  # count x D
        covariance = self._scatter / (self.count - 1)
        lower, failed = torch.linalg.cholesky_ex(covariance)  # a tenth of the time of eigenvectors
        if not failed:
            return lower.T  # D x D
        values, vectors = torch.linalg.eigh(covariance)  # features that never vary, or together: no full rank
        return values.clamp(min=0.0).sqrt()[:, None] * vectors.T  # D x D

    def _need_two(self) -> None:
        if self.count < 2:
            raise DataError(f"the Fréchet distance needs at least 2 images on each side, got {self.count}")


def frechet_distance(x: GaussianStatistics, y: GaussianStatistics) -> float:
    """|mx - my|^2 + tr(Sx + Sy - 2 (Sx Sy)^1/2), Heusel et al. 2017 eq. 6; 0 for equal statistics, else positive.

    The trace of the root comes without the root: with Sx = F^T F and Sy = G^T G the eigenvalues of Sx Sy are the
    squared singular values of F G^T, so that the trace is their sum (the nuclear norm). For n and m images, both no
    more than D, F and G are the centred features, F G^T is n x m, and no D x D matrix is made.

    Returns:
        The distance in squared units of the features; nan where features are not finite.

    Raises:
        DataError: fewer than 2 images on a side.
    """
    x._need_two()
    y._need_two()
    step = x.mean - y.mean  # D
    if not torch.isfinite(step).all():
        return math.nan
    factor_x, factor_y = x.factor(), y.factor()
    root = torch.linalg.svdvals(factor_x @ factor_y.T).sum()
    distance = step.square().sum() + factor_x.square().sum() + factor_y.square().sum() - 2.0 * root
    return max(distance.item(), 0.0)  # equal statistics may come out below zero by rounding


def frechet_distance_of(features_x: Tensor, features_y: Tensor) -> float:
    """`frechet_distance` of features at hand.

    Args:
        features_x: N x D, any floating dtype and device.
        features_y: M x D.

    Raises:
        DataError: fewer than 2 images on a side.
    """
    x, y = GaussianStatistics(), GaussianStatistics()
    x.add(features_x)
    y.add(features_y)
    return frechet_distance(x, y)
