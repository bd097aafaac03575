"""What ties a translation to its source place by place: features of a place tell it from others of the same image.

All losses take q, features of P places of the translations, and k, of the same places of the sources: N x P x D each,
rows of length 1. Keys are detached: only the translation learns from being compared. Similarities and all that follows
are computed in fp32, under autocast too, or in float64 where that comes in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cyclestyle.losses.widening import widened


def info_nce(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """PatchNCE (Park et al. 2020, eq. 3): which of the P places of its source is this place of the translation?

    The cross-entropy of the similarities q_i k_j / temperature over j with the answer i; the wrong places come from the
    same image. Mean over images and places, a scalar: 0 for one place, log P where all places look alike.
    """
    assert q.shape == k.shape, f"places of translation and source: {tuple(q.shape)} and {tuple(k.shape)}"
    with torch.autocast(q.device.type, enabled=False):
        q, k = widened(q), widened(k.detach())
        logits = q @ k.mT / temperature  # N x P x P
        return -_diagonal(logits.log_softmax(-1)).mean()


def hdce(q: Tensor, k: Tensor, temperature: float, hardness: float) -> Tensor:
    """Decoupled contrast with hard negatives (hDCE: Jung et al. 2022): the right place is not among the wrong ones.

    With s_ij = q_i k_j and w_ij = exp((k_i k_j - max_{l != i} k_i k_l) / hardness), which is the paper's softmax over
    its row's largest value, the mean over images and places i of

        log sum_{j != i} exp((w_ij s_ij - s_ii) / temperature).

    The lower the hardness, the more only those wrong places count that look like the right one in the source; very
    high, all count alike. The weights have no gradient.

    Returns:
        A scalar, which falls below 0 as places are told apart; 0 for one place, which has no wrong ones.
    """
    assert q.shape == k.shape, f"places of translation and source: {tuple(q.shape)} and {tuple(k.shape)}"
    with torch.autocast(q.device.type, enabled=False):
        q, k = widened(q), widened(k.detach())
        num_places = q.shape[1]
        if num_places == 1:
            return 0 * q.sum()  # with a gradient, of zeros: this term may be the only one
        itself = torch.eye(num_places, dtype=torch.bool, device=q.device)
        alike = (k @ k.mT).masked_fill(itself, -math.inf)
        weights = ((alike - alike.amax(-1, keepdim=True)) / hardness).exp()
        similarities = q @ k.mT
        logits = (weights * similarities - _diagonal(similarities)[..., None]) / temperature
        return logits.masked_fill(itself, -math.inf).logsumexp(-1).mean()


def src(q: Tensor, k: Tensor) -> Tensor:
    """Semantic relation consistency (SRC: Jung et al. 2022): places are as alike in the translation as in its source.

    The Jensen-Shannon divergence between softmax_j(q_i q_j) and softmax_j(k_i k_j), at temperature 1, place itself
    included. Mean over images and places, in nats.

    The authors' code (github.com/jcy132/Hneg_SRC) sums over places instead and compares those of all images of a batch
    with each other: its weight of 0.05 with 256 places of one image is one of 12.8 here.

    Returns:
        A scalar in [0, log 2], up to rounding; 0 where all similarities agree.
    """
    assert q.shape == k.shape, f"places of translation and source: {tuple(q.shape)} and {tuple(k.shape)}"
    with torch.autocast(q.device.type, enabled=False):
        q, k = widened(q), widened(k.detach())
        ours, theirs = (q @ q.mT).log_softmax(-1), (k @ k.mT).log_softmax(-1)  # N x P x P
        middle = torch.logaddexp(ours, theirs) - math.log(2)
        divergence = ours.exp() * (ours - middle) + theirs.exp() * (theirs - middle)
        return divergence.sum(-1).mean() / 2


def _diagonal(matrices: Tensor) -> Tensor:
    """N x P x P to N x P."""
    return matrices.diagonal(dim1=-2, dim2=-1)
