"""Reads one image file: its pixels, and for a translation its alpha and metadata, or a `DataError` that names it.

Pillow reads nearly everything. OpenCV reads what Pillow reduces to 8 bits (16-bit colour PNG), `tiff` the deeper and
the many-channelled TIFFs, numpy .npy. What comes out is upright (EXIF), uint8 or uint16, and has the channels that
were asked for. `decode` lays alpha over white; `read_picture` keeps it.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from cyclestyle.data import tiff
from cyclestyle.data.jpeg import refuse_many_scans
from cyclestyle.data.metadata import ORIENTATION, Metadata, metadata_of, metadata_of_tiff
from cyclestyle.data.pixels import (
    Samples,
    depth_of,
    over_white,
    row_blocks,
    straight_colours,
    to_unsigned,
    turn_upright,
)
from cyclestyle.errors import DataError

# Imported above, so that Pillow knows them before threads start; it would look for plugins in the middle of the first.
_PLUGINS = (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
PngImagePlugin.MAX_TEXT_CHUNK = 2**24  # bytes; Pillow's 1 MB refuses pictures for the length of their ICC profile
_PILLOW_BYTES = 8  # that a pixel takes: in Pillow four, and as an array up to four
_SURELY_FREE = 2**26  # bytes; only above is it worth looking how much there is
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
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


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture and what must go with it into the file that is written from it.

    Attributes:
        pixels: H x W x channels, uint8 or uint16, upright; straight colours, not laid over anything.
        alpha: H x W, same dtype, 0 is transparent; None where the file has none.
        metadata: for the upright picture.
        num_frames: frames or pages in the file, of which this is the first: an animation, a TIFF of several pages.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    metadata: Metadata
    num_frames: int


def decode(path: Path, channels: int) -> np.ndarray:
    """Pixels of an image file. May be called from several threads.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF (told by their content) or .npy (H x W or H x W x C).
        channels: 1 (grey, ITU-R 601) or 3 (RGB): the file is converted. Others only from TIFF and .npy, not converted.

    Returns:
        H x W x `channels`, contiguous, its own memory; uint16 from files with more than 8 bits a channel. Floats in
        [0, 1] and 32-bit integers fill the range of uint16. Alpha lies over white. The first frame or page of several.

    Raises:
        DataError: anything at all that is wrong with the file; one line.
    """
    with reasons(path), quiet:
        return over_white(_read(path, channels, whole=False)[0], channels)


def read_picture(path: Path, channels: int) -> Picture:
    """An image file with its alpha and metadata. Same arguments, errors and conversions as `decode`."""
    with reasons(path), quiet:
        samples, metadata, num_frames = _read(path, channels, whole=True)
        pixels, alpha = straight_colours(samples, channels)
        return Picture(pixels=pixels, alpha=alpha, metadata=metadata, num_frames=num_frames)


def picture_of(image: Image.Image, channels: int) -> Picture:
    """An open Pillow image, as `read_picture` gives a file.

    Args:
        image: of any mode.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        DataError: the image's file is damaged, or its values are out of range; one line.
    """
    with reasons("the picture"), quiet:
        samples = _samples_of(image)
        metadata = metadata_of(image, *samples.values.shape[:2])
        pixels, alpha = straight_colours(samples, channels)
        return Picture(pixels=pixels, alpha=alpha, metadata=metadata, num_frames=_num_frames(image))


def read_header(path: Path, channels: int) -> Header:
    """Size and depth of an image file, from its first bytes. Same arguments and errors as `decode`."""
    with reasons(path), quiet:
        start = _start_of(path)
        if start.startswith(_NPY):
            array = _open_npy(path, channels)
            return Header(array.shape[0], array.shape[1], depth_of(array.dtype))
        if start.startswith(_TIFF):
            return Header(*tiff.read_size(path, channels, _refuse_bomb))
        _refuse_channels(channels)
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if _orientation(image) >= 5:
                width, height = height, width
            deep = _is_deep_png(start) or image.mode.startswith(("I", "F"))
            return Header(height, width, np.dtype(np.uint16 if deep else np.uint8))


def set_largest_image(megapixels: float) -> None:
    """Refuse pictures of more pixels (in millions) than this, here and in Pillow; 178.9 unless told.

    A small file may claim to be enormous (a decompression bomb). Holds for the whole process.
    """
    Image.MAX_IMAGE_PIXELS = max(1, round(megapixels * 1e6 / 2))  # Pillow refuses from twice as many on


def largest_image() -> int:
    """The most pixels that a picture may have; see `set_largest_image`."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 2**62)


