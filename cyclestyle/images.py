"""The only place where pixels change range or layout.

Outside: uint8 or uint16, height x width x channels (HWC), as files and libraries have them.
Inside: float32, N x C x H x W, in [-1, 1], as networks want them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Half of the integer range: v / HALF - 1 maps 0..255 (or 0..65535) onto [-1, 1] exactly at both ends.
_HALF_RANGE = {np.dtype(np.uint8): 127.5, np.dtype(np.uint16): 32767.5}


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Integer pixels to a tensor in [-1, 1].

    Args:
        pixels: H x W x C or N x H x W x C, uint8 (0..255) or uint16 (0..65535).

    Returns:
        C x H x W or N x C x H x W float32, contiguous; `to_pixels` gives back the same integers, all of them.
    """
    assert pixels.ndim in (3, 4), f"expected HWC or NHWC, got shape {pixels.shape}"
    half = _HALF_RANGE[pixels.dtype]
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, -3), dtype=np.float32)
    return torch.from_numpy(planes).div_(half).sub_(1.0)


def to_pixels(images: Tensor, dtype: type[np.unsignedinteger] = np.uint8) -> np.ndarray:
    """A tensor in [-1, 1] to integer pixels, rounded to the nearest; values outside are clipped.

    Args:
        images: C x H x W or N x C x H x W, any floating dtype, any device.
        dtype: `np.uint8` or `np.uint16`.

    Returns:
        H x W x C or N x H x W x C of `dtype`.
    """
    half = _HALF_RANGE[np.dtype(dtype)]
    scaled = images.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).add(1.0).mul_(half).round_()
    return np.ascontiguousarray(np.moveaxis(scaled.numpy(), -3, -1)).astype(dtype)
