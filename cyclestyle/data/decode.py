"""Reads one image file into pixels: H x W x C, uint8 or uint16, or a `DataError` that names the file and the reason.

Pillow reads nearly everything. OpenCV reads what Pillow reduces to 8 bits (16-bit colour PNG), tifffile the deeper and
the many-channelled TIFFs, numpy .npy. What comes out is upright (EXIF), opaque (alpha over white), and has the
channels that were asked for.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from cyclestyle.data.pixels import depth_of, fit_channels, to_unsigned, turn_upright
from cyclestyle.errors import DataError

# Imported above, so that Pillow knows them before threads start; it would look for plugins in the middle of the first.
_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, TiffImagePlugin, BmpImagePlugin, GifImagePlugin)
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_ORIENTATION = 0x0112  # tag of EXIF and TIFF; 5 to 8 swap height and width
_PNG, _TIFF, _NPY = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), b"\x93NUMPY"


@dataclass(frozen=True)
class Header:
    """What a file says about itself: what `decode` will return, without decoding.

    Attributes:
        height: pixels, upright.
        width: pixels, upright.
        dtype: uint8 or uint16.
    """

    height: int
    width: int
    dtype: np.dtype


def decode(path: Path, channels: int) -> np.ndarray:
    """Pixels of an image file. May be called from several threads.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF (told by their content) or .npy (H x W or H x W x C).
        channels: 1 (grey, ITU-R 601) or 3 (RGB): the file is converted. Others only from TIFF and .npy, not converted.

    Returns:
        H x W x `channels`, contiguous, its own memory; uint16 from files with more than 8 bits a channel. Floats in
        [0, 1] and 32-bit integers fill the range of uint16. The first frame or page of several.

    Raises:
        DataError: anything at all that is wrong with the file; one line.
    """
    with _reasons(path), _quiet:
        pixels = _decode(path, channels)
        assert pixels.ndim == 3, f"internal: decoded to shape {pixels.shape}"
        return np.ascontiguousarray(pixels)


def read_header(path: Path, channels: int) -> Header:
    """Size and depth of an image file, from its first bytes. Same arguments and errors as `decode`."""
    with _reasons(path), _quiet:
        with path.open("rb") as file:
            start = file.read(32)
        _refuse_foreign(start)
        if start.startswith(_NPY):
            array = _open_npy(path, channels)
            return Header(array.shape[0], array.shape[1], depth_of(array.dtype))
        if start.startswith(_TIFF):
            with path.open("rb") as file:
                return _tiff_header(file, channels)
        _refuse_channels(channels)
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if _orientation(image) >= 5:
                width, height = height, width
            deep = _is_deep_png(start) or image.mode.startswith(("I", "F"))
            return Header(height, width, np.dtype(np.uint16 if deep else np.uint8))


def _decode(path: Path, channels: int) -> np.ndarray:
    data = path.read_bytes()
    _refuse_foreign(data)
    if data.startswith(_NPY):
        array = _open_npy(path, channels)
        samples = to_unsigned(array)
        return samples if channels not in (1, 3) else fit_channels(samples, channels, alpha=samples.shape[2] in (2, 4))
    if data.startswith(_TIFF):
        return _decode_tiff(data, channels)
    _refuse_channels(channels)
    return _decode_pillow(data, channels)


# ---------------------------------------------------------------------------------------------- Pillow and OpenCV


def _decode_pillow(data: bytes, channels: int) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        image.load()
        if _is_deep_png(data):
            samples = turn_upright(_opencv(data), _orientation(image))
            return fit_channels(samples, channels, alpha=samples.shape[2] == 4)
        return pixels_of(image, channels)


def pixels_of(image: Image.Image, channels: int) -> np.ndarray:
    """Pixels of an open Pillow image, as `decode` gives those of a file: upright, alpha over white.

    Args:
        image: of any mode.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        H x W x `channels`; uint16 from modes of more than 8 bits (I;16, I, F), else uint8.
    """
    upright = _upright(image)
    has_alpha = upright.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in upright.info
    if upright.mode.startswith(("I", "F")):
        samples = np.asarray(upright)[:, :, None]
        if upright.mode == "I" and upright.format == "PNG":  # Pillow before 11: 16 bits in 32
            samples = samples.astype(np.uint16)
        return fit_channels(to_unsigned(samples), channels)
    if has_alpha:
        grey = upright.mode in ("1", "L", "LA", "La")
        straight = upright.convert("LA" if grey and upright.mode != "La" else "RGBA")
        return fit_channels(np.asarray(straight), channels, alpha=True)
    plain = upright.convert("L" if upright.mode in ("1", "L") else "RGB")
    return fit_channels(np.asarray(plain).reshape(plain.height, plain.width, -1), channels)


def _opencv(data: bytes) -> np.ndarray:
    """What OpenCV makes of a file: H x W x C, RGB or RGBA where it has colour; EXIF not applied."""
    import cv2

    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError("damaged, or of a kind that cannot be read")
    if samples.ndim == 2:
        return samples[:, :, None]
    order = [2, 1, 0, 3][: samples.shape[2]]  # OpenCV has blue first
    return samples[:, :, order]


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: the pixels are as good as ever
        return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where there is none or it is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as above
        return 1
    return value if value in range(1, 9) else 1


def _is_deep_png(data: bytes) -> bool:
    """A PNG of 16 bits with colour or alpha. Pillow keeps 16 bits only in plain grey."""
    return data.startswith(_PNG) and len(data) > 25 and data[24] == 16 and data[25] != 0


# ---------------------------------------------------------------------------------------------- TIFF and .npy


def _decode_tiff(data: bytes, channels: int) -> np.ndarray:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its complaints become our one line, or nothing
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages[0]
        _refuse_bomb(*_page_size(page))
        if channels not in (1, 3):
            return turn_upright(to_unsigned(_many_channels(tiff, channels)), _page_orientation(page))
        if page.dtype is None or page.dtype.itemsize == 1:  # Pillow knows more compressions and colour spaces
            return _decode_pillow(data, channels)
        try:
            samples = _channels_last(page.asarray(), page.axes)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            samples = _opencv(_without_orientation(data, page))
        colour, alpha = _tiff_colour(to_unsigned(samples), page)
        return fit_channels(turn_upright(colour, _page_orientation(page)), channels, alpha=alpha)


def _tiff_header(file: Any, channels: int) -> Header:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        height, width = _page_size(page)
        dtype = depth_of(page.dtype or np.dtype(np.uint8))
        if channels not in (1, 3) and page.samplesperpixel != channels:
            _, height, width = _stack_layout(tiff.series[0], channels)
        _refuse_bomb(height, width)
        if _page_orientation(page) >= 5:
            height, width = width, height
        return Header(height, width, dtype)


def _many_channels(tiff: Any, channels: int) -> np.ndarray:
    """H x W x `channels` of a TIFF that holds them in one page (interleaved or planar) or in a page each."""
    page = tiff.pages[0]
    if page.samplesperpixel == channels:
        return _channels_last(page.asarray(), page.axes)
    axis, height, width = _stack_layout(tiff.series[0], channels)  # before reading: a stack may be huge
    return np.moveaxis(tiff.series[0].asarray(), axis, -1).reshape(height, width, channels)


def _stack_layout(series: Any, channels: int) -> tuple[int, int, int]:
    """Channel axis, height and width of a TIFF's pages together: the axis the file names so, else the one that fits."""
    shape: tuple[int, ...] = series.shape
    named = [i for i, letter in enumerate(series.axes) if letter in "SC" and shape[i] != 1]
    likely = named or [i for i, size in enumerate(shape) if size == channels]
    if likely:
        axis = likely[-1] if likely[-1] == len(shape) - 1 else likely[0]
        others = [size for i, size in enumerate(shape) if i != axis]
        if shape[axis] == channels and len(others) >= 2 and all(size == 1 for size in others[:-2]):
            return axis, others[-2], others[-1]
    raise ValueError(f"holds {' x '.join(map(str, shape))} values, but data.channels is {channels}")


