"""Out of half precision: what losses and the pools are computed and kept in."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """bf16 and fp16 to fp32; fp32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
