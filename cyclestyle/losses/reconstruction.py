"""What ties a translation to its original: the cycle and identity losses of CycleGAN (Zhu et al. 2017)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cyclestyle.losses.widening import widened


def _l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference, in fp32 for half-precision images."""
    return F.l1_loss(widened(x), widened(y))


def cycle(rec: Tensor, real: Tensor) -> Tensor:
    """How far an image came back from where it started (eq. 2, one direction): mean |rec - real|, a scalar.

    Both N x C x H x W in [-1, 1]; the result lies in [0, 2].
    """
    return _l1(rec, real)


def identity(idt: Tensor, real: Tensor) -> Tensor:
    """How much a generator changes an image that is of its target domain already (section 5.2): mean |idt - real|.

    Both N x C x H x W in [-1, 1]; the result lies in [0, 2].
    """
    return _l1(idt, real)