def _tiff_colour(samples: np.ndarray, page: Any) -> tuple[np.ndarray, bool]:
    """Grey or RGB, perhaps with alpha, of the samples of a TIFF page: H x W x C, and whether the last is alpha."""
    top = np.iinfo(samples.dtype).max
    photometric = getattr(page.photometric, "name", "")
    count = samples.shape[2]
    if photometric == "SEPARATED" and count == 4:  # CMYK
        light = (top - samples).astype(np.uint32)
        return ((light[..., :3] * light[..., 3:] + top // 2) // top).astype(samples.dtype), False
    if photometric not in ("RGB", "MINISBLACK", "MINISWHITE"):
        raise ValueError(f"16-bit TIFF of the colour space {photometric.lower()} cannot be read; convert it to RGB")
    if photometric == "MINISWHITE":
        samples = top - samples
    extra = [int(kind) for kind in page.extrasamples]  # 0 unknown, 1 alpha already multiplied in, 2 alpha
    colours = 3 if photometric == "RGB" else 1
    if count == colours or (colours == 1 and count == 3):  # three bands without names are taken for red, green, blue
        return samples, False
    if count != colours + 1 or not extra or (extra[0] == 0 and colours == 1):
        raise ValueError(f"has {count} channels, but data.channels is 1 or 3")
    if extra[0] == 0:  # infrared, say
        return samples[..., :colours], False
    if extra[0] == 1:
        light = samples[..., :colours].astype(np.uint32) + (top - samples[..., colours : colours + 1])
        return np.minimum(light, top).astype(samples.dtype), False
    return samples[..., : colours + 1], True


def _channels_last(samples: np.ndarray, axes: str) -> np.ndarray:
    """H x W x C from a page's array, whose axes tifffile names: YX, YXS or (planar) SYX."""
    if "S" not in axes:
        return samples.reshape(*samples.shape[:2], 1) if samples.ndim == 2 else samples
    return np.moveaxis(samples, axes.index("S"), -1)


def _page_size(page: Any) -> tuple[int, int]:
    return page.imagelength, page.imagewidth


def _page_orientation(page: Any) -> int:
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _without_orientation(data: bytes, page: Any) -> bytes:
    """The same TIFF, declared upright: OpenCV turns TIFFs by itself, unlike PNG, in some versions and depths."""
    tag = page.tags.get(_ORIENTATION)
    if tag is None:
        return data
    return data[: tag.valueoffset] + struct.pack(page.parent.byteorder + "H", 1) + data[tag.valueoffset + 2 :]


def _open_npy(path: Path, channels: int) -> np.ndarray:
    """H x W x C of the file's own dtype, not read yet (mapped: a header cannot claim more than the file holds)."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"holds an array of shape {array.shape}, needed: height x width or height x width x channels")
    _refuse_bomb(*array.shape[:2])
    if (array.shape[2] != channels) if channels not in (1, 3) else (array.shape[2] > 4):
        raise ValueError(f"has {array.shape[2]} channels, but data.channels is {channels}")
    return array


# ---------------------------------------------------------------------------------------------- refusals


def _refuse_foreign(data: bytes) -> None:
    """Name the files that people have most often and that are not read."""
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    if data[4:8] == b"ftyp":
        raise ValueError("a HEIC, AVIF or video file, which is not read; convert it to JPEG or PNG")


def _refuse_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"data.channels is {channels}, which only TIFF and .npy files can have")


def _refuse_bomb(height: int, width: int) -> None:
    """The limit at which Pillow refuses an image as a decompression bomb, for the files it does not open."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 2**62)
    if height * width > limit:
        raise ValueError(f"{width} x {height} pixels exceed the limit of {limit}")


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes a `DataError` of one line. Decoders raise about every exception there is."""
    try:
        yield
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image, or of a kind that is not read") from None
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kind = "" if reason and isinstance(error, (OSError, ValueError)) else f"cannot be read, {type(error).__name__} "
        raise DataError(f"{path}: {kind}{' '.join(reason.split())[:300]}".rstrip()) from error


class _Quiet:
    """Silences `warnings` while any thread is inside; `catch_warnings` alone is not safe across threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)
                self._saved = None


_quiet = _Quiet()
