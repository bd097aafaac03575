"""Whether outputs are copies of training pictures: distances to nearest neighbours in feature space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROWS_AT_ONCE = 256


def nearest(features: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest row of `pool` for each row of `features`.

    Args:
        features: N x D.
        pool: M x D, M at least 1.

    Returns:
        distances: N float64, Euclidean; exactly 0 where the same row is in the pool.
        indices: N int64, rows of `pool`.
    """
    assert len(pool) > 0, "nearest() needs a pool of at least one row"
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y cancels where norms are large: centred, and the winner's distance taken anew.
    centre = pool.double().mean(0)
    pool = pool.double() - centre
    pool_norms = pool.square().sum(1)
    distances, indices = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.int64)]
    for rows in features.split(_ROWS_AT_ONCE):
        centred = rows.double() - centre
        winners = (pool_norms - 2.0 * centred @ pool.T).argmin(1)  # |x|^2 is the same for every candidate
        distances.append((centred - pool[winners]).norm(dim=1))
        indices.append(winners)
    return torch.cat(distances), torch.cat(indices)


def memorisation(outputs: Tensor, held_out: Tensor, training: Tensor) -> float:
    """How far outputs keep from the training pictures, in units of what unseen real pictures do.

    The median distance of an output to its nearest training picture, over the same median for held-out real pictures.
    About 1 or above: outputs are as far from the training pictures as unseen paintings are. Far below 1: copies.
    The idea of comparing both distances: Meehan, Chaudhuri, Dasgupta 2020, "A non-parametric test to detect
    data-copying in generative models"; theirs is a rank test within cells, this a ratio that can be read at a glance.

    Args:
        outputs: N x D features of translations.
        held_out: M x D features of real pictures of the target domain that were not trained on.
        training: L x D features of the target domain's training pictures.

    Returns:
        The ratio; nan where a set is empty, or where the held-out pictures are training pictures themselves.
    """
    if min(len(outputs), len(held_out), len(training)) == 0:
        return math.nan
    usual = nearest(held_out, training)[0].quantile(0.5).item()
    return nearest(outputs, training)[0].quantile(0.5).item() / usual if usual > 0 else math.nan
