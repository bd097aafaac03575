"""Damaged and made-up picture files: pixels that the header promised, or one line."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cyclestyle.data.decode import decode, read_header, read_picture
from cyclestyle.data.encode import write_picture
from cyclestyle.data.metadata import Metadata
from cyclestyle.errors import DataError

from .fuzzing import damaged, fuzzed, limits

_RANDOM = np.random.default_rng(0)
RGB = _RANDOM.integers(0, 256, (24, 20, 3), dtype=np.uint8)
DEEP = _RANDOM.integers(0, 65536, (24, 20, 3), dtype=np.uint16)


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    return exif.tobytes()


PROFILE = struct.pack(">I12x4s", 128, b"RGB ") + bytes(108)


def _pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def _written(folder: Path, name: str, pixels: np.ndarray, **options: Any) -> bytes:
    write_picture(
        folder / name, pixels, metadata=Metadata(icc_profile=PROFILE, exif=_exif(), dpi=(72.0, 72.0)), **options
    )
    return (folder / name).read_bytes()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


def _check(path: Path, channels: int) -> None:
    promised = found = None
    with limits(10.0, 512):
        for read in (read_header, decode, read_picture):
            try:
                value: Any = read(path, channels)
            except DataError as error:
                line = str(error)
                assert "\n" not in line
                assert len(line) < 500
                assert "MemoryError" not in line, line
                continue
            if read is read_header:
                promised = (value.height, value.width, value.dtype)
            elif read is decode:
                found = (*value.shape[:2], value.dtype)
                assert value.shape[2] == channels
            else:
                assert value.num_frames >= 1
                assert value.alpha is None or value.alpha.shape == value.pixels.shape[:2]
    assert found is None or promised is None or found == promised


IMAGE = Image.fromarray(RGB)
PALETTE = IMAGE.quantize(16)
MASK = Image.fromarray(RGB[..., 0])


def _apng() -> bytes:
    return _pillow(IMAGE, "PNG", save_all=True, append_images=[IMAGE.rotate(90).resize(IMAGE.size)])


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "png": lambda: [
        _pillow(IMAGE, "PNG", exif=_exif(), icc_profile=PROFILE), _pillow(PALETTE, "PNG", transparency=3), _apng(),
        _pillow(MASK.convert("1"), "PNG"), _pillow(IMAGE.convert("RGBA"), "PNG"),
    ],
    "jpeg": lambda: [
        _pillow(IMAGE, "JPEG", exif=_exif(), icc_profile=PROFILE), _pillow(IMAGE, "JPEG", progressive=True),
        _pillow(MASK, "JPEG"), _pillow(IMAGE.convert("CMYK"), "JPEG"),
        _pillow(IMAGE, "MPO", save_all=True, append_images=[IMAGE]),
    ],
    "webp": lambda: [
        _pillow(IMAGE, "WEBP", exif=_exif(), icc_profile=PROFILE),
        _pillow(IMAGE.convert("RGBA"), "WEBP", lossless=True),
        _pillow(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(180)]),
    ],
    "tiff": lambda: [
        _pillow(IMAGE, "TIFF", compression="tiff_lzw"), _pillow(IMAGE, "TIFF", compression="jpeg"), _tiff(RGB),
        _tiff(np.stack([RGB[..., 0]] * 3), photometric="minisblack"),
        _pillow(MASK.convert("1"), "TIFF", compression="group4"),
    ],
    "deep tiff": lambda: [
        _tiff(DEEP), _tiff(DEEP, compression="zlib", predictor=True), _tiff(DEEP, tile=(16, 16), compression="lzma"),
        _tiff(DEEP.astype(np.float32) / 65535, planarconfig="separate", photometric="rgb"), _tiff(DEEP, bigtiff=True),
        _tiff(DEEP, byteorder=">", rowsperstrip=5),
        *(_pillow(Image.fromarray(DEEP[..., 0]), "TIFF", compression=name) for name in ("tiff_lzw", "packbits")),
    ],
    "gif, bmp": lambda: [
        _pillow(PALETTE, "GIF"), _pillow(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(90)]),
        _pillow(IMAGE, "BMP"), _pillow(PALETTE, "BMP"),
    ],
    "npy": lambda: [_npy(RGB), _npy(DEEP), _npy(RGB[..., 0].astype(np.float64)), _npy(np.asfortranarray(DEEP))],
}  # fmt: skip


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have theirs again, so that damage gets beyond them."""
    mended, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(mended[: len(data)])


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_files(folder: Path, kind: str) -> None:
    seeds = SEEDS[kind]()
    if kind in ("png", "deep tiff"):  # 16-bit PNG is written by ourselves alone
        seeds += [
            _written(folder, "x.png", DEEP),
            _written(folder, "y.png", DEEP, alpha=DEEP[..., 0]),
            _written(folder, "x.tif", DEEP),
        ]

    @given(damaged(seeds), st.sampled_from([1, 3, 3, 3]), st.booleans())
    @fuzzed(180)
    def check(data: bytes, channels: int, is_mended: bool) -> None:
        (folder / "image").write_bytes(_with_checksums(data) if is_mended and kind == "png" else data)
        _check(folder / "image", channels)

    check()


def _bands() -> list[bytes]:
    bands = np.dstack([DEEP, DEEP[..., :2]])
    return [
        _tiff(bands, planarconfig="contig", photometric="minisblack"), _npy(bands),
        _tiff(np.moveaxis(bands, -1, 0), planarconfig="separate", photometric="minisblack"),
        _tiff(np.moveaxis(bands, -1, 0), photometric="minisblack", metadata={"axes": "CYX"}),
        _tiff(np.moveaxis(bands, -1, 0), photometric="minisblack", imagej=True, metadata={"axes": "CYX"}),
        _tiff(np.moveaxis(bands, -1, 0), photometric="minisblack", ome=True, metadata={"axes": "CYX"}),
    ]  # fmt: skip


@given(damaged(_bands()))
@fuzzed(150)
def test_damaged_files_of_five_channels(folder: Path, data: bytes) -> None:
    (folder / "image").write_bytes(data)
    _check(folder / "image", 5)


TAGS = st.sampled_from(
    [254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 284, 305, 317, 322, 323, 324, 325, 330, 338,
     339, 347, 530, 32997, 33628, 33723, 34665, 34675, 42113, 50838, 50839, 65535]
)  # fmt: skip
NUMBERS = st.integers(0, 8) | st.sampled_from(
    [16, 20, 24, 32, 64, 255, 300, 2**15, 2**16, 2**20, 2**31, 2**32 - 1, 34925, 32773]
)
WHOLE = [
    (256, 4, 1, 20), (257, 4, 1, 24), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 960),
]  # fmt: skip
ENTRIES = st.lists(st.tuples(TAGS, st.integers(0, 18), NUMBERS, NUMBERS), max_size=14)


@given(ENTRIES, st.booleans(), st.sampled_from([1, 3, 5]))
@fuzzed(300)
def test_directories_made_up(
    folder: Path, tags: list[tuple[int, int, int, int]], is_whole: bool, channels: int
) -> None:
    listed = sorted({entry[0]: entry for entry in [*(WHOLE if is_whole else ()), *tags]}.values())
    table = b"".join(struct.pack("<HHII", *entry) for entry in listed)
    data = b"II*\0" + struct.pack("<I", 968) + bytes(960) + struct.pack("<H", len(listed)) + table + bytes(4)
    (folder / "image").write_bytes(data + bytes(range(256)))
    _check(folder / "image", channels)
