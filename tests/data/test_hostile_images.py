"""Picture files made to harm: small ones that claim or unpack to much, or never end; each is refused in one line."""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cyclestyle.data import decode as decoding
from cyclestyle.data.decode import decode, read_header, read_picture
from cyclestyle.errors import DataError

from ..fuzz.fuzzing import limits

Entry = tuple[int, int, int, int | bytes]
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, SAMPLES, ROWS, COUNTS = (
    256,
    257,
    258,
    259,
    262,
    273,
    277,
    278,
    279,
)


def refusal(
    path: Path, channels: int = 3, reads: Sequence[Callable[[Path, int], object]] = (decode, read_picture)
) -> str:
    line = ""
    for read in reads:
        with limits(5.0, 128), pytest.raises(DataError) as caught:
            read(path, channels)
        line = str(caught.value)
        assert "\n" not in line
        assert "MemoryError" not in line, "too much was asked for"
    return line


def tiff(path: Path, entries: Sequence[Entry], rest: bytes = b"", *, following: int = 0) -> Path:
    """A TIFF of one directory; (tag, type, number, value or its bytes), then `rest`."""
    start, table, values = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, number, value in entries:
        if isinstance(value, bytes):
            table += struct.pack("<HHII", tag, kind, number, start + len(values))
            values += value
        else:
            table += struct.pack("<HHII", tag, kind, number, value)
    count = struct.pack("<H", len(entries))
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + count + table + struct.pack("<I", following) + values + rest)
    return path


def deep(width: int = 16, height: int = 16, **changes: int) -> dict[int, int]:
    """Tags of a 16-bit grey picture in one strip, which begins at byte 8."""
    return {WIDTH: width, HEIGHT: height, BITS: 16, COMPRESSION: 1, PHOTOMETRIC: 1, STRIPS: 8, SAMPLES: 1, ROWS: height,
            COUNTS: 2 * width * height}  # fmt: skip


def entries(tags: dict[int, int]) -> list[Entry]:
    return [(tag, 4, 1, value) for tag, value in sorted(tags.items())]


# ---------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize(
    ("compression", "compress"),
    [(8, zlib.compress), (32946, zlib.compress), (34925, lambda data: lzma.compress(data, preset=0))],
)
def test_strips_that_unpack_to_more_than_the_picture(
    tmp_path: Path, compression: int, compress: Callable[[bytes], bytes]
) -> None:
    bomb = compress(bytes(150_000_000))
    tags = deep() | {COMPRESSION: compression, STRIPS: 8 + 2 + 12 * 9 + 4, COUNTS: len(bomb)}
    assert "unpack to more than the picture" in refusal(tiff(tmp_path / "x.tif", entries(tags), bomb))
    whole = np.arange(256, dtype=np.uint16).reshape(16, 16)
    packed = compress(whole.tobytes())
    np.testing.assert_array_equal(
        decode(tiff(tmp_path / "x.tif", entries(tags | {COUNTS: len(packed)}), packed), 1)[..., 0], whole
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({SAMPLES: 60000, WIDTH: 13000, HEIGHT: 13000}, "GiB to decode, and"),
        ({32997: 2**31 - 1}, "GiB to decode, and"),  # ImageDepth
        ({WIDTH: 2**31, HEIGHT: 2**31}, "pixels exceed the limit"),
        ({WIDTH: 13000, HEIGHT: 13000, ROWS: 13000, SAMPLES: 3, PHOTOMETRIC: 2}, "is cut off"),
        ({WIDTH: 13000, HEIGHT: 13000, ROWS: 1}, "is cut off"),
        (
            {WIDTH: 13000, HEIGHT: 13000, 322: 1, 323: 1, 324: 8, 325: 8, COMPRESSION: 8},
            "is cut off",
        ),  # tiles of a pixel
    ],
    ids=str,
)
def test_dimensions_that_the_file_does_not_hold(tmp_path: Path, changes: dict[int, int], words: str) -> None:
    tags = {
        tag: value
        for tag, value in (deep() | changes).items()
        if 322 not in changes or tag not in (STRIPS, ROWS, COUNTS)
    }
    assert words in refusal(tiff(tmp_path / "x.tif", entries(tags), bytes(2000)))


def test_tags_that_claim_the_whole_file_each(tmp_path: Path) -> None:
    numbers = struct.pack("<200000I", *[8] * 200_000)
    listed: list[Entry] = [*entries(deep()), *[(STRIPS, 4, 200_000, 0)] * 500]
    start = 8 + 2 + 12 * len(listed) + 4
    listed = [(*entry[:3], start) if entry[2] > 1 else entry for entry in listed]
    assert "its tags claim more bytes than it has" in refusal(tiff(tmp_path / "x.tif", listed, numbers))
    assert "tags" in refusal(tiff(tmp_path / "x.tif", [(60000 + index, 3, 1, 0) for index in range(5000)]))


