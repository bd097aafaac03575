"""Arithmetic on decoded samples: to unsigned integers, to the channels asked for, upright.

What does not fit is a `ValueError` of one line; `decode` puts the file's name before it. Wide intermediate results are
made a few rows at a time, so that a large picture costs no more than itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

_BLOCK = 2**20  # samples that are widened at once


@dataclass(frozen=True)
class Samples:
    """A picture as decoded.

    Attributes:
        values: H x W x C, uint8 or uint16, upright, not always contiguous: grey or RGB and perhaps alpha, or data.
        alpha: whether the last channel is one, and whether the colours are multiplied by it already.
    """

    values: np.ndarray
    alpha: Literal["none", "straight", "multiplied"] = "none"


def over_white(samples: Samples, channels: int) -> np.ndarray:
    """H x W x `channels`, contiguous, its own memory; with alpha, laid over white."""
    values, top = samples.values, int(np.iinfo(samples.values.dtype).max)
    if samples.alpha == "none":
        return fit_channels(values, channels)
    colours, opacity = values[..., :-1], values[..., -1:]

    def straight(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        wide = opacity.astype(np.uint32)  # wide enough: top * top + top / 2 < 2**32
        return (colours * wide + top * (top - wide) + top // 2) // top

    def multiplied(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        return np.minimum(colours.astype(np.uint32) + (top - opacity), top)

    laid = _by_rows(straight if samples.alpha == "straight" else multiplied, values.dtype, colours, opacity)
    return fit_channels(laid, channels)


def straight_colours(samples: Samples, channels: int) -> tuple[np.ndarray, np.ndarray | None]:
    """H x W x `channels` and alpha, H x W, or None; both contiguous, their own memory. Not laid over anything."""
    values, top = samples.values, int(np.iinfo(samples.values.dtype).max)
    if samples.alpha == "none":
        return fit_channels(values, channels), None
    colours, opacity = values[..., :-1], values[..., -1:]

    def divided(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        wide = np.maximum(opacity, 1).astype(np.uint32)  # where there is none the colours are what they are: black
        return np.minimum((colours.astype(np.uint32) * top + wide // 2) // wide, top)

    if samples.alpha == "multiplied":
        colours = _by_rows(divided, values.dtype, colours, opacity)
    return fit_channels(colours, channels), np.array(values[..., -1], order="C")


def fit_channels(samples: np.ndarray, channels: int) -> np.ndarray:
    """H x W x `channels` of as many, or of grey or RGB if those are 1 or 3; contiguous, its own memory."""
    if samples.shape[2] == channels:
        own = samples.base is None and samples.flags.c_contiguous and samples.flags.writeable
        return samples if own else np.array(samples, order="C")
    if channels == 3:
        return samples.repeat(3, axis=2)

    def luma(rows: np.ndarray) -> np.ndarray:
        # ITU-R 601-2 in 16-bit fixed point, as Pillow has it; the weights sum to 2**16, so that white stays white.
        red, green, blue = (rows[..., i : i + 1].astype(np.uint32) for i in range(3))
        return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16

    return _by_rows(luma, samples.dtype, samples, channels=1)


def to_unsigned(samples: np.ndarray) -> np.ndarray:
    """Any real dtype to uint8 (from 8 bits and bool) or uint16, by the dtype's range; floats by [0, 1]."""
    kind, out = samples.dtype.kind, depth_of(samples.dtype)
    top = np.iinfo(out).max
    if kind == "b":
        return samples.astype(np.uint8) * np.uint8(255)
    if kind == "u" and samples.dtype.itemsize <= 2:
        return samples.astype(out, copy=False)  # also from the other byte order
    if kind in "iu":
        if kind == "i" and samples.min() < 0:
            raise ValueError(f"holds negative values ({samples.min()}); needed: 0 and above")
        most = int(samples.max())
        if samples.dtype.itemsize > 2 and 0 < most <= np.iinfo(np.uint16).max:
            raise ValueError(
                f"holds {samples.dtype} up to {most} only, which of its range is black; save it as 16-bit integers"
            )
        scale = top / np.iinfo(samples.dtype).max
        return _by_rows(lambda rows: np.rint(rows.astype(np.float64) * scale), out, samples)
    if kind == "f":
        low, high = float(samples.min()), float(samples.max())  # nan if there is any
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"holds floating-point values from {low:g} to {high:g}; needed: 0 (black) to 1 (white)")
        return _by_rows(lambda rows: np.rint(rows.astype(np.float64) * top), out, samples)
    raise ValueError(f"holds values of type {samples.dtype}; needed: integers or floating point")


def from_cmyk(samples: np.ndarray) -> np.ndarray:
    """RGB of four inks, H x W x 4, as Pillow has it: (1 - ink) (1 - black)."""
    top = int(np.iinfo(samples.dtype).max)

    def light(rows: np.ndarray) -> np.ndarray:
        bare = (top - rows).astype(np.uint32)
        return (bare[..., :3] * bare[..., 3:] + top // 2) // top

    return _by_rows(light, samples.dtype, samples, channels=3)


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    """The nearest uint8 of uint16, any shape: 65535 = 257 * 255."""
    return _by_rows(lambda rows: (rows.astype(np.uint32) + 128) // 257, np.dtype(np.uint8), samples)


def depth_of(dtype: np.dtype) -> np.dtype:
    """uint8 or uint16: what `to_unsigned` makes of a dtype."""
    return np.dtype(np.uint8 if dtype.itemsize == 1 else np.uint16)


def turn_upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Upright H x W x C, for an EXIF orientation of 1 to 8."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    rows_reversed, columns_reversed = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return samples[:: -1 if rows_reversed else 1, :: -1 if columns_reversed else 1]


def row_blocks(height: int, row: int) -> list[slice]:
    """Slices of rows, of about a million samples each, where a row has `row`."""
    step = max(1, _BLOCK // max(1, row))
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def _by_rows(
    function: Callable[..., np.ndarray], dtype: np.dtype, *arrays: np.ndarray, channels: int | None = None
) -> np.ndarray:
    """`function` of the arrays, a few rows at a time: as large as the first, but for the channels if given."""
    shape = arrays[0].shape if channels is None else (*arrays[0].shape[:-1], channels)
    out = np.empty(shape, dtype)
    for rows in row_blocks(shape[0], arrays[0][:1].size):
        out[rows] = function(*(array[rows] for array in arrays))
    return out
