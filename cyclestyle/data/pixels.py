"""Arithmetic on decoded samples: to unsigned integers, to the channels asked for, upright. `decode` uses it.

What does not fit is a `ValueError` of one line; `decode` puts the file's name before it.
"""

from __future__ import annotations

import numpy as np


def fit_channels(samples: np.ndarray, channels: int, *, alpha: bool = False) -> np.ndarray:
    """H x W x `channels` (1 or 3) of H x W x (1 to 4) uint8 or uint16; with `alpha` the last lies over white."""
    top = int(np.iinfo(samples.dtype).max)
    if alpha:
        opacity = samples[..., -1:].astype(np.uint32)  # wide enough: top * top + top / 2 < 2**32
        over_white = samples[..., :-1] * opacity + top * (top - opacity)
        samples = ((over_white + top // 2) // top).astype(samples.dtype)
    if samples.shape[2] == channels:
        return samples.copy() if samples.base is not None else samples
    if channels == 3:
        return samples.repeat(3, axis=2)
    # ITU-R 601-2 luma in 16-bit fixed point, as Pillow has it; the weights sum to 2**16, so that white stays white.
    red, green, blue = (samples[..., i : i + 1].astype(np.uint32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(samples.dtype)


def to_unsigned(samples: np.ndarray) -> np.ndarray:
    """Any real dtype to uint8 (from 8 bits and bool) or uint16, by the dtype's range; floats by [0, 1]."""
    kind, out = samples.dtype.kind, depth_of(samples.dtype)
    top = np.iinfo(out).max
    if kind == "b":
        return samples.astype(np.uint8) * np.uint8(255)
    if kind == "u" and samples.dtype.itemsize <= 2:
        return samples.astype(out)  # also from the other byte order
    if kind in "iu":
        if kind == "i" and samples.min() < 0:
            raise ValueError(f"holds negative values ({samples.min()}); needed: 0 and above")
        return np.rint(samples.astype(np.float64) * (top / np.iinfo(samples.dtype).max)).astype(out)
    if kind == "f":
        low, high = float(samples.min()), float(samples.max())  # nan if there is any
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"holds floating-point values from {low:g} to {high:g}; needed: 0 (black) to 1 (white)")
        return np.rint(samples.astype(np.float64) * top).astype(out)
    raise ValueError(f"holds values of type {samples.dtype}; needed: integers or floating point")


def depth_of(dtype: np.dtype) -> np.dtype:
    """uint8 or uint16: what `to_unsigned` makes of a dtype."""
    return np.dtype(np.uint8 if dtype.itemsize == 1 else np.uint16)


def turn_upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Upright H x W x C, for an EXIF orientation of 1 to 8."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    rows_reversed, columns_reversed = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return samples[:: -1 if rows_reversed else 1, :: -1 if columns_reversed else 1]
