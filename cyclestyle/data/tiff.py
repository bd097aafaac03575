"""Reads the TIFFs that Pillow does not (more than 8 bits, many channels), and writes TIFFs. All that uses tifffile.

tifffile believes a file: its directories may form a ring, its tags claim the whole file each, its strips unpack to a
thousand times their size. So a file is looked through before it is handed over.
"""

from __future__ import annotations

import logging
import lzma
import math
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cyclestyle.data.metadata import ICC_PROFILE, ORIENTATION, SIZES, Metadata, Tag, Tags, pack, parse, tiff_tags
from cyclestyle.data.pixels import Samples, depth_of, from_cmyk, to_unsigned, turn_upright

_LARGEST = 2**32 - 2**20  # bytes of a TIFF's samples and tags: its offsets have 32 bits
_MOST_PAGES, _MOST_TAGS = 2**16, 4096
_UNPACKERS: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}


def read_samples(
    path: Path,
    channels: int,
    *,
    refuse_bomb: Callable[[int, int, int], None],
    by_opencv: Callable[[bytes], np.ndarray],
) -> Samples | None:
    """The first page, upright; None where Pillow can read it and should, for it knows more kinds.

    Args:
        path: a TIFF or BigTIFF.
        channels: 1 or 3: grey or RGB and perhaps alpha come out. Others: exactly so many, all data.
        refuse_bomb: called with height, width and the bytes that a pixel takes, before anything is decoded.
        by_opencv: decodes a file's bytes to H x W x C; for compressions that tifffile needs help with.

    Raises:
        ValueError: not that many channels, or a kind that is not read.
    """
    with _open(path) as tiff:
        page = tiff.pages[0]
        refuse_bomb(*_page_size(page), _bytes_a_pixel(page))
        if channels not in (1, 3):
            values = _many_channels(tiff, channels, refuse_bomb)
            return Samples(turn_upright(to_unsigned(values), _page_orientation(page)))
        if page.dtype is None or page.dtype.itemsize == 1:  # Pillow knows more compressions and colour spaces
            return None
        try:
            values = _channels_last(_decoded(page), page.axes)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            values = by_opencv(_without_orientation(path.read_bytes(), page))
        samples = _colour(to_unsigned(values), page)
        return Samples(turn_upright(samples.values, _page_orientation(page)), samples.alpha)


def read_size(path: Path, channels: int, refuse_bomb: Callable[[int, int, int], None]) -> tuple[int, int, np.dtype]:
    """Upright height and width and the dtype of what `read_samples` returns, without decoding."""
    with _open(path) as tiff:
        page = tiff.pages[0]
        height, width = _page_size(page)
        dtype = depth_of(page.dtype or np.dtype(np.uint8))
        if channels not in (1, 3) and page.samplesperpixel != channels:
            _, height, width = _stack_layout(_series(tiff), channels)
        refuse_bomb(height, width, _bytes_a_pixel(page))
        if _page_orientation(page) >= 5:
            height, width = width, height
        return height, width, dtype


def num_pages(path: Path) -> int:
    """Pages of a TIFF but smaller versions and masks of others; 1 where there is damage beyond the first."""
    try:
        with _mapped(path) as data:
            return max(1, sum(not kind & 0b101 for kind in _page_kinds(data)))
    except Exception:  # any damage
        return 1


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its complaints become our one line, or nothing
    with _mapped(path) as data:
        next(_page_kinds(data), None)
    with tifffile.TiffFile(path) as tiff:
        yield tiff


def _series(tiff: Any) -> Any:
    """All pages together, whose directories tifffile follows then."""
    with _mapped(Path(tiff.filehandle.path)) as data:
        for _ in _page_kinds(data):
            pass
    return tiff.series[0]