def _read(path: Path, channels: int, *, whole: bool) -> tuple[Samples, Metadata, int]:
    """Samples upright, and if `whole` the metadata and the number of frames as well."""
    start = _start_of(path)
    if start.startswith(_NPY):
        values = to_unsigned(_open_npy(path, channels))
        has_alpha = channels in (1, 3) and values.shape[2] in (2, 4)
        return Samples(values, "straight" if has_alpha else "none"), Metadata(), 1
    if start.startswith(_TIFF):
        samples = tiff.read_samples(path, channels, refuse_bomb=_refuse_bomb, by_opencv=_opencv)
        if samples is None:
            samples, _, _ = _read_pillow(path, start, whole=False)
        if not whole:
            return samples, Metadata(), 1
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            metadata = metadata_of_tiff(data, *samples.values.shape[:2])
        return samples, metadata, tiff.num_pages(path) if channels in (1, 3) else 1
    _refuse_channels(channels)
    return _read_pillow(path, start, whole=whole)


# ---------------------------------------------------------------------------------------------- Pillow and OpenCV


def _read_pillow(path: Path, start: bytes, *, whole: bool) -> tuple[Samples, Metadata, int]:
    metadata, num_frames = Metadata(), 1
    refuse_many_scans(path)
    # Not by its path: Pillow would map the file, and turns mapped TIFFs by their orientation wrongly.
    with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
        _refuse_bomb(image.height, image.width, _PILLOW_BYTES)
        image.load()
        if start.startswith(_PNG) and start[24] < 8 and start[25] == 0 and "transparency" in image.info:
            widened = image.info["transparency"] * 255 // (2 ** start[24] - 1)  # Pillow widens only the pixels
            image.info["transparency"] = min(255, widened)  # but for one bit, from version 11 on
        orientation = _orientation(image)
        samples = None if _is_deep_png(start) else _samples_of(image)
        if whole:
            metadata = metadata_of(image, *(image.size if orientation >= 5 else image.size[::-1]))
            num_frames = _num_frames(image)
    if samples is None:
        del image  # a picture's memory
        values = turn_upright(_opencv(path.read_bytes()), orientation)
        samples = Samples(values, "straight" if values.shape[2] == 4 else "none")
    return samples, metadata, num_frames


def _samples_of(image: Image.Image) -> Samples:
    """Grey or RGB of an image of any mode, perhaps with alpha, upright."""
    image.load()
    orientation = _orientation(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)[:, :, None]
        if image.mode == "I" and image.format == "PNG":  # Pillow before 11: 16 bits in 32
            values = values.astype(np.uint16)
        samples = to_unsigned(values)
        transparent = image.info.get("transparency")
        if image.format != "PNG" or not isinstance(transparent, int):
            return Samples(turn_upright(samples, orientation))
        opacity = np.where(samples == transparent, 0, np.iinfo(samples.dtype).max).astype(samples.dtype)
        return Samples(turn_upright(np.concatenate([samples, opacity], axis=2), orientation), "straight")
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    mode = ("L" if image.mode in ("1", "L", "LA", "La") else "RGB") + ("A" if has_alpha else "")
    width, height = image.size
    values = np.empty((height, width, len(mode)), np.uint8)
    for rows in row_blocks(height, width * len(mode)):  # a few rows at a time, or Pillow would hold it three times
        part = image.crop((0, rows.start, width, rows.stop))
        part = part if part.mode == mode else part.convert(mode)
        values[rows] = np.asarray(part).reshape(-1, width, len(mode))
    return Samples(turn_upright(values, orientation), "straight" if has_alpha else "none")


