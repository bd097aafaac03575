"""Pictures as arrays: what a translator takes, how they are padded to its stride, and back to Pillow."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cyclestyle.errors import DataError

# Below this the reflections inside a ResNet are wider than its quarter-size features.
_SMALLEST_SIDE = 16


def padded_indices(size: int, stride: int) -> np.ndarray:
    """Indices of rows or columns, reflected at the end up to a multiple of the stride that the generator can take."""
    wanted = padded_size(size, stride)
    return np.pad(np.arange(size), (0, wanted - size), mode="reflect" if size > 1 else "edge")


def padded_size(size: int, stride: int) -> int:
    """The least multiple of the stride that the generator can take, in pixels."""
    return -(-max(size, _SMALLEST_SIDE, stride) // stride) * stride


def check_pixels(pixels: np.ndarray) -> None:
    """Refuse H x W x C pixels that no translator takes.

    Raises:
        DataError: no pixels, floats outside [0, 1], another dtype than uint8, uint16 or floats.
    """
    height, width, _ = pixels.shape
    if not height or not width:
        raise DataError(f"a picture of {width} x {height} pixels was given, needed is at least one pixel")
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # also false for nan
            raise DataError(f"an array of {pixels.dtype} outside 0..1 was given, needed is 0 (black) to 1 (white)")
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"an array of {pixels.dtype} was given, needed is uint8, uint16 or floating point in 0..1")


def as_picture(pixels: np.ndarray, alpha: np.ndarray | None = None) -> Image.Image:
    """H x W x 1 or 3 as a PIL image: L, LA, I;16, RGB or RGBA.

    Pillow has no RGB of 16 bits and no 16-bit alpha, so those become 8 bits.
    """
    if pixels.dtype == np.uint16 and (pixels.shape[-1] == 3 or alpha is not None):
        pixels = np.round(pixels / 257.0).astype(np.uint8)
    if alpha is not None:
        alpha = np.round(alpha / 257.0).astype(np.uint8) if alpha.dtype == np.uint16 else alpha
        pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
