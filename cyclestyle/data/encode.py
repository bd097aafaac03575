"""Writes a picture file: pixels, alpha and metadata, as much of each as the format holds, and says what it does not.

8 bits go through Pillow, TIFF through `tiff`. 16-bit PNG is written here: Pillow has no 16-bit colour, and OpenCV no
grey with alpha.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from cyclestyle.data import tiff
from cyclestyle.data.decode import quiet, reasons
from cyclestyle.data.metadata import EXIF_PREFIX, Metadata, clean_exif, colour_space
from cyclestyle.data.pixels import Samples, over_white, row_blocks, to_8_bits
from cyclestyle.errors import DataError

_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".npy": ".npy",
}
WRITABLE = frozenset(_FORMATS)
"""Suffixes of the formats that are written, in lower case."""

_NOTHING = Metadata()
_PNG_LEVEL = 3  # of zlib; 6 takes twice as long for files 10 % smaller (8 bits) or 1 % (16 bits)
_LONGEST_EXIF = 65533  # bytes in JPEG: one segment, less its own length


def write_picture(
    path: Path,
    pixels: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    metadata: Metadata = _NOTHING,
    quality: int = 95,
) -> list[str]:
    """Writes a picture in the format of the path's suffix. May be called from several threads.

    Every value is kept in PNG, TIFF, .npy and, of 8 bits, BMP and WebP of quality 100.

    Args:
        path: see `WRITABLE`; any case. What is there is overwritten, not atomically.
        pixels: H x W x C, uint8 or uint16: grey (1) or RGB (3), straight colours; others only to TIFF and .npy.
        alpha: H x W, same dtype, 0 is transparent; beside grey or RGB only. The last channel in .npy.
        metadata: the picture's size is put into EXIF anew.
        quality: 1 to 100, of JPEG (4:4:4) and WebP; at 100 WebP is lossless.

    Returns:
        In words, what the format could not hold.

    Raises:
        DataError: not a format that is written, or one that cannot hold such a picture; one line.
    """
    assert pixels.ndim == 3, f"internal: pixels of shape {pixels.shape}"
    assert pixels.dtype in (np.uint8, np.uint16), f"internal: pixels of {pixels.dtype}"
    channels = pixels.shape[2]
    if alpha is not None:
        assert channels in (1, 3), f"internal: alpha beside {channels} channels"
        assert (alpha.shape, alpha.dtype) == (pixels.shape[:2], pixels.dtype), f"internal: alpha {alpha.shape}"
    name = _FORMATS.get(path.suffix.lower())
    if name is None:
        raise DataError(f"{path}: files of this kind are not written; needed: one of {', '.join(_FORMATS)}")
    if channels not in (1, 3) and name not in ("TIFF", ".npy"):
        raise DataError(f"{path}: {name} cannot hold {channels} channels; use --format tiff or --format npy")
    with reasons(path, "written"), quiet:
        fitting, lost = _fitting(metadata, name, *pixels.shape)
        if alpha is not None and name in ("JPEG", "BMP"):
            pixels, alpha = over_white(Samples(np.dstack([pixels, alpha]), "straight"), channels), None
            lost.append("alpha (laid over white)")
        if pixels.dtype == np.uint16 and name in ("JPEG", "WebP", "BMP"):
            pixels, alpha = to_8_bits(pixels), None if alpha is None else to_8_bits(alpha)
            lost.append("16 bits (became 8)")
        if name == ".npy":
            with path.open("wb") as file:
                np.save(file, pixels if alpha is None else np.dstack([pixels, alpha]))
        elif name == "TIFF":
            tiff.write(path, pixels, alpha=alpha, metadata=fitting)
        elif pixels.dtype == np.uint16:
            with path.open("wb") as file:
                _write_deep_png(file, pixels if alpha is None else np.dstack([pixels, alpha]), fitting)
        else:
            _write_8_bits(path, name, pixels=pixels, alpha=alpha, metadata=fitting, quality=quality)
    return lost


def _fitting(metadata: Metadata, name: str, height: int, width: int, channels: int) -> tuple[Metadata, list[str]]:
    """The metadata that the format `name` holds, and in words what it does not."""
    icc, exif, dpi, lost = metadata.icc_profile, metadata.exif, metadata.dpi, []
    if icc is not None:
        space, needed = colour_space(icc), "GRAY" if channels == 1 and name != "WebP" else "RGB"
        if name in ("BMP", ".npy"):
            icc, reason = None, f" ({name} holds none)"
        elif channels not in (1, 3):
            icc, reason = None, f" (it is not for {channels} channels)"
        elif space != needed:
            icc, reason = None, f" (it is for {space})" if space else " (it is damaged)"
        if icc is None:
            lost.append(f"the ICC profile{reason}")
    if exif is not None:
        exif = clean_exif(exif, height, width)
        reason = "damaged"
        if name in ("BMP", ".npy"):
            exif, reason = None, f"{name} holds none"
        elif exif is not None and name == "JPEG" and len(exif) > _LONGEST_EXIF:
            exif, reason = None, "too long for JPEG"
        if exif is None:
            lost.append(f"EXIF ({reason})")
    if dpi is not None and name in ("WebP", ".npy"):
        dpi = None
        lost.append(f"the resolution ({name} holds none)")
    return Metadata(icc_profile=icc, exif=exif, dpi=dpi), lost


def _write_8_bits(
    path: Path, name: str, *, pixels: np.ndarray, alpha: np.ndarray | None, metadata: Metadata, quality: int
) -> None:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    if name == "WebP" and pixels.shape[2] == 1:  # it has no grey
        image = image.convert("RGB" if alpha is None else "RGBA")
    options: dict[str, Any] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "PNG": {"compress_level": _PNG_LEVEL},
        "WebP": {"quality": quality, "exact": True},  # exact: the colours of what is transparent as well
        "BMP": {},
    }[name]
    if name == "WebP" and quality == 100:
        options |= {"lossless": True, "quality": 0, "method": 0}  # the efforts: 8 times as fast, 10 % larger
    if metadata.icc_profile is not None:
        options["icc_profile"] = metadata.icc_profile
    if metadata.exif is not None:
        options["exif"] = metadata.exif
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    image.save(path, name.upper(), **options)


# ---------------------------------------------------------------------------------------------- 16-bit PNG


def _write_deep_png(file: BinaryIO, samples: np.ndarray, metadata: Metadata) -> None:
    """A PNG (W3C, third edition) of H x W x (1 to 4) uint16: grey, grey and alpha, RGB, RGB and alpha."""
    height, width, channels = samples.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file.write(b"\x89PNG\r\n\x1a\n")
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    if metadata.icc_profile is not None:
        _write_chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.dpi is not None:
        per_metre = (min(2**31 - 1, round(value / 0.0254)) for value in metadata.dpi)
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if metadata.exif is not None:
        _write_chunk(file, b"eXIf", metadata.exif.removeprefix(EXIF_PREFIX))
    for part in _compressed(samples):
        _write_chunk(file, b"IDAT", part)
    _write_chunk(file, b"IEND", b"")


def _compressed(samples: np.ndarray) -> Iterator[bytes]:
    """The pixel data, a few rows at a time; each byte less that of the pixel before (filter type 1)."""
    height, width, channels = samples.shape
    pixel = 2 * channels  # bytes
    deflate = zlib.compressobj(_PNG_LEVEL)
    for rows in row_blocks(height, width * channels):
        stored = samples[rows].astype(">u2").view(np.uint8).reshape(-1, width * pixel)
        lines = np.empty((len(stored), 1 + width * pixel), np.uint8)
        lines[:, 0] = 1
        lines[:, 1 : 1 + pixel] = stored[:, :pixel]
        np.subtract(stored[:, pixel:], stored[:, :-pixel], out=lines[:, 1 + pixel :])
        yield deflate.compress(lines.data)
    yield deflate.flush()


def _write_chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))
