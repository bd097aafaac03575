"""What a translation shares with pictures in the features of a network: content, style; and its own smoothness.

Features are lists of N x C x H x W tensors, one a layer; whoever calls computes them. Everything is summed in fp32,
under autocast too, or in float64 where that comes in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cyclestyle.losses.widening import widened


def content(features: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """How far features are from those of the picture whose content is kept (Johnson et al. 2016, eq. 2).

    Args:
        features: of translations, a tensor a layer.
        reference: of their sources, of the same shapes; detached here.

    Returns:
        The mean squared difference within a layer, mean over layers: a scalar.
    """
    return _mean([
        (widened(ours) - widened(theirs.detach())).square().mean()
        for ours, theirs in zip(features, reference, strict=True)
    ])  # fmt: skip


def gram(features: Tensor) -> Tensor:
    """Which channels are active together, wherever: N x C x H x W to N x C x C.

    F F^T / (C H W) with F of C x HW (Johnson et al. 2016, eq. 3); Gatys et al. 2016 do not divide here.
    """
    with torch.autocast(features.device.type, enabled=False):
        rows = widened(features).flatten(2)  # N x C x HW
        return rows @ rows.mT / (rows.shape[1] * rows.shape[2])


def style(features: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """How far the look is from that of a picture in the target's style (Johnson et al. 2016, eq. 4).

    The squared Frobenius norm of the difference of Gram matrices, a sum over their entries and not a mean: so a layer
    with many channels counts as much as one with few. Mean over images, then over layers (a sum in the papers).

    Args:
        features: of translations, a tensor a layer.
        reference: of pictures in the style, of any height and width; detached here. As many as there are translations,
            compared one by one, or one for all of them.

    Returns:
        A scalar.
    """
    terms = []
    for ours, theirs in zip(features, reference, strict=True):
        assert len(theirs) in (1, len(ours)), f"{len(theirs)} pictures of style for {len(ours)} translations"
        terms.append((gram(ours) - gram(theirs.detach())).square().sum((1, 2)).mean())
    return _mean(terms)


def total_variation(images: Tensor) -> Tensor:
    """How much neighbouring pixels differ: mean |dx| + mean |dy|, without a root over both (anisotropic).

    Rudin et al. 1992 for images; Mahendran and Vedaldi 2015 as a prior of generated ones. Each mean is over all pairs
    of neighbours in its direction, so that it does not grow with the size.

    Args:
        images: N x C x H x W in [-1, 1], H and W at least 2.

    Returns:
        A scalar in [0, 4]; 0 for a single colour.
    """
    images = widened(images)
    return images.diff(dim=3).abs().mean() + images.diff(dim=2).abs().mean()


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()