def ring(path: Path, num_pages: int, back_to: int) -> Path:
    """A whole first page, and pages after it whose last is followed by an earlier one."""
    path.write_bytes(b"II*\0" + struct.pack("<I", 520) + bytes(512))
    size = 2 + 12 * 9 + 4
    with path.open("ab") as file:
        for index in range(num_pages):
            following = index + 1 if index + 1 < num_pages else back_to
            file.write(struct.pack("<H", 9))
            file.writelines(struct.pack("<HHII", *entry) for entry in entries(deep()))
            file.write(struct.pack("<I", 520 + size * following))
    return path


@pytest.mark.parametrize(("num_pages", "back_to"), [(1, 0), (50, 0), (150, 120)])
def test_pages_in_a_ring(tmp_path: Path, num_pages: int, back_to: int) -> None:
    path = ring(tmp_path / "x.tif", num_pages, back_to)
    with limits(5.0):
        assert read_picture(path, 1).num_frames == 1  # the first page is whole
        assert "its pages go in a ring" in refusal(path, 5, (decode, read_picture, read_header))


def test_pages_of_a_whole_file_are_counted(tmp_path: Path) -> None:
    pages = np.zeros((7, 16, 16), np.uint16)
    for options in ({}, {"bigtiff": True}, {"byteorder": ">"}):
        tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack", **options)
        assert read_picture(tmp_path / "x.tif", 1).num_frames == 7


# ---------------------------------------------------------------------------------------------- PNG, JPEG


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def png(path: Path, width: int, height: int, *chunks: bytes, depth: int = 8, data: bytes = b"") -> Path:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("depth", [8, 16])
def test_a_png_that_claims_to_be_large(tmp_path: Path, depth: int) -> None:
    assert "pixels exceed the limit" in refusal(png(tmp_path / "x.png", 2**31 - 1, 2**31 - 1, depth=depth))
    assert "truncated" in refusal(png(tmp_path / "x.png", 4000, 4000, depth=depth, data=bytes(1000)))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_that_unpacks_to_gigabytes(tmp_path: Path, name: bytes) -> None:
    packed = zlib.compress(bytes(60_000_000))
    data = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[name] + packed
    assert "too large" in refusal(png(tmp_path / "x.png", 4, 4, chunk(name, data), data=bytes(52)))
    many = [chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(15_000_000))) for _ in range(8)]
    assert "memory used in text chunks" in refusal(png(tmp_path / "x.png", 4, 4, *many, data=bytes(52)))


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyclestyle.devices.free_memory", lambda: 2**20)
    monkeypatch.setattr(decoding, "_SURELY_FREE", 2**16)
    Image.new("RGB", (600, 500)).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((600, 500), np.uint16))
    np.save(tmp_path / "x.npy", np.zeros((600, 500, 3), np.uint8))
    for name in ("x.png", "x.tif", "x.npy"):
        assert "GiB to decode, and 0.0 GiB are free" in refusal(tmp_path / name)


def test_large_photographs_are_read(tmp_path: Path) -> None:
    Image.new("L", (12000, 9000)).save(tmp_path / "x.png", compress_level=1)
    assert decode(tmp_path / "x.png", 1).shape == (9000, 12000, 1)


def progressive(path: Path, num_more: int, **options: bool) -> Path:
    """A picture whose last scan comes so many times more."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", progressive=True, **options)
    data = file.getvalue()
    path.write_bytes(data[:-2] + data[data.rindex(b"\xff\xda") : -2] * num_more + data[-2:])
    return path


def test_scans_without_end(tmp_path: Path) -> None:
    assert decode(progressive(tmp_path / "x.jpg", 90), 3).shape == (64, 64, 3)
    assert "has more than 100 scans" in refusal(progressive(tmp_path / "x.jpg", 91))


def test_what_follows_a_jpeg_is_not_counted(tmp_path: Path) -> None:
    """Telephones put a video there, of which one pair of bytes in 65536 looks like a scan."""
    for is_progressive in (True, False):
        Image.new("RGB", (32, 32)).save(tmp_path / "x.jpg", progressive=is_progressive)
        expected = decode(tmp_path / "x.jpg", 3)
        with (tmp_path / "x.jpg").open("ab") as file:
            file.write(b"\xff\xda\0\2" * 500)
        np.testing.assert_array_equal(decode(tmp_path / "x.jpg", 3), expected)
