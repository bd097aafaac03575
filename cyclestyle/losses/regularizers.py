"""What holds translations near their sources without looking at details."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclestyle.losses.widening import widened


def low_frequency(translation: Tensor, source: Tensor, size: int) -> Tensor:
    """How far the coarse colours and the light of a translation are from its source's (UVCGANv2: Torbunov et al. 2023).

    Mean absolute difference of both after they are averaged down; the authors' code has torchvision's bilinear `Resize`
    there, which weighs pixels by a triangle where here each counts by its area.

    Args:
        translation: N x C x H x W in [-1, 1].
        source: the same shape.
        size: pixels of the shorter side after averaging, the aspect is kept; images no larger stay as they are.

    Returns:
        A scalar in [0, 2].
    """
    # Averaging is linear: once, of the difference.
    difference = widened(translation) - widened(source)
    height, width = difference.shape[2:]
    shorter = min(height, width)
    if size < shorter:
        # As two products of matrices: adaptive_avg_pool2d has no deterministic gradient on GPUs, and overlapping cells
        # where sides do not divide.
        rows = _averaging(height, round(height * size / shorter), difference)
        columns = _averaging(width, round(width * size / shorter), difference)
        with torch.autocast(difference.device.type, enabled=False):
            difference = rows @ difference @ columns.mT
    return difference.abs().mean()


def _averaging(length: int, cells: int, like: Tensor) -> Tensor:
    """The matrix that averages `length` pixels to `cells` equal cells, cells x length; a pixel on an edge is shared."""
    edges = torch.arange(cells + 1, dtype=like.dtype, device=like.device) * (length / cells)
    pixels = torch.arange(length, dtype=like.dtype, device=like.device)
    # Of cell [edge, next edge] and pixel [p, p + 1].
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    weights = overlap.clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