def _opencv(data: bytes) -> np.ndarray:
    """What OpenCV makes of a file: H x W x C, RGB or RGBA where it has colour; EXIF not applied."""
    import cv2

    with suppress(AttributeError):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it says becomes our one line
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError("damaged, or of a kind that cannot be read")
    if samples.ndim == 2:
        return samples[:, :, None]
    for rows in row_blocks(len(samples), samples[0].size):
        samples[rows, :, :3] = samples[rows, :, 2::-1].copy()  # OpenCV has blue first
    return samples


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where there is none or it is damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF: the pixels are as good as ever
        return 1
    return value if value in range(1, 9) else 1


def _num_frames(image: Image.Image) -> int:
    """Frames of an animation or pages; a phone's JPEG may hold a depth map as well, which is neither."""
    if image.format in ("JPEG", "MPO"):
        return 1
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:  # damaged beyond the first frame
        return 1


def _is_deep_png(data: bytes) -> bool:
    """A PNG of 16 bits with colour or alpha. Pillow keeps 16 bits only in plain grey."""
    return data.startswith(_PNG) and len(data) > 25 and data[24] == 16 and data[25] != 0


# ---------------------------------------------------------------------------------------------- .npy


def _open_npy(path: Path, channels: int) -> np.ndarray:
    """H x W x C of the file's own dtype, not read yet (mapped: a header cannot claim more than the file holds)."""
    array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"holds an array of shape {array.shape}, needed: height x width or height x width x channels")
    _refuse_bomb(array.shape[0], array.shape[1], array.shape[2] * (array.dtype.itemsize + 2))
    if (array.shape[2] != channels) if channels not in (1, 3) else (array.shape[2] > 4):
        raise ValueError(f"has {array.shape[2]} channels, but data.channels is {channels}")
    return array


# ---------------------------------------------------------------------------------------------- refusals


def _start_of(path: Path) -> bytes:
    """The first bytes of a file; names the files that people have most often and that are not read."""
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        raise ValueError("the file is empty (0 bytes)")
    if start[4:8] == b"ftyp":
        raise ValueError("a HEIC, AVIF or video file, which is not read; convert it to JPEG or PNG")
    return start


def _refuse_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"data.channels is {channels}, which only TIFF and .npy files can have")


def _refuse_bomb(height: int, width: int, bytes_a_pixel: int) -> None:
    """The limit at which Pillow refuses an image as a decompression bomb, for the files it does not open; and memory.

    Args:
        bytes_a_pixel: that decoding takes.
    """
    pixels = height * width
    if pixels > largest_image():
        raise Image.DecompressionBombError(f"({pixels} pixels)")
    needed = pixels * bytes_a_pixel
    if needed <= _SURELY_FREE or not hasattr(os, "sysconf"):  # Windows does not tell
        return
    from cyclestyle.devices import free_memory  # brings torch

    if needed > (free := free_memory()):
        raise ValueError(
            f"{width} x {height} pixels take {needed / 2**30:.1f} GiB to decode, and {free / 2**30:.1f} GiB are free"
        )


def _too_large(error: Exception) -> str:
    limit = f"the limit of {largest_image()} pixels"
    found = re.search(r"\((\d+) pixels\)", str(error))
    if found is None:
        return f"exceeds {limit}; raise it with --max-megapixels"
    return f"{found[1]} pixels exceed {limit}; raise it with --max-megapixels {math.ceil(int(found[1]) / 1e6)}"


@contextmanager
def reasons(path: Path | str, verb: str = "read") -> Iterator[None]:
    """Whatever goes wrong inside becomes a `DataError` of one line. Decoders raise about every exception there is."""
    try:
        yield
    except UnidentifiedImageError:
        is_tiff = Path(path).suffix.lower() in (".tif", ".tiff")
        hint = "; channels other than 1, 3 or 4 are read with data.channels set to their number" if is_tiff else ""
        raise DataError(f"{path}: not an image, or of a kind that is not read{hint}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {_too_large(error)}") from None
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        plain = reason and isinstance(error, (OSError, ValueError))
        kind = "" if plain else f"cannot be {verb}, {type(error).__name__} "
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


quiet = _Quiet()