# ---------------------------------------------------------------------------------------------- what a file claims


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _page_kinds(data: mmap.mmap) -> Iterator[int]:
    """NewSubfileType (TIFF 6.0, page 36) of each page; `ValueError` where pages or tags overlap or go in a ring."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    counter, entry, pointer = (order + part for part in (("Q", "HHQ", "Q") if big else ("H", "HHI", "I")))
    step = 20 if big else 12
    (offset,) = struct.unpack_from(pointer, data, 8 if big else 4)
    room = len(data) + 2**16  # a few small values may be shared
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) == _MOST_PAGES:
            raise ValueError("its pages go in a ring" if offset in seen else f"has more than {_MOST_PAGES} pages")
        seen.add(offset)
        (count,) = struct.unpack_from(counter, data, offset)
        if count > _MOST_TAGS:
            raise ValueError(f"a page has {count} tags; {_MOST_TAGS} are read at most")
        kind, claimed, offset = 0, 0, offset + struct.calcsize(counter)
        for place in range(offset, offset + count * step, step):
            tag, form, number = struct.unpack_from(entry, data, place)
            claimed += SIZES.get(form, 0) * number
            if tag == 254:
                (kind,) = struct.unpack_from(order + "I", data, place + step - (8 if big else 4))
        room -= count * step
        if claimed > len(data) + 2**16 or room < 0:
            raise ValueError("its tags claim more bytes than it has")
        yield kind
        (offset,) = struct.unpack_from(pointer, data, offset + count * step)


def _bytes_a_pixel(page: Any) -> int:
    """What decoding takes: the samples as stored, and as 16 bits."""
    size = 1 if page.dtype is None else page.dtype.itemsize
    return int(page.samplesperpixel * page.imagedepth * (size + 2))


def _decoded(page: Any) -> np.ndarray:
    _check_parts(page)
    return page.asarray()


def _check_parts(page: Any) -> None:
    """Raise where its strips or tiles are fewer than its size needs, or unpack to more."""
    if math.prod(page.chunked) > max(1, len(page.dataoffsets)):
        raise ValueError("is cut off: it has fewer parts than its size needs")
    if page.compression == 1 and page.nbytes > page.parent.filehandle.size:
        raise ValueError("is cut off: it has fewer bytes than its size needs")
    unpacker = _UNPACKERS.get(int(page.compression))
    if unpacker is not None:
        most = math.prod(page.chunks) * page.dtype.itemsize + 2**16
        with _mapped(Path(page.parent.filehandle.path)) as data:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
                if len(unpacker().decompress(data[offset : offset + count], most)) == most:
                    raise ValueError("its parts unpack to more than the picture")


def _many_channels(tiff: Any, channels: int, refuse_bomb: Callable[[int, int, int], None]) -> np.ndarray:
    """H x W x `channels` of a TIFF that holds them in one page (interleaved or planar) or in a page each."""
    page = tiff.pages[0]
    if page.samplesperpixel == channels:
        return _channels_last(_decoded(page), page.axes)
    series = _series(tiff)
    axis, height, width = _stack_layout(series, channels)  # before reading: a stack may be huge
    refuse_bomb(height, width, channels * (series.dtype.itemsize + 2))
    for each in series.pages:
        if each is not None:
            _check_parts(each.aspage())
    return np.moveaxis(series.asarray(), axis, -1).reshape(height, width, channels)


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


def _colour(samples: np.ndarray, page: Any) -> Samples:
    """Grey or RGB, perhaps with alpha, of the samples of a page, H x W x C."""
    top = np.iinfo(samples.dtype).max
    photometric = getattr(page.photometric, "name", "")
    count = samples.shape[2]
    if photometric == "SEPARATED" and count == 4:  # CMYK
        return Samples(from_cmyk(samples))
    if photometric not in ("RGB", "MINISBLACK", "MINISWHITE"):
        raise ValueError(f"16-bit TIFF of the colour space {photometric.lower()} cannot be read; convert it to RGB")
    if photometric == "MINISWHITE":
        samples = top - samples
    extra = [int(kind) for kind in page.extrasamples]  # 0 unknown, 1 alpha already multiplied in, 2 alpha
    colours = 3 if photometric == "RGB" else 1
    if count == colours or (colours == 1 and count == 3):  # three bands without names are taken for red, green, blue
        return Samples(samples)
    if count != colours + 1 or not extra or (extra[0] == 0 and colours == 1):
        raise ValueError(f"has {count} channels, but data.channels is 1 or 3")
    if extra[0] == 0:  # infrared, say
        return Samples(samples[..., :colours])
    return Samples(samples, "multiplied" if extra[0] == 1 else "straight")


def _channels_last(samples: np.ndarray, axes: str) -> np.ndarray:
    """H x W x C from a page's array, whose axes tifffile names: YX, YXS or (planar) SYX."""
    if "S" not in axes:
        return samples.reshape(*samples.shape[:2], 1) if samples.ndim == 2 else samples
    return np.moveaxis(samples, axes.index("S"), -1)


def _page_size(page: Any) -> tuple[int, int]:
    return page.imagelength, page.imagewidth


def _page_orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _without_orientation(data: bytes, page: Any) -> bytes:
    """The same TIFF, declared upright: OpenCV turns TIFFs by itself, unlike PNG, in some versions and depths."""
    tag = page.tags.get(ORIENTATION)
    if tag is None:
        return data
    return data[: tag.valueoffset] + struct.pack(page.parent.byteorder + "H", 1) + data[tag.valueoffset + 2 :]


# ---------------------------------------------------------------------------------------------- writing


def write(path: Path, pixels: np.ndarray, *, alpha: np.ndarray | None, metadata: Metadata) -> None:
    """A TIFF, or a BigTIFF where it would exceed 4 GiB; not compressed: every program reads that, and it is instant.

    Args:
        path: where to.
        pixels: H x W x C, uint8 or uint16: 1 is grey, 3 RGB, others are bands without names.
        alpha: H x W, same dtype, not multiplied into the colours; beside grey or RGB only.
        metadata: what is in it is written.
    """
    import tifffile

    channels = pixels.shape[2]
    samples = pixels if alpha is None else np.concatenate([pixels, alpha[:, :, None]], axis=2)
    if samples.shape[2] == 1:
        samples = samples[:, :, 0]
    options: dict[str, Any] = {} if samples.ndim == 2 else {"planarconfig": "contig"}
    if alpha is not None:
        options["extrasamples"] = ["unassalpha"]
    if metadata.dpi is not None:
        options |= {"resolution": metadata.dpi, "resolutionunit": "INCH"}
    tags = {} if metadata.exif is None else tiff_tags(metadata.exif)
    if metadata.icc_profile is not None:
        tags[ICC_PROFILE] = Tag(7, metadata.icc_profile)
    tifffile.imwrite(
        path,
        samples,
        photometric="rgb" if channels == 3 else "minisblack",
        byteorder="<",
        bigtiff=samples.nbytes + len(metadata.icc_profile or b"") + len(metadata.exif or b"") > _LARGEST,
        metadata=None,
        software=False,
        **options,
    )
    if tags:  # by hand: tifffile does not write directories below the main one
        _add_tags(path, tags)


def _add_tags(path: Path, tags: Tags) -> None:
    """Adds tags to the first directory of a little-endian TIFF: a new one at the end takes its place."""
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            big = data[2] == 43
            _, stored = parse(data)
        end = file.seek(0, os.SEEK_END)
        offset = end + end % 2
        file.write(bytes(end % 2) + pack(stored | tags, offset, big=big))
        file.seek(8 if big else 4)
        file.write(struct.pack("<Q" if big else "<I", offset))
