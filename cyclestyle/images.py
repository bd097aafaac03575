"""The only place where pixels change range or layout.

Outside: uint8, uint16 or floats in [0, 1], height x width x channels (HWC), as files and libraries have them.
Inside: float32, N x C x H x W, in [-1, 1], as networks want them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Half of the range: v / HALF - 1 maps 0..255 (or 0..65535, or 0..1) onto [-1, 1] exactly at both ends.
_HALF_RANGE = {"u1": 127.5, "u2": 32767.5}


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels to a tensor in [-1, 1].

    Args:
        pixels: H x W x C or N x H x W x C, uint8 (0..255), uint16 (0..65535) or floating point (0..1).

    Returns:
        C x H x W or N x C x H x W float32, contiguous; `to_pixels` gives back the same integers, all of them.
    """
    assert pixels.ndim in (3, 4), f"expected HWC or NHWC, got shape {pixels.shape}"
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, -3), dtype=np.float32)
    if planes is pixels or np.shares_memory(planes, pixels):  # float32 of one channel: the caller keeps its array
        planes = planes.copy()
    return torch.from_numpy(planes).div_(_half_range(pixels.dtype)).sub_(1.0)


def to_pixels(images: Tensor, dtype: Any = np.uint8) -> np.ndarray:
    """A tensor in [-1, 1] to pixels, integers rounded to the nearest; values outside are clipped.

    Args:
        images: C x H x W or N x C x H x W, any floating dtype, any device.
        dtype: `np.uint8`, `np.uint16` or a floating dtype.

    Returns:
        H x W x C or N x H x W x C of `dtype`.
    """
    scaled = images.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).add_(1.0).mul_(_half_range(np.dtype(dtype)))
    if np.dtype(dtype).kind == "u":
        scaled.round_()
    return np.ascontiguousarray(np.moveaxis(scaled.numpy(), -3, -1)).astype(dtype)


def _half_range(dtype: np.dtype) -> float:
    return 0.5 if dtype.kind == "f" else _HALF_RANGE[dtype.str[1:]]
